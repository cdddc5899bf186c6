"""capabilities: try to raise each capability by every call that can; stays with what it has."""

import ctypes
import os
import struct

from tests.security.hostile.raw import attempt, stay, syscall

PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, PR_SET_SECUREBITS, PR_SET_KEEPCAPS = 47, 2, 28, 8
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 38, 22
CAPSET = 126 if os.uname().machine == "x86_64" else 91
libc = ctypes.CDLL(None, use_errno=True)


def prctl(*arguments: int) -> None:
    if libc.prctl(*(ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:5])) < 0:
        raise OSError(ctypes.get_errno(), "prctl")


def own() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1], 16) for line in file if line.startswith("CapEff"))


def capset(wanted: int) -> None:
    low, high = wanted & 0xFFFFFFFF, wanted >> 32
    header = struct.pack("=Ii", 0x20080522, 0)
    syscall(CAPSET, header, struct.pack("=6I", low, low, low, high, high, high))


if __name__ == "__main__":
    mine = own()
    for number in range(41):
        if not mine >> number & 1:
            attempt(f"capset:{number}", lambda: capset(mine | 1 << number))  # noqa: B023
        attempt(f"ambient:{number}", lambda: prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number))  # noqa: B023
    attempt("privileges", lambda: prctl(PR_SET_NO_NEW_PRIVS, 0))
    attempt("unfilter", lambda: prctl(PR_SET_SECCOMP, 0))
    stay()
