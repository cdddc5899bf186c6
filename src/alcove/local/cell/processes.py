"""A session's native processes, by identity: a pid is reused, with its start time it is not until the next boot."""

import errno
import os
import signal
from contextlib import suppress

from msgspec import Struct

from alcove.contract import LifecycleError, SandboxIoError
from alcove.local.cell import cgroups
from alcove.local.readiness import readable

_END_WITHIN_S = 1.0
_KILLED_WITHIN_S = 5.0
#: Bytes of a /proc/PID/stat: a name and fifty numbers.
MOST_STAT = 4096
# the last two: the number is a thread's now
_NO_SUCH_PROCESS = {errno.ESRCH, errno.EINVAL, errno.ENOENT}


class Processes(Struct, frozen=True):
    """The native processes of a session, by host pid; `started` is the warden's start time in ticks since boot."""

    warden: int
    init: int
    spawner: int
    started: int


def start_time(pid: int) -> int | None:
    """When a process started, in ticks since boot (proc(5), field 22), or None when there is no such process.

    Raises:
        SandboxIoError: it cannot be looked at: no word that it is gone.
    """
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unseen(pid, error) from None
    try:
        return int(os.read(fd, MOST_STAT).rpartition(b")")[2].split()[19])
    except (ProcessLookupError, IndexError):
        return None
    finally:
        os.close(fd)


def open_process(pid: int, started: int) -> int | None:
    """A pidfd of the very process that was recorded, or None when it is gone.

    Raises:
        SandboxIoError: it cannot be looked at: no word that it is gone.
    """
    try:
        fd = os.pidfd_open(pid)
    except OSError as error:
        if error.errno in _NO_SUCH_PROCESS:
            return None
        raise _unseen(pid, error) from None
    try:
        same = start_time(pid) == started
    except BaseException:
        os.close(fd)
        raise
    if same:
        return fd
    os.close(fd)
    return None


def known(processes: Processes | None) -> bool:
    """Tell whether the warden that was recorded can be seen, alive or ended.

    Raises:
        SandboxIoError: as `open_process`.
    """
    fd = open_process(processes.warden, processes.started) if processes else None
    if fd is None:
        return False
    os.close(fd)
    return True


def _unseen(pid: int, error: OSError) -> SandboxIoError:
    return SandboxIoError(f"process {pid} cannot be looked at: {error.strerror}; try again")


def open_warden(processes: Processes | None) -> int:
    """A pidfd of the session's warden.

    Raises:
        ProcessLookupError: it is gone.
        SandboxIoError: as `open_process`.
    """
    fd = open_process(processes.warden, processes.started) if processes else None
    if fd is None:
        raise ProcessLookupError(errno.ESRCH, "the session's warden is gone")
    return fd


def alive(processes: Processes | None) -> bool:
    """Tell whether the session's warden is there, and not merely unreaped.

    Raises:
        SandboxIoError: as `open_process`.
    """
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
    """Let the warden kill everything of its session, if it can be reached, without waiting for it."""
    with suppress(ProcessLookupError, SandboxIoError):
        fd = open_warden(processes)
        try:
            signal.pidfd_send_signal(fd, signal.SIGTERM)
        finally:
            os.close(fd)


async def stop(processes: Processes | None, groups: cgroups.Groups) -> None:
    """End a session's processes: by its warden, or within a bound without it.

    Raises:
        LifecycleError: even SIGKILL did not end them in time.
        SandboxIoError: they cannot be looked at: no word that they are gone.
    """
    await end_warden(processes, groups)
    try:
        if cgroups.populated(groups):  # a warden that was killed could not reap: by the group, then
            cgroups.kill(groups)
    except OSError as error:
        raise SandboxIoError(f"the session's groups cannot be looked at: {error.strerror}; try again") from None


async def end_warden(processes: Processes | None, groups: cgroups.Groups) -> bool:
    """End a session's warden, and with it all that it reaps; False: it was not there.

    Raises:
        LifecycleError: even SIGKILL did not end it in time.
        SandboxIoError: as `open_process`.
    """
    warden = open_process(processes.warden, processes.started) if processes else None
    if processes is None or warden is None:
        return False
    try:
        with suppress(ProcessLookupError):
            await _stop_warden(warden, processes, groups)
    finally:
        os.close(warden)
    reap(processes.warden)
    return True


async def _stop_warden(warden: int, processes: Processes, groups: cgroups.Groups) -> None:
    signal.pidfd_send_signal(warden, signal.SIGTERM)
    if await readable(warden, _END_WITHIN_S):
        return
    cgroups.kill(groups)
    _kill_children(processes)
    signal.pidfd_send_signal(warden, signal.SIGKILL)
    if not await readable(warden, _KILLED_WITHIN_S):
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
