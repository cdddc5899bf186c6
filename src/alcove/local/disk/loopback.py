"""Loop devices: an image file as a block device, for exactly as long as somebody uses it.

A device detaches by itself with its last user (LO_FLAGS_AUTOCLEAR): the descriptor that `attach` returns, or a mount.
Two devices over one image would destroy what is in it. The kernel does not refuse that, so the image is locked by way
of the very description that the device keeps open: the lock lasts as long as the device does, whoever is killed.
"""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from struct import Struct as Packing

from alcove.contract import LifecycleError

CONTROL = "/dev/loop-control"

# linux/loop.h
_LOOP_CONFIGURE = 0x4C0A
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_CTL_GET_FREE = 0x4C82
_AUTOCLEAR = 4
_DIRECT_IO = 16  # else each page would be cached twice
# struct loop_info64: device, inode, rdevice, offset, size limit, number, encryption (2), flags, names and key, init
_INFO = Packing("<5Q4I160s2Q")
_CONFIG = Packing(f"<2I{_INFO.size}s64x")
_BLOCK = 4096
_TRIES = 64
_GOING_WITHIN_S = 10.0
_LOOK_AGAIN_S = 0.002


class Device:
    """An attached loop device, held open; `fresh`: it was attached just now, so nothing of it is mounted."""

    def __init__(self, path: str, fd: int, *, fresh: bool) -> None:
        self.path = path
        self.fresh = fresh
        self._fd = fd

    def close(self) -> None:
        """Let go of it; it stays as long as it is mounted."""
        os.close(self._fd)


def attach(image: str, prepare: Callable[[str, int], None] | None = None) -> Device:
    """Attach an image, or hold the device that it is attached to already.

    What is to be attached is given to `prepare` first, by its path and by a descriptor: nobody else has it then, nor
    after a kill as long as a process that `prepare` started holds that descriptor.

    Raises:
        OSError: it cannot be attached.
        LifecycleError: a device that is on its way out does not go.
    """
    deadline = time.monotonic() + _GOING_WITHIN_S
    while True:
        fd = os.open(image, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if (found := _attached(fd) if _is_taken(fd) else _attach(fd, image, prepare)) is not None:
                return found
        finally:
            os.close(fd)
        if time.monotonic() > deadline:
            raise LifecycleError(
                f"the image {image} is still in use: by whom tells `losetup -a`, or an e2fsck that runs"
            )
        time.sleep(_LOOK_AGAIN_S)  # the kernel is taking a dead session's mounts down, and tells nobody when it has


def _is_taken(image: int) -> bool:
    try:
        fcntl.flock(image, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _attach(image: int, path: str, prepare: Callable[[str, int], None] | None) -> Device:
    if prepare is not None:
        prepare(path, image)
    for _ in range(_TRIES):
        device = _free()
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        try:
            info = _INFO.pack(*[0] * 8, _AUTOCLEAR | _DIRECT_IO, b"", 0, 0)
            fcntl.ioctl(fd, _LOOP_CONFIGURE, _CONFIG.pack(image, _BLOCK, info))
        except OSError as error:
            os.close(fd)
            if error.errno != errno.EBUSY:  # somebody else was faster
                raise
        else:
            return Device(device, fd, fresh=True)
    raise OSError(errno.EBUSY, "no loop device is free")


def _free() -> str:
    fd = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        return f"/dev/loop{fcntl.ioctl(fd, _LOOP_CTL_GET_FREE)}"
    finally:
        os.close(fd)


def _attached(image: int) -> Device | None:
    """Hold the device of a locked image; None: it is on its way out, or was attached by nobody yet."""
    wanted = os.fstat(image)
    for path in _devices():
        with suppress(OSError):  # it is gone, or has nothing attached any more (ENXIO)
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                status = _INFO.unpack(fcntl.ioctl(fd, _LOOP_GET_STATUS64, bytes(_INFO.size)))
            except OSError:
                os.close(fd)
                raise
            if status[:2] == (wanted.st_dev, wanted.st_ino):
                return Device(path, fd, fresh=False)
            os.close(fd)
    return None


def _devices() -> Iterator[str]:
    for name in os.listdir("/sys/block"):
        if name.startswith("loop") and os.path.isdir(f"/sys/block/{name}/loop"):
            yield f"/dev/{name}"
