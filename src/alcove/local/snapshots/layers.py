"""Sealed layers of one store: looked through before anything is mounted over them, removed when nobody uses them."""

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress

from alcove.contract import LifecycleError, SandboxIoError
from alcove.local.cell import parts, processes
from alcove.local.cell.parts import OUTPUTS
from alcove.local.removal import remove_tree
from alcove.local.snapshots.snapshot_table import Layer, SnapshotTable
from alcove.local.store import Store

#: A layer's directory under this suffix is nobody's any more.
ENDING = ".ending"
#: Who uses layers while they are exported: this, then the pid and start time of the process, and a token.
EXPORT = "export "
#: The attribute of a directory that says which session's files were renamed into it.
OWNER = "user.alcove.session"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Layers:
    """The layers of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.table = SnapshotTable(store)

    def all_durable(self) -> bool:
        """Whether nothing is left to do for any of them."""
        return all(layer.durable for layer in self.table.layers().values())

    def below(self, keys: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """For each part that any of these layers has, the keys of those that do, the topmost first; no outputs.

        Raises:
            LifecycleError: one of them is gone, or nobody has looked through it.
        """
        found: dict[str, tuple[str, ...]] = {}
        for layer in self._chain(keys):
            if not layer.scanned:  # by `ready`: what had the snapshot's name then was another one
                raise LifecycleError(f"layer {layer.key} has come to be used in this moment; try again")
            for name in layer.parts:
                if name != OUTPUTS.name:
                    found[name] = (layer.key, *found.get(name, ()))
        return found

    def outputs(self, keys: Sequence[str]) -> str | None:
        """The directory of the outputs that the topmost of these layers has them of."""
        having = [layer.key for layer in self._chain(keys) if OUTPUTS.name in layer.parts]
        return f"{self._store.layer(having[-1])}/{OUTPUTS.name}" if having else None

    def shortest(self, keys: Sequence[str]) -> tuple[str, ...]:
        """The shortest chain that shows the same: layers that stand for several take the place of those."""
        chain = tuple(keys)
        while flats := self.table.covering(chain):
            chain = (flats[0].key, *chain[len(flats[0].covers) :])
        return chain

    def _chain(self, keys: Sequence[str]) -> list[Layer]:
        chain = self.table.chain(keys)
        if len(chain) != len(keys):
            lost = sorted(set(keys) - {layer.key for layer in chain})
            raise LifecycleError(f"the store has lost the layers {', '.join(lost)}: `alcove doctor --store` tells more")
        return chain

    async def ready(self, keys: Sequence[str]) -> None:
        """See to it that nothing in these layers is anything but what a layer has: each is looked through once.

        Raises:
            LifecycleError: one is gone, or has what no session can make.
            SandboxIoError: one cannot be read.
        """
        covered: set[str] = set()
        for layer in self._chain(keys):
            if not layer.scanned:
                await asyncio.to_thread(self._scan, layer, frozenset(covered))
                self.table.know(layer.key, scanned=1)
            covered.update(layer.parts)

    def _scan(self, layer: Layer, covered: frozenset[str]) -> None:
        from alcove.state.scan import clean, scan

        directory = self._store.layer(layer.key)
        try:
            with claimed(directory, wait=True):
                for name in layer.parts:
                    if name == OUTPUTS.name:
                        continue  # looked through when it was copied
                    fd = os.open(f"{directory}/{name}", _DIRECTORY)
                    try:
                        # set-id bits gain nobody anything: every mount of ours is nosuid
                        clean(fd, scan(fd, lowest=_is_lowest(name, covered)), keep_set_id=True)
                    finally:
                        os.close(fd)
        except OSError as error:
            raise SandboxIoError(f"the layer {layer.key} cannot be read: {error.strerror}") from None

    async def collect(self) -> int:
        """Remove the layers that nobody uses, and return how many they were."""
        self._release_exports()
        # before the store forgets it, and while nobody can take it into use: what has no row may be a session's own
        unused = self.table.take_unused(self._take_name)
        for key in unused:
            await asyncio.to_thread(self.remove, key)
        return len(unused)

    def _take_name(self, key: str) -> None:
        with suppress(FileNotFoundError):
            os.rename(self._store.layer(key), f"{self._store.layer(key)}{ENDING}")

    def _release_exports(self) -> None:
        """Let go of what a process used that was killed while it exported."""
        for owner in self.table.owners(EXPORT):
            if not is_exporting(owner):
                self.table.release(owner)

    def remove(self, key: str) -> None:
        """Remove the directory of a layer that is not in the store; what cannot be removed now, the next sweep does."""
        name = key.removesuffix(ENDING)
        with suppress(OSError):
            self._take_name(name)
            remove_tree(f"{self._store.layer(name)}{ENDING}")

    def stray(self, kept: Collection[str] = ()) -> list[str]:
        """The names of directories that are no layer's, but for `kept`."""
        known = {*self.table.layers(), *kept}
        return [name for name in os.listdir(f"{self._store.root}/layers") if name not in known]

    def owner(self, name: str) -> str | None:
        """The session that what is in a directory was taken from by renaming; None: it is but a copy, or given up."""
        return None if name.endswith(ENDING) else _owner(self._store.layer(name))

    async def sweep(self, kept: Collection[str], give_back: Callable[[str, str], Awaitable[bool]]) -> None:
        """Take away what a kill -9 or a power cut left, but for `kept` and what is being made.

        A copy is removed. What was renamed is the only one: it goes back to its session, or where nothing is removed.
        """
        await self.collect()
        for name in self.stray(kept):
            with claimed(self._store.layer(name)) as ours:
                # looked at again under the lock: it may have been sealed since
                if not ours or (not name.endswith(ENDING) and self.table.layer(name) is not None):
                    continue
                owner = self.owner(name)
                if owner is None or await give_back(owner, name):
                    await asyncio.to_thread(self.remove, name)
                else:
                    self._keep_apart(name)

    def _keep_apart(self, name: str) -> None:
        lost = f"{self._store.root}/lost"
        os.makedirs(lost, mode=0o700, exist_ok=True)
        os.rename(self._store.layer(name), f"{lost}/layer-{name}")


