"""A backend in memory, for tests of code that uses a sandbox: it runs no process, isolates nothing, and says so."""

import asyncio
import itertools
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping

from msgspec.structs import replace

from alcove.contract import rules
from alcove.contract.errors import ExecError, InvalidRequest, SessionNotFound, Unsupported
from alcove.contract.types import (
    HOST_ROOTFS,
    MEMORY_MOUNT,
    OUTPUTS_MOUNT,
    ExecRequest,
    ExecResult,
    FilesystemMount,
    Limited,
    SandboxCapabilities,
    SandboxSession,
    SandboxSessionId,
    SandboxSnapshot,
    SandboxSpec,
    SandboxState,
    Unrestricted,
)
from alcove.testing.fake_commands import COMMANDS, Call
from alcove.testing.fake_files import START_DIRECTORY, FakeFiles, resolved
from alcove.testing.fake_sessions import FakeSession, FakeSnapshot

#: What a script answers for a request; it may wait, and a timeout cancels it.
Handler = Callable[[ExecRequest], ExecResult | Awaitable[ExecResult]]

FAKE_CAPABILITIES = SandboxCapabilities(snapshot=True, resume=True)

_OUTPUT_LIMIT = 8 * 1024 * 1024
_BASE_ENV = {
    "PATH": "/usr/bin:/bin",
    "HOME": START_DIRECTORY,
    "USER": "guest",
    "LANG": "C.UTF-8",
    "SHELL": "/bin/sh",
    "HARN_MEMORY_DIR": MEMORY_MOUNT,
    "ALCOVE_MEMORY_DIR": MEMORY_MOUNT,
    "HARN_OUTPUTS_DIR": OUTPUTS_MOUNT,
    "ALCOVE_OUTPUTS_DIR": OUTPUTS_MOUNT,
}


