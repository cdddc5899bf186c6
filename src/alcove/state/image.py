"""An OCI image layout in a file: what blobs it has and where, each of them checked before anything is made of it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import BinaryIO, Final

from msgspec import Struct
from msgspec.structs import replace

from alcove.state import oci
from alcove.state.archive import CHUNK, Archive, Data, Readable
from alcove.state.compression import MAGIC_BYTES, Compression, Digested, decompressed, detect
from alcove.state.limits import ImportLimits, Meter, refused
from alcove.state.members import Kind, Member
from alcove.state.oci import Config, Descriptor, Index, Layout, Manifest
from alcove.state.walk import shown

_DOCUMENTS: Final = (oci.LAYOUT_FILE.encode(), oci.INDEX_FILE.encode())
# What `docker save` adds to a layout, for older readers; nobody here reads it
_IGNORED: Final = (b"manifest.json", b"repositories")
_BLOBS: Final = tuple(oci.BLOBS.encode().split(b"/"))
# Beyond its layers an image has a configuration, a manifest and a few files; an archive of one, not many more
_MORE_MEMBERS: Final = 32


class Image(Struct, frozen=True):
    """The one image of a layout, by its documents, which hold together."""

    digest: str
    name: str | None
    manifest: Manifest
    config: Config


class Blobs:
    """The blobs of a layout, and its two documents; `file` stays the caller's and is read in no order."""

    def __init__(self, file: BinaryIO, limits: ImportLimits, progress: Callable[[int], object] | None) -> None:
        self._file = file
        self._limits = limits
        self._progress = progress
        self._places: dict[str, tuple[int, int]] = {}
        self._documents: dict[bytes, bytes] = {}
        self._read_all()

    def open(self, blob: Descriptor) -> Readable:
        """Return the content of a blob.

        Raises:
            InvalidRequest: there is none of that digest and size.
        """
        place = self._places.get(oci.hexadecimal(blob.digest))
        if place is None or place[1] != blob.size:
            raise refused(f"it has no blob {blob.digest} of {blob.size} bytes")
        return _Stretch(self._file, *place, self._progress)

    def image(self) -> Image:
        """Return the image of this layout.

        Raises:
            InvalidRequest: there is not exactly one, or it is not whole.
        """
        layout, index = (self._documents.get(name) for name in _DOCUMENTS)
        if layout is None or index is None:
            raise refused("it is no OCI image layout: oci-layout or index.json is missing")
        if not oci.decode(layout, Layout, oci.LAYOUT_FILE).image_layout_version.startswith("1."):
            raise refused("it is an image layout of another version than 1")
        images = oci.decode(index, Index, oci.INDEX_FILE).manifests
        if len(images) != 1 or images[0].media_type != oci.MANIFEST_TYPE:
            raise refused("it does not have exactly one image; make an archive of the one that is meant")
        manifest = oci.decode(self._document(images[0]), Manifest, "the manifest")
        if manifest.schema_version != 2 or manifest.media_type not in {"", oci.MANIFEST_TYPE}:
            raise refused("its manifest calls itself something else")
        if manifest.config.media_type != oci.CONFIG_TYPE:
            raise refused("its configuration is of another type than an image's")
        config = oci.decode(self._document(manifest.config), Config, "the configuration")
        self._check(manifest, config)
        name = (images[0].annotations or {}).get(oci.NAME_KEY)
        return Image(images[0].digest, name, manifest, config)

    def _check(self, manifest: Manifest, config: Config) -> None:
        layers, diff_ids = manifest.layers, config.rootfs.diff_ids
        if not 0 < len(layers) <= self._limits.layers:
            raise refused(f"it has {len(layers)} layers, and may have 1 to {self._limits.layers}")
        if len(layers) != len(diff_ids) or config.rootfs.type != "layers":
            raise refused("its manifest and its configuration do not have the same layers")
        for diff_id in diff_ids:
            oci.hexadecimal(diff_id)
        for layer in layers:
            oci.compression_of(layer)
            self.open(layer)
        made_by = (manifest.annotations or {}).get(oci.FORMAT_KEY, oci.FORMAT)
        if made_by != oci.FORMAT:
            raise refused(f"it is of format {made_by[:20]!r}, this Alcove knows {oci.FORMAT}: upgrade Alcove")

    def _document(self, blob: Descriptor) -> bytes:
        if blob.size > self._limits.document_bytes:
            raise refused(f"a document is longer than {self._limits.document_bytes} bytes")
        stream = Digested(self.open(blob))
        data = b"".join(iter(lambda: bytes(stream.read(CHUNK)), b""))
        if stream.digest != blob.digest:
            raise refused("it changed while it was read: leave it alone and try again")
        return data

    def _read_all(self) -> None:
        start = self._file.tell()
        meter = Meter(replace(self._limits, entries=self._limits.layers + _MORE_MEMBERS))
        archive = Archive(_Told(self._file, self._progress), meter)
        for path, member in archive.members():
            if member.kind is Kind.DIRECTORY:
                self._check_directory(path, member)
            elif member.kind is not Kind.FILE or member.segments is not None:
                raise refused(f"{shown(member.path)} is nothing that an image layout has")
            elif path[:-1] == _BLOBS:
                self._add_blob(path[-1], member, archive, start)
            else:
                self._add_document(path, member, archive)

    def _check_directory(self, path: tuple[bytes, ...], member: Member) -> None:
        if path != _BLOBS[: len(path)]:
            raise refused(f"{shown(member.path)} is nothing that an image layout has")

    def _add_blob(self, name: bytes, member: Member, archive: Archive, start: int) -> None:
        digest = f"sha256:{name.decode('ascii', 'replace')}"
        hexadecimal = oci.hexadecimal(digest)
        if hexadecimal in self._places:
            raise refused(f"{shown(member.path)} comes twice")
        place = start + archive.position
        stream = Digested(_Content(archive))
        while stream.read(CHUNK):
            pass
        if stream.digest != digest:
            raise refused(f"{shown(member.path)} has another content than its name says")
        self._places[hexadecimal] = (place, member.size)

    def _add_document(self, path: tuple[bytes, ...], member: Member, archive: Archive) -> None:
        name = b"/".join(path)
        if name in _IGNORED:
            return
        if name not in _DOCUMENTS or name in self._documents or member.size > self._limits.document_bytes:
            raise refused(f"{shown(member.path)} is nothing that an image layout has, comes twice or is too long")
        self._documents[name] = b"".join(bytes(data) for _, data in archive.content())


