"""`alcove run` and `alcove exec`: one command, on our own streams."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from alcove.cli.failures import TIMED_OUT, told, warn
from alcove.cli.grammar import Given
from alcove.cli.local import request, spec, with_backend
from alcove.contract import ExecResult, SandboxError, SandboxSession, to_json
from alcove.local.exec.terminal import Streams, TerminalSandbox


def run(given: Given) -> int:
    """Run a command in a session of its own."""

    async def work(backend: TerminalSandbox) -> int:
        async with throwaway(backend, given) as session:
            return await _exec(backend, session.id, given, stays=given["keep"])

    return with_backend(given, work)


def exec_(given: Given) -> int:
    """Run a command in a session that is there."""
    return with_backend(given, lambda backend: _exec(backend, given.words[0], given, stays=True))


@asynccontextmanager
async def throwaway(backend: TerminalSandbox, given: Given) -> AsyncIterator[SandboxSession]:
    """Make a session, and end it unless it is to be kept."""
    session = await backend.provision(spec(given, backend))
    try:
        yield session
    finally:
        if given["keep"]:
            warn(f"kept session {session.id}")
        else:
            await backend.terminate(session.id)


async def _exec(backend: TerminalSandbox, session_id: str, given: Given, *, stays: bool) -> int:
    since = datetime.now(UTC)
    stdin = None if os.isatty(0) else 0
    streams = Streams(stdin) if given["json"] else Streams(stdin, 1, 2)
    result = await backend.relay(session_id, request(given, given.argv or []), streams)
    if given["json"]:
        print(to_json(result).decode())
    else:
        explain(result)
        explain_denials(backend, session_id, since, stays=stays)
    return exit_code(result)


def explain(result: ExecResult) -> None:
    """Say what the command's own output cannot say."""
    if result.timed_out:
        warn("the command was killed at its timeout")
    elif result.oom_killed:
        warn("the command ran out of the session's memory (--memory)")


def explain_denials(backend: TerminalSandbox, session_id: str, since: datetime, *, stays: bool) -> None:
    """Say what was denied since then, if anything was."""
    try:
        denied = [record for record in backend.network_log(session_id, since=since) if not record.allowed]
        if denied:
            from alcove.cli.denials import tell

            tell(backend, session_id, denied, stays=stays)
    except SandboxError as error:  # the command has ended all the same, and its exit code is what counts
        warn(told(error))


def exit_code(result: ExecResult) -> int:
    """Return the exit code that stands for a result."""
    return TIMED_OUT if result.timed_out else result.exit_code
