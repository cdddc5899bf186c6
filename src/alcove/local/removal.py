"""Removing what a guest left behind: any depth, any mode, any number, by descriptors, never following a link."""

import errno
import os
from contextlib import suppress
from itertools import count
from secrets import token_hex

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: str, budget: int | None = None) -> bool:
    """Remove a directory of ours and all beneath it; False: more than `budget` entries, not done yet.

    Directories queue up in the topmost one, under numbers: one that lies deep is moved up beside its ancestors, so that
    neither the length of a path nor the number of open descriptors grows with the depth of what a guest made.

    Raises:
        OSError: something cannot be removed, such as a mount point of somebody else's.
    """
    try:
        root = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return True
    try:
        if not _Emptying(root, budget).run():
            return False
    finally:
        os.close(root)
    with suppress(FileNotFoundError):
        os.rmdir(path)
    return True


class _Emptying:
    """One removal under way; another process may be at the same tree, and take some of it first."""

    def __init__(self, root: int, budget: int | None) -> None:
        self._root = root
        self._left = budget
        # no guest can name anything in the topmost directory, but an earlier attempt can have
        self._names = (f".removing-{token_hex(8)}-{number}" for number in count())

    def run(self) -> bool:
        queued = self._clear(self._root)
        while queued and (self._left is None or self._left > 0):
            name = queued.pop()
            with suppress(FileNotFoundError):
                queued += self._move_up(name)
                if self._left is None or self._left > 0:
                    os.rmdir(name, dir_fd=self._root)
        return not queued and (self._left is None or self._left > 0)

    def _move_up(self, name: str) -> list[str]:
        fd = os.open(name, _DIRECTORY, dir_fd=self._root)
        moved = []
        try:
            for child in self._clear(fd):
                unique = next(self._names)
                with suppress(FileNotFoundError):
                    os.rename(child, unique, src_dir_fd=fd, dst_dir_fd=self._root)
                    moved.append(unique)
        finally:
            os.close(fd)
        return moved

    def _clear(self, fd: int) -> list[str]:
        """Remove everything from a directory but directories that are not empty; return the names of those."""
        directories = []
        with os.scandir(fd) as entries:
            for entry in entries:
                if self._left is not None:
                    self._left -= 1
                    if self._left <= 0:
                        break
                with suppress(FileNotFoundError):
                    if not entry.is_dir(follow_symlinks=False):
                        os.unlink(entry.name, dir_fd=fd)
                    elif not _remove_empty(entry.name, fd):
                        directories.append(entry.name)
        _open_up(fd, directories)
        return directories


def _remove_empty(name: str, parent: int) -> bool:
    """Remove a directory that has nothing in it: most of a session's have not, and need not be read to know that."""
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            return False
        raise
    return True


def _open_up(parent: int, names: list[str]) -> None:
    """Give ourselves the rights to directories of our own; root has them anyway."""
    if os.geteuid() == 0:
        return
    for name in names:
        with suppress(FileNotFoundError):
            os.chmod(name, 0o700, dir_fd=parent)
