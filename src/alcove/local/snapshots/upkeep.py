"""What is done for layers behind everybody's back: they are digested and flushed to the disk, long chains flattened.

All of it can be killed at any moment, and done again by whoever comes next.
"""

import asyncio
import ctypes
import os
import secrets
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from alcove.contract import LifecycleError, SandboxError
from alcove.local import records
from alcove.local.config import LocalSandboxConfig
from alcove.local.copies import beside
from alcove.local.disk import reserve
from alcove.local.snapshots import layers
from alcove.local.snapshots.flattening import flatten_layers
from alcove.local.snapshots.layers import Layers
from alcove.local.snapshots.snapshot_table import Layer
from alcove.local.store import Store
from alcove.state.contents import Progress
from alcove.state.tree import digest, measure

#: A chain of more layers than this is flattened: each makes every name that is not there dearer.
DEEP = 8

#: In a row, after which a service that could do nothing else ends: as long as it is there, no repair has the store.
_MOST_FAILURES = 3
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Upkeep:
    """The work that the layers of one store are waiting for."""

    def __init__(self, store: Store, config: LocalSandboxConfig | None = None) -> None:
        self._store = store
        self._config = config or LocalSandboxConfig()
        self._layers = Layers(store)
        self._table = self._layers.table
        self._hopeless: set[str] = set()

    def due(self) -> bool:
        """Whether there is anything to do that was not tried in vain."""
        return bool(self._unsettled() or self._deep())

    async def run(self) -> None:
        """Do all that there is to do."""
        while (chain := next(iter(self._deep()), None)) is not None:
            try:
                await self.flatten(chain)
            except (OSError, SandboxError):  # no room, or its last user left meanwhile
                self._hopeless.add(" ".join(chain))
        for snapshot in self._table.all():
            with suppress(SandboxError):
                await self._layers.ready(snapshot.layers)
        for key in self._unsettled():
            try:
                await beside(lambda _, key=key: self._settle(key))  # type: ignore[misc]
            except (OSError, SandboxError):  # its last user left meanwhile, or the disk has failed
                self._hopeless.add(key)

    # Durable

    def _unsettled(self) -> list[str]:
        known = self._table.layers().values()
        return [layer.key for layer in known if not layer.durable and layer.key not in self._hopeless]

    def _settle(self, key: str) -> None:
        directory = self._store.layer(key)
        with layers.claimed(directory, wait=True):
            layer = self._table.layer(key)
            if layer is None or not layer.scanned:
                raise LifecycleError(f"layer {key} is nobody's")
            fd = os.open(directory, _DIRECTORY)
            try:
                size = measure(fd)
                found = digest(fd)
                _flush(fd)
            finally:
                os.close(fd)
        if layer.digest not in {None, found}:
            raise LifecycleError(f"layer {key} is not what it was: `alcove doctor --store --verify` tells more")
        with self._store.flushed():
            self._table.know(key, digest=found, files=size.files, bytes=size.bytes, allocated=size.allocated, durable=1)

    # Flat

    def _deep(self) -> list[tuple[str, ...]]:
        """Chains that are too long, the longest first; of snapshots and of sessions."""
        chains = {self._layers.shortest(snapshot.layers) for snapshot in self._table.all()}
        for row in self._store.sessions():
            if keys := records.decode(row.record).layers:
                chains.add(self._layers.shortest(keys))
        deep = (chain for chain in chains if len(chain) > DEEP and " ".join(chain) not in self._hopeless)
        return sorted(deep, key=len, reverse=True)

    async def flatten(self, chain: Sequence[str], progress: Progress | None = None) -> str:
        """Make one layer that stands for a chain, and return its key: snapshots have it at once, sessions later.

        Raises:
            OSError: there is no room.
            LifecycleError: nobody uses the chain any more, or a layer of it is lost.
        """
        await self._layers.ready(chain)
        key = secrets.token_hex(5)
        names = tuple(dict.fromkeys(name for layer in self._table.chain(chain) for name in layer.parts))
        reserve.check(self._store.root, self._config)
        advance = reserve.guarding(self._store.root, self._config, progress)
        with layers.made(self._store.layer(key)) as target:
            await beside(lambda step: self._copy(chain, target, names, step), advance)
            await asyncio.to_thread(_flush, target)  # what it takes the place of may be on the disk already
            self._take_its_place(Layer(key, names, covers=tuple(chain), scanned=True))
        await self._layers.collect()
        return key

    def _copy(self, chain: Sequence[str], target: int, names: Sequence[str], progress: Progress) -> None:
        with ExitStack() as opened:
            fds = []
            for key in chain:
                fds.append(os.open(self._store.layer(key), _DIRECTORY))
                opened.callback(os.close, fds[-1])
            flatten_layers(fds, target, names, progress=progress)

    def _take_its_place(self, flat: Layer) -> None:
        chain = flat.covers
        with self._store.flushed():
            if len(self._table.chain(chain)) != len(chain):
                raise LifecycleError("a layer that was to be flattened is gone")
            self._table.add_layer(flat)
            used = False
            for snapshot in self._table.all():
                if snapshot.layers[: len(chain)] == chain:
                    self._table.replace_layers(snapshot.id, (flat.key, *snapshot.layers[len(chain) :]))
                    used = True
            for row in self._store.sessions():
                if self._layers.shortest(records.decode(row.record).layers)[:1] == (flat.key,):
                    self._table.use(f"session {row.key}", [flat.key])
                    used = True
            if not used:
                raise LifecycleError("nobody uses what was flattened any more")


def _flush(fd: int) -> None:
    """Write everything of that file system to the disk (syncfs(2)): one call, however many files."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(fd) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


class LayerChores:
    """The chore: what `Upkeep` does, over a connection to the store of its own, since it goes on beside others."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._wanted = False
        self._failures = 0

    def look(self) -> None:
        """There may be something to do."""
        self._wanted = True
        self._failures = 0

    async def run_due(self) -> float | None:
        """Do it; nothing is left to do then, or it was tried in vain too often: who looks next tries again.

        Raises:
            Exception: it could not be done.
        """
        while self._wanted:
            self._wanted = False
            try:
                await self._run()
            except Exception:
                self._failures += 1
                self._wanted = self._failures < _MOST_FAILURES
                raise
        return None

    async def _run(self) -> None:
        store = Store(self._root)
        try:
            await Upkeep(store).run()
        finally:
            store.close()