@contextmanager
def in_place(
    in_file: BinaryIO,
    limits: ImportLimits,
    directory: str | None = None,
    progress: Callable[[int], object] | None = None,
) -> Iterator[BinaryIO]:
    """Yield a file that can be read in any order: this one, or a temporary one with what it holds or expands to.

    `directory` is where that one is to lie.

    Raises:
        InvalidRequest: it expands to too much, or is damaged.
        OSError: a file cannot be read or written.
    """
    beginning = b""
    while len(beginning) < MAGIC_BYTES and (more := in_file.read(MAGIC_BYTES - len(beginning))):
        beginning += more
    compression = detect(beginning)
    if in_file.seekable():
        in_file.seek(-len(beginning), os.SEEK_CUR)
        beginning = b""
        if compression is Compression.NONE:
            yield in_file
            return
    with TemporaryFile(dir=directory) as spool:
        meter = Meter(limits)
        stream = decompressed(_After(beginning, in_file), compression, limits)
        while data := stream.read(CHUNK):
            meter.add_bytes(len(data))
            spool.write(data)
            if progress is not None:
                progress(0)
        spool.seek(0)
        yield spool


class _Stretch:
    """A part of a file, as a stream of its own."""

    def __init__(self, file: BinaryIO, offset: int, size: int, progress: Callable[[int], object] | None) -> None:
        self._file = file
        self._offset = offset
        self._left = size
        self._progress = progress

    def read(self, size: int) -> bytes:
        self._file.seek(self._offset)
        data = self._file.read(min(size, self._left))
        self._offset += len(data)
        self._left -= len(data)
        if self._progress is not None and data:
            self._progress(len(data))
        return data


class _Told:
    """A stream of which `progress` is told."""

    def __init__(self, stream: BinaryIO, progress: Callable[[int], object] | None) -> None:
        self._stream = stream
        self._progress = progress

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if self._progress is not None and data:
            self._progress(len(data))
        return data


class _Content:
    """The content of an archive's present member, as a stream."""

    def __init__(self, archive: Archive) -> None:
        self._content = archive.content()

    def read(self, size: int) -> Data:  # noqa: ARG002 - the archive has chunks of its own
        return next(self._content, (0, b""))[1]


class _After:
    """A stream of which the beginning was read already."""

    def __init__(self, beginning: bytes, rest: BinaryIO) -> None:
        self._beginning = beginning
        self._rest = rest

    def read(self, size: int) -> bytes:
        data, self._beginning = self._beginning[:size], self._beginning[size:]
        return data or self._rest.read(size)
