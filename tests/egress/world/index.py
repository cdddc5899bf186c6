"""Package indexes with one package each, made on the fly: for pip, npm and apt."""

import gzip
import io
import posixpath
import tarfile
import time
import zipfile
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Mapping
from email.utils import formatdate
from hashlib import sha1, sha256, sha512

from tests.egress.world.exchange import Request, Response, as_json, text

#: What the package is called everywhere, and what it says when it is run
PACKAGE, VERSION, SAYS = "worldsample", "1.0.0", "installed from the test world"
WHEEL = f"{PACKAGE}-{VERSION}-py3-none-any.whl"
TARBALL = f"{PACKAGE}-{VERSION}.tgz"
DEB = f"{PACKAGE}_{VERSION}_all.deb"


def wheel() -> bytes:
    info = f"{PACKAGE}-{VERSION}.dist-info"
    files = {
        f"{PACKAGE}.py": f"SAYS = {SAYS!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: {VERSION}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{name},sha256={unpadded(content)},{len(content)}" for name, content in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


def unpadded(content: str) -> str:
    return urlsafe_b64encode(sha256(content.encode()).digest()).decode().rstrip("=")


def tarball(files: Mapping[str, str]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content.encode())
            member.mtime = int(time.time())
            archive.addfile(member, io.BytesIO(content.encode()))
    return made.getvalue()


def deb() -> bytes:
    """Return a binary package: an ar archive of its version, its control data and its files (deb(5))."""
    shared = f"./usr/share/{PACKAGE}/says"
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": tarball({"./control": control()}),
        "data.tar.gz": tarball({shared: SAYS + "\n"}),
    }
    made = io.BytesIO(b"!<arch>\n")
    made.seek(0, io.SEEK_END)
    for name, content in members.items():
        made.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode())
        made.write(content + b"\n" * (len(content) % 2))
    return made.getvalue()


def control() -> str:
    fields = {"Package": PACKAGE, "Version": VERSION, "Architecture": "all", "Maintainer": "A Test <test@world.test>"}
    fields["Description"] = SAYS
    return "".join(f"{name}: {value}\n" for name, value in fields.items())


class Files:
    """A site of files that do not change."""

    def __init__(self, files: Mapping[str, tuple[str, bytes]]) -> None:
        self._files = files

    async def __call__(self, request: Request) -> Response:
        path = posixpath.normpath(request.path) + ("/" if request.path.endswith("/") else "")
        if path not in self._files:
            return text("no such file\n", 404)
        kind, content = self._files[path]
        return Response(200, content, (("content-type", kind),))


def python_index() -> Files:
    """Return a site with a "simple" index (PEP 503) at /simple/."""
    content = wheel()
    page = f'<!DOCTYPE html><a href="/files/{WHEEL}#sha256={sha256(content).hexdigest()}">{WHEEL}</a>'
    files = {
        "/simple/": ("text/html", f'<!DOCTYPE html><a href="{PACKAGE}/">{PACKAGE}</a>'.encode()),
        f"/simple/{PACKAGE}/": ("text/html", page.encode()),
        f"/files/{WHEEL}": ("application/octet-stream", content),
    }
    return Files(files)


class NpmRegistry:
    """A registry that names itself, in the tarball's address, as the client named it."""

    def __init__(self) -> None:
        manifest = f'{{"name": "{PACKAGE}", "version": "{VERSION}", "main": "index.js"}}'
        self._tarball = tarball({"package/package.json": manifest, "package/index.js": f"module.exports = {SAYS!r};\n"})

    def _document(self, request: Request) -> dict[str, object]:
        dist = {
            "tarball": f"{request.origin}/{PACKAGE}/-/{TARBALL}",
            "shasum": sha1(self._tarball, usedforsecurity=False).hexdigest(),
            "integrity": "sha512-" + b64encode(sha512(self._tarball).digest()).decode(),
        }
        version = {"name": PACKAGE, "version": VERSION, "main": "index.js", "dist": dist}
        return {"name": PACKAGE, "dist-tags": {"latest": VERSION}, "versions": {VERSION: version}}

    async def __call__(self, request: Request) -> Response:
        if request.path == f"/{PACKAGE}":
            return as_json(self._document(request))
        if request.path == f"/{PACKAGE}/-/{TARBALL}":
            return Response(200, self._tarball, (("content-type", "application/octet-stream"),))
        return as_json({"error": "not found"}, 404)


def apt_repository() -> Files:
    """Return a site with a flat repository, unsigned: `deb [trusted=yes] http://… ./`."""
    package = deb()
    sums = {
        "Filename": f"./{DEB}",
        "Size": str(len(package)),
        "SHA256": sha256(package).hexdigest(),
    }
    packages = (control() + "".join(f"{name}: {value}\n" for name, value in sums.items())).encode()
    lists = {"Packages": packages, "Packages.gz": gzip.compress(packages)}
    release = f"Origin: world\nSuite: stable\nDate: {formatdate(usegmt=True)}\nArchitectures: all\nSHA256:\n"
    release += "".join(f" {sha256(data).hexdigest()} {len(data)} {name}\n" for name, data in lists.items())
    files = {f"/{name}": ("text/plain", data) for name, data in lists.items()}
    files["/Release"] = ("text/plain", release.encode())
    files[f"/{DEB}"] = ("application/vnd.debian.binary-package", package)
    return Files(files)
