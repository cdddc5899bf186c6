"""The lives of this store's sessions: made, brought back, ended, swept; one process at a time for each."""

import asyncio
import os
import secrets
import socket
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import (
    asynccontextmanager,
    contextmanager,
    suppress,
)

from msgspec.structs import replace

from alcove.contract import (
    InvalidRequest,
    LifecycleError,
    SandboxIoError,
    SandboxSession,
    SandboxSessionId,
    SandboxSpec,
    SandboxState,
    SessionNotFound,
    from_json,
    to_json,
)
from alcove.local import records
from alcove.local.cell import cgroups, control, limits, places, processes
from alcove.local.cell.cells import Cells
from alcove.local.cell.launch import EXEC_SOCKET, connect
from alcove.local.config import LocalSandboxConfig
from alcove.local.host import Host
from alcove.local.locking import exclusively, try_exclusively
from alcove.local.mounts.mounting import Mounter
from alcove.local.network.policies import Policies
from alcove.local.records import OWNED, Egress, Maker, Record
from alcove.local.removal import remove_tree
from alcove.local.sleep import suspension
from alcove.local.sleep.suspension import Suspension
from alcove.local.snapshots.layers import Layers
from alcove.local.snapshots.snapshot_table import passing_name
from alcove.local.store import Row, Store

_REMOVE_INLINE = 256
_REAP_AT_ONCE = 4
#: A session directory under this suffix is on its way out: its session is gone whatever the row says.
ENDING = ".ending"
# overlayfs takes 500; every one of them makes a name that is not there dearer
_MOST_LAYERS = 64


class LiveSession:
    """A session as this process knows it: cheap to make, safe to forget."""

    def __init__(self, row: Row, spec: SandboxSpec, record: Record, directory: str) -> None:
        self.id = SandboxSessionId(row.id)
        self.key = row.key
        self.base_id = row.base_id
        self.spec = spec
        self.record = record
        self.directory = directory
        self.oom_kills = 0
        self.asked: socket.socket | None = None  # of its warden, while it is being made
        self.lock = asyncio.Lock()

    def drop_asked(self) -> None:
        """Nobody waits for the answer any more."""
        if self.asked is not None:
            self.asked.close()
            self.asked = None

    def view(self, state: SandboxState) -> SandboxSession:
        """The contract's view of it."""
        return records.as_session(self.id, self.spec, self.record, state, self.directory)


