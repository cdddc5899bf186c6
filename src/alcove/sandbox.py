"""`Sandbox` and `AsyncSandbox`: a session as a context manager, closed to the network unless asked otherwise.

with Sandbox() as box:
    print(box.run("echo hello from inside").stdout)
"""

import os
import weakref
from base64 import b64encode
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack, cast

from alcove.contract import (
    Duration,
    ExecError,
    ExecRequest,
    ExecResult,
    FilesystemAccess,
    FilesystemMount,
    InvalidRequest,
    Limited,
    ResourceLimits,
    SandboxBackend,
    SandboxSession,
    SandboxSessionId,
    SandboxSnapshot,
    SandboxSpec,
    Unrestricted,
)
from alcove.live import Live, Made, Paths, configuration
from alcove.local import LocalSandbox, LocalSandboxConfig
from alcove.overrides import Overrides, refuse_unknown
from alcove.portal import portal
from alcove.registry import load

if TYPE_CHECKING:
    from alcove.changes import Applied, Change
    from alcove.egress.audit import Record

_NO_MAP: Mapping[str, str] = {}
_NO_NETWORK = Limited()
_TOLD_LINES = 5
_TOLD_COMMAND = 200


class CommandError(ExecError):
    """A command run with `check=True` did not succeed; `result` is how it ended."""

    def __init__(self, command: str, result: ExecResult) -> None:
        super().__init__(_told(command, result))
        self.command = command
        self.result = result

    def __reduce__(self) -> tuple[type["CommandError"], tuple[str, ExecResult]]:
        return CommandError, (self.command, self.result)


def _told(command: str, result: ExecResult) -> str:
    shown = command if len(command) <= _TOLD_COMMAND else f"{command[:_TOLD_COMMAND]}…"
    how = f"exited with code {result.exit_code}"
    if result.timed_out:
        how = "was killed at its timeout"
    elif result.oom_killed:
        how += ": it ran out of the session's memory"
    elif result.signal is not None:
        how += f": killed by signal {result.signal}"
    return "\n".join([f"`{shown}` {how}", *result.stderr.rstrip().splitlines()[-_TOLD_LINES:]])


def exec_request(
    command: str | Sequence[str],
    *,
    cwd: str | None = None,
    env: Mapping[str, str] = _NO_MAP,
    stdin: str | bytes | None = None,
    timeout: Duration | float | None = None,
    user: str | None = None,
) -> ExecRequest:
    """Return the request of a shell's command line (a string) or of a program and its arguments (a list).

    Raises:
        InvalidRequest: there is no command, or a value has the wrong type.
    """
    words = ["sh", "-c", command] if isinstance(command, str) else list(command)
    if not words or (isinstance(command, str) and not command.strip()):
        raise InvalidRequest("exec command cannot be empty")
    return ExecRequest(
        words[0],
        words[1:],
        cwd=cwd,
        env=env,
        stdin=stdin if isinstance(stdin, str) else None,
        timeout=timeout,
        user=user,
        stdin_base64=b64encode(stdin).decode() if isinstance(stdin, bytes | bytearray | memoryview) else None,
    )


