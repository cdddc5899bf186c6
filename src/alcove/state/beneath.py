"""A place in a layer that is being written: named from its root, reached by descriptor, and left as it is to be."""

import os
import stat
from typing import Self, TypeAlias

from alcove.state.descent import CHANGE, Descent

Names: TypeAlias = tuple[bytes, ...]


class Level:
    """A directory on the way; `mode` and `mtime_ns` are what it is to have once it has been left."""

    __slots__ = ("identity", "mode", "mtime_ns", "name")

    def __init__(self, name: bytes, found: os.stat_result) -> None:
        self.name = name
        self.identity = (found.st_dev, found.st_ino)
        self.mode = stat.S_IMODE(found.st_mode)
        self.mtime_ns = found.st_mtime_ns


class Place:
    """Where we are beneath the directory `root`, which stays the caller's.

    Every directory is left with the mode and the time of its level: those it had before, unless others were set there.
    So nothing has to be remembered of a directory that we are not in.
    """

    def __init__(self, root: int) -> None:
        self._descent = Descent(root, CHANGE)
        self._levels: list[Level] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            while self._levels:
                self.leave()
        finally:
            self._descent.close()

    @property
    def fd(self) -> int:
        """The directory that we are in; its number changes with every step."""
        return self._descent.fd

    @property
    def is_root(self) -> bool:
        """Whether we are at the top."""
        return not self._levels

    def go(self, names: Names) -> int:
        """Go to a directory; return how many of its names are there, and stop at the last one that is.

        Raises:
            NotADirectoryError: something on the way is none; links are not.
            OSError: a directory cannot be opened.
        """
        common = self._common(names)
        while len(self._levels) > common:
            self.leave()
        for number, name in enumerate(names[common:], common):
            try:
                self.enter(name)
            except FileNotFoundError:
                return number
        return len(names)

    def enter(self, name: bytes) -> Level:
        """Go down by one name.

        Raises:
            OSError: there is none of that name, it is no directory, or it cannot be opened.
        """
        level = Level(name, self._descent.enter(name))
        self._levels.append(level)
        return level

    def leave(self) -> None:
        """Go up by one.

        Raises:
            LifecycleError: the directory was moved meanwhile.
        """
        level = self._levels.pop()
        os.utime(self.fd, ns=(level.mtime_ns, level.mtime_ns))
        self._descent.leave(level.mode)

    def _common(self, names: Names) -> int:
        common = 0
        for level, name in zip(self._levels, names, strict=False):
            if level.name != name:
                break
            common += 1
        return common
