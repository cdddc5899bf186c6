"""Filters on a real kernel: installed in a forked child, what they answer told by a pipe."""

import ctypes
import errno
import json
import os
import signal
import struct
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from alcove.local import seccomp

PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
SIGSYS = signal.SIGSYS

ARCH = os.uname().machine
DEFAULT = seccomp.program(ARCH, debug=False, set_id=False)
DEBUG = seccomp.program(ARCH, debug=True, set_id=False)
SET_ID = seccomp.program(ARCH, debug=False, set_id=True)

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

# An errno no call has, and a sixth argument no call of the interpreter's has.
STOPPED = 1234
_MARK = 0x5ECC_C0DE
_STOPPER = b"".join(
    word.to_bytes(8, "little")
    for word in (
        0x20 | (16 + 8 * 5) << 32,  # ld args[5]
        0x15 | 1 << 24 | _MARK << 32,  # jeq _MARK: next, else over it
        0x06 | (0x00050000 | STOPPED) << 32,
        0x06 | 0x7FFF0000 << 32,
    )
)


@dataclass(frozen=True)
class Ended:
    """How a child ended: by a signal, or with what it had to say."""

    signal: int
    said: object


def install(program: bytes) -> None:
    """`program` for this process, from here on."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    code = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, fprog)


def call(number: int, *args: object) -> str:
    """One call in this process: "ok", or its errno's name."""
    if libc.syscall(ctypes.c_long(number), *map(_register, args)) != -1:
        return "ok"
    return _errno_name(ctypes.get_errno())


def in_child(program: bytes | None, function: Callable[[], object]) -> Ended:
    """`function` in a child under `program`; what it returns goes through JSON."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # A test runner's worker may have a thread; the child needs none of what that may hold
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(20)
            if program is not None:
                install(program)
            os.write(writer, json.dumps(function()).encode())
            code = 0
        except Exception:  # noqa: BLE001 - the parent sees no exception of ours
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Ended(-status if status < 0 else 0, json.loads(said) if said else None)


def answers(program: bytes | None, calls: Iterable[tuple[int, ...]]) -> list[str]:
    """What `program` answers on this kernel to each (number, arguments…), of which none is carried out.

    A filter below `program` refuses marked calls with STOPPED. Of two filters that refuse, the later one's errno
    counts; so STOPPED means that `program` allowed the call, and every call is safe to try.
    """

    def ask() -> list[str]:
        install(_STOPPER)
        if program is not None:
            install(program)
        return [call(number, *(*args, 0, 0, 0, 0, 0)[:5], _MARK) for number, *args in calls]

    said = in_child(None, ask).said
    assert isinstance(said, list)
    return ["ALLOW" if word == str(STOPPED) else word for word in said]


def _prctl(*args: object) -> None:
    if libc.prctl(*map(_register, (*args, 0, 0, 0)[:5])) != 0:
        raise OSError(ctypes.get_errno(), f"prctl{args}")


def _register(arg: object) -> object:
    return ctypes.c_ulong(arg & (1 << 64) - 1) if isinstance(arg, int) else arg


def _errno_name(number: int) -> str:
    return errno.errorcode.get(number, str(number))
