"""System calls by number, a word for each attempt, and staying alive so that the host can look."""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def syscall(number: int, *arguments: object) -> int:
    """Return what the call returned; raises OSError."""
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result == -1:
        raise OSError(ctypes.get_errno(), str(number))
    return result


def attempt(name: str, deed: Callable[[], object]) -> bool:
    """Do it and tell how it went."""
    try:
        deed()
    except OSError as error:
        print(name, error.errno, flush=True)
        return False
    print(name, "ok", flush=True)
    return True


def stay() -> None:
    """Say the pid, let go of the output, and stay until somebody kills this process."""
    print("stays", os.getpid(), flush=True)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            signal.pause()
    sys.exit(0)
