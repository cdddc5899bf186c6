"""How much of a disk a tree takes, while others write in it: what cannot be read is told, not refused."""

import os
from collections.abc import Callable
from contextlib import suppress

from msgspec import Struct

from alcove.contract import LifecycleError
from alcove.state.descent import Descent

#: Told how many entries were looked at since the last time.
Looked = Callable[[int], None]

_BLOCK = 512
_NO_RIGHTS = 0  # a plain user's guest sees a directory's mode: it is not lent any right to be read


class DiskUse(Struct, frozen=True):
    """Bytes that a tree takes on disk; `partly`: something in it could not be looked at."""

    bytes: int
    partly: bool = False


def measure(path: str, looked: Looked | None = None) -> DiskUse:
    """Measure a tree, its directories too; a file with several names counts once, another file system's files do not.

    Raises:
        FileNotFoundError: it is not there.
    """
    top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return _Measuring(top, looked).run()
    finally:
        os.close(top)


class _Measuring:
    """One walk."""

    def __init__(self, top: int, looked: Looked | None) -> None:
        self._top = top
        self._looked = looked
        found = os.fstat(top)
        self._device = found.st_dev
        self._bytes = found.st_blocks * _BLOCK
        self._partly = False
        self._seen: set[int] = set()

    def run(self) -> DiskUse:
        descent = Descent(self._top, _NO_RIGHTS)
        try:
            self._descend(descent)
        except LifecycleError:  # what lay above was moved: where that is now, nobody knows
            self._partly = True
        finally:
            with suppress(LifecycleError):
                descent.close()
        return DiskUse(self._bytes, self._partly)

    def _descend(self, descent: Descent) -> None:
        below = [self._list(descent.fd)]
        while below:
            if not below[-1]:
                below.pop()
                descent.leave()
                continue
            try:
                descent.enter(below[-1].pop())
            except FileNotFoundError:
                continue
            except OSError:
                self._partly = True
                continue
            below.append(self._list(descent.fd))

    def _list(self, directory: int) -> list[str]:
        """Count what a directory has, and return the names of the directories in it."""
        names, count = [], 0
        with os.scandir(directory) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    found = entry.stat(follow_symlinks=False)
                    count += 1
                    if found.st_dev == self._device:
                        self._count(found, is_directory=entry.is_dir(follow_symlinks=False))
                        names += [entry.name] if entry.is_dir(follow_symlinks=False) else []
        if self._looked is not None:
            self._looked(count)
        return names

    def _count(self, found: os.stat_result, *, is_directory: bool) -> None:
        if not is_directory and found.st_nlink > 1:
            if found.st_ino in self._seen:
                return
            self._seen.add(found.st_ino)
        self._bytes += found.st_blocks * _BLOCK
