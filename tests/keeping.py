"""The processes that serve sessions with an allow-list: they outlast the last one a little, and no test waits."""

import os
import select
import signal
import socket
import struct
from contextlib import suppress
from pathlib import Path

from alcove.local import keeper

WITHIN_S = 10.0


def end(store: Path) -> None:
    """End the keeper of a store, and its service, where there is one."""
    if (pid := _keeper(store)) is None:
        return
    pids = [pid, *_children(pid)]
    pidfds = [fd for each in pids if (fd := _opened(each)) is not None]
    try:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # the service dies of it
        for fd in pidfds:
            assert select.select([fd], [], [], WITHIN_S)[0], f"{pids} do not end"
    finally:
        for fd in pidfds:
            os.close(fd)


def _keeper(store: Path) -> int | None:
    with suppress(OSError), keeper.reach(str(store)) as connection:
        return int(struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])
    return None


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _opened(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
