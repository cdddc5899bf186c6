"""Starting the native side: one process, one plan, one report."""

import errno
import fcntl
import os
import socket
from array import array
from collections.abc import Callable
from contextlib import suppress
from struct import Struct as Layout

from alcove.contract import LifecycleError
from alcove.local.cell.processes import MOST_STAT, Processes, kill_and_reap, start_time
from alcove.local.readiness import readable

CONTROL_SOCKET = "control.sock"
EXEC_SOCKET = "exec.sock"
DEBUG_SOCKET = "debug.sock"
#: The suffix of a socket while nobody is to reach it.
CLOSED = ".closed"

#: Seconds within which a session is there, or is not.
PROVISION_WITHIN_S = 20.0
_BACKLOG = 4096
_SETUP_FD = 3
_MOST_PATH = 107  # sizeof sockaddr_un.sun_path, without the NUL
_REPORT = Layout("<Iiiii64s192s")


def listen(directory: str, name: str) -> socket.socket:
    """A listening socket at a path, replacing one that a dead session left.

    Bound by way of a descriptor: the name that the kernel records, and shows in /proc/net/unix to whoever shares the
    network namespace, then tells neither the store nor the session, and has no limit of length.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    parent = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _bind(listener, parent, name)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(parent)
    return listener


def _bind(listener: socket.socket, parent: int, name: str) -> None:
    try:
        listener.bind(f"/proc/self/fd/{parent}/{name}")
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        os.unlink(name, dir_fd=parent)
        listener.bind(f"/proc/self/fd/{parent}/{name}")


def connect(directory: str, name: str) -> socket.socket:
    """A connection to a session's socket, not blocking.

    Raises:
        OSError: nobody listens there.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        path = f"{directory}/{name}"
        if len(os.fsencode(path)) <= _MOST_PATH:
            connection.connect(path)
        else:
            parent = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                connection.connect(f"/proc/self/fd/{parent}/{name}")
            finally:
                os.close(parent)
    except BaseException:
        connection.close()
        raise
    return connection


def sealed(data: bytes, name: str) -> int:
    """A memfd that holds `data` and that nobody can change any more."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


class Launcher:
    """The native program, started: it begins at once, and goes on with its plan and then with the descriptors.

    Raises:
        LifecycleError: it does not start.
    """

    def __init__(self, native: str, role: str, key: str, *options: str) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        with theirs:
            try:
                self.pid = _spawn(native, [f"alcove-{role}", key, role, *options], theirs.fileno())
            except OSError as error:
                self._socket.close()
                raise LifecycleError(f"the native launcher {native} does not start: {error.strerror}") from None

    def plan(self, plan: bytes) -> None:
        """Send the plan."""
        memory = sealed(plan, "alcove-plan")
        try:
            self.send(memory)
        finally:
            os.close(memory)

    def send(self, *fds: int) -> None:
        """Send descriptors."""
        with suppress(BrokenPipeError, ConnectionResetError):  # it has ended: so says its answer
            self._socket.sendmsg([b"f"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))])

    async def answer(self, size: int, within: float) -> bytes:
        """Return the program's one answer, empty when it ended without one.

        Raises:
            TimeoutError: there was none in time.
        """
        if not await readable(self._socket.fileno(), within):
            raise TimeoutError(f"the native launcher did not answer within {within:g} s")
        with suppress(ConnectionResetError):  # it ended before it read all that was sent; what it wrote comes after
            return self._socket.recv(size)
        return self._socket.recv(size)

    def close(self) -> None:
        """Let go of it; what it became lives on."""
        self._socket.close()

    def abandon(self) -> None:
        """Kill it, and with it what it has made."""
        self._socket.close()
        kill_and_reap(self.pid)


def _spawn(native: str, arguments: list[str], setup: int) -> int:
    """Start a program with `setup` at 3, /dev/null at 0 to 2, and nothing of our environment."""
    # out of the way of what is opened at 0 to 2, and dup2 onto itself would leave it close-on-exec
    moved = fcntl.fcntl(setup, fcntl.F_DUPFD_CLOEXEC, _SETUP_FD + 1) if setup <= _SETUP_FD else setup
    try:
        pid = os.posix_spawn(
            native,
            arguments,
            {},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
                (os.POSIX_SPAWN_DUP2, 0, 2),
                (os.POSIX_SPAWN_DUP2, moved, _SETUP_FD),
            ],
        )
    finally:
        if moved != setup:
            os.close(moved)
    _run_elsewhere(pid)
    return pid


def _run_elsewhere(pid: int) -> None:
    """Have a new process on another processor than this thread's; where it may run stays as it was.

    It begins where we are, and on a machine that was idle the kernel leaves it there: it would stand behind us while
    the others do nothing.
    """
    allowed = os.sched_getaffinity(0)
    with suppress(OSError):  # it is a matter of time alone, and a host may refuse it
        if others := allowed - {_processor()}:
            os.sched_setaffinity(pid, others)
            os.sched_setaffinity(pid, allowed)


def _processor() -> int:
    """The processor that this thread runs on (proc(5), field 39)."""
    fd = os.open("/proc/thread-self/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(fd, MOST_STAT).rpartition(b")")[2].split()[36])
    finally:
        os.close(fd)


async def launch(
    launcher: Launcher, directory: str, meanwhile: Callable[[], None] | None = None, *, closed: bool = False
) -> Processes:
    """Give a started launcher its sockets in the session's directory, and wait until it is ready for its first exec.

    What is asked of the warden `meanwhile` is the first thing that it serves. With `closed` nobody finds the socket for
    execs, until it has the name without that suffix.

    Raises:
        LifecycleError: a step failed (its name and errno are told); nothing is left running.
    """
    try:
        door = f"{EXEC_SOCKET}{CLOSED if closed else ''}"
        with listen(directory, CONTROL_SOCKET) as control, listen(directory, door) as execs:
            launcher.send(control.fileno(), execs.fileno())
        if meanwhile:
            meanwhile()
        started = start_time(launcher.pid)  # while it is at work
        return _processes(await launcher.answer(_REPORT.size, PROVISION_WITHIN_S), launcher.pid, started)
    except TimeoutError:
        raise LifecycleError(
            f"the session was not ready within {PROVISION_WITHIN_S:g} s; the host may be overloaded: `alcove doctor`"
        ) from None
    finally:
        launcher.close()


def _processes(report: bytes, pid: int, started: int | None) -> Processes:
    if len(report) < _REPORT.size:
        raise LifecycleError("the native launcher ended without a report; `alcove doctor` tries each step by itself")
    ok, error, warden, init, spawner, step, detail = _REPORT.unpack(report)
    if not ok:
        raise LifecycleError(
            _explained(
                step.rstrip(b"\0").decode("utf-8", "replace"), detail.rstrip(b"\0").decode("utf-8", "replace"), error
            )
        )
    if warden != pid or started is None:
        raise LifecycleError("the session ended while it was being made; `alcove doctor` tries each step by itself")
    return Processes(warden=warden, init=init, spawner=spawner, started=started)


def _explained(step: str, detail: str, error: int) -> str:
    name = errno.errorcode.get(error, str(error))
    subject = f"{step} ({detail})" if detail else step
    return f"{subject}: {name}, {os.strerror(error)}; `alcove doctor` tells what this host lacks and how to fix it"