class Sessions:
    """Every session of one store."""

    def __init__(self, config: LocalSandboxConfig, store: Store, host: Host, native: str, mounter: Mounter) -> None:
        self._config = config
        self._store = store
        self._host = host
        self._mounter = mounter
        self.policies = Policies(store.root, config.egress, self.save)
        self.layers = Layers(store)
        self.cells = Cells(config, store.root, host, native, self.layers)
        self.suspension = Suspension(self.save)
        self._live: dict[str, LiveSession] = {}
        self._children: deque[int] = deque()
        me = os.getpid()
        self._maker = Maker(me, processes.start_time(me) or 0)

    @property
    def root(self) -> bool:
        """Whether they are the host's root's."""
        return self._host.root

    def passing_name(self) -> str:
        """The name of a snapshot that goes with this process."""
        return passing_name(self._maker.pid, self._maker.started)

    # Found

    def known(self, session_id: str) -> LiveSession | None:
        """The session, from this process's memory or from the store; None for a tombstone.

        Raises:
            SessionNotFound: there never was one, or its tombstone is gone.
        """
        live = self._live.get(session_id)
        if live is not None:
            return live
        row = self._store.find(session_id)
        if row is None or not self.is_whole(row):
            raise SessionNotFound(session_id)
        return None if row.ended is not None else self._remember(row)

    def live(self, session_id: str) -> LiveSession:
        """The session.

        Raises:
            InvalidRequest: the id is blank.
            SessionNotFound: there is none, or it was terminated.
        """
        live = self.known(SandboxSessionId(session_id))
        if live is None:
            raise SessionNotFound(session_id)
        return live

    def _remember(self, row: Row) -> LiveSession:
        live = LiveSession(row, *decoded(row), self._store.directory(row.key))
        live.oom_kills = cgroups.oom_kills(live.record.groups)
        self._live[live.id] = live
        return live

    def refresh(self, live: LiveSession) -> None:
        """Read what other processes may have changed; under the session's lock, so that it stays true.

        Raises:
            SessionNotFound: it was terminated meanwhile.
        """
        before = live.record.processes
        live.spec, live.record = decoded(self._store.live(live.id))
        if before is not None and before != live.record.processes:
            self._reap_child(before.warden)
        if live.record.sealing is not None:
            self._take_back(live, live.record.sealing)

    def _reap_child(self, pid: int) -> None:
        """A warden of ours that another process has ended."""
        if pid in self._children and not processes.reap(pid):
            self._children.remove(pid)

    def _take_back(self, live: LiveSession, key: str) -> None:
        """Whoever moved its files into a layer was killed before it was one."""
        whole = self.move_back(live, key)
        live.record = replace(live.record, sealing=None)
        self.save(live)
        if whole:  # else the next sweep keeps apart what is left of it
            self.layers.remove(key)

    def save(self, live: LiveSession, *, spec: bool = False) -> None:
        """Write the session's record, and its spec where that changed."""
        self._store.save(live.id, record=records.encode(live.record), spec=to_json(live.spec) if spec else None)

    # Made

    async def make(self, spec: SandboxSpec, enforced: limits.Enforced, parent: str | None = None) -> LiveSession:
        """Make a session; when that fails or is cancelled, nothing of it is left. `parent` is what it was forked from.

        Raises:
            InvalidRequest: its id is taken, or there is no such snapshot.
            LifecycleError: it cannot be made.
        """
        session_id = spec.session_id or f"s-{secrets.token_hex(6)}"
        key = secrets.token_hex(8)
        launcher = self.cells.launcher(key, spec)  # first: it begins while we prepare
        try:
            row, record = self._reserve(session_id, key, spec, parent)
        except BaseException:
            launcher.abandon()
            raise
        live = LiveSession(row, spec, replace(record, disk=enforced.disk), self._store.directory(key))
        try:
            early = self.policies.early(live)
            closed = early is not None or bool(spec.mounts)
            await self.cells.start(live, enforced, launcher, early, closed=closed)
            self._reap_some(launcher.pid)
            for mount in spec.mounts:
                await self._mounter.attach(live, mount)
            await self.policies.open(live)
            live.record = replace(live.record, maker=None)
            self.save(live)
            if closed:
                suspension.open_doors(live)
        except BaseException as error:
            live.drop_asked()
            await asyncio.shield(self._discard(live))
            if isinstance(error, OSError):
                raise LifecycleError(f"the session could not be made: {error}") from None
            raise
        self._live[live.id] = live
        return live

    def _reserve(self, session_id: str, key: str, spec: SandboxSpec, parent: str | None) -> tuple[Row, Record]:
        """Take the id, and the layers of the snapshot where it begins with one: nobody removes them from here on."""
        reference = snapshot_of(spec)
        if reference is None:
            record = Record(maker=self._maker, root=f"host:{self._config.rootfs}")
            return self._store.reserve(
                session_id, key, to_json(spec), records.encode(record), ranged=self._host.root
            ), record
        with self._store.transaction():
            snapshot = self.layers.table.find(reference)
            if snapshot is None:
                raise InvalidRequest(f"there is no snapshot `{reference}`; `alcove snapshots` lists them")
            record = Record(
                maker=self._maker,
                root=OWNED if snapshot.root == OWNED else f"host:{self._config.rootfs}",
                layers=self.layers.shortest(snapshot.layers),
                parent=parent or snapshot.id,
            )
            row = self._store.reserve(session_id, key, to_json(spec), records.encode(record), ranged=self._host.root)
            self.layers.table.use(f"session {key}", record.layers)
        return row, record

    def _reap_some(self, born: int) -> None:
        """A session of ours that another process ends leaves its warden to us: look at a few with each new one."""
        for _ in range(min(_REAP_AT_ONCE, len(self._children))):
            pid = self._children.popleft()
            if processes.reap(pid):
                self._children.append(pid)
        self._children.append(born)

    async def _discard(self, live: LiveSession) -> None:
        """Undo a provision that failed, whatever had been done; what cannot be undone now is left to the next sweep."""
        try:
            await processes.stop(live.record.processes, live.record.groups)
            self._remove_groups(live)
            places.remove_unused(live.directory, owned_root=live.record.root == OWNED)
            await self._remove_files(live)
            await self._release(live)
        except (LifecycleError, SandboxIoError, OSError):
            live.record = replace(live.record, maker=Maker(0, 0))
            self.save(live)
        else:
            self._store.forget(live.id)

    async def _release(self, live: LiveSession) -> None:
        """Let go of the layers below a session whose mounts are gone."""
        if live.record.sealing is not None:
            await asyncio.to_thread(self.layers.remove, live.record.sealing)
        if live.record.layers:
            self.layers.table.release(f"session {live.key}")
            await self.layers.collect()

    # Brought back

    async def restart(self, live: LiveSession) -> None:
        """Bring a session back over its files when its processes are gone or frozen: after a kill, a reboot, a sleep.

        Raises:
            SessionNotFound: it was terminated meanwhile.
            LifecycleError: it cannot be made again; its files stay.
            NetworkPolicyError: nobody can be had who enforces its allow-list.
            SandboxIoError: a mount of it is not there any more, or is another; or its processes cannot be looked at.
        """
        async with self.awake(live):
            pass
        await self.watch_again(live)

    @asynccontextmanager
    async def awake(self, live: LiveSession) -> AsyncIterator[None]:
        """Hold a session's lock, its record read, while its processes are there and run.

        Raises:
            SessionNotFound: it was terminated meanwhile.
            LifecycleError: it cannot be made again; its files stay.
            NetworkPolicyError: nobody can be had who enforces its allow-list.
            SandboxIoError: a mount of it is not there any more, or is another; or its processes cannot be looked at.
        """
        async with self._held(live):
            await self.suspension.wake(live)
            if not self._answers(live):
                await suspension.end_unrecorded(live)
                await processes.stop(live.record.processes, live.record.groups)
                await self._start_again(live)
                self.save(live)
                suspension.open_doors(live)
            yield

    @asynccontextmanager
    async def _held(self, live: LiveSession) -> AsyncIterator[None]:
        try:
            async with live.lock, self.locked(live):
                self.refresh(live)
                yield
        except SessionNotFound:
            self._forget(live)
            raise

    async def watch(self, live: LiveSession) -> None:
        """Have a session that is to sleep when idle looked at from now on.

        Raises:
            LifecycleError: nobody can be had who does.
        """
        if live.spec.limits.idle_timeout is not None:
            from alcove.local import chores

            await chores.poke(self._store.root)

    async def watch_again(self, live: LiveSession) -> None:
        """Have a session that was woken looked at from now on; what it was woken for does not fail for that."""
        with suppress(LifecycleError):
            await self.watch(live)

    async def keep_watched(self, live: LiveSession) -> None:
        """See to it that it is: who looks at it is back with the next call, if they died; no command fails for that."""
        if live.spec.limits.idle_timeout is not None:
            from alcove.local import keeper

            with suppress(LifecycleError, OSError):
                await keeper.ensure(self._store.root, keeper.CHORES)

    async def _start_again(self, live: LiveSession) -> None:
        with suppress(OSError):
            cgroups.remove(live.record.groups)
        self._forget_processes(live)
        live.oom_kills = 0
        try:
            suspension.forget_closed(live.directory)
            enforced = limits.decide(self._host, self._config, live.spec)
            if not places.has_files(live.directory):
                self._seek(live)
            await self._settle_layers(live)
            before = live.record
            try:
                await self._make_again(live, enforced)
            except BaseException:
                made, live.record = live.record, before
                await asyncio.shield(processes.stop(made.processes, made.groups))
                raise
        except OSError as error:
            raise LifecycleError(f"the session could not be brought back: {error}") from None

    def _forget_processes(self, live: LiveSession) -> None:
        """In the store too, before there are others: what it says of the last ones is not true of those."""
        forgotten = replace(live.record, processes=None, settled="", frozen=False)
        if forgotten != live.record:
            live.record = forgotten
            self.save(live)

    async def _make_again(self, live: LiveSession, enforced: limits.Enforced) -> None:
        """Make a session's processes, its mounts, and what it may reach; nobody begins an exec before all is there."""
        attached = live.record.attached
        served = Egress(settings=live.record.egress.settings) if live.record.egress else None
        live.record = replace(live.record, attached=(), egress=served)
        try:
            launcher = self.cells.launcher(live.key, live.spec)
            await self.cells.start(live, enforced, launcher, self.policies.early(live), closed=True)
            self._reap_some(launcher.pid)
            for mount in attached:
                await self._mounter.mount(live, mount, again=True)
            await self.policies.open(live)
        except BaseException:
            live.drop_asked()
            raise

    async def _settle_layers(self, live: LiveSession) -> None:
        """What lies below may have been made shorter; and after a snapshot, what the session itself made lies there."""
        if not live.record.layers:
            return
        shortest = await self.shallow(live.record.layers)
        if shortest != live.record.layers:
            live.record = replace(live.record, layers=shortest)
            with self._store.transaction():
                self.save(live)
                self.layers.table.release(f"session {live.key}")
                self.layers.table.use(f"session {live.key}", shortest)
        await self.layers.ready(live.record.layers)

    async def shallow(self, keys: Sequence[str]) -> tuple[str, ...]:
        """A chain that shows the same and is one that the kernel can mount: the longest are not left to the upkeep.

        Raises:
            LifecycleError: a layer is lost.
            SandboxIoError: there is no room to flatten it.
        """
        shortest = self.layers.shortest(keys)
        if len(shortest) <= _MOST_LAYERS:
            return shortest
        from alcove.local.snapshots.upkeep import Upkeep

        try:
            return (await Upkeep(self._store, self._config).flatten(shortest),)
        except (LifecycleError, OSError) as error:
            again = self.layers.shortest(keys)
            if len(again) <= _MOST_LAYERS:  # somebody else has done it, and took away what we read
                return again
            if isinstance(error, LifecycleError):
                raise
            raise SandboxIoError(f"{len(shortest)} layers cannot be flattened: {error.strerror}") from None

    async def suspend(self, live: LiveSession) -> None:
        """Put a session to sleep until it is used again; one that sleeps is left at that.

        Raises:
            SessionNotFound: it was terminated meanwhile.
            LifecycleError: processes run in it that this host cannot freeze.
        """
        async with self._held(live):
            await self.suspension.suspend(live)

    def _answers(self, live: LiveSession) -> bool:
        """Another process may have brought it back; a warden that no longer listens is on its way out."""
        with suppress(OSError):
            connect(live.directory, EXEC_SOCKET).close()
            return processes.alive(live.record.processes)
        return False

    @asynccontextmanager
    async def locked(self, live: LiveSession) -> AsyncIterator[None]:
        """One process at a time changes a session.

        Raises:
            SessionNotFound: its files are gone, and it with them.
            SandboxIoError: its directory cannot be opened.
        """
        try:
            fd = os.open(live.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise SessionNotFound(live.id) from None
        except OSError as error:
            raise _unlockable(live, error) from None
        try:
            try:
                await exclusively(fd)
            except OSError as error:
                raise _unlockable(live, error) from None
            yield
        finally:
            os.close(fd)

    # Ended

    async def end(self, live: LiveSession) -> None:
        """End a session and remove all of it; one that another process has ended is left at that.

        Raises:
            LifecycleError: something of it cannot be removed; a further call goes on.
        """
        try:
            async with live.lock, self.locked(live):
                if not await self._end_cell(live):
                    self.refresh(live)  # another process may have brought it back since we looked
                    await processes.stop(live.record.processes, live.record.groups)
                elif not processes.known(live.record.processes):
                    self.refresh(live)  # what has ended is not what we knew: another process had brought it back
                await self._remove_files(live)
                self._remove_groups(live)
                if live.record.layers or live.record.sealing:
                    await self._let_go(live)  # its mounts lie over them
                    await self._release(live)
                self._store.end(live.id)
        except SessionNotFound:
            row = self._store.find(live.id)
            if row is not None and row.ended is None:
                await self.sweep_row(row)
        await self._let_go(live)  # it takes down its mounts by itself meanwhile
        self._forget(live)

    async def _let_go(self, live: LiveSession) -> None:
        """Wait for the end of a session's warden.

        Raises:
            LifecycleError: even SIGKILL did not end it in time.
            SandboxIoError: it cannot be looked at: no word that it is gone.
        """
        await processes.end_warden(live.record.processes, live.record.groups)

    def _forget(self, live: LiveSession) -> None:
        """Let go of a session that is no more; its warden may be a child of ours, whoever ended it."""
        self._live.pop(live.id, None)
        if live.record.processes:
            processes.reap(live.record.processes.warden)

    async def _end_cell(self, live: LiveSession) -> bool:
        """Let the warden kill the session's processes: true when it says that none is left."""
        try:
            return (await control.end(live.directory, lambda: self._take_away(live))).error == 0
        except OSError:
            return False

    def _take_away(self, live: LiveSession) -> None:
        """Begin to remove its files: the rest, once its processes are gone."""
        self._take_name(live)
        places.remove_plain(f"{live.directory}{ENDING}", layered=bool(live.record.layers))

    def _take_name(self, live: LiveSession) -> None:
        """What is left of it after a kill -9 is then no session any more."""
        with suppress(FileNotFoundError):
            os.rename(live.directory, f"{live.directory}{ENDING}")

    async def _remove_files(self, live: LiveSession) -> None:
        ending = f"{live.directory}{ENDING}"
        try:
            self._take_name(live)
            if not remove_tree(ending, budget=_REMOVE_INLINE):
                await asyncio.to_thread(remove_tree, ending)
        except OSError as error:
            raise LifecycleError(f"session `{live.id}` could not be removed whole: {error}; try again") from None

    def _remove_groups(self, live: LiveSession) -> None:
        try:
            cgroups.remove(live.record.groups)
        except OSError as error:
            raise LifecycleError(f"session `{live.id}` still has processes in its groups: {error}; try again") from None

    # Swept

    def is_whole(self, row: Row) -> bool:
        """Tell whether a row is of a session for callers: one that was made whole, and is not half removed."""
        if row.ended is not None:
            return True
        return decoded(row)[1].maker is None and os.path.isdir(self._store.directory(row.key))

    def unmade(self, row: Row) -> bool:
        """Tell whether a row is of a session that nobody will finish making, or whose files are gone already."""
        if row.ended is not None:
            return False
        maker = decoded(row)[1].maker
        if maker is not None:
            return processes.start_time(maker.pid) != maker.started
        return not os.path.isdir(self._store.directory(row.key))

    def move_back(self, live: LiveSession, name: str) -> bool:
        """Give a session back what was moved into a layer; False: it has something else there already."""
        from alcove.local.snapshots import sealing

        return sealing.move_back(live.directory, self._store.layer(name))

    def _seek(self, live: LiveSession) -> None:
        """Look for files that a session lacks in what was to be a layer and never became one; under its lock."""
        for name in self.layers.stray():
            if self.layers.owner(name) == live.key and self.move_back(live, name):
                self.layers.remove(name)

    async def sweep_row(self, row: Row) -> None:
        """Take away what is left of a session that nobody will finish making, or ending.

        Raises:
            LifecycleError: something of it cannot be removed.
        """
        directory = self._store.directory(row.key)
        with _claimed(directory) as ours:
            if not ours:
                return  # whoever is ending it goes on
            now = self._store.find(row.id)  # the row may be old: whoever was making the session has made it
            if now is None or not self.unmade(now):
                return
            live = LiveSession(now, *decoded(now), directory)
            await self._end_cell(live)
            await processes.stop(live.record.processes, live.record.groups)
            await self._remove_files(live)
            live.record = replace(live.record, groups=cgroups.every(self._host.hierarchies, live.key))
            self._remove_groups(live)
            await self._release(live)
            self._store.end(live.id)

    # Told

    def view(self, row: Row) -> SandboxSession:
        """The contract's view of a row."""
        spec, record = decoded(row)
        if row.ended is not None:
            state = SandboxState.TERMINATED
        else:
            awake = _seems_alive(record.processes) and not record.frozen
            state = SandboxState.RUNNING if awake else SandboxState.SUSPENDED
        return records.as_session(row.id, spec, record, state, self._store.directory(row.key))


@contextmanager
def _claimed(directory: str) -> Iterator[bool]:
    """Claim what is left of a session's directory, under either name; False when another process has it."""
    for path in (directory, f"{directory}{ENDING}"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            yield try_exclusively(fd)
        finally:
            os.close(fd)
        return
    yield True


def _seems_alive(running: processes.Processes | None) -> bool:
    """For a list: what cannot be looked at counts as alive, and hides nothing else."""
    try:
        return processes.alive(running)
    except SandboxIoError:
        return True


def _unlockable(live: LiveSession, error: OSError) -> SandboxIoError:
    return SandboxIoError(f"session `{live.id}` cannot be locked: {error.strerror}; try again")


def snapshot_of(spec: SandboxSpec) -> str | None:
    """The id or the name of the snapshot that a session is to begin with."""
    kind, _, reference = spec.rootfs.partition(":")
    return reference if kind == "snapshot" else None


def decoded(row: Row) -> tuple[SandboxSpec, Record]:
    """A row's spec and record."""
    return from_json(row.spec, SandboxSpec), records.decode(row.record)
