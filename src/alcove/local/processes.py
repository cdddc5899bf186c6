"""A session's native processes, by identity: a pid is reused, with its start time it is not until the next boot."""

import asyncio
import os
import signal
from contextlib import suppress

from msgspec import Struct

from alcove.contract import LifecycleError
from alcove.local import cgroups

_END_WITHIN_S = 1.0
_KILLED_WITHIN_S = 2.0


class Processes(Struct, frozen=True):
    """The native processes of a session, by host pid; `started` is the warden's start time in ticks since boot."""

    warden: int
    init: int
    spawner: int
    started: int


def start_time(pid: int) -> int | None:
    """When a process started, in ticks since boot (proc(5), field 22), or None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return None


def open_process(pid: int, started: int) -> int | None:
    """A pidfd of the very process that was recorded, or None when it is gone."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return None
    if start_time(pid) == started:
        return fd
    os.close(fd)
    return None


def alive(processes: Processes | None) -> bool:
    """Tell whether the session's warden is there, and not merely unreaped."""
    fd = open_process(processes.warden, processes.started) if processes else None
    if fd is None:
        return False
    try:
        return os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return True  # somebody else's child, and there
    finally:
        os.close(fd)


def ask_to_end(processes: Processes | None) -> None:
    """Let the warden kill everything of its session, without waiting for it."""
    fd = open_process(processes.warden, processes.started) if processes else None
    if fd is not None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, signal.SIGTERM)
        os.close(fd)


async def stop(processes: Processes | None, groups: cgroups.Groups) -> None:
    """End a session's processes: by its warden, or within a bound without it.

    Raises:
        LifecycleError: even SIGKILL did not end them in time.
    """
    warden = open_process(processes.warden, processes.started) if processes else None
    if processes is not None and warden is not None:
        try:
            with suppress(ProcessLookupError):
                await _stop_warden(warden, processes, groups)
        finally:
            os.close(warden)
    if processes is not None:
        reap(processes.warden)
    if groups.unified and cgroups.populated(groups):  # a warden that was killed could not reap: by the group, then
        cgroups.kill(groups)


async def _stop_warden(warden: int, processes: Processes, groups: cgroups.Groups) -> None:
    signal.pidfd_send_signal(warden, signal.SIGTERM)
    if await _ended(warden, _END_WITHIN_S):
        return
    cgroups.kill(groups)
    _kill_children(processes)
    signal.pidfd_send_signal(warden, signal.SIGKILL)
    if not await _ended(warden, _KILLED_WITHIN_S):
        raise LifecycleError(f"process {processes.warden} does not end; is the host's disk stuck?")


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
    ended: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not ended.done():
            ended.set_result(None)

    loop.add_reader(pidfd, tell)
    try:
        async with asyncio.timeout(within):
            await ended
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
    return True


def reap(pid: int) -> bool:
    """Take a dead child off the process table; True while it is a living child of ours."""
    try:
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        return False


def kill_and_reap(pid: int) -> None:
    """End a child of ours for certain."""
    with suppress(ChildProcessError, ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
