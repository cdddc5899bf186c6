"""Commands in sessions that are there: sent to where they run, sent again where that was on its way out."""

import asyncio
import base64
import os
import socket

from alcove.contract import ExecError, ExecRequest, ExecResult
from alcove.contract.rules import stdin_bytes
from alcove.local.cell import cgroups, control, processes
from alcove.local.cell.launch import DEBUG_SOCKET, EXEC_SOCKET, connect, listen
from alcove.local.cell.operations import Kind, operation
from alcove.local.config import LocalSandboxConfig
from alcove.local.exec import requests
from alcove.local.exec.execution import Command, MakeExecution, NotTaken, Outcome, exit_code
from alcove.local.sessions import LiveSession, Sessions
from alcove.local.sleep import freezer

_DEBUG_VARIANT = 1
#: Of an exec, while others end or suspend its session again and again.
_MOST_ATTEMPTS = 16
#: Seconds in which a warden has told how long its session stood still, or a timeout goes on without.
_TOLD_WITHIN_S = 0.25


class _Surroundings:
    """What an exec needs of its session."""

    def __init__(self, live: LiveSession, sessions: Sessions, running: processes.Processes | None) -> None:
        self._live = live
        self._sessions = sessions
        self._running = running

    def end(self) -> None:
        processes.ask_to_end(self._running)

    def leave(self, fds: list[int]) -> None:
        control.leave_pipes(self._live.directory, fds)

    def stands_still(self) -> bool:
        return cgroups.frozen(self._live.record.groups)

    async def stood_still(self, since_ns: int) -> float:
        if self._live.record.groups.unified is None:
            return 0.0
        try:
            return await freezer.stood_still(self._live.directory, since_ns, _TOLD_WITHIN_S)
        except OSError:  # its warden is gone, or busier than a timeout can wait
            return 0.0

    async def wake(self) -> None:
        await self._sessions.restart(self._live)


class Execs:
    """Runs commands in the sessions of one store."""

    def __init__(self, config: LocalSandboxConfig, sessions: Sessions) -> None:
        self._config = config
        self._sessions = sessions
        self._environment = requests.Environment(requests.base_environment(sessions.cells.layout.search_path))

    async def run(self, live: LiveSession, request: ExecRequest, make: MakeExecution) -> ExecResult:
        """Run a command to its end.

        Raises:
            InvalidRequest: it cannot be run as it was asked for.
            ExecError: it could not be started, or its end could not be told.
        """
        try:
            outcome = await self._begun(live, request, make)
        except OSError as error:
            raise ExecError(f"the host has not what an exec needs: {error}") from None
        return _result(live, outcome, raw=request.raw)

    async def _begun(self, live: LiveSession, request: ExecRequest, make: MakeExecution) -> Outcome:
        for _ in range(_MOST_ATTEMPTS):
            try:
                return await self._execute(live, request, make)
            except NotTaken:  # it met a session on its way out; the files are there, and the command has not begun
                await self._sessions.restart(live)
        return await self._execute(live, request, make)

    async def _execute(self, live: LiveSession, request: ExecRequest, make: MakeExecution) -> Outcome:
        connection = await self._connect(live, debug=request.debug)  # first: the command's monitor is born meanwhile
        running, groups = live.record.processes, live.record.groups
        try:
            command = self._command(live, request)
        except BaseException:
            connection.close()
            raise
        execution = make(connection, command, _Surroundings(live, self._sessions, running))
        try:
            return await execution.run()
        finally:
            if execution.session_ended:  # the next exec must not meet what is still on its way out
                # but for what another exec may have brought back meanwhile, in groups of the same names
                await asyncio.shield(processes.end_warden(running, groups))

    def _command(self, live: LiveSession, request: ExecRequest) -> Command:
        user = requests.effective_user(request.user or live.spec.user, ranged=self._sessions.root)
        cwd = requests.working_directory(request)
        timeout = request.timeout or live.spec.limits.wall_time
        wanted = (request.output_limit, live.spec.output_limit, self._config.default_output_limit)
        return Command(
            request=requests.encode(request, self._environment, cwd, user),
            stdin=stdin_bytes(request),
            timeout=timeout.seconds if timeout else None,
            output_limit=next(limit for limit in wanted if limit is not None),
            cwd=cwd,
            user=user,
            owner=live.base_id,
        )

    async def _connect(self, live: LiveSession, *, debug: bool) -> socket.socket:
        name = DEBUG_SOCKET if debug else EXEC_SOCKET
        try:
            return connect(live.directory, name)
        except OSError:
            await self._sessions.restart(live)
        try:
            if debug:
                await _start_debug_spawner(live)
            return connect(live.directory, name)
        except (ConnectionRefusedError, FileNotFoundError) as error:
            raise NotTaken(f"session `{live.id}` does not answer: {error.strerror}") from None


async def _start_debug_spawner(live: LiveSession) -> None:
    """A second spawner whose filter allows ptrace, started by the warden on the first request for one."""
    with listen(live.directory, DEBUG_SOCKET) as listener:
        request = operation(Kind.SPAWNER, n0=_DEBUG_VARIANT)
        reply = await control.ask(live.directory, request, (listener.fileno(),))
    if reply.error:
        raise ExecError(f"no exec with `debug` in this session: {reply.step}: {os.strerror(reply.error)}")


def _result(live: LiveSession, outcome: Outcome, *, raw: bool) -> ExecResult:
    out_of_memory = _out_of_memory(live)
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


def _out_of_memory(live: LiveSession) -> bool:
    before, live.oom_kills = live.oom_kills, cgroups.oom_kills(live.record.groups)
    return live.oom_kills > before
