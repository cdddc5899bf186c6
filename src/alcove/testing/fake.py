"""A backend in memory, for tests of code that uses a sandbox: it runs no process, isolates nothing, and says so."""

import asyncio
import itertools
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping

from alcove.contract import rules
from alcove.contract.errors import ExecError, InvalidRequest, SessionNotFound, Unsupported
from alcove.contract.types import (
    HOST_ROOTFS,
    MEMORY_MOUNT,
    OUTPUTS_MOUNT,
    ExecRequest,
    ExecResult,
    FilesystemAccess,
    FilesystemMount,
    Limited,
    ResolvedMount,
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


class FakeSession:
    """A session's state: the spec it was made of, and what calls changed since."""

    def __init__(self, session_id: SandboxSessionId, spec: SandboxSpec, files: FakeFiles) -> None:
        self.id = session_id
        self.spec = spec
        self.files = files
        self.state = SandboxState.RUNNING
        self.policy = spec.network_policy
        self.memory_replaced = False
        self.mounts: list[ResolvedMount] = []
        self._add(MEMORY_MOUNT, FilesystemAccess.READ_ONLY)
        self._add(OUTPUTS_MOUNT, FilesystemAccess.READ_WRITE)

    def attach(self, mount: FilesystemMount) -> ResolvedMount:
        """Add `mount`, or put it in the memory mount's place, once."""
        taken = [entry.target for entry in self.mounts]
        if not self.memory_replaced:
            taken.remove(MEMORY_MOUNT)
        target = rules.validate_mount(mount, taken)
        if not rules.replaces_memory_mount(target):
            return self._add(target, mount.access)
        self.memory_replaced = True
        self.mounts[0] = ResolvedMount(MEMORY_MOUNT, mount.access)
        self.files.mount(MEMORY_MOUNT, mount.access)
        return self.mounts[0]

    def _add(self, target: str, access: FilesystemAccess) -> ResolvedMount:
        self.files.mount(rules.collapsed_mount_target(target), access)
        self.mounts.append(ResolvedMount(target, access))
        return self.mounts[-1]

    def told(self, backend: str) -> SandboxSession:
        """Return the session as callers see it."""
        network = "none: no process of this session exists"
        metadata = {"root": "memory", "isolation": "none", "network": network, "limits": "wall_time"}
        return SandboxSession(self.id, backend, self.state, self.mounts, metadata, self.spec.labels)


class FakeBackend:
    """A scripted `SandboxBackend` in memory.

    A command is answered by the handler of its name in `handlers`, else by one of the small programs of
    `alcove.testing.fake_commands` over the session's files in memory, else by the handler of `"*"`, else with exit
    code 127. Timeouts, output limits, mounts' access and snapshots are modelled; host directories are never read, and
    limits other than `wall_time` mean nothing. `capabilities` may promise less, to test what callers do without.
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
        self._snapshots: dict[str, FakeFiles] = {}
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
        self._require_policy(spec.network_policy)
        session_id = spec.session_id or SandboxSessionId(f"fake-{next(self._numbers)}")
        if session_id in self._sessions:
            raise InvalidRequest(f"session id `{session_id}` is in use; choose another, or give none")
        session = FakeSession(session_id, spec, self._root_files(spec.rootfs))
        for mount in spec.mounts:
            session.attach(mount)
        self._sessions[session_id] = session
        return session.told(self.name)

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

    async def snapshot(self, session_id: str) -> SandboxSnapshot:
        """Keep a copy of the session's files; `rootfs="snapshot:ID"` begins with it."""
        session = self._live(session_id)
        if not self._capabilities.snapshot:
            raise Unsupported(self.name, "snapshots")
        snapshot_id = f"snap-{next(self._numbers)}"
        files = self._snapshots[snapshot_id] = session.files.copy()
        size = sum(map(len, files.files.values()))
        metadata = {"durable": "false", "parent": "", "bytes": str(size), "files": str(len(files.files))}
        return SandboxSnapshot(session.id, self.name, snapshot_id, metadata)

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

    def _root_files(self, rootfs: str) -> FakeFiles:
        if rootfs == HOST_ROOTFS:
            return FakeFiles()
        kind, _, name = rootfs.partition(":")
        if kind != "snapshot" or not self._capabilities.snapshot:
            raise Unsupported(self.name, f"the root file system `{rootfs}`")
        if name not in self._snapshots:
            raise InvalidRequest(f"there is no snapshot `{name}`")
        return self._snapshots[name].copy()

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
