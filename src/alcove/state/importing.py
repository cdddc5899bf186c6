"""An OCI image layout comes in: everything in it is a stranger's word until its digest says otherwise.

Blobs are checked against their names before any is looked into, and documents lead from one to the next by digest. The
layers are read through once for their digests and their limits before a directory is made for any, so that a bomb
takes no room on the disk. What has been unpacked is held against the digest of its bytes again, since the file may be
another by then, and of its tree where Alcove wrote it.
"""

import os
from collections.abc import Callable, Mapping
from typing import BinaryIO

from msgspec import Struct

from alcove.contract import SandboxError, SandboxIoError
from alcove.state import oci
from alcove.state.archive import Archive, Data, Readable
from alcove.state.compression import Digested, decompressed
from alcove.state.emptying import empty
from alcove.state.image import Blobs, in_place
from alcove.state.limits import ImportLimits, Meter, refused
from alcove.state.oci import Descriptor
from alcove.state.tree import digest
from alcove.state.unpacking import Policy, unpack


class ImportedLayer(Struct, frozen=True):
    """A layer as it lies there now: the digests of its tree and of the archive that it was.

    `squashed`: it had owners that could not be given, so that its tree is not to the letter what was exported.
    """

    digest: str
    diff_id: str
    squashed: bool


class Imported(Struct, frozen=True):
    """What came in: the layers, the lowest first, as their directories were made.

    `metadata`, `name` and `architecture` are a stranger's words: nothing has been made of them but text.
    """

    manifest: str
    layers: tuple[ImportedLayer, ...]
    metadata: dict[str, str]
    name: str | None
    architecture: str


def import_(
    in_file: BinaryIO,
    make_layer: Callable[[], int],
    *,
    limits: ImportLimits | None = None,
    policy: Policy | None = None,
    policy_for: Callable[[Mapping[str, str]], Policy] | None = None,
    progress: Callable[[int], object] | None = None,
    spool: str | None = None,
) -> Imported:
    """Unpack an image layout, one tar archive as it is or compressed, into directories that `make_layer` makes.

    `make_layer` is called once for each layer, the lowest first, and returns the descriptor of a new empty directory
    with mode 0700, which stays the caller's. On any failure, and when `progress` raises, they are emptied again.
    `policy_for` makes the policy of the metadata, a stranger's words, before there is any layer, or refuses.
    `progress` is called with each number of bytes read of the archive, which is read three times, and with 0 between.
    `spool` is the directory for what has to be expanded first, or comes through a pipe; else the system's. Nothing is
    flushed to the disk: that is the caller's, before the layers count.

    Raises:
        InvalidRequest: the archive is damaged, is none that is read here, or has what is refused.
        SandboxIoError: the host's file system failed.
    """
    limits = limits or ImportLimits()
    made: list[int] = []
    try:
        with in_place(in_file, limits, spool, progress) as file:
            reading = _Import(Blobs(file, limits, progress), limits, policy or Policy(), progress)
            return reading.run(make_layer, policy_for, made)
    except BaseException as error:
        _take_back(made, error)
        if isinstance(error, OSError):
            raise SandboxIoError(
                f"the import failed: {error.strerror}; has the store room, and can it be written?"
            ) from error
        raise


class _Import:
    def __init__(
        self, blobs: Blobs, limits: ImportLimits, policy: Policy, progress: Callable[[int], object] | None
    ) -> None:
        self._blobs = blobs
        self._limits = limits
        self._policy = policy
        self._progress = progress

    def run(
        self, make_layer: Callable[[], int], policy_for: Callable[[Mapping[str, str]], Policy] | None, made: list[int]
    ) -> Imported:
        image = self._blobs.image()
        metadata = oci.metadata_of(image.manifest.annotations or {})
        if policy_for is not None:
            self._policy = policy_for(metadata)
        expected = list(zip(image.manifest.layers, image.config.rootfs.diff_ids, strict=True))
        self._check(expected)
        meter = Meter(self._limits)
        layers: list[ImportedLayer] = []
        for layer, diff_id in expected:
            root = make_layer()
            _check_empty(root)
            made.append(root)
            layers.append(self._layer(layer, diff_id, root, meter, lowest=not layers))
        return Imported(
            manifest=image.digest,
            layers=tuple(layers),
            metadata=metadata,
            name=image.name,
            architecture=image.config.architecture,
        )

    def _check(self, expected: list[tuple[Descriptor, str]]) -> None:
        """Read every layer to its end, and make nothing of it."""
        meter = Meter(self._limits)
        for layer, diff_id in expected:
            stream = self._open(layer)
            for _ in Archive(stream, meter).members():
                pass
            _check_diff_id(stream, layer, diff_id)

    def _open(self, layer: Descriptor) -> Digested:
        stream = decompressed(self._blobs.open(layer), oci.compression_of(layer), self._limits)
        return Digested(_Ticking(stream, self._tick))

    def _layer(self, layer: Descriptor, diff_id: str, root: int, meter: Meter, *, lowest: bool) -> ImportedLayer:
        stream = self._open(layer)
        squashed = unpack(Archive(stream, meter), root, self._policy, lowest=lowest)
        _check_diff_id(stream, layer, diff_id)
        found, wanted = digest(root, progress=self._tick), (layer.annotations or {}).get(oci.TREE_KEY)
        if wanted is not None and wanted != found and not squashed:
            raise refused(f"the layer {layer.digest} does not make the tree that it was")
        return ImportedLayer(found, diff_id, squashed)

    def _tick(self, _: int) -> None:
        if self._progress is not None:
            self._progress(0)


class _Ticking:
    """A stream that ticks with every chunk: a few bytes that were read can expand to many that are written."""

    def __init__(self, stream: Readable, tick: Callable[[int], None]) -> None:
        self._stream = stream
        self._tick = tick

    def read(self, size: int) -> Data:
        data = self._stream.read(size)
        self._tick(len(data))
        return data


def _check_diff_id(stream: Digested, layer: Descriptor, diff_id: str) -> None:
    if stream.digest != diff_id:
        raise refused(f"the layer {layer.digest} is not the one with the diff_id {diff_id}")


def _check_empty(root: int) -> None:
    with os.scandir(root) as entries:
        if next(entries, None) is not None:
            raise SandboxIoError("a layer is unpacked into an empty directory, and this one is not empty")


def _take_back(made: list[int], error: BaseException) -> None:
    for root in made:
        try:
            empty(root)
        except (OSError, SandboxError) as left:
            error.add_note(f"what was unpacked could not all be removed: {left}")
