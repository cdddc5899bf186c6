"""The services of a store, and their keepers: they outlast the last session a little, and no test waits."""

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
    """End the keepers of a store, and their services, where there are any."""
    for service in (keeper.EGRESS, keeper.CHORES):
        _end(keeper_of(store, service))


def _end(pid: int | None) -> None:
    if pid is None:
        return
    pids = [pid, *children(pid)]
    pidfds = [fd for each in pids if (fd := _opened(each)) is not None]
    try:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # the service dies of it
        for fd in pidfds:
            assert select.select([fd], [], [], WITHIN_S)[0], f"{pids} do not end"
    finally:
        for fd in pidfds:
            os.close(fd)


def keeper_of(store: Path, service: keeper.Service) -> int | None:
    """Return the keeper of a service."""
    with suppress(OSError), keeper.reach(str(store), service) as connection:
        return int(struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])
    return None


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _opened(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
