"""Starting the native side: one process, one plan, one report."""

import asyncio
import errno
import fcntl
import os
import socket
from struct import Struct as Layout

from msgspec import Struct

from alcove.contract import LifecycleError

CONTROL_SOCKET = "control.sock"
EXEC_SOCKET = "exec.sock"
DEBUG_SOCKET = "debug.sock"

#: Seconds within which a session is there, or is not.
PROVISION_WITHIN_S = 20.0
_BACKLOG = 4096
_FIRST_FD = 3
_MOST_PATH = 107  # sizeof sockaddr_un.sun_path, without the NUL
_REPORT = Layout("<Iiiii64s192s")


class Processes(Struct, frozen=True):
    """The native processes of a session, by host pid; `started` is the warden's start time in ticks since boot."""

    warden: int
    init: int
    spawner: int
    started: int


def listen(directory: str, name: str) -> socket.socket:
    """A listening socket at a path, replacing one that a dead session left."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        path = f"{directory}/{name}"
        with _reachable(path) as reachable:
            try:
                listener.bind(reachable)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                os.unlink(path)
                listener.bind(reachable)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def connect(directory: str, name: str) -> socket.socket:
    """A connection to a session's socket, not blocking.

    Raises:
        OSError: nobody listens there.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        path = f"{directory}/{name}"
        if len(path) <= _MOST_PATH:
            connection.connect(path)
        else:
            with _reachable(path) as reachable:
                connection.connect(reachable)
    except BaseException:
        connection.close()
        raise
    return connection


class _reachable:  # noqa: N801 - used as a context
    """A name of at most 107 bytes for a path of any length: through a descriptor of its directory."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> str:
        if len(os.fsencode(self._path)) <= _MOST_PATH:
            return self._path
        directory, _, name = self._path.rpartition("/")
        self._fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
        return f"/proc/self/fd/{self._fd}/{name}"

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def sealed(data: bytes, name: str) -> int:
    """A memfd that holds `data` and that nobody can change any more."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def spawn(native: str, arguments: list[str], fds: list[int]) -> int:
    """Start the launcher with `fds` at 3, 4, 5 …, /dev/null at 0 to 2, and nothing of our environment."""
    moved = [fd if fd >= _FIRST_FD + len(fds) else fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 16) for fd in fds]
    actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
        (os.POSIX_SPAWN_DUP2, 0, 1),
        (os.POSIX_SPAWN_DUP2, 0, 2),
    ]
    actions += [(os.POSIX_SPAWN_DUP2, fd, _FIRST_FD + index) for index, fd in enumerate(moved)]
    try:
        return os.posix_spawn(native, arguments, {}, file_actions=actions)
    finally:
        for fd, original in zip(moved, fds, strict=True):
            if fd != original:
                os.close(fd)


async def launch(native: str, key: str, plan: bytes, directory: str) -> Processes:
    """Start a session's native processes and wait until it is ready for its first exec.

    Raises:
        LifecycleError: a step failed (its name and errno are told); nothing is left running.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = -1
    try:
        with theirs, listen(directory, CONTROL_SOCKET) as control, listen(directory, EXEC_SOCKET) as execs:
            memory = sealed(plan, "alcove-plan")
            try:
                fds = [memory, control.fileno(), execs.fileno(), theirs.fileno()]
                # the title's room: the longest role and the key
                pid = spawn(native, ["alcove-warden".ljust(16, "\0").rstrip("\0"), key, "session"], fds)
            finally:
                os.close(memory)
        report = await _receive(ours, PROVISION_WITHIN_S)
        return _processes(report, pid)
    except BaseException:
        if pid > 0:
            _kill_and_reap(pid)
        raise
    finally:
        ours.close()


async def _receive(connection: socket.socket, within: float) -> bytes:
    connection.setblocking(False)
    try:
        async with asyncio.timeout(within):
            return await asyncio.get_running_loop().sock_recv(connection, _REPORT.size)
    except TimeoutError:
        raise LifecycleError(
            f"the session was not ready within {within:g} s; the host may be overloaded: `alcove doctor`"
        ) from None


def _processes(report: bytes, pid: int) -> Processes:
    if len(report) < _REPORT.size:
        raise LifecycleError("the native launcher ended without a report; `alcove doctor` tries each step by itself")
    ok, error, warden, init, spawner, step, detail = _REPORT.unpack(report)
    if not ok:
        raise LifecycleError(_explained(step.rstrip(b"\0").decode(), detail.rstrip(b"\0").decode("utf-8", "replace"), error))
    started = start_time(warden)
    if warden != pid or started is None:
        raise LifecycleError("the session ended while it was being made; `alcove doctor` tries each step by itself")
    return Processes(warden=warden, init=init, spawner=spawner, started=started)


def _explained(step: str, detail: str, error: int) -> str:
    name = errno.errorcode.get(error, str(error))
    subject = f"{step} ({detail})" if detail else step
    return f"{subject}: {name}, {os.strerror(error)}; `alcove doctor` tells what this host lacks and how to fix it"


def start_time(pid: int) -> int | None:
    """When a process started, in ticks since boot (proc(5), field 22): with its pid, its identity until the next boot."""
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


def _kill_and_reap(pid: int) -> None:
    try:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    except (ChildProcessError, ProcessLookupError):
        pass


def reap(pid: int) -> None:
    """Take a dead child off the process table, if it is a child of ours."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass
