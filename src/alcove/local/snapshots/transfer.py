"""Snapshots as archives: written for other machines and other tools, and read from a stranger's hand.

An archive is an OCI image layout (alcove.state.oci) whose layers have a session's parts at their top, and whose
annotations carry what the store knows of the snapshot.
"""

import asyncio
import errno
import math
import os
import platform
import secrets
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from tempfile import TemporaryFile
from typing import BinaryIO, TypeAlias, cast

from msgspec import Struct
from msgspec.structs import replace

from alcove.contract import InvalidRequest, LifecycleError, SandboxIoError, SandboxSnapshot
from alcove.contract.rules import validate_session_id, validate_snapshot_name
from alcove.local import interruption
from alcove.local.cell import parts, processes
from alcove.local.cell.parts import OUTPUTS
from alcove.local.config import LocalSandboxConfig
from alcove.local.disk import reserve
from alcove.local.interruption import Incoming, Interruption, in_thread
from alcove.local.records import OWNED, SHARED
from alcove.local.removal import remove_tree
from alcove.local.replacement import replacing
from alcove.local.snapshots import layers
from alcove.local.snapshots.flattening import flatten_layers
from alcove.local.snapshots.layers import EXPORT, Layers
from alcove.local.snapshots.snapshot_table import Layer, Snapshot
from alcove.local.snapshots.snapshots import Snapshots, new_id, new_key
from alcove.local.store import Store
from alcove.state.compression import Compression
from alcove.state.exporting import export
from alcove.state.importing import Imported, import_
from alcove.state.limits import ImportLimits, refused
from alcove.state.tree import Size, digest, measure
from alcove.state.unpacking import Policy

#: A path, or a file that is open; one that cannot seek is read and written by its descriptor.
Place: TypeAlias = str | os.PathLike[str] | BinaryIO
Progress: TypeAlias = Callable[[int], object]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: A session of root's has so many users, from 0 on.
_IDS = 65_536
_LONGEST_HOST = 100
_LOOK_AGAIN_S = 0.02


class Exported(Struct, frozen=True):
    """What was written: of which snapshot, the image's digest, those of its layers' trees, the archive's bytes."""

    snapshot: str
    manifest: str
    layers: tuple[str, ...]
    bytes: int


class _Arrived(Struct, frozen=True):
    """An archive's image as it lies in the store's directories now, with each layer's parts and size."""

    image: Imported
    parts: tuple[tuple[str, ...], ...]
    sizes: tuple[Size, ...]


