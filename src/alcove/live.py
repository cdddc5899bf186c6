"""The session behind a sandbox: held while it is open, ended at exit when it was made here, left alone after a fork."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, cast

from msgspec import Struct

from alcove.contract import (
    ExecRequest,
    ExecResult,
    FilesystemMount,
    Forks,
    InvalidRequest,
    Limited,
    SandboxBackend,
    SandboxSession,
    SandboxSessionId,
    SandboxSnapshot,
    SandboxSpec,
    SandboxState,
    SessionNotFound,
    Suspends,
    Unrestricted,
    Unsupported,
)
from alcove.local import LocalSandboxConfig
from alcove.overrides import Overrides, overridden
from alcove.portal import at_exit, portal

if TYPE_CHECKING:
    from alcove.changes import Applied, Change
    from alcove.egress.audit import Record


def configuration(config: object) -> LocalSandboxConfig:
    """Return `config`, or what the operator's file says where it is none."""
    return config if isinstance(config, LocalSandboxConfig) else LocalSandboxConfig.load()


class _Grip:
    """A backend and a session on it, as the process `pid` holds them."""

    def __init__(self, backend: SandboxBackend, session: SandboxSession, before: "_Grip | None" = None) -> None:
        self.backend = backend
        self.session = session
        self.pid = os.getpid()
        # what a fork inherited is kept untouched: to close the parent's database here would disturb the parent
        self.before = before


class Made(Struct, frozen=True):
    """A backend of the sandbox's own: made when it opens, closed when it is left."""

    make: Callable[[], SandboxBackend]


class _Lookup(Protocol):
    def session(self, session_id: str) -> SandboxSession: ...


class _AllowLists(Protocol):
    async def change_allow_list(
        self, session_id: str, /, *, allow: Iterable[str], deny: Iterable[str]
    ) -> SandboxSession: ...

    def network_log(self, session_id: str, /, *, since: datetime | None) -> "Iterator[Record]": ...

    def follow_network_log(self, session_id: str, /, *, since: datetime | None) -> "AsyncIterator[Record]": ...


#: Paths in a host directory that a session has by copy-on-write; None: all of it.
Paths = Collection[str | os.PathLike[str]] | None


class _CopyOnWrite(Protocol):
    async def changes(self, session_id: str, /, paths: Paths, *, target: str | None, patch: bool) -> "list[Change]": ...

    async def diff(self, session_id: str, /, paths: Paths, *, target: str | None) -> str: ...

    async def apply(self, session_id: str, /, paths: Paths, *, target: str | None) -> "Applied": ...

    async def discard(self, session_id: str, /, *, target: str | None) -> None: ...


class _NamesSnapshots(Protocol):
    async def snapshot(self, session_id: str, /, *, name: str | None) -> SandboxSnapshot: ...


class ForkOf(Struct, frozen=True):
    """A session to be made from that of another sandbox, while that one is open."""

    source: "Live"
    overrides: Overrides


#: The sessions that this process made and has to end.
_owed: "set[Live]" = set()