class _Described:
    """What both classes are made from."""

    def __init__(  # noqa: PLR0913 - a spec, spelled out
        self,
        *,
        session_id: str | None = None,
        labels: Mapping[str, str] = _NO_MAP,
        network: Unrestricted | Limited = _NO_NETWORK,
        allow: Iterable[str] = (),
        mounts: Iterable[FilesystemMount] = (),
        wall_time: Duration | float | None = None,
        cpu_count: int | None = None,
        memory_mb: int | None = None,
        idle_timeout: Duration | float | None = None,
        rootfs: str = "host",
        snapshot: str | None = None,
        pids: int | None = None,
        open_files: int | None = None,
        disk_mb: int | None = None,
        output_limit: int | None = None,
        user: str | None = None,
        best_effort: bool = False,
        set_id: bool = False,
        keep: bool = False,
        config: LocalSandboxConfig | None = None,
        backend: SandboxBackend | str | None = None,
    ) -> None:
        """Describe the session; it is made on entering the context (or by `start`).

        Without arguments: no network, no host directory, the backend's default limits. `allow` is a list of what may
        be reached, all else being denied: `api.example.org`, `*.example.org`, `git.example.org:22`, `@preset`;
        `network` is a whole `NetworkPolicy` instead. `wall_time` (of any single command) and `idle_timeout` are in
        seconds, `memory_mb` and `disk_mb` in MiB, `output_limit` in bytes a stream. `snapshot` is the id or the name of
        one that the session begins with (`rootfs="snapshot:…"`). `best_effort` lets the backend
        leave out what this host cannot enforce; `session.metadata` tells what it did. `config` configures the local
        backend, which else is configured by the configuration files (`LocalSandboxConfig.load`); `backend` is another
        one, or its name. What is made here ends when the context is left, with the interpreter at the latest, unless
        `keep`.

        Raises:
            InvalidRequest: a value has the wrong type or is out of range, or a configuration file is wrong.
        """
        if allow:
            if network != _NO_NETWORK:
                raise InvalidRequest(
                    "`allow` is a network policy of its own: give it without `network`, or leave it out"
                )
            config, network = _allowing(config, backend, allow)
        if snapshot is not None:
            if rootfs != "host":
                raise InvalidRequest("a session begins with a `snapshot` or with a `rootfs`: leave one out")
            rootfs = f"snapshot:{snapshot}"
        spec = SandboxSpec(
            session_id,
            labels,
            network,
            mounts,
            ResourceLimits(wall_time, cpu_count, memory_mb, idle_timeout),
            rootfs=rootfs,
            pids=pids,
            open_files=open_files,
            disk_mb=disk_mb,
            output_limit=output_limit,
            user=user,
            best_effort=best_effort,
            set_id=set_id,
        )
        self._hold(Live(_source(config, backend), spec, keep=keep))

    def _hold(self, live: Live) -> None:
        self._live = live
        # at exit the sessions that are owed end together, so not each by its finalizer
        weakref.finalize(self, live.drop).atexit = False

    @classmethod
    def connect(
        cls,
        session_id: str,
        *,
        config: LocalSandboxConfig | None = None,
        backend: SandboxBackend | str | None = None,
    ) -> Self:
        """Return a sandbox for a session that exists; leaving its context does not end the session.

        Raises (on entering the context):
            SessionNotFound: there is none of that id.
            Unsupported: the backend cannot look a session up.
        """
        sandbox = cls.__new__(cls)
        sandbox._hold(Live(_source(config, backend), SandboxSessionId(session_id), keep=True))  # noqa: SLF001
        return sandbox

    def _fork(self, overrides: Overrides) -> Self:
        refuse_unknown(overrides)
        fork = type(self).__new__(type(self))
        fork._hold(self._live.fork(overrides))  # noqa: SLF001
        return fork

    @property
    def session(self) -> SandboxSession:
        """The session as its backend last told it.

        Raises:
            InvalidRequest: the sandbox is not open yet.
            SessionNotFound: it was ended, or left.
        """
        return self._live.session

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._live.session.id if self._live.opened else 'not open'}>"


def _allowing(
    config: LocalSandboxConfig | None, backend: SandboxBackend | str | None, allow: Iterable[str]
) -> tuple[LocalSandboxConfig | None, Limited]:
    if _is_local(backend):
        config = configuration(config)
        return config, Limited(config.expanded(allow))
    return config, Limited(configuration(getattr(backend, "config", None)).expanded(allow))


def _is_local(backend: SandboxBackend | str | None) -> bool:
    return backend is None or backend == "local"


def _source(config: LocalSandboxConfig | None, backend: SandboxBackend | str | None) -> SandboxBackend | Made:
    if _is_local(backend):
        return Made(lambda: LocalSandbox(configuration(config)))
    if config is not None:
        raise InvalidRequest("`config` is the local backend's: give it without `backend`, or leave it out")
    return Made(load(backend)) if isinstance(backend, str) else cast("SandboxBackend", backend)


