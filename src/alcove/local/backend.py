"""`LocalSandbox`: the contract's calls on this machine."""

import asyncio
import base64
import fcntl
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from msgspec.structs import replace

from alcove.contract import (
    ExecError,
    ExecRequest,
    ExecResult,
    FilesystemMount,

    LifecycleError,
    Limited,
    NetworkPolicyError,
    SandboxCapabilities,
    SandboxError,
    SandboxIoError,
    SandboxSession,
    SandboxSessionId,
    SandboxSnapshot,
    SandboxSpec,
    SandboxState,
    Unrestricted,
    Unsupported,
    from_json,
    to_json,
)
from alcove.contract.rules import (
    replaces_memory_mount,
    stdin_bytes,
    validate_exec,
    validate_mount,
    validate_policy,
    validate_spec,
)
from alcove.local import attachments, cgroups, control, etc, host, landlock, limits, native, plan, records, requests, rootfs
from alcove.local.config import LocalSandboxConfig
from alcove.local.exec import Command, Execution, Outcome, exit_code
from alcove.local.launch import (
    CONTROL_SOCKET,
    DEBUG_SOCKET,
    EXEC_SOCKET,
    Launcher,
    Processes,
    connect,
    launch,
    listen,
    open_process,
    reap,
)
from alcove.local.operations import Kind, Tree, operation
from alcove.local.records import Attached, Record
from alcove.local.removal import remove_tree
from alcove.local.store import Row, Store

_END_WITHIN_S = 1.0
_KILLED_WITHIN_S = 2.0
_REMOVE_INLINE = 256
_DEBUG_VARIANT = 1
# every user of a session may write here; nobody else of the host comes as far as these directories
_MODES = {"tmp": 0o1777, "workspace": 0o777, "outputs": 0o777}


class LiveSession:
    """A session as this process knows it: cheap to make, safe to forget."""

    def __init__(self, row: Row, spec: SandboxSpec, record: Record, directory: str) -> None:
        self.id = SandboxSessionId(row.id)
        self.key = row.key
        self.base_id = row.base_id
        self.spec = spec
        self.record = record
        self.directory = directory
        self.environment: dict[str, str] = {}
        self.oom_kills = 0
        self.lock = asyncio.Lock()

    def view(self, state: SandboxState) -> SandboxSession:
        """The contract's view of it."""
        return records.as_session(self.id, self.spec, self.record, state, self.directory)


