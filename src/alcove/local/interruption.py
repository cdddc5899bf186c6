"""Work in a thread that ends soon when nobody wants it any more, though it be waiting for a pipe."""

import asyncio
import fcntl
import io
import os
import select
import stat
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, BinaryIO, TypeVar

_Result = TypeVar("_Result")
_PIECE = 1 << 20


class InterruptedWork(Exception):  # noqa: N818 - no error, but the end of work that nobody waits for
    """The work is not wanted any more."""


class Interruption:
    """Tells a thread that it is to end, also where it waits for a descriptor."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._requested = False

    def close(self) -> None:
        """Let go of it, when no thread looks at it any more."""
        os.close(self._fd)

    def request(self) -> None:
        """Let the thread end."""
        self._requested = True
        os.eventfd_write(self._fd, 1)

    def check(self) -> None:
        """Go on, or not.

        Raises:
            InterruptedWork: the thread is to end.
        """
        if self._requested:
            raise InterruptedWork

    def telling(self, progress: Callable[[int], object] | None) -> Callable[[int], None]:
        """A callback for progress that ends the work where it is to end."""

        def tell(number: int) -> None:
            self.check()
            if progress is not None and number:
                progress(number)

        return tell

    def wait(self, fd: int, events: int) -> None:
        """Wait until `fd` is ready.

        Raises:
            InterruptedWork: the thread is to end.
        """
        poll = select.poll()
        poll.register(fd, events)
        poll.register(self._fd, select.POLLIN)
        poll.poll()
        self.check()


async def in_thread(work: Callable[[Interruption], _Result]) -> _Result:
    """Do blocking work that looks at its interruption often enough; cancelled, this ends when the work has."""
    interruption = Interruption()
    running = asyncio.ensure_future(asyncio.to_thread(work, interruption))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        interruption.request()
        await _waited_for(running)
        raise
    finally:
        interruption.close()


async def done_whole(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Do what cannot be undone half way: cancelled, this ends when the work has, which is bounded by itself."""
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await _waited_for(running)
        raise


async def _waited_for(running: asyncio.Future[Any]) -> None:
    while not running.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([running])
    if not running.cancelled():
        running.exception()  # looked at: nobody waits for it any more


class Incoming:
    """What comes through a pipe, a socket or a terminal: read by its descriptor, and waited for."""

    def __init__(self, file: BinaryIO, interruption: Interruption) -> None:
        self._file = file  # held: with it the descriptor would be closed
        self._fd = file.fileno()
        self._interruption = interruption

    def seekable(self) -> bool:
        """It cannot be gone back in."""
        return False

    def read(self, size: int) -> bytes:
        """Read what there is, up to `size` bytes; nothing at the end."""
        self._interruption.wait(self._fd, select.POLLIN)
        return os.read(self._fd, min(size, _PIECE))


def descriptor(file: BinaryIO) -> int | None:
    """The descriptor of a file object that has one."""
    try:
        return file.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return None


def is_written_in_place(file: BinaryIO) -> bool:
    """Whether what is written can go anywhere in a file, not at its end alone."""
    fd = descriptor(file)
    if fd is None:
        return file.seekable()
    return stat.S_ISREG(os.fstat(fd).st_mode) and not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND


def pour(spool: BinaryIO, out: BinaryIO, interruption: Interruption) -> None:
    """Write all of a file to one that takes bytes in their order alone.

    Raises:
        BrokenPipeError: nobody reads it any more.
        OSError: it cannot be written.
    """
    out.flush()
    fd = descriptor(out)
    if fd is not None and stat.S_ISFIFO(os.fstat(fd).st_mode):
        _splice(spool.fileno(), fd, interruption)
        return
    spool.seek(0)
    while data := spool.read(_PIECE):
        interruption.check()
        view = memoryview(data)
        while view:  # an unbuffered file may take a part
            view = view[out.write(view) or 0 :]
    out.flush()


def _splice(source: int, pipe: int, interruption: Interruption) -> None:
    """Into a pipe without ever waiting in the kernel, and without making it non-blocking for those who share it."""
    offset, size = 0, os.fstat(source).st_size
    while offset < size:
        interruption.wait(pipe, select.POLLOUT)
        with suppress(BlockingIOError):
            offset += os.splice(source, pipe, min(size - offset, _PIECE), offset, flags=os.SPLICE_F_NONBLOCK)