class AsyncSandbox(_Described):
    """A session for `async with`."""

    async def start(self) -> Self:
        """Make the session (or find it, after `connect`); `async with` does it too.

        Raises:
            LifecycleError, Unsupported: the session cannot be made as wanted.
            SessionNotFound: there is no such session to connect to, or this one was ended.
        """
        await self._live.open()
        return self

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._live.leave()

    async def run(
        self,
        command: str | Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] = _NO_MAP,
        stdin: str | bytes | None = None,
        timeout: Duration | float | None = None,  # noqa: ASYNC109 - the command's, told in its result
        check: bool = False,
        user: str | None = None,
    ) -> ExecResult:
        """Run a command to its end: a string is a line for `sh -c`, a list a program and its arguments.

        `cwd` is relative to the session's start directory; `timeout` is in seconds. Cancelling kills the command.

        Raises:
            CommandError: with `check`, the command did not succeed.
            ExecError: the command could not be started, or its end could not be told.
        """
        request = exec_request(command, cwd=cwd, env=env, stdin=stdin, timeout=timeout, user=user)
        return _checked(command, await self.exec(request), check=check)

    async def exec(self, request: ExecRequest) -> ExecResult:
        """Run a request of the contract."""
        return await self._live.exec(request)

    async def attach(
        self,
        source: str | os.PathLike[str],
        target: str,
        *,
        access: FilesystemAccess = FilesystemAccess.READ_ONLY,
        copy_on_write: bool = False,
    ) -> SandboxSession:
        """Show the host directory `source` (empty: a fresh one) at `target`, and return the session as it is then.

        With `copy_on_write` (and read-only access) the session may write, and the host's directory does not change.
        """
        mount = FilesystemMount(source, target, access, copy_on_write=copy_on_write)
        return await self._live.attach(mount)

    async def changes(self, paths: Paths = None, *, target: str | None = None, patch: bool = False) -> "list[Change]":
        """Tell what the session changed of the directories that it has by copy-on-write.

        Of all of them or of the one at `target`; of everything in it or of what is at and beneath `paths`, which are
        relative to it or begin with its target. With `patch` each change has its text.

        Raises:
            InvalidRequest: there is no such mount, or a path lies in none.
            SandboxIoError: something cannot be read, or there is too much of it.
        """
        return await self._live.changes(paths, target, patch=patch)

    async def diff(self, paths: Paths = None, *, target: str | None = None) -> str:
        """Return what `changes` tells as one text, which `git apply` and `patch -p1` read in the directory."""
        return await self._live.diff(paths, target)

    async def apply(self, paths: Paths = None, *, target: str | None = None) -> "Applied":
        """Write changes to the host: all of one mount, or those at and beneath `paths`.

        Where one of them changed on the host meanwhile, nothing is written. What git on the host would run is written
        only where `paths` names it itself. What runs in the session stands still meanwhile.

        Raises:
            Conflict: somebody else is applying to this directory.
            InvalidRequest: there is no such mount, or several, or nothing changed at one of `paths`.
            LifecycleError: something runs in the session, and cannot be frozen.
            SandboxIoError: something cannot be written; what was written stays.
        """
        return await self._live.apply_changes(paths, target)

    async def discard(self, *, target: str | None = None) -> None:
        """Forget what the session changed of a directory: it sees the host's again, as that is now.

        Raises:
            InvalidRequest: there is no such mount, or several.
            LifecycleError: something runs in the session.
        """
        await self._live.discard(target)

    async def network(self, policy: Unrestricted | Limited) -> SandboxSession:
        """Put another network policy in force, and return the session as it is then.

        Raises:
            InvalidRequest: an entry of it cannot be.
            NetworkPolicyError: it could not be put in force, so the old one stays; between an allow-list and the host's
                network because something runs in the session.
        """
        return await self._live.apply(policy)

    async def allow(self, *entries: str) -> SandboxSession:
        """Add entries to what the session may reach, at once, and return the session as it is then.

        Raises:
            InvalidRequest: an entry cannot be, or the session has the host's network.
        """
        return await self._live.change(allow=entries)

    async def deny(self, *entries: str) -> SandboxSession:
        """Take entries out of what the session may reach; connections that they allowed break off.

        Raises:
            InvalidRequest: one is not on the list, or the session has the host's network.
        """
        return await self._live.change(deny=entries)

    async def network_log(self, *, since: datetime | None = None, follow: bool = False) -> "AsyncIterator[Record]":
        """Yield what the session tried to reach, the oldest first; with `follow`, go on until it ends.

        Raises:
            SandboxIoError: the log cannot be read.
        """
        if follow:
            async for record in self._live.follow_network_log(since):
                yield record
            return
        for record in self._live.network_log(since):
            yield record

    async def suspend(self) -> SandboxSession:
        """Put the session to sleep until it is used or resumed: no processor time, no memory if it is empty.

        Raises:
            Unsupported: the backend cannot.
            LifecycleError: processes run in it that this host cannot freeze.
        """
        return await self._live.suspend()

    async def resume(self) -> SandboxSession:
        """Wake the session up, as its next command would; one that is awake stays as it is."""
        return await self._live.resume()

    async def snapshot(self, name: str | None = None) -> SandboxSnapshot:
        """Keep the session's files as they are now; `AsyncSandbox(snapshot=…)` begins with them.

        Raises:
            InvalidRequest: `name` cannot be, or another snapshot has it.
            SandboxIoError: there is no room for it; the session has lost nothing.
            Unsupported: the backend keeps no snapshots.
        """
        return await self._live.snapshot(name)

    async def fork(self, **overrides: Unpack[Overrides]) -> Self:
        """Return another open sandbox that begins with this one's files, and ends with its own `async with`.

        It is made as this one is; the keywords, those of `AsyncSandbox`, take the place of what this one has.

        Raises:
            InvalidRequest: a value has the wrong type or is out of range.
            LifecycleError: it could not be made.
            Unsupported: the backend does not fork.
        """
        return await self._fork(overrides).start()

    async def terminate(self) -> None:
        """End the session and everything in it, also one that was kept or connected to; a second call returns."""
        await self._live.terminate()


