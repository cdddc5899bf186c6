"""signals PID…: every signal to PID 1, to the monitor, to the host's pids given, and at last to everybody."""

import contextlib
import os
import signal
import sys

from tests.security.hostile.raw import syscall

PIDFD_OPEN, PIDFD_SEND_SIGNAL = 434, 424


def send(pid: int) -> None:
    for number in range(1, 65):
        with contextlib.suppress(OSError):
            os.kill(pid, number)
    with contextlib.suppress(OSError):
        syscall(PIDFD_SEND_SIGNAL, syscall(PIDFD_OPEN, pid, 0), signal.SIGKILL, 0, 0)


if __name__ == "__main__":
    for number in range(1, 65):
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    for pid in [1, *map(int, sys.argv[1:])]:
        send(pid)
    for number in (signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL):
        with contextlib.suppress(OSError):
            os.kill(-1, number)
    print("sent", flush=True)
    os.kill(os.getppid(), signal.SIGKILL)
    print("monitor killed", flush=True)
