"""What every command needs of the local backend: a session's description, a command's, and a loop that signals end."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from alcove.cli import allow
from alcove.cli.failures import no_snapshot, not_found
from alcove.cli.grammar import Given
from alcove.contract import (
    ExecRequest,
    InvalidRequest,
    ResourceLimits,
    SandboxError,
    SandboxSnapshot,
    SandboxSpec,
    SessionNotFound,
)
from alcove.local import LocalSandboxConfig
from alcove.local.exec.terminal import TerminalSandbox

# What looks, ends or shows works whatever stands in a configuration file
_CONFIGURED = {"create", "fork", "shell", "exec", "mount", "net allow", "net deny", "resume"}
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def with_backend(given: Given, work: Callable[[TerminalSandbox], Coroutine[Any, Any, int]]) -> int:
    """Run `work` over the backend that `given` describes; a signal that ends us cancels it first: 128 + its number."""
    return asyncio.run(_until_signalled(given, work))


async def _until_signalled(given: Given, work: Callable[[TerminalSandbox], Coroutine[Any, Any, int]]) -> int:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    came: list[int] = []

    def stop(number: int) -> None:
        came.append(number)
        if len(came) == 1 and task:  # a second one must not stop the cleaning up, which is bounded
            task.cancel()

    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or a script's background job
            loop.add_signal_handler(number, stop, number)
    try:
        return await _helped(TerminalSandbox(config(given)), work)
    except asyncio.CancelledError:
        if not came:
            raise
        return 128 + came[0]


async def _helped(backend: TerminalSandbox, work: Callable[[TerminalSandbox], Coroutine[Any, Any, int]]) -> int:
    try:
        return await work(backend)
    except SessionNotFound as error:
        raise not_found(error, [session.id for session in backend.sessions()], references(backend)) from None


def snapshot(backend: TerminalSandbox, reference: str) -> SandboxSnapshot:
    """Return the snapshot of an id or a name.

    Raises:
        InvalidRequest: there is none; those that the caller may have meant are named.
    """
    try:
        return backend.find_snapshot(reference)
    except InvalidRequest:
        sessions = [session.id for session in backend.sessions()]
        raise no_snapshot(reference, references(backend), sessions) from None


def references(backend: TerminalSandbox) -> list[str]:
    """Return what people call the snapshots that there are."""
    return [reference(snapshot) for snapshot in backend.snapshots()]


def reference(snapshot: SandboxSnapshot) -> str:
    """Return what a person calls a snapshot: its name, or else its id."""
    return snapshot.metadata.get("name") or snapshot.snapshot_id


async def recovered(backend: TerminalSandbox) -> TerminalSandbox:
    """Return the backend once what a kill -9 or a power cut left is put right: a list shows what is whole."""
    with suppress(OSError, SandboxError):  # what cannot be taken away now is no reason to show nothing
        await backend.recover()
    return backend


def config(given: Given) -> LocalSandboxConfig:
    """Return the configuration of the backend; the files are read by the commands that need what they say."""
    make = LocalSandboxConfig.load if _is_configured(given) else LocalSandboxConfig
    return make(
        rootfs="owned" if given.options.get("owned") else "shared",
        allow_root_owned=bool(given.options.get("allow_root_owned")),
    )


def _is_configured(given: Given) -> bool:
    match given.command.name:
        case "run":
            return bool(allow.asked(given) or given["keep"])
        case "net":
            return len(given.words) > 1
        case name:
            return name in _CONFIGURED


def spec(
    given: Given, backend: TerminalSandbox, *, wall_time: float | None = None, user: str | None = None
) -> SandboxSpec:
    """Return the session that `given` describes."""
    begin = f"snapshot:{snapshot(backend, given['from']).snapshot_id}" if given["from"] is not None else "host"
    return SandboxSpec(
        given["id"],
        dict(given["label"]),
        allow.policy(given, backend.config),
        given["mount"],
        ResourceLimits(wall_time, given["cpus"], given["memory"], given["idle_timeout"]),
        rootfs=begin,
        pids=given["pids"],
        open_files=given["open_files"],
        disk_mb=given["disk"],
        user=user,
        best_effort=given["best_effort"],
        set_id=given["set_id"],
    )


def request(given: Given, argv: list[str], variables: dict[str, str] | None = None) -> ExecRequest:
    """Return the command that `given` describes."""
    return ExecRequest(
        argv[0],
        argv[1:],
        cwd=given["cwd"],
        env={**(variables or {}), **dict(given["env"])},
        timeout=given["timeout"],
        user=given["user"],
        output_limit=given.options.get("output_limit"),
        raw=bool(given.options.get("raw")),
    )