def is_exporting(owner: str) -> bool:
    """Whether a user of layers is an export that goes on."""
    if not owner.startswith(EXPORT):
        return False
    pid, started, _ = owner.removeprefix(EXPORT).split("-")
    return processes.start_time(int(pid)) == int(started)


def _is_lowest(name: str, covered: frozenset[str]) -> bool:
    return name not in covered and not parts.is_over_host(name)


@contextmanager
def claimed(directory: str, *, wait: bool = False) -> Iterator[bool]:
    """Hold a layer's directory against those who would remove or change it; False: another process has it.

    Raises:
        OSError: it is not there, and was to be waited for.
    """
    try:
        fd = os.open(directory, _DIRECTORY)
    except FileNotFoundError:
        if wait:
            raise
        yield False
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(fd)
        yield False
        return
    try:
        yield True
    finally:
        os.close(fd)


@contextmanager
def made(directory: str) -> Iterator[int]:
    """Make a layer's directory and hold it until it is one; after an error nothing is left of it.

    But for what was moved into it and could not be moved back: that is a session's, whose record says so.

    Raises:
        OSError: it cannot be made.
    """
    os.mkdir(directory, 0o700)
    try:
        fd = os.open(directory, _DIRECTORY)
    except BaseException:
        os.rmdir(directory)
        raise
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    except BaseException:
        if _owner(fd) is None:
            with suppress(OSError):
                remove_tree(directory)
        raise
    finally:
        os.close(fd)


def _owner(layer: str | int) -> str | None:
    with suppress(OSError):
        return os.getxattr(layer, OWNER).decode()
    return None


def open_part(directory: int, name: str, *, make: bool = False) -> int:
    """Open a part of a layer, made with its parents where wanted."""
    for place in (os.path.dirname(name), name) if make else ():
        if place:
            with suppress(FileExistsError):
                os.mkdir(place, 0o755, dir_fd=directory)
    return os.open(name, _DIRECTORY, dir_fd=directory)
