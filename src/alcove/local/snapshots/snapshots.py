"""Snapshots of this machine's sessions: taken, listed, named, deleted."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import partial

from msgspec.structs import replace

from alcove.contract import (
    InvalidRequest,
    LifecycleError,
    SandboxError,
    SandboxIoError,
    SandboxSession,
    SandboxSnapshot,
    SandboxSpec,
)
from alcove.contract.rules import validate_snapshot_name
from alcove.local.cell.parts import OUTPUTS, Part
from alcove.local.config import LocalSandboxConfig
from alcove.local.copies import beside
from alcove.local.disk import reserve
from alcove.local.records import OWNED
from alcove.local.sessions import LiveSession, Sessions
from alcove.local.sleep import suspension
from alcove.local.snapshots import layers, sealing
from alcove.local.snapshots.layers import Layers
from alcove.local.snapshots.snapshot_table import Layer, Snapshot, is_passing
from alcove.local.store import Store
from alcove.state.contents import Progress

#: Makes a session of a spec; the other is what it was forked from.
Provision = Callable[[SandboxSpec, str], Awaitable[SandboxSession]]


class Snapshots:
    """The snapshots of one store."""

    def __init__(self, store: Store, sessions: Sessions, config: LocalSandboxConfig) -> None:
        self._config = config
        self._store = store
        self._sessions = sessions
        self._layers: Layers = sessions.layers
        self._table = sessions.layers.table

    # Taken

    async def take(
        self, live: LiveSession, name: str | None = None, progress: Progress | None = None, *, passing: bool = False
    ) -> Snapshot:
        """Keep what a session has changed so far; the session goes on over it. A `passing` one is nobody's parent.

        Raises:
            InvalidRequest: the name cannot be, or is taken.
            LifecycleError: processes write in the session, and it cannot be frozen.
            SandboxIoError: there is no room for it; the session has lost nothing.
            SessionNotFound: it was terminated meanwhile.
        """
        if name is not None:
            validate_snapshot_name(name)
            self.refuse_taken(name)
        if passing:
            name = self._sessions.passing_name()
        try:
            async with live.lock, self._sessions.locked(live):
                self._sessions.refresh(live)
                resting = await self._sessions.suspension.rest(live)
                # what lies on a disk of the session's own cannot be renamed out of it
                by = self._by_renaming if resting and not live.record.disk else self._by_copying
                snapshot = await by(live, name, progress)
        except OSError as error:
            raise SandboxIoError(
                f"no snapshot of session `{live.id}`: {error.strerror}; the session has lost nothing"
            ) from None
        if not passing:
            from alcove.local import chores

            chores.nudge(self._store.root)
        return snapshot

    def refuse_taken(self, name: str) -> None:
        """Check that a name is free.

        Raises:
            InvalidRequest: it is not.
        """
        if (taken := self._table.find(name)) is not None:
            raise InvalidRequest(f"snapshot `{taken.id}` has the name `{name}` already; choose another")

    async def _by_renaming(self, live: LiveSession, name: str | None, progress: Progress | None) -> Snapshot:
        moved = sealing.changed(live.directory, owned_root=self._owned(live))
        outputs = self._has_outputs(live, live.directory)
        if not moved and not outputs:
            return self._commit(live, None, name)
        key = new_key()
        directory = self._store.layer(key)
        with layers.made(directory) as layer:
            if outputs:
                await beside(partial(sealing.copy_outputs, live.directory, layer), self.guarding(progress))
            return self._move(live, Layer(key, _names(moved, outputs=outputs)), moved, name)

    def _move(self, live: LiveSession, layer: Layer, moved: list[Part], name: str | None) -> Snapshot:
        """From the first file to the commit: nothing in here waits, so that nothing can come between but a kill -9."""
        directory = self._store.layer(layer.key)
        before = live.record
        live.record = replace(before, sealing=layer.key)
        self._sessions.save(live)
        try:
            sealing.move(live.directory, directory, moved)
            live.record = replace(before, layers=(*before.layers, layer.key))
            return self._commit(live, layer, name)
        except BaseException:
            if sealing.move_back(live.directory, directory):  # else the record says where its files are
                live.record = before
                self._sessions.save(live)
            raise

    async def _by_copying(self, live: LiveSession, name: str | None, progress: Progress | None) -> Snapshot:
        with ExitStack() as making:
            layer = None
            async with suspension.held(live), self._sessions.cells.own_files(live) as own:
                copied = sealing.changed(own, owned_root=self._owned(live))
                outputs = self._has_outputs(live, own)
                if copied or outputs:
                    layer = Layer(new_key(), _names(copied, outputs=outputs))
                    advance = self.guarding(progress)
                    directory = making.enter_context(layers.made(self._store.layer(layer.key)))
                    await beside(partial(sealing.copy, own, directory, copied), advance)
                    if outputs:
                        await beside(partial(sealing.copy_outputs, own, directory), advance)
            return self._commit(live, layer, name)  # only now is it known that nothing ran to the last

    def guarding(self, progress: Callable[[int], object] | None) -> Progress:
        """What a copy that is not to take room from the reserve calls on its way.

        Raises:
            SandboxIoError: there is no room for any.
        """
        reserve.check(self._store.root, self._config)
        return reserve.guarding(self._store.root, self._config, progress)

    def _commit(self, live: LiveSession, layer: Layer | None, name: str | None) -> Snapshot:
        """Write it down, with the session's record: all or nothing."""
        record = live.record
        keys = record.layers
        if layer is not None and layer.key not in keys:
            keys = (*keys, layer.key)
        snapshot = Snapshot(
            id=new_id(),
            name=name,
            session=live.id,
            parent=record.parent,
            root=record.root,
            set_id=live.spec.set_id,
            layers=keys,
            created=time.time(),
        )
        if not is_passing(name):
            live.record = replace(record, parent=snapshot.id)
        try:
            with self._store.transaction():
                if layer is not None:
                    self._table.add_layer(layer)
                self._table.add(snapshot)
                self._sessions.save(live)
                self._table.use(f"session {live.key}", record.layers)
        except BaseException:
            live.record = record
            raise
        return snapshot

    def _owned(self, live: LiveSession) -> bool:
        return live.record.root == OWNED

    def _has_outputs(self, live: LiveSession, own: str) -> bool:
        """Whether there are any, or there were: that they are gone is to be kept too."""
        return sealing.has_outputs(own) or self._layers.outputs(live.record.layers) is not None

    # Provisioned from

    async def ready(self, reference: str) -> None:
        """See to it that sessions can be made from a snapshot.

        Raises:
            InvalidRequest: there is no such snapshot.
            LifecycleError: a layer of it is gone, or has what no session can make.
        """
        snapshot = self.find(reference)
        if snapshot.root == OWNED and not self._sessions.root:
            raise LifecycleError(
                f"snapshot `{reference}` has an owned root file system, which needs Alcove run as root"
            )
        await self._layers.ready(await self._sessions.shallow(snapshot.layers))

    async def fork(self, live: LiveSession, spec: SandboxSpec, provision: Provision) -> SandboxSession:
        """Take a snapshot that only the new session is to have, and make that."""
        snapshot = await self.take(live, passing=True)
        try:
            made = await provision(replace(spec, rootfs=f"snapshot:{snapshot.id}"), str(live.id))
        except BaseException:
            await asyncio.shield(self.delete(snapshot.id))
            raise
        # nothing waits from here on: a call that is cancelled has no session, and a session has somebody who knows it
        with suppress(SandboxError):  # else the next sweep does it
            self._drop(snapshot.id)
        return made

    # Found

    def find(self, reference: str) -> Snapshot:
        """The snapshot of an id or a name.

        Raises:
            InvalidRequest: there is none.
        """
        snapshot = self._table.find(reference)
        if snapshot is None:
            raise InvalidRequest(f"there is no snapshot `{reference}`; `alcove snapshots` lists them")
        return snapshot

    def all(self) -> list[SandboxSnapshot]:
        """Every snapshot, the oldest first."""
        known = self._table.layers()
        return [
            _view(snapshot, [known[key] for key in snapshot.layers if key in known]) for snapshot in self._table.all()
        ]

    def view(self, snapshot: Snapshot) -> SandboxSnapshot:
        """The contract's view of one."""
        return _view(snapshot, self._table.chain(snapshot.layers))

    def rename(self, reference: str, name: str | None) -> SandboxSnapshot:
        """Give one a name, another, or none.

        Raises:
            InvalidRequest: there is no such snapshot, or the name cannot be or is taken.
        """
        if name is not None:
            validate_snapshot_name(name)
        snapshot = self.find(reference)
        self._table.rename(snapshot.id, name)
        return self.view(replace(snapshot, name=name))

    async def delete(self, reference: str) -> None:
        """Delete one; sessions and snapshots that live on its layers keep them.

        Raises:
            InvalidRequest: there is no such snapshot.
        """
        self._drop(reference)
        await self._layers.collect()

    def _drop(self, reference: str) -> None:
        with self._store.transaction():
            self._table.remove(self.find(reference).id)


def _names(moved: list[Part], *, outputs: bool) -> tuple[str, ...]:
    return (*(part.name for part in moved), *((OUTPUTS.name,) if outputs else ()))


def new_id() -> str:
    """The id of a snapshot that there is not yet."""
    return f"snap-{secrets.token_hex(6)}"


def new_key() -> str:
    """The name of a layer that there is not yet."""
    return secrets.token_hex(5)


def _view(snapshot: Snapshot, chain: list[Layer]) -> SandboxSnapshot:
    metadata = {
        "created": datetime.fromtimestamp(snapshot.created, UTC).isoformat(timespec="milliseconds"),
        "durable": "true" if all(layer.durable for layer in chain) else "false",
        "layers": str(len(snapshot.layers)),
        "parent": snapshot.parent or "",
        "root": snapshot.root,
    }
    if snapshot.name is not None:
        metadata["name"] = snapshot.name
    if all(layer.bytes is not None for layer in chain):
        metadata["bytes"] = str(sum(layer.bytes or 0 for layer in chain))
        metadata["files"] = str(sum(layer.files or 0 for layer in chain))
    return SandboxSnapshot(snapshot.session, "local", snapshot.id, metadata)
