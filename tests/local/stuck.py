"""A file system that does not answer: what asks it stands in the kernel, where no signal reaches."""

import asyncio
import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_LIBC = ctypes.CDLL(None, use_errno=True)
_DETACH = 2  # umount2(2)
# linux/fuse.h
_GETATTR, _INIT = 3, 26
_REQUEST = struct.Struct("<IIQQIIII")
_ANSWER = struct.Struct("<IiQ")
_INITIAL = struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 0, 0, 4096, 1, 0, 0, 0)
_ROOT = struct.pack("<QII6Q10I", 3600, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)


class Stuck:
    """Answers what it is to be mounted, and nothing after that; `asking` is who waits for it since."""

    def __init__(self, door: int) -> None:
        self._door = door
        self.asking: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def serve(self) -> None:
        _, kind, number, _, _, _, pid, _ = _REQUEST.unpack_from(os.read(self._door, 1 << 17))
        if answer := {_INIT: _INITIAL, _GETATTR: _ROOT}.get(kind):
            os.write(self._door, _ANSWER.pack(_ANSWER.size + len(answer), 0, number) + answer)
        elif not self.asking.done():
            self.asking.set_result(pid)


@contextmanager
def mounted(place: Path) -> Iterator[Stuck]:
    """Mount one, by an event loop that must not wait for it itself; at the end everybody gets an error."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("this kernel has no FUSE")
    door = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    stuck = Stuck(door)
    options = f"fd={door},rootmode=40000,user_id=0,group_id=0,allow_other"
    try:
        assert _LIBC.mount(b"stuck", os.fsencode(place), b"fuse", 0, options.encode()) == 0, ctypes.get_errno()
        asyncio.get_running_loop().add_reader(door, stuck.serve)
        try:
            yield stuck
        finally:
            asyncio.get_running_loop().remove_reader(door)
            _LIBC.umount2(os.fsencode(place), _DETACH)
    finally:
        os.close(door)