class Transfer:
    """Archives of the snapshots of one store."""

    def __init__(
        self, config: LocalSandboxConfig, store: Store, snapshots: Snapshots, known: Layers, *, root: bool
    ) -> None:
        self._config = config
        self._store = store
        self._snapshots = snapshots
        self._layers = known
        self._table = known.table
        self._root = root

    # Out

    async def export(
        self, reference: str, out_file: Place, compression: Compression, progress: Progress | None, *, flat: bool
    ) -> Exported:
        """Write a snapshot as an archive.

        Raises:
            InvalidRequest: there is no such snapshot.
            LifecycleError: a layer of it is gone, or is not what was sealed.
            SandboxIoError: something cannot be read or written.
        """
        async with self._held(reference) as (snapshot, keys):
            await self._layers.ready(keys)
            chain = self._table.chain(keys)
            with _told("the export failed", "has its place room, and can it be written?"), ExitStack() as opened:
                roots = [self._opened(layer, opened) for layer in chain]
                trees = await in_thread(lambda stop: [digest(root, progress=stop.telling(None)) for root in roots])
                self._check(chain, trees)

                def work(stop: Interruption) -> Exported:
                    with ExitStack() as inner:
                        exported, digests = roots, trees
                        if flat or not roots:
                            exported = [inner.enter_context(self._flattened(chain, roots, stop))]
                            digests = [digest(exported[0], progress=stop.telling(None))]
                        tell = self._guarding(stop, progress) if _is_spooled(out_file) else stop.telling(progress)
                        file = inner.enter_context(_written(out_file, self._store.root, stop))
                        begin = file.tell()
                        done = export(
                            exported,
                            _metadata(snapshot),
                            file,
                            compression=compression,
                            digests=digests,
                            name=snapshot.name or snapshot.id,
                            progress=tell,
                        )
                        return Exported(snapshot.id, done.manifest, done.layers, file.tell() - begin)

                return await in_thread(work)

    @asynccontextmanager
    async def _held(self, reference: str) -> AsyncIterator[tuple[Snapshot, tuple[str, ...]]]:
        """Use the layers of a snapshot, so that nobody removes them; a process that is no more uses none."""
        me = os.getpid()
        owner = f"{EXPORT}{me}-{processes.start_time(me)}-{secrets.token_hex(4)}"
        with self._store.transaction():
            snapshot = self._snapshots.find(reference)
            keys = self._layers.shortest(snapshot.layers)
            self._table.use(owner, keys)
        try:
            yield snapshot, keys
        finally:
            self._table.release(owner)
            await asyncio.shield(self._layers.collect())

    def _guarding(self, stop: Interruption, progress: Progress | None) -> Callable[[int], None]:
        """What work calls that takes room in the store for a while, or for good."""
        reserve.check(self._store.root, self._config)
        return reserve.guarding(self._store.root, self._config, stop.telling(progress))

    def _opened(self, layer: Layer, opened: ExitStack) -> int:
        fd = os.open(self._store.layer(layer.key), _DIRECTORY)
        opened.callback(os.close, fd)
        return fd

    def _check(self, chain: Sequence[Layer], trees: Sequence[str]) -> None:
        """See that each layer is what it was; the first time, write down what that is."""
        for layer, tree in zip(chain, trees, strict=True):
            if layer.digest is None:
                self._table.know(layer.key, digest=tree)
            elif layer.digest != tree:
                raise LifecycleError(
                    f"the layer {layer.key} is not what was sealed: something changed its files in the store; "
                    "delete the snapshot, or see `alcove doctor --store`"
                )

    @contextmanager
    def _flattened(self, chain: Sequence[Layer], roots: Sequence[int], stop: Interruption) -> Iterator[int]:
        """One layer in the place of all, as long as it is needed; the next sweep has what a kill -9 leaves of it."""
        names = sorted({name for layer in chain for name in layer.parts})
        directory = self._store.layer(new_key())
        with layers.made(directory) as flat:
            flatten_layers(roots, flat, names, progress=self._guarding(stop, None))
            try:
                yield flat
            finally:
                remove_tree(directory)

    # In

    async def import_(
        self, in_file: Place, name: str | None, limits: ImportLimits | None, progress: Progress | None, *, set_id: bool
    ) -> SandboxSnapshot:
        """Make a snapshot of an archive.

        Raises:
            InvalidRequest: the archive is damaged, or is not one that is read here; or the name cannot be, or is taken.
            SandboxIoError: there is no room for it, or it cannot be read.
        """
        if name is not None:
            validate_snapshot_name(name)
            self._snapshots.refuse_taken(name)
        keys: list[str] = []
        roots: list[int] = []
        with ExitStack() as made:

            def make_layer() -> int:
                keys.append(new_key())
                roots.append(made.enter_context(layers.made(self._store.layer(keys[-1]))))
                return roots[-1]

            def work(stop: Interruption) -> _Arrived:
                with _read(in_file, stop) as file:
                    image = import_(
                        file,
                        make_layer,
                        limits=limits,
                        policy_for=lambda metadata: self._policy(metadata, set_id=set_id),
                        progress=self._guarding(stop, progress),
                        spool=self._store.root,
                    )
                owned = image.metadata["root"] == OWNED
                return _Arrived(
                    image,
                    tuple(_parts(root, owned_root=owned) for root in roots),
                    tuple(measure(root) for root in roots),
                )

            with _told("the import failed", "has the store room, and can the archive be read?"):
                arrived = await in_thread(work)
            return self._commit(arrived, keys, name)

    def _policy(self, metadata: Mapping[str, str], *, set_id: bool) -> Policy:
        """What the layers of an archive may have, by what it says of itself.

        A plain user's session has one id, so that the owners of a shared root's files become that one. A root file
        system of its own has owners that mean something, and lies over the host's.
        """
        validate_session_id(metadata.get("session", ""))
        root = metadata.get("root")
        if root == SHARED:
            own = tuple(os.fsencode(part.name) for part in (*parts.OWN, OUTPUTS))
            return Policy(children=own, over=(), set_id=set_id, owners=_IDS, squash_owners=not self._root)
        if root != OWNED:
            raise refused("it is no snapshot of Alcove's")
        if not self._root:
            raise refused("its root file system belongs to its guest, which needs Alcove run as root")
        if (of := metadata.get("host", "")) != _host():
            raise refused(
                f"its root file system is made of changes to {of[:_LONGEST_HOST]!r}, and this machine is {_host()!r}"
            )
        return Policy(set_id=set_id, owners=_IDS)

    def _commit(self, arrived: _Arrived, keys: Sequence[str], name: str | None) -> SandboxSnapshot:
        """Write it down: all or nothing, while the directories are still held."""
        snapshot = self._snapshot(arrived.image.metadata, keys, name)
        with self._store.transaction():
            # no digest: an archive can hide what is in no layer below, which is taken away before the first use
            for key, names, size in zip(keys, arrived.parts, arrived.sizes, strict=True):
                self._table.add_layer(Layer(key, names))
                self._table.know(key, files=size.files, bytes=size.bytes, allocated=size.allocated)
            self._table.add(snapshot)
        from alcove.local import chores

        chores.nudge(self._store.root)
        view = self._snapshots.view(snapshot)
        if any(layer.squashed for layer in arrived.image.layers):
            return replace(view, metadata={**view.metadata, "owners": "squashed"})
        return view

    def _snapshot(self, told: Mapping[str, str], keys: Sequence[str], name: str | None) -> Snapshot:
        """A snapshot of this store: what the archive says is taken over where it can be, its identity never is."""
        parent = told.get("parent", "")
        return Snapshot(
            id=new_id(),
            name=name or self._free_name(told.get("name", "")),
            session=told["session"],
            parent=parent if _is_name(parent) else None,
            root=told["root"],
            set_id=told.get("set_id") == "true",
            layers=tuple(keys),
            created=_time(told.get("created", "")),
        )

    def _free_name(self, told: str) -> str | None:
        return told if _is_name(told) and self._table.find(told) is None else None


