"""Layers leave as an OCI image layout in one tar archive: the same ones always as the same bytes."""

import hashlib
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO, Final

from msgspec import Struct

from alcove.contract import InvalidRequest, SandboxIoError
from alcove.state import oci
from alcove.state.archive import CHUNK, ArchiveWriter
from alcove.state.compression import Compressing, Compression, Digesting
from alcove.state.members import BLOCK, Kind, Member, header_of
from alcove.state.oci import Config, Descriptor, Index, Layout, Manifest, Platform, RootFs, Run
from alcove.state.packing import pack
from alcove.state.tree import digest

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


class Exported(Struct, frozen=True):
    """What was written: the image's digest, and those of the layers' trees, the lowest first."""

    manifest: str
    layers: tuple[str, ...]


def export(
    layers: Sequence[int],
    metadata: Mapping[str, str],
    out_file: BinaryIO,
    *,
    compression: Compression = Compression.ZSTD,
    digests: Sequence[str] | None = None,
    name: str = "snapshot",
    progress: Callable[[int], object] | None = None,
) -> Exported:
    """Write sealed layers, the lowest first, as one image that `import_` and other tools read.

    `digests` are the layers' tree digests where they are known. `progress` is called with each number of bytes that has
    been packed. Where `out_file` cannot be written but from beginning to end, all is first written to a temporary file.
    On failure what `out_file` has is of no use to anybody.

    Raises:
        InvalidRequest: a metadata key or the name cannot be; or zstd is wanted and not installed.
        LifecycleError: a layer has what no image can have, or is not sealed.
        SandboxIoError: the host's file system failed.
    """
    annotations = {oci.FORMAT_KEY: oci.FORMAT, **oci.metadata_annotations(metadata)}
    oci.checked_name(name)
    if not layers or (digests is not None and len(digests) != len(layers)):
        raise InvalidRequest("an export takes at least one layer, and a digest of each or of none")
    try:
        trees = tuple(digests) if digests is not None else tuple(digest(layer) for layer in layers)
        if out_file.seekable():
            return _Export(out_file, compression, progress).write(layers, trees, annotations, name)
        with tempfile.TemporaryFile() as spool:
            exported = _Export(spool, compression, progress).write(layers, trees, annotations, name)
            spool.seek(0)
            shutil.copyfileobj(spool, out_file, CHUNK)
            return exported
    except OSError as error:
        raise SandboxIoError(
            f"the export failed: {error.strerror}; has its place room, and can it be written?"
        ) from error


class _Export:
    def __init__(self, out: BinaryIO, compression: Compression, progress: Callable[[int], object] | None) -> None:
        self._out = out
        self._compression = compression
        self._progress = progress
        self._written: set[str] = set()

    def write(self, layers: Sequence[int], trees: Sequence[str], annotations: dict[str, str], name: str) -> Exported:
        self._small(oci.LAYOUT_FILE, oci.encode(Layout()))
        packed = [self._layer(layer, tree) for layer, tree in zip(layers, trees, strict=True)]
        architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
        diff_ids = tuple(diff_id for _, diff_id in packed)
        config = Config(architecture=architecture, os="linux", rootfs=RootFs(diff_ids), config=Run())
        manifest = Manifest(
            schema_version=2,
            media_type=oci.MANIFEST_TYPE,
            config=self._document(oci.encode(config), oci.CONFIG_TYPE),
            layers=tuple(descriptor for descriptor, _ in packed),
            annotations=annotations,
        )
        image = self._document(oci.encode(manifest), oci.MANIFEST_TYPE)
        entry = Descriptor(
            media_type=image.media_type,
            digest=image.digest,
            size=image.size,
            annotations={oci.NAME_KEY: name},
            platform=Platform(architecture),
        )
        self._small(oci.INDEX_FILE, oci.encode(Index((entry,))))
        ArchiveWriter(self._out).finish()
        self._out.truncate()
        self._out.flush()
        return Exported(image.digest, tuple(trees))

    def _layer(self, layer: int, tree: str) -> tuple[Descriptor, str]:
        """Write a layer before its digest is known: its header comes last, into the place that was left for it."""
        place = self._out.tell()
        self._out.write(bytes(BLOCK))
        blob = Digesting(self._out)
        compressing = Compressing(blob, self._compression)
        plain = Digesting(compressing, self._progress)
        writer = ArchiveWriter(plain)
        whole = pack(layer, writer)
        writer.finish()
        compressing.finish()
        if blob.digest in self._written:  # a layer like one before: written over by what comes next
            self._out.seek(place)
        else:
            self._written.add(blob.digest)
            self._out.write(bytes(-blob.size % BLOCK))
            end = self._out.tell()
            self._out.seek(place)
            self._out.write(header_of(_blob_member(blob.digest, blob.size), blob.size))
            self._out.seek(end)
        return _layer_descriptor(self._compression, blob, tree if whole else None), plain.digest

    def _document(self, data: bytes, media_type: str) -> Descriptor:
        digest_of = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._small(_blob_path(digest_of), data)
        return Descriptor(media_type, digest_of, len(data))

    def _small(self, path: str, data: bytes) -> None:
        ArchiveWriter(self._out).add(Member(path=path.encode(), kind=Kind.FILE, size=len(data)), (data,))


def _layer_descriptor(compression: Compression, blob: Digesting, tree: str | None) -> Descriptor:
    annotations = None if tree is None else {oci.TREE_KEY: tree}
    return Descriptor(oci.LAYER_TYPES[compression], blob.digest, blob.size, annotations)


def _blob_path(digest: str) -> str:
    return f"{oci.BLOBS}/{oci.hexadecimal(digest)}"


def _blob_member(digest: str, size: int) -> Member:
    return Member(path=_blob_path(digest).encode(), kind=Kind.FILE, size=size)