class LocalSandbox:
    """Sessions on this Linux machine, without a daemon: they outlive the process that made them.

    Raises:
        SandboxIoError: the store cannot be opened.
        LifecycleError: the native launcher is not there or does not run.
    """

    name = "local"

    def __init__(self, config: LocalSandboxConfig | None = None) -> None:
        self.config = config or LocalSandboxConfig()
        self._store = Store(self.config.root_dir)
        self._native = self.config.native or str(native.find())
        self._host = host.read(self._store.root, self._native)
        if self.config.rootfs == "owned" and not self._host.root:
            raise LifecycleError("rootfs `owned` needs root: a plain user has no ids to own the host's files with")
        self._layout = rootfs.layout(
            root=self._host.root,
            visible=self.config.visible,
            hidden=(*self.config.hidden, self._store.root),
            cpus=self._host.cpus,
        )
        self._environment = requests.base_environment(self._layout.search_path)
        self._live: dict[str, LiveSession] = {}

    def capabilities(self) -> SandboxCapabilities:
        """What this backend can enforce, here and now."""
        return SandboxCapabilities(local_process_sandbox=True)

    async def aclose(self) -> None:
        """Let go of the store; sessions live on."""
        self._store.close()

    # Sessions

    async def provision(self, spec: SandboxSpec, /) -> SandboxSession:
        """Make a session; see `SandboxBackend.provision`."""
        validate_spec(spec)
        self._refuse_unsupported(spec)
        enforced = limits.decide(self._host, self.config, spec)
        for mount in spec.mounts:
            self._check_mount(mount, spec)
        session_id = spec.session_id or f"s-{secrets.token_hex(6)}"
        key = secrets.token_hex(8)
        launcher = Launcher(self._native, "warden", key)
        try:
            row = self._store.reserve(session_id, key, to_json(spec), ranged=self._host.root)
        except BaseException:
            launcher.abandon()
            raise
        live = LiveSession(row, spec, Record(), self._store.directory(key))
        try:
            self._make_directories(live)
            await self._start(live, enforced, launcher)
            for mount in spec.mounts:
                await self._attach(live, mount)
            self._store.save(live.id, record=records.encode(live.record))
        except BaseException as error:
            launcher.abandon()
            await asyncio.shield(self._discard(live))
            if isinstance(error, OSError):
                raise LifecycleError(f"the session could not be made: {error}") from None
            raise
        self._live[live.id] = live
        return live.view(SandboxState.PROVISIONED)

    def _refuse_unsupported(self, spec: SandboxSpec) -> None:
        self._refuse_policy(spec.network_policy)
        if spec.rootfs != "host":
            raise Unsupported(self.name, f"the root file system `{spec.rootfs}`; it has `host`")
        requests.effective_user(spec.user, ranged=self._host.root)

    def _refuse_policy(self, policy: Unrestricted | Limited) -> None:
        if isinstance(policy, Limited) and policy.allowed_hosts:
            raise Unsupported(self.name, "a network allow-list; an empty one denies all egress")
        if isinstance(policy, Unrestricted) and self._host.landlock_abi < landlock.ABI_WITH_SCOPES:
            raise Unsupported(
                self.name,
                "the host's network on this kernel: without Landlock ABI 6 (Linux 6.12) a guest could reach the "
                "host's abstract sockets; use a limited policy",
            )

    def _make_directories(self, live: LiveSession) -> None:
        os.mkdir(live.directory, 0o700)
        for name in rootfs.SESSION_DIRECTORIES:
            path = f"{live.directory}/{name}"
            os.mkdir(path)
            if mode := _MODES.get(name):
                os.chmod(path, mode)
            if live.base_id is not None and not self._host.idmap:
                os.chown(path, live.base_id, live.base_id)

    async def _start(self, live: LiveSession, enforced: limits.Enforced, launcher: Launcher) -> None:
        shared_network = isinstance(live.spec.network_policy, Unrestricted)
        groups = cgroups.create(self._host.hierarchies, live.key, enforced.groups)
        memory = self.config.memory_dir or f"{live.directory}/memory"
        live.record = replace(
            live.record,
            groups=groups,
            limits=enforced.told,
            root=f"host:{self.config.rootfs}",
            memory=memory,
            idmap=self._host.idmap,
        )
        places = rootfs.SessionPlaces(
            directory=live.directory,
            memory=memory,
            memory_is_own=self.config.memory_dir is None,
            etc=etc.generate(self._store.root, shared_network=shared_network, users=self._host.root),
            idmap=self._host.idmap,
            shm_bytes=enforced.groups.memory,
        )
        made = plan.build(
            self._host, live.spec, self._layout, places, groups, enforced.resources, live.base_id
        )
        processes = await launch(launcher, made.encoded, live.directory)
        live.record = replace(live.record, processes=processes, isolation=made.isolation)

    async def _restart(self, live: LiveSession) -> None:
        """Bring a session back over its files when its processes are gone: after a kill, a reboot, a policy change."""
        async with live.lock, self._locked(live.directory):
            row = self._store.live(live.id)
            live.spec, live.record = _decoded(row)
            if self._answers(live):
                return
            await self._stop(live.record.processes, live.record.groups)
            self._clear(live)
            attached = live.record.attached
            live.record = replace(live.record, attached=(), processes=None)
            live.oom_kills = 0
            launcher = Launcher(self._native, "warden", live.key)
            try:
                await self._start(live, limits.decide(self._host, self.config, live.spec), launcher)
                for mount in attached:
                    await self._mount(live, mount)
            except BaseException as error:
                launcher.abandon()
                if isinstance(error, OSError):
                    raise LifecycleError(f"the session could not be resumed: {error}") from None
                raise
            self._store.save(live.id, record=records.encode(live.record))

    def _answers(self, live: LiveSession) -> bool:
        """Another process may have brought it back; a warden that no longer listens is on its way out."""
        with suppress(OSError):
            connect(live.directory, EXEC_SOCKET).close()
            return self._alive(live.record.processes)
        return False

    def _clear(self, live: LiveSession) -> None:
        if live.record.processes:
            reap(live.record.processes.warden)
        with suppress(OSError):
            cgroups.kill(live.record.groups)
            cgroups.remove(live.record.groups)

    async def terminate(self, session_id: str, /) -> None:
        """End the session and everything in it; a second call for a known id returns."""
        await asyncio.shield(self._terminate(SandboxSessionId(session_id)))

    async def _terminate(self, session_id: SandboxSessionId) -> None:
        live = self._known(session_id, ended=True)
        if live is None:
            return
        async with live.lock, self._locked(live.directory):
            if await self._end_cell(live):
                await self._remove_files(live)
                await self._stop(live.record.processes, live.record.groups)
            else:
                row = self._store.find(session_id)
                if row is None or row.ended is not None:
                    return
                live.record = _decoded(row)[1]  # another process may have brought it back since we looked
                await self._stop(live.record.processes, live.record.groups)
                await self._remove_files(live)
            self._remove_groups(live)
            self._store.end(session_id)
        self._live.pop(session_id, None)

    async def _end_cell(self, live: LiveSession) -> bool:
        """Let the warden kill the session's processes: true when it says that none is left."""
        try:
            async with asyncio.timeout(_END_WITHIN_S):
                reply = await control.ask(live.directory, operation(Kind.END))
        except (OSError, TimeoutError):
            return False
        return reply.error == 0

    async def _remove_files(self, live: LiveSession) -> None:
        try:
            if not remove_tree(live.directory, budget=_REMOVE_INLINE):
                await asyncio.to_thread(remove_tree, live.directory)
        except OSError as error:
            raise LifecycleError(f"session `{live.id}` could not be removed whole: {error}; try again") from None

    def _remove_groups(self, live: LiveSession) -> None:
        try:
            cgroups.remove(live.record.groups)
        except OSError as error:
            raise LifecycleError(f"session `{live.id}` still has processes in its groups: {error}; try again") from None

    async def _discard(self, live: LiveSession) -> None:
        """Undo a provision that failed, whatever had been done."""
        await self._stop(live.record.processes, live.record.groups)
        with suppress(LifecycleError):
            self._remove_groups(live)
            await self._remove_files(live)
        self._store.forget(live.id)

    async def _stop(self, processes: Processes | None, groups: cgroups.Groups = cgroups.NO_GROUPS) -> None:
        """End a session's processes: by the warden, or within a bound without it."""
        if processes is None:
            return
        warden = open_process(processes.warden, processes.started)
        if warden is not None:
            try:
                signal.pidfd_send_signal(warden, signal.SIGTERM)
                if not await _ended(warden, _END_WITHIN_S):
                    cgroups.kill(groups)
                    _kill_children(processes)
                    signal.pidfd_send_signal(warden, signal.SIGKILL)
                    if not await _ended(warden, _KILLED_WITHIN_S):
                        raise LifecycleError(f"process {processes.warden} does not end; is the host's disk stuck?")
            except ProcessLookupError:
                pass
            finally:
                os.close(warden)
        reap(processes.warden)

    @asynccontextmanager
    async def _locked(self, directory: str) -> AsyncIterator[None]:
        """One process at a time restarts or ends a session."""
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            yield  # the directory went first: whoever ends the session has come that far
            return
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await asyncio.to_thread(fcntl.flock, fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _known(self, session_id: str, *, ended: bool = False) -> LiveSession | None:
        """The session, from this process's memory or from the store; with `ended`, None for a tombstone.

        Raises:
            SessionNotFound: there is none.
        """
        live = self._live.get(session_id)
        if live is not None:
            return live
        row = self._store.find(session_id)
        if ended and row is not None and row.ended is not None:
            return None
        row = self._store.live(session_id)
        live = LiveSession(row, *_decoded(row), self._store.directory(row.key))
        live.oom_kills = cgroups.oom_kills(live.record.groups)
        self._live[session_id] = live
        return live

    def _session(self, session_id: str) -> LiveSession:
        live = self._known(SandboxSessionId(session_id))
        assert live is not None  # noqa: S101 - only tombstones are None
        return live

    def _alive(self, processes: Processes | None) -> bool:
        if processes is None:
            return False
        fd = open_process(processes.warden, processes.started)
        if fd is None:
            return False
        try:
            return os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:
            return True  # not a child of ours, and there
        finally:
            os.close(fd)

    # The session as others see it

    def session(self, session_id: str) -> SandboxSession:
        """The session as it is now; a terminated one for a day after its end.

        Raises:
            SessionNotFound: there is none of that id.
        """
        row = self._store.find(SandboxSessionId(session_id)) or self._store.live(session_id)
        return self._view(row)

    def sessions(self, *, ended: bool = False) -> list[SandboxSession]:
        """Every session of this store, the oldest first; with `ended`, terminated ones too."""
        return [self._view(row) for row in self._store.sessions(ended=ended)]

    def _view(self, row: Row) -> SandboxSession:
        spec, record = _decoded(row)
        if row.ended is not None:
            state = SandboxState.TERMINATED
        else:
            state = SandboxState.RUNNING if self._alive(record.processes) else SandboxState.SUSPENDED
        return records.as_session(row.id, spec, record, state, self._store.directory(row.key))

    # Exec

    async def exec(self, session_id: str, request: ExecRequest, /) -> ExecResult:
        """Run a command to its end; see `SandboxBackend.exec`."""
        validate_exec(request)
        live = self._session(session_id)
        user = requests.effective_user(request.user or live.spec.user, ranged=self._host.root)
        cwd = requests.working_directory(request)
        timeout = request.timeout or live.spec.limits.wall_time
        wanted = (request.output_limit, live.spec.output_limit, self.config.default_output_limit)
        command = Command(
            request=requests.encode(request, self._environment, cwd, user),
            stdin=stdin_bytes(request),
            timeout=timeout.seconds if timeout else None,
            output_limit=next(limit for limit in wanted if limit is not None),
            cwd=cwd,
            user=user,
            owner=live.base_id,
        )
        connection = await self._connect(live, debug=request.debug)
        execution = Execution(
            connection,
            command,
            end_session=lambda: self._end_now(live),
            leave=lambda fds: control.leave_pipes(live.directory, fds),
        )
        try:
            outcome = await execution.run()
        finally:
            if execution.session_ended:  # the next exec must not meet what is still on its way out
                await asyncio.shield(self._stop(live.record.processes, live.record.groups))
        return self._result(live, outcome, raw=request.raw)

    async def _connect(self, live: LiveSession, *, debug: bool = False) -> socket.socket:
        try:
            return connect(live.directory, DEBUG_SOCKET if debug else EXEC_SOCKET)
        except OSError:
            pass
        await self._revive(live)
        try:
            if debug:
                await self._start_debug_spawner(live)
            return connect(live.directory, DEBUG_SOCKET if debug else EXEC_SOCKET)
        except OSError as error:
            raise ExecError(f"session `{live.id}` does not answer: {error.strerror}") from None

    async def _revive(self, live: LiveSession) -> None:
        try:
            await self._restart(live)
        except SandboxError:
            self._live.pop(live.id, None)
            raise

    async def _start_debug_spawner(self, live: LiveSession) -> None:
        """A second spawner whose filter allows ptrace, started by the warden on the first request for one."""
        with listen(live.directory, DEBUG_SOCKET) as listener:
            reply = await control.ask(
                live.directory, operation(Kind.SPAWNER, n0=_DEBUG_VARIANT), (listener.fileno(),)
            )
        if reply.error:
            raise ExecError(f"no exec with `debug` in this session: {reply.step}: {os.strerror(reply.error)}")

    def _end_now(self, live: LiveSession) -> None:
        processes = live.record.processes
        fd = open_process(processes.warden, processes.started) if processes else None
        if fd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGTERM)
            os.close(fd)

    def _result(self, live: LiveSession, outcome: Outcome, *, raw: bool) -> ExecResult:
        out_of_memory = self._out_of_memory(live)
        code, number = (-1, None) if outcome.timed_out or outcome.status is None else exit_code(outcome.status)
        return ExecResult(
            stdout=outcome.stdout.decode("utf-8", "replace"),
            stderr=outcome.stderr.decode("utf-8", "replace"),
            exit_code=code,
            timed_out=outcome.timed_out,
            signal=number,
            oom_killed=out_of_memory and code != 0,
            stdout_omitted=outcome.stdout_omitted,
            stderr_omitted=outcome.stderr_omitted,
            stdout_base64=base64.b64encode(outcome.stdout).decode() if raw else None,
            stderr_base64=base64.b64encode(outcome.stderr).decode() if raw else None,
        )

    def _out_of_memory(self, live: LiveSession) -> bool:
        before, live.oom_kills = live.oom_kills, cgroups.oom_kills(live.record.groups)
        return live.oom_kills > before

    # Mounts

    async def attach_filesystem(self, session_id: str, mount: FilesystemMount, /) -> SandboxSession:
        """Add a mount to a live session; see `SandboxBackend.attach_filesystem`."""
        live = self._session(session_id)
        validate_mount(mount)
        self._check_mount(mount, live.spec)
        if not self._alive(live.record.processes):
            await self._revive(live)
        async with live.lock, self._locked(live.directory):
            live.spec, live.record = _decoded(self._store.live(live.id))  # another process may have attached meanwhile
            view = live.view(SandboxState.RUNNING)
            taken = [resolved.target for resolved in view.mounts if not replaces_memory_mount(resolved.target)]
            validate_mount(mount, [*taken, *(attached.target for attached in live.record.attached)])
            await self._attach(live, mount)
            self._store.save(live.id, record=records.encode(live.record))
        return live.view(SandboxState.RUNNING)

    def _check_mount(self, mount: FilesystemMount, spec: SandboxSpec) -> None:
        if mount.copy_on_write:
            raise Unsupported(self.name, "copy-on-write mounts; attach it read_only")
        attachments.check_target(mount.target)
        if mount.source:
            os.close(self._open_source(mount, spec).fd)

    def _open_source(self, mount: FilesystemMount, spec: SandboxSpec) -> attachments.Source:
        return attachments.open_source(
            mount, self._store.root, allow_root_owned=self.config.allow_root_owned, set_id=spec.set_id
        )

    async def _attach(self, live: LiveSession, mount: FilesystemMount) -> None:
        target = attachments.check_target(mount.target)
        source = mount.source or self._fresh_directory(live)
        try:
            await self._mount(live, Attached(source=source, target=target, access=mount.access, own=not mount.source))
        except BaseException:
            if not mount.source:
                os.rmdir(source)
            raise

    def _fresh_directory(self, live: LiveSession) -> str:
        path = f"{live.directory}/mount-{secrets.token_hex(4)}"
        os.mkdir(path)
        os.chmod(path, 0o777)
        if live.base_id is not None and not self._host.idmap:
            os.chown(path, live.base_id, live.base_id)
        return path

    async def _mount(self, live: LiveSession, attached: Attached) -> None:
        mount = FilesystemMount(attached.source, attached.target, attached.access)
        if attached.own:
            fd = os.open(attached.source, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            found = os.fstat(fd)
            source = attachments.Source(fd, attached.source, found.st_dev, found.st_ino, 0, 0, is_file=False)
        else:
            source = self._open_source(mount, live.spec)
        try:
            reply = await self._mount_source(live, attached, source)
        except OSError as error:
            raise SandboxIoError(f"mount of `{attached.source}`: {error}") from None
        finally:
            os.close(source.fd)
        if reply.error:
            raise SandboxIoError(
                f"mount of `{attached.source}` at `{attached.target}`: {reply.step}: {os.strerror(reply.error)}"
                + _mount_advice(reply)
            )
        live.record = replace(
            live.record, attached=(*live.record.attached, replace(attached, source=source.path))
        )

    async def _mount_source(self, live: LiveSession, attached: Attached, source: attachments.Source) -> control.Reply:
        flags = Tree.NOSUID | Tree.NODEV | (Tree.RDONLY if attached.access == "read_only" else 0)
        if not self._host.root:
            request = operation(
                Kind.ATTACH,
                source.path,
                attached.target,
                flags=flags,
                v0=source.device,
                v1=source.inode,
                n0=int(source.is_file),
            )
            return await control.ask(live.directory, request)
        return await self._mount_by_porter(live, attached, source, flags)

    async def _mount_by_porter(
        self, live: LiveSession, attached: Attached, source: attachments.Source, flags: int
    ) -> control.Reply:
        """As root the mount is made with our own rights, so that the owner on disk is the session's root inside."""
        base = live.base_id or 0
        if attached.own:
            flags |= Tree.IDMAP if live.record.idmap else 0
        else:
            flags |= Tree.IDMAP_OWNER
        request = operation(
            Kind.ATTACH, "", attached.target, flags=flags, n0=source.uid, n1=source.gid, v0=base, v1=base
        )
        return await self._run_porter(live, request, source)

    async def _run_porter(self, live: LiveSession, request: bytes, source: attachments.Source) -> control.Reply:
        processes = live.record.processes
        assert processes is not None  # noqa: S101 - a mount follows a start
        porter = Launcher(self._native, "porter", live.key)
        try:
            userns = os.open(f"/proc/{processes.warden}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            try:
                with connect(live.directory, CONTROL_SOCKET) as connection:
                    connection.setblocking(True)
                    fds = [connection.fileno(), source.fd, userns]
                    data = await porter.run(request, fds, size=control.REPLY.size, within=control.ANSWER_WITHIN_S)
            finally:
                os.close(userns)
            return control.parse_reply(data)
        finally:
            porter.abandon()  # it has answered, or has had its time

    # The network

    async def apply_network_policy(self, session_id: str, policy: Unrestricted | Limited, /) -> SandboxSession:
        """Put another policy in force; see `SandboxBackend.apply_network_policy`."""
        validate_policy(policy)
        self._refuse_policy(policy)
        live = self._session(session_id)
        if type(policy) is not type(live.spec.network_policy):
            await self._switch_network(live, policy)
        return self.session(session_id)

    async def _switch_network(self, live: LiveSession, policy: Unrestricted | Limited) -> None:
        """A process keeps the network namespace it was born in: the session's processes are made anew, over its files."""
        before = live.spec
        async with live.lock:
            await self._stop_for_policy(live)
            self._save_policy(live, replace(before, network_policy=policy))
        try:
            await self._restart(live)
        except SandboxError as error:
            self._save_policy(live, before)
            raise NetworkPolicyError(f"the old policy stays: {error}") from None

    def _save_policy(self, live: LiveSession, spec: SandboxSpec) -> None:
        live.spec = spec
        live.record = replace(live.record, processes=None)
        self._store.save(live.id, record=records.encode(live.record), spec=to_json(spec))

    async def _stop_for_policy(self, live: LiveSession) -> None:
        """A process cannot change its network namespace: the session's are made anew at the next exec."""
        if not self._alive(live.record.processes):
            return
        try:
            running = (await control.ask(live.directory, operation(Kind.STATUS))).value
        except OSError as error:
            raise NetworkPolicyError(f"session `{live.id}` does not answer: {error}") from None
        if running:
            raise NetworkPolicyError(
                f"{running} processes run in session `{live.id}`, and a process keeps the network it was born with: "
                "end them, or make a new session"
            )
        await self._stop(live.record.processes, live.record.groups)

    # Not yet

    async def snapshot(self, session_id: str, /) -> SandboxSnapshot:
        """Refused: `capabilities().snapshot` is false."""
        self._session(session_id)
        raise Unsupported(self.name, "snapshots")

    async def resume(self, session_id: str, /) -> SandboxSession:
        """Refused: `capabilities().resume` is false; a session whose processes are gone comes back by its next exec."""
        self._session(session_id)
        raise Unsupported(self.name, "resume; the next exec brings a suspended session back")


def _decoded(row: Row) -> tuple[SandboxSpec, Record]:
    return from_json(row.spec, SandboxSpec), records.decode(row.record)


def _kill_children(processes: Processes) -> None:
    for pid in (processes.init, processes.spawner):
        with suppress(OSError):
            fd = os.pidfd_open(pid)
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    ours = file.read().startswith((b"alcove-init", b"alcove-spawner"))
                if ours:
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            finally:
                os.close(fd)


async def _ended(pidfd: int, within: float) -> bool:
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    loop.add_reader(pidfd, lambda: ended.done() or ended.set_result(None))
    try:
        async with asyncio.timeout(within):
            await ended
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
    return True


def _mount_advice(reply: control.Reply) -> str:
    if reply.step == "mount point":
        return "; its parent is read-only inside: choose a target below /mnt, /workspace or a new top-level name"
    if reply.step == "idmapped mount":
        return "; this file system cannot show other owners: attach a directory on ext4, xfs, btrfs or tmpfs"
    return ""