def _metadata(snapshot: Snapshot) -> dict[str, str]:
    optional = {"name": snapshot.name, "parent": snapshot.parent}
    return {
        "created": repr(snapshot.created),
        "host": _host(),
        "root": snapshot.root,
        "session": snapshot.session,
        "set_id": "true" if snapshot.set_id else "false",
        **{key: value for key, value in optional.items() if value is not None},
    }


def _host() -> str:
    """What the host's directories are of, below the changes of a root file system that its guest owns."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    return "-".join((release.get("ID", "linux"), release.get("VERSION_ID", "rolling"), platform.machine()))


def _parts(root: int, *, owned_root: bool) -> tuple[str, ...]:
    """The parts that a layer has, all of which must have a place in this machine's sessions."""
    found = os.listdir(root)
    if "root" in found:
        found.remove("root")
        place = os.open("root", _DIRECTORY, dir_fd=root)
        try:
            found += [f"root/{name}" for name in os.listdir(place)]
        finally:
            os.close(place)
    known = {part.name for part in (*parts.renamed(owned_root=owned_root), OUTPUTS)}
    if lost := sorted(set(found) - known):
        raise refused(f"this machine has no place for {lost[0][:80]!r}")
    return tuple(sorted(found))


def _is_name(text: str) -> bool:
    try:
        validate_snapshot_name(text)
    except InvalidRequest:
        return False
    return True


def _time(text: str) -> float:
    """When a snapshot was made: not after now, whatever was said."""
    now = time.time()
    try:
        told = float(text)
    except ValueError:
        return now
    return min(max(told, 0.0), now) if math.isfinite(told) else now


@contextmanager
def _told(what: str, advice: str) -> Iterator[None]:
    """Give an error of the host's the words of ours; a reader that has gone is the caller's to know."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        path = f"{error.filename}: " if isinstance(error.filename, str) else ""
        raise SandboxIoError(f"{what}: {path}{error.strerror}; {advice}") from None


@contextmanager
def _written(out: Place, spool: str, stop: Interruption) -> Iterator[BinaryIO]:
    """Yield a file for an archive, which is written in no order; what came out goes to its place at the end."""
    if not isinstance(out, str | os.PathLike):
        if interruption.is_written_in_place(out):
            yield out
            return
        with TemporaryFile(dir=spool) as file:
            yield file
            interruption.pour(file, out, stop)
    elif _is_special(out):
        with open(out, "wb", buffering=0, opener=_waiting(stop)) as special, _written(special, spool, stop) as file:
            yield file
    else:
        with replacing(os.fspath(out)) as file:
            yield file


def _is_spooled(out: Place) -> bool:
    """Whether an archive lies in the store for a while before it goes to its place."""
    if isinstance(out, str | os.PathLike):
        return _is_special(out)
    return not interruption.is_written_in_place(out)


def _is_special(path: str | os.PathLike[str]) -> bool:
    return os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode)


def _waiting(stop: Interruption) -> Callable[[str, int], int]:
    """An opener that can be interrupted: for a FIFO, open(2) waits until somebody has its other end."""

    def open_(path: str, flags: int) -> int:
        while True:
            stop.check()
            try:
                fd = os.open(path, flags | os.O_NONBLOCK, 0o600)
            except OSError as error:
                if error.errno != errno.ENXIO or not stat.S_ISFIFO(os.stat(path).st_mode):
                    raise
                time.sleep(_LOOK_AGAIN_S)  # nobody tells when one comes who reads
            else:
                os.set_blocking(fd, True)
                return fd

    return open_


@contextmanager
def _read(source: Place, stop: Interruption) -> Iterator[BinaryIO]:
    if isinstance(source, str | os.PathLike):
        with open(source, "rb", opener=_waiting(stop)) as file, _read(file, stop) as readable:
            yield readable
    elif source.seekable() or interruption.descriptor(source) is None:
        yield source
    else:
        yield cast("BinaryIO", Incoming(source, stop))