class FakeBackend:
    """A scripted `SandboxBackend` in memory.

    A command is answered by the handler of its name in `handlers`, else by one of the small programs of
    `alcove.testing.fake_commands` over the session's files in memory, else by the handler of `"*"`, else with exit
    code 127. Timeouts, output limits, mounts' access, snapshots and forks are modelled; host directories are never
    read, and limits other than `wall_time` mean nothing. `capabilities` may promise less, to test what callers do
    without.
    """

    name = "fake"

    def __init__(
        self,
        handlers: Mapping[str, Handler] | None = None,
        *,
        capabilities: SandboxCapabilities = FAKE_CAPABILITIES,
    ) -> None:
        if capabilities.local_process_sandbox or capabilities.network_policy or capabilities.suspend_on_idle:
            raise InvalidRequest("a fake enforces nothing: it can promise snapshot and resume only")
        self.handlers = dict(handlers or {})
        #: Every exec that was asked for, oldest first.
        self.execs: list[tuple[SandboxSessionId, ExecRequest]] = []
        self._capabilities = capabilities
        self._sessions: dict[str, FakeSession] = {}
        self._snapshots: dict[str, FakeSnapshot] = {}
        self._numbers = itertools.count(1)

    def capabilities(self) -> SandboxCapabilities:
        """Return what was promised at construction."""
        return self._capabilities

    def contents(self, session_id: str) -> dict[str, bytes]:
        """Return the session's files by absolute path, to look at and to change."""
        return self._live(session_id).files.files

    async def provision(self, spec: SandboxSpec) -> SandboxSession:
        """Make a session; its id is taken for good, as a tombstone keeps it elsewhere."""
        rules.validate_spec(spec)
        begin = self._begin(spec.rootfs)
        session = self._made(spec, FakeFiles() if begin is None else begin.files.kept())
        session.parent = "" if begin is None else begin.told.snapshot_id
        return session.told(self.name)

    def _made(self, spec: SandboxSpec, files: FakeFiles) -> FakeSession:
        self._require_policy(spec.network_policy)
        session_id = spec.session_id or SandboxSessionId(f"fake-{next(self._numbers)}")
        if session_id in self._sessions:
            raise InvalidRequest(f"session id `{session_id}` is in use; choose another, or give none")
        session = FakeSession(session_id, spec, files)
        for mount in spec.mounts:
            session.attach(mount)
        self._sessions[session_id] = session
        return session

    async def attach_filesystem(self, session_id: str, mount: FilesystemMount) -> SandboxSession:
        """Add an empty directory with the mount's access; the host's is not read."""
        session = self._awake(session_id)
        session.attach(mount)
        return session.told(self.name)

    async def apply_network_policy(self, session_id: str, policy: Unrestricted | Limited) -> SandboxSession:
        """Note a policy; an allow-list is `Unsupported`."""
        session = self._live(session_id)
        rules.validate_policy(policy)
        self._require_policy(policy)
        session.policy = policy
        return session.told(self.name)

    async def exec(self, session_id: str, request: ExecRequest) -> ExecResult:
        """Answer a request from the script, or by a small program over files in memory."""
        session = self._awake(session_id)
        rules.validate_exec(request)
        stdin = rules.stdin_bytes(request) or b""
        cwd = _start_directory(session.files, request.cwd)
        self.execs.append((session.id, request))
        env = {**_BASE_ENV, **request.env}
        call = Call(request.command, request.args, env, cwd, stdin, session.files)
        timeout = request.timeout or session.spec.limits.wall_time
        try:
            async with asyncio.timeout(timeout.seconds if timeout else None):
                answer = await self._answer(call, request)
        except TimeoutError:
            return _result(call, request, session.spec, exit_code=-1, timed_out=True)
        if isinstance(answer, ExecResult):
            return answer
        return _result(call, request, session.spec, exit_code=answer, timed_out=False)

    async def snapshot(self, session_id: str, /, *, name: str | None = None) -> SandboxSnapshot:
        """Keep a copy of the session's files; `rootfs="snapshot:ID"` begins with it."""
        session = self._live(session_id)
        self._require_snapshots()
        self._check_name(name)
        snapshot_id = f"snap-{next(self._numbers)}"
        files = session.files.kept()
        size = sum(map(len, files.files.values()))
        metadata = {"durable": "false", "parent": session.parent, "bytes": str(size), "files": str(len(files.files))}
        told = SandboxSnapshot(session.id, self.name, snapshot_id, metadata | ({"name": name} if name else {}))
        self._snapshots[snapshot_id] = FakeSnapshot(told, files)
        session.parent = snapshot_id
        return told

    def snapshots(self) -> list[SandboxSnapshot]:
        """Return every snapshot, the oldest first."""
        return [snapshot.told for snapshot in self._snapshots.values()]

    def name_snapshot(self, reference: str, name: str | None) -> SandboxSnapshot:
        """Give a snapshot a name, another, or none."""
        snapshot = self._snapshot(reference)
        self._check_name(name, of=snapshot)
        metadata = {key: value for key, value in snapshot.told.metadata.items() if key != "name"}
        snapshot.told = replace(snapshot.told, metadata=metadata | ({"name": name} if name else {}))
        return snapshot.told

    async def delete_snapshot(self, reference: str, /) -> None:
        """Delete a snapshot; sessions that were made from it have their own files."""
        del self._snapshots[self._snapshot(reference).told.snapshot_id]

    def fork_spec(self, session_id: str, /) -> SandboxSpec:
        """Return the spec that a fork has unless it is given another."""
        session = self._live(session_id)
        return replace(session.spec, session_id=None, rootfs=HOST_ROOTFS, network_policy=session.policy)

    async def fork(self, session_id: str, /, spec: SandboxSpec | None = None) -> SandboxSession:
        """Make another session that begins with a copy of the session's files."""
        source = self._live(session_id)
        self._require_snapshots()
        wanted = spec or self.fork_spec(session_id)
        rules.validate_spec(wanted)
        if wanted.rootfs != HOST_ROOTFS:
            raise InvalidRequest(
                f"a fork begins with its session's files, not with `{wanted.rootfs}`; leave rootfs out"
            )
        session = self._made(wanted, source.files.kept())
        session.parent = str(source.id)
        return session.told(self.name)

    def _require_snapshots(self) -> None:
        if not self._capabilities.snapshot:
            raise Unsupported(self.name, "snapshots")

    def _check_name(self, name: str | None, of: FakeSnapshot | None = None) -> None:
        if name is None:
            return
        rules.validate_snapshot_name(name)
        for snapshot in self._snapshots.values():
            told = snapshot.told
            if snapshot is not of and name in {told.snapshot_id, told.metadata.get("name")}:
                raise InvalidRequest(f"snapshot `{told.snapshot_id}` has the name `{name}` already; choose another")

    def _snapshot(self, reference: str) -> FakeSnapshot:
        named = (one for one in self._snapshots.values() if one.told.metadata.get("name") == reference)
        found = self._snapshots.get(reference) or next(named, None)
        if found is None:
            raise InvalidRequest(f"there is no snapshot `{reference}`")
        return found

    async def suspend(self, session_id: str) -> SandboxSession:
        """Call a session suspended, until it is used or resumed."""
        session = self._live(session_id)
        if not self._capabilities.resume:
            raise Unsupported(self.name, "suspending a session")
        session.state = SandboxState.SUSPENDED
        return session.told(self.name)

    async def resume(self, session_id: str) -> SandboxSession:
        """Call a suspended session running again."""
        if not self._capabilities.resume:
            self._live(session_id)
            raise Unsupported(self.name, "resuming a session")
        return self._awake(session_id).told(self.name)

    async def terminate(self, session_id: str) -> None:
        """End a session; again, for one that has ended, is nothing."""
        key = SandboxSessionId(session_id)
        if key not in self._sessions:
            raise SessionNotFound(key)
        self._sessions[key].state = SandboxState.TERMINATED

    def _live(self, session_id: str) -> FakeSession:
        key = SandboxSessionId(session_id)
        session = self._sessions.get(key)
        if session is None or session.state is SandboxState.TERMINATED:
            raise SessionNotFound(key)
        return session

    def _awake(self, session_id: str) -> FakeSession:
        session = self._live(session_id)
        session.state = SandboxState.RUNNING
        return session

    def _require_policy(self, policy: Unrestricted | Limited) -> None:
        if isinstance(policy, Limited) and policy.allowed_hosts:
            raise Unsupported(self.name, "a list of allowed hosts; use Limited() or Unrestricted()")

    def _begin(self, rootfs: str) -> FakeSnapshot | None:
        if rootfs == HOST_ROOTFS:
            return None
        kind, _, name = rootfs.partition(":")
        if kind != "snapshot" or not self._capabilities.snapshot:
            raise Unsupported(self.name, f"the root file system `{rootfs}`")
        return self._snapshot(name)

    async def _answer(self, call: Call, request: ExecRequest) -> ExecResult | int:
        handler = self.handlers.get(call.name)
        if handler is None and call.name in COMMANDS:
            return await COMMANDS[call.name](call)
        handler = handler or self.handlers.get("*")
        if handler is None:
            return _not_run(call)
        answer = handler(request)
        return answer if isinstance(answer, ExecResult) else await answer