class Sandbox(_Described):
    """A session for `with`: in any thread, also in one that runs an event loop (a notebook)."""

    def start(self) -> Self:
        """Make the session (or find it, after `connect`); `with` does it too.

        Raises:
            LifecycleError, Unsupported: the session cannot be made as wanted.
            SessionNotFound: there is no such session to connect to, or this one was ended.
        """
        try:
            portal().call(self._live.open())
        except BaseException:
            # an interrupt can come when the session is there already
            portal().call(self._live.leave())
            raise
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        portal().call(self._live.leave())

    def run(
        self,
        command: str | Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] = _NO_MAP,
        stdin: str | bytes | None = None,
        timeout: Duration | float | None = None,
        check: bool = False,
        user: str | None = None,
    ) -> ExecResult:
        """Run a command to its end: a string is a line for `sh -c`, a list a program and its arguments.

        `cwd` is relative to the session's start directory; `timeout` is in seconds. Ctrl-C kills the command.

        Raises:
            CommandError: with `check`, the command did not succeed.
            ExecError: the command could not be started, or its end could not be told.
        """
        request = exec_request(command, cwd=cwd, env=env, stdin=stdin, timeout=timeout, user=user)
        return _checked(command, self.exec(request), check=check)

    def exec(self, request: ExecRequest) -> ExecResult:
        """Run a request of the contract."""
        return portal().call(self._live.exec(request))

    def attach(
        self,
        source: str | os.PathLike[str],
        target: str,
        *,
        access: FilesystemAccess = FilesystemAccess.READ_ONLY,
        copy_on_write: bool = False,
    ) -> SandboxSession:
        """Show the host directory `source` (empty: a fresh one) at `target`, and return the session as it is then.

        With `copy_on_write` (and read-only access) the session may write, and the host's directory does not change.
        """
        mount = FilesystemMount(source, target, access, copy_on_write=copy_on_write)
        return portal().call(self._live.attach(mount))

    def changes(self, paths: Paths = None, *, target: str | None = None, patch: bool = False) -> "list[Change]":
        """Tell what the session changed of the directories that it has by copy-on-write.

        Of all of them or of the one at `target`; of everything in it or of what is at and beneath `paths`, which are
        relative to it or begin with its target. With `patch` each change has its text.

        Raises:
            InvalidRequest: there is no such mount, or a path lies in none.
            SandboxIoError: something cannot be read, or there is too much of it.
        """
        return portal().call(self._live.changes(paths, target, patch=patch))

    def diff(self, paths: Paths = None, *, target: str | None = None) -> str:
        """Return what `changes` tells as one text, which `git apply` and `patch -p1` read in the directory."""
        return portal().call(self._live.diff(paths, target))

    def apply(self, paths: Paths = None, *, target: str | None = None) -> "Applied":
        """Write changes to the host: all of one mount, or those at and beneath `paths`.

        Where one of them changed on the host meanwhile, nothing is written. What git on the host would run is written
        only where `paths` names it itself. What runs in the session stands still meanwhile.

        Raises:
            Conflict: somebody else is applying to this directory.
            InvalidRequest: there is no such mount, or several, or nothing changed at one of `paths`.
            LifecycleError: something runs in the session, and cannot be frozen.
            SandboxIoError: something cannot be written; what was written stays.
        """
        return portal().call(self._live.apply_changes(paths, target))

    def discard(self, *, target: str | None = None) -> None:
        """Forget what the session changed of a directory: it sees the host's again, as that is now.

        Raises:
            InvalidRequest: there is no such mount, or several.
            LifecycleError: something runs in the session.
        """
        portal().call(self._live.discard(target))

    def network(self, policy: Unrestricted | Limited) -> SandboxSession:
        """Put another network policy in force, and return the session as it is then.

        Raises:
            InvalidRequest: an entry of it cannot be.
            NetworkPolicyError: it could not be put in force, so the old one stays; between an allow-list and the host's
                network because something runs in the session.
        """
        return portal().call(self._live.apply(policy))

    def allow(self, *entries: str) -> SandboxSession:
        """Add entries to what the session may reach, at once, and return the session as it is then.

        Raises:
            InvalidRequest: an entry cannot be, or the session has the host's network.
        """
        return portal().call(self._live.change(allow=entries))

    def deny(self, *entries: str) -> SandboxSession:
        """Take entries out of what the session may reach; connections that they allowed break off.

        Raises:
            InvalidRequest: one is not on the list, or the session has the host's network.
        """
        return portal().call(self._live.change(deny=entries))

    def network_log(self, *, since: datetime | None = None) -> "Iterator[Record]":
        """Yield what the session tried to reach, the oldest first, and what became of it.

        Raises:
            SandboxIoError: the log cannot be read.
        """
        return self._live.network_log(since)

    def suspend(self) -> SandboxSession:
        """Put the session to sleep until it is used or resumed: no processor time, no memory if it is empty.

        Raises:
            Unsupported: the backend cannot.
            LifecycleError: processes run in it that this host cannot freeze.
        """
        return portal().call(self._live.suspend())

    def resume(self) -> SandboxSession:
        """Wake the session up, as its next command would; one that is awake stays as it is."""
        return portal().call(self._live.resume())

    def snapshot(self, name: str | None = None) -> SandboxSnapshot:
        """Keep the session's files as they are now; `Sandbox(snapshot=…)` begins with them.

        Raises:
            InvalidRequest: `name` cannot be, or another snapshot has it.
            SandboxIoError: there is no room for it; the session has lost nothing.
            Unsupported: the backend keeps no snapshots.
        """
        return portal().call(self._live.snapshot(name))

    def fork(self, **overrides: Unpack[Overrides]) -> Self:
        """Return another open sandbox that begins with this one's files, and ends with its own `with`.

        It is made as this one is; the keywords, those of `Sandbox`, take the place of what this one has.

        Raises:
            InvalidRequest: a value has the wrong type or is out of range.
            LifecycleError: it could not be made.
            Unsupported: the backend does not fork.
        """
        return self._fork(overrides).start()

    def terminate(self) -> None:
        """End the session and everything in it, also one that was kept or connected to; a second call returns."""
        portal().call(self._live.terminate())


def _checked(command: str | Sequence[str], result: ExecResult, *, check: bool) -> ExecResult:
    if check and not result.success:
        raise CommandError(command if isinstance(command, str) else " ".join(command), result)
    return result