class Live:
    """What a sandbox holds while it is open: the part of it that outlives its own collection."""

    def __init__(
        self, source: SandboxBackend | Made, wanted: SandboxSpec | SandboxSessionId | ForkOf, *, keep: bool
    ) -> None:
        self._source = source
        self._wanted = wanted
        self._keep = keep
        self._grip: _Grip | None = None
        self._ended: SandboxSessionId | None = None

    @property
    def session(self) -> SandboxSession:
        return self._held().session

    @property
    def opened(self) -> bool:
        return self._grip is not None

    async def open(self) -> None:
        if self._grip is not None:
            return
        if self._ended is not None:
            raise SessionNotFound(self._ended)
        backend = self._backend()
        try:
            if isinstance(self._wanted, SandboxSessionId):
                self._grip = _Grip(backend, _looked_up(backend, self._wanted))
            else:
                self._grip = _Grip(backend, await self._made(backend, self._wanted))
                if not self._keep:
                    _owed.add(self)
        except BaseException:
            await self._close(backend)
            raise

    async def _made(self, backend: SandboxBackend, wanted: SandboxSpec | ForkOf) -> SandboxSession:
        if isinstance(wanted, ForkOf):
            return await wanted.source.forked(wanted.overrides)
        return await backend.provision(wanted)

    def _backend(self) -> SandboxBackend:
        return self._source.make() if isinstance(self._source, Made) else self._source

    async def _close(self, backend: SandboxBackend) -> None:
        close = getattr(backend, "aclose", None)
        if isinstance(self._source, Made) and close is not None:
            await close()

    def _held(self) -> _Grip:
        grip = self._grip
        if grip is None:
            if self._ended is not None:
                raise SessionNotFound(self._ended)
            raise InvalidRequest("the sandbox is not open: use it as `with Sandbox() as box:`, or call start() first")
        if grip.pid != os.getpid():
            grip = self._grip = _Grip(self._backend(), grip.session, before=grip)
        return grip

    async def exec(self, request: ExecRequest) -> ExecResult:
        grip = self._held()
        return await grip.backend.exec(grip.session.id, request)

    async def snapshot(self, name: str | None) -> SandboxSnapshot:
        grip = self._held()
        if name is None:
            return await grip.backend.snapshot(grip.session.id)
        if not hasattr(grip.backend, "name_snapshot"):
            raise Unsupported(grip.backend.name, "names of snapshots")
        return await cast("_NamesSnapshots", grip.backend).snapshot(grip.session.id, name=name)

    def fork(self, overrides: Overrides) -> "Live":
        """What a fork of this is to be; it is made when it is opened."""
        self._held()
        return Live(self._source, ForkOf(self, overrides), keep=False)

    async def forked(self, overrides: Overrides) -> SandboxSession:
        grip = self._held()
        if not isinstance(grip.backend, Forks):
            raise Unsupported(grip.backend.name, "forking a session")
        config = getattr(grip.backend, "config", None)
        spec = overridden(
            grip.backend.fork_spec(grip.session.id), overrides, lambda entries: configuration(config).expanded(entries)
        )
        return await grip.backend.fork(grip.session.id, spec)

    async def attach(self, mount: FilesystemMount) -> SandboxSession:
        grip = self._held()
        grip.session = await grip.backend.attach_filesystem(grip.session.id, mount)
        return grip.session

    async def apply(self, policy: Unrestricted | Limited) -> SandboxSession:
        grip = self._held()
        grip.session = await grip.backend.apply_network_policy(grip.session.id, policy)
        return grip.session

    async def suspend(self) -> SandboxSession:
        grip = self._held()
        if not isinstance(grip.backend, Suspends):
            raise Unsupported(grip.backend.name, "suspending a session")
        grip.session = await grip.backend.suspend(grip.session.id)
        return grip.session

    async def resume(self) -> SandboxSession:
        grip = self._held()
        grip.session = await grip.backend.resume(grip.session.id)
        return grip.session

    async def change(self, *, allow: tuple[str, ...] = (), deny: tuple[str, ...] = ()) -> SandboxSession:
        grip = self._held()
        backend = self._with_allow_lists(grip, "change_allow_list", "changing an allow-list by entries; give it whole")
        if any(entry.startswith("@") for entry in (*allow, *deny)):
            config = configuration(getattr(grip.backend, "config", None))
            allow, deny = config.expanded(allow), config.expanded(deny)
        grip.session = await backend.change_allow_list(grip.session.id, allow=allow, deny=deny)
        return grip.session

    def network_log(self, since: datetime | None) -> "Iterator[Record]":
        grip = self._held()
        return self._with_allow_lists(grip, "network_log", "a network log").network_log(grip.session.id, since=since)

    def follow_network_log(self, since: datetime | None) -> "AsyncIterator[Record]":
        grip = self._held()
        backend = self._with_allow_lists(grip, "follow_network_log", "following a network log")
        return backend.follow_network_log(grip.session.id, since=since)

    def _with_allow_lists(self, grip: _Grip, method: str, what: str) -> _AllowLists:
        if not hasattr(grip.backend, method):
            raise Unsupported(grip.backend.name, what)
        return cast("_AllowLists", grip.backend)

    async def changes(self, paths: Paths, target: str | None, *, patch: bool) -> "list[Change]":
        grip = self._held()
        return await self._with_changes(grip).changes(grip.session.id, paths, target=target, patch=patch)

    async def diff(self, paths: Paths, target: str | None) -> str:
        grip = self._held()
        return await self._with_changes(grip).diff(grip.session.id, paths, target=target)

    async def apply_changes(self, paths: Paths, target: str | None) -> "Applied":
        grip = self._held()
        return await self._with_changes(grip).apply(grip.session.id, paths, target=target)

    async def discard(self, target: str | None) -> None:
        grip = self._held()
        await self._with_changes(grip).discard(grip.session.id, target=target)

    def _with_changes(self, grip: _Grip) -> _CopyOnWrite:
        if not hasattr(grip.backend, "discard"):
            raise Unsupported(grip.backend.name, "telling what a session changed")
        return cast("_CopyOnWrite", grip.backend)

    async def terminate(self) -> None:
        if self._grip is not None:
            await _to_its_end(self._terminate())

    async def _terminate(self) -> None:
        grip = self._held()
        await grip.backend.terminate(grip.session.id)
        await self._leave()

    async def leave(self) -> None:
        """End what was made here, unless it is to be kept, or was inherited from a parent that forked."""
        if self._grip is not None:
            await _to_its_end(self._terminate() if self in _owed else self._leave())

    async def _leave(self) -> None:
        grip, self._grip = self._grip, None
        _owed.discard(self)
        if grip is not None:
            self._ended = grip.session.id
            if grip.pid == os.getpid():
                await self._close(grip.backend)

    def drop(self) -> None:
        """The sandbox was collected while open: leave it behind the back of whoever collects, who must not wait."""
        if self._grip is not None and self._grip.pid == os.getpid():
            portal().begin(self.leave())


def _looked_up(backend: SandboxBackend, session_id: str) -> SandboxSession:
    if not hasattr(backend, "session"):
        raise Unsupported(backend.name, "connecting to a session by its id")
    session = cast("_Lookup", backend).session(session_id)
    if session.state is SandboxState.TERMINATED:
        raise SessionNotFound(session_id)
    return session


async def _to_its_end(coroutine: Coroutine[Any, Any, None]) -> None:
    """Wait for what must not be left half done; a cancellation is raised after it."""
    task = asyncio.ensure_future(coroutine)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


def _end_what_is_owed() -> Coroutine[Any, Any, object] | None:
    return _end_all(list(_owed)) if _owed else None


async def _end_all(open_ones: list[Live]) -> None:
    for outcome in await asyncio.gather(*(live.leave() for live in open_ones), return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


at_exit(_end_what_is_owed)
os.register_at_fork(after_in_child=_owed.clear)