def _start_directory(files: FakeFiles, cwd: str | None) -> str:
    path = resolved((cwd or "").strip(), START_DIRECTORY)
    if path in files.files:
        raise ExecError(f"cwd `{cwd}` is not a directory")
    if path not in files.directories:
        raise ExecError(f"cwd `{cwd}` does not exist")
    return path


def _not_run(call: Call) -> int:
    if "/" in call.name:
        path = resolved(call.name, call.cwd)
        if path in call.files.files or path in call.files.directories:
            call.complain(call.name, "Permission denied")
            return 126
    call.complain(call.name, "not found")
    return 127


def _result(call: Call, request: ExecRequest, spec: SandboxSpec, *, exit_code: int, timed_out: bool) -> ExecResult:
    limit = next((cap for cap in (request.output_limit, spec.output_limit) if cap is not None), _OUTPUT_LIMIT)
    stdout, stdout_omitted = _kept(bytes(call.stdout), limit)
    stderr, stderr_omitted = _kept(bytes(call.stderr), limit)
    return ExecResult(
        stdout=stdout.decode("utf-8", "replace"),
        stderr=stderr.decode("utf-8", "replace"),
        exit_code=exit_code,
        timed_out=timed_out,
        stdout_omitted=stdout_omitted,
        stderr_omitted=stderr_omitted,
        stdout_base64=b64encode(stdout).decode() if request.raw else None,
        stderr_base64=b64encode(stderr).decode() if request.raw else None,
    )


def _kept(output: bytes, limit: int) -> tuple[bytes, int]:
    if len(output) <= limit:
        return output, 0
    first = limit - limit // 2
    return output[:first] + output[len(output) - limit // 2 :], len(output) - limit
