"""The content of one file copied to another: shared where the file system can, else in the kernel, else by hand.

Holes stay holes.
"""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator

from alcove.contract import LifecycleError

#: Told how many bytes were copied since the last time, maybe none; what it raises ends the copy.
Progress = Callable[[int], None]

_FICLONE = 0x4004_9409  # ioctl_ficlone(2)
# Between these two file systems never, or (EINVAL) not for this file
_NO_CLONE = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.ENOTTY, errno.ENOSYS, errno.EPERM, errno.EINVAL})
_NO_COPY = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.ENOSYS, errno.EPERM, errno.EINVAL})
_PIECE = 16 << 20
_BUFFER = 1 << 20


class Contents:
    """Copies between the files of two file systems, and remembers what does not work between them."""

    def __init__(self, *, reflink: bool, progress: Progress | None) -> None:
        self._clones = reflink
        self._in_kernel = True
        self._progress = progress

    def copy(self, source: int, target: int, size: int, *, sparse: bool) -> None:
        """Copy the `size` bytes of `source` to `target`, an empty file that is open for writing.

        Raises:
            OSError: one cannot be read or the other not be written.
            LifecycleError: the source became shorter meanwhile.
        """
        if self._clones and self._clone(source, target):
            self._advance(size)
            return
        copied = 0
        for begin, end in extents(source, size) if sparse else [(0, size)]:
            self._copy_range(source, target, begin, end)
            copied += end - begin
        if sparse:
            os.ftruncate(target, size)
            self._advance(size - copied)

    def pause(self) -> None:
        """Let `progress` end the copy between files that have no content."""
        if self._progress:
            self._progress(0)

    def _clone(self, source: int, target: int) -> bool:
        try:
            fcntl.ioctl(target, _FICLONE, source)
        except OSError as error:
            if error.errno not in _NO_CLONE:
                raise
            self._clones = error.errno == errno.EINVAL
            return False
        return True

    def _copy_range(self, source: int, target: int, begin: int, end: int) -> None:
        while begin < end:
            count = self._copy_piece(source, target, begin, min(end - begin, _PIECE))
            if count == 0:
                raise LifecycleError("a file became shorter while it was copied: stop what writes there, and try again")
            begin += count
            self._advance(count)

    def _copy_piece(self, source: int, target: int, offset: int, length: int) -> int:
        if self._in_kernel:
            try:
                return os.copy_file_range(source, target, length, offset, offset)
            except OSError as error:
                if error.errno not in _NO_COPY:
                    raise
                self._in_kernel = False
        return os.pwrite(target, os.pread(source, min(length, _BUFFER), offset), offset)

    def _advance(self, count: int) -> None:
        if self._progress and count:
            self._progress(count)


def extents(file: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield where the data of a file begin and end, without its holes.

    Raises:
        OSError: the file cannot be looked through.
    """
    begin = 0
    while begin < size:
        try:
            begin = os.lseek(file, begin, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                return
            raise
        if begin >= size:
            return
        end = min(os.lseek(file, begin, os.SEEK_HOLE), size)
        yield begin, end
        begin = end
