"""Archives and image layouts as others make them: by `tarfile`, `json` and `hashlib`, never by the code under test."""

import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"

DIRECTORY, FILE, LINK, SYMLINK, FIFO = (
    tarfile.DIRTYPE,
    tarfile.REGTYPE,
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.FIFOTYPE,
)
CHARACTER, BLOCK_DEVICE = tarfile.CHRTYPE, tarfile.BLKTYPE

END = bytes(1024)


def member(
    path: str,
    kind: bytes = FILE,
    content: bytes = b"",
    *,
    target: str = "",
    mode: int | None = None,
    pax: dict[str, str] | None = None,
    **more: int,
) -> bytes:
    """Return one member, headers and content, in pax format."""
    info = tarfile.TarInfo(path)
    info.type, info.linkname = kind, target
    info.mode = (0o755 if kind == DIRECTORY else 0o644) if mode is None else mode
    info.size = len(content)
    info.pax_headers = pax or {}
    for key, value in more.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + content + bytes(-len(content) % 512)


def header(flag: bytes, size: int = 0, **fields: bytes) -> bytes:
    """Return one fixed header of any sort, rightly summed; `field` is the size's, as it stands."""
    block = bytearray(512)
    values = {"name": b"workspace/it", "mode": b"0000644\0", "uid": b"0000000\0", "gid": b"0000000\0", **fields}
    values.setdefault("field", b"%011o\0" % size)
    for key, at in {
        "name": 0,
        "mode": 100,
        "uid": 108,
        "gid": 116,
        "field": 124,
        "mtime": 136,
        "linkname": 157,
    }.items():
        value = values.get(key, b"")
        block[at : at + len(value)] = value
    block[156:157] = flag
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(data: bytes, declared: int | None = None) -> bytes:
    """Return a pax header with these bytes for records."""
    return header(b"x", len(data) if declared is None else declared) + data + bytes(-len(data) % 512)


def record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while length != len(b"%d" % length) + len(body):
        length = len(b"%d" % length) + len(body)
    return b"%d" % length + body


def layer(*members: bytes) -> bytes:
    """Return an archive with `workspace` and these members."""
    return member("workspace", DIRECTORY) + b"".join(members) + END


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Image:
    """An image layout whose every part can be made wrong before it is written."""

    def __init__(self, *layers: bytes, media_type: str = LAYER) -> None:
        self.blobs: dict[str, bytes] = {}
        self.layers = [self.describe(self._packed(data, media_type), media_type) for data in layers]
        self.diff_ids = [digest(data) for data in layers]
        self.config: dict[str, Any] = {"architecture": "amd64", "os": "linux"}
        self.manifest: dict[str, Any] = {"schemaVersion": 2, "mediaType": MANIFEST}
        self.index: dict[str, Any] = {"schemaVersion": 2}
        self.layout: Any = {"imageLayoutVersion": "1.0.0"}
        self.extra: list[bytes] = []

    @staticmethod
    def _packed(data: bytes, media_type: str) -> bytes:
        return gzip.compress(data, mtime=0) if media_type.endswith("gzip") else data

    def describe(self, data: bytes, media_type: str) -> dict[str, Any]:
        self.blobs[digest(data)[7:]] = data
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    def complete(self) -> None:
        """Fill in what has not been said otherwise."""
        self.config.setdefault("rootfs", {"type": "layers", "diff_ids": self.diff_ids})
        self.manifest.setdefault("config", self.describe(json.dumps(self.config).encode(), CONFIG))
        self.manifest.setdefault("layers", self.layers)
        self.index.setdefault("manifests", [self.describe(json.dumps(self.manifest).encode(), MANIFEST)])

    def members(self) -> Iterator[bytes]:
        self.complete()
        yield member("oci-layout", content=json.dumps(self.layout).encode())
        yield member("index.json", content=json.dumps(self.index).encode())
        for name, data in self.blobs.items():
            yield member(f"blobs/sha256/{name}", content=data)
        yield from self.extra

    def file(self) -> io.BytesIO:
        return io.BytesIO(b"".join(self.members()) + END)


@contextmanager
def directories(paths: Iterable[Path]) -> Iterator[list[int]]:
    """Yield descriptors of directories."""
    with ExitStack() as opened:
        fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in paths]
        for fd in fds:
            opened.callback(os.close, fd)
        yield fds


def listing(path: Path) -> dict[bytes, tuple[object, ...]]:
    """Return everything beneath a directory by what `lstat`, `readlink`, `listxattr` and the content say."""
    found: dict[bytes, tuple[object, ...]] = {}
    for directory, subdirectories, files in os.walk(os.fsencode(path)):
        for name in subdirectories + files:
            full = os.path.join(directory, name)
            status = os.lstat(full)
            link = os.readlink(full) if stat.S_ISLNK(status.st_mode) else b""
            content = Path(os.fsdecode(full)).read_bytes() if stat.S_ISREG(status.st_mode) else b""
            xattrs = {} if link else {key: os.getxattr(full, key) for key in os.listxattr(full)}
            owner, links = (status.st_uid, status.st_gid), 0 if stat.S_ISDIR(status.st_mode) else status.st_nlink
            facts = (status.st_mode, owner, status.st_mtime_ns, status.st_rdev, links, link, content)
            found[full[len(os.fsencode(path)) + 1 :]] = (*facts, sorted(xattrs.items()))
    return found
