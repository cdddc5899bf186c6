"""neighbours PID…: look into, write to and take from every process in sight but this one's own children.

Says "PID WHAT" for what it got. The processes named as arguments are of its own session and are left in peace.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator

from tests.security.hostile.raw import stay, syscall

PTRACE_ATTACH, PTRACE_SEIZE = 16, 0x4206
PROCESS_VM_READV, PROCESS_VM_WRITEV, PIDFD_OPEN, PIDFD_GETFD, KCMP = 310, 311, 434, 438, 312


def deeds(pid: int) -> Iterator[tuple[str, Callable[[], object]]]:
    def opened(name: str, flags: int = os.O_RDONLY) -> Callable[[], object]:
        def read() -> None:
            data = os.read(os.open(f"/proc/{pid}/{name}", flags), 4096)
            if not data and name != "mem":
                raise PermissionError(1, "empty")

        return read

    yield "environ", opened("environ")
    yield "maps", opened("maps")
    yield "auxv", opened("auxv")
    yield "stack", opened("stack")
    yield "syscall", opened("syscall")
    yield "mem", lambda: os.open(f"/proc/{pid}/mem", os.O_RDWR)
    yield "exe", lambda: os.readlink(f"/proc/{pid}/exe")
    yield "root", lambda: os.listdir(f"/proc/{pid}/root/")
    yield "cwd", lambda: os.listdir(f"/proc/{pid}/cwd/")
    yield "fd", lambda: os.listdir(f"/proc/{pid}/fd")
    yield "ns", lambda: os.readlink(f"/proc/{pid}/ns/mnt")
    yield "seize", lambda: syscall(101, PTRACE_SEIZE, pid, 0, 0)
    yield "attach", lambda: syscall(101, PTRACE_ATTACH, pid, 0, 0)
    yield "getfd", lambda: syscall(PIDFD_GETFD, syscall(PIDFD_OPEN, pid, 0), 0, 0)
    yield "kcmp", lambda: syscall(KCMP, os.getpid(), pid, 0, 0, 0)
    yield "readv", lambda: vm(PROCESS_VM_READV, pid)
    yield "writev", lambda: vm(PROCESS_VM_WRITEV, pid)
    yield "oom", lambda: os.write(os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY), b"-1000")
    yield "priority", lambda: os.setpriority(os.PRIO_PROCESS, pid, 19)
    yield "limits", lambda: prlimit(pid)


def vm(number: int, pid: int) -> None:
    room = ctypes.create_string_buffer(8)
    local = (ctypes.c_uint64 * 2)(ctypes.addressof(room), 8)
    remote = (ctypes.c_uint64 * 2)(0x400000, 8)
    syscall(number, pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)


def prlimit(pid: int) -> None:
    import resource

    resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, 0))


if __name__ == "__main__":
    left = {os.getpid(), *map(int, sys.argv[1:])}
    others = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in left]
    for other in others:
        for name, deed in deeds(other):
            with contextlib.suppress(OSError):
                deed()
                print(f"{other}:{name} ok")
    if "control" in os.environ:
        for name, deed in deeds(int(sys.argv[1])):
            with contextlib.suppress(OSError):
                deed()
                print(f"control:{name} ok")
    print(f"seen:{len(others)} ok", flush=True)
    stay()
