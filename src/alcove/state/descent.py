"""Going down a tree that a guest made: by descriptors, any depth, few of them open, never along a link.

A plain user's own directories and files may lack the rights to read them: they are lent those, and given back the mode
that they had. Root has the rights anyway.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from alcove.contract import LifecycleError

#: Rights that a directory needs to be read, and to have its entries changed.
READ = 0o500
CHANGE = 0o700

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO that was put in a file's place does not keep us waiting
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT_OPEN = 32


class _Level:
    """One directory on the way down; `fd` is -1 while it is closed, `own` its mode where it was lent another."""

    __slots__ = ("fd", "found", "name", "own")

    def __init__(self, name: str | bytes, fd: int, found: os.stat_result, own: int | None) -> None:
        self.name = name
        self.fd = fd
        self.found = found
        self.own = own


class Descent:
    """Where one is in a tree: directories opened one within another, of which `kept_open` (2 at least) stay open.

    A closed one is opened again by way of `..` from the directory below it, and must be the same as before.

    Raises:
        OSError: the topmost directory cannot be opened.
    """

    def __init__(self, top: int, rights: int = READ, *, kept_open: int = _KEPT_OPEN) -> None:
        self._rights = rights
        self._kept_open = kept_open
        self._user = os.geteuid()
        self._levels = [self._open_top(top)]
        self._closed = 0

    @property
    def fd(self) -> int:
        """The directory one is in; its number changes with every step."""
        return self._levels[-1].fd

    @property
    def depth(self) -> int:
        """How many directories lie above it, up to the topmost."""
        return len(self._levels) - 1

    @property
    def path(self) -> bytes:
        """The path to it from the topmost directory, whose own is empty."""
        return b"/".join(os.fsencode(level.name) for level in self._levels[1:])

    @property
    def found(self) -> os.stat_result:
        """The directory's status as it was before it was lent any right."""
        return self._levels[-1].found

    def enter(self, name: str | bytes) -> os.stat_result:
        """Go into a directory; return its status.

        Raises:
            OSError: it is no directory, or cannot be opened.
        """
        level = self._open(name, self.fd)
        self._levels.append(level)
        if len(self._levels) - self._closed > self._kept_open:
            # the topmost stays open with the deepest: there is nothing above it that would lead back to it
            self._closed += 1
            self._close(self._levels[self._closed])
        return level.found

    def leave(self, mode: int | None = None) -> None:
        """Go back up, and leave the directory with `mode`, or with the one it had.

        Raises:
            LifecycleError: what lies above is not what one came by.
        """
        level = self._levels[-1]
        above = self._levels[-2] if self.depth else None
        if above is not None and above.fd < 0:
            above.fd = _open_again(level.fd, above.found)
            self._closed -= 1
        self._levels.pop()
        try:
            if (wanted := level.own if mode is None else mode) is not None:
                os.fchmod(level.fd, wanted)
        finally:
            self._close(level)

    def close(self) -> None:
        """Go all the way up and close everything."""
        try:
            while self._levels:
                self.leave()
        finally:
            for level in self._levels:
                self._close(level)
            self._levels.clear()

    @staticmethod
    def _close(level: _Level) -> None:
        if level.fd >= 0:
            os.close(level.fd)
            level.fd = -1

    def _lacks(self, found: os.stat_result) -> bool:
        return self._user != 0 and found.st_uid == self._user and found.st_mode & self._rights != self._rights

    def _open_top(self, top: int) -> _Level:
        found = os.fstat(top)
        if self._lacks(found):
            return self._lend("", top, found)
        return _Level("", os.open(".", _DIRECTORY, dir_fd=top), found, None)

    def _open(self, name: str | bytes, parent: int) -> _Level:
        readable = True
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
        except PermissionError:
            readable = False
            fd = os.open(name, _HANDLE | os.O_DIRECTORY, dir_fd=parent)
        found = os.fstat(fd)
        if readable and not self._lacks(found):
            return _Level(name, fd, found, None)
        try:
            return self._lend(name, fd, found)
        finally:
            os.close(fd)

    def _lend(self, name: str | bytes, handle: int, found: os.stat_result) -> _Level:
        own = stat.S_IMODE(found.st_mode)
        _chmod(handle, own | self._rights)
        try:
            return _Level(name, os.open(".", _DIRECTORY, dir_fd=handle), found, own)
        except BaseException:
            _chmod(handle, own)
            raise


def _open_again(below: int, found: os.stat_result) -> int:
    fd = os.open("..", _DIRECTORY, dir_fd=below)
    if os.path.samestat(os.fstat(fd), found):
        return fd
    os.close(fd)
    raise LifecycleError("a directory was moved while its tree was read: stop what writes there, and try again")


def _chmod(handle: int, mode: int) -> None:
    # fchmod refuses an O_PATH descriptor; the link below /proc leads to what it is open on, whatever its name is now
    os.chmod(f"/proc/self/fd/{handle}", mode)


@contextmanager
def lent(handle: int, rights: int) -> Iterator[None]:
    """Lend `rights` to what a descriptor of any kind is open on, if it is a plain user's own and has them not.

    Raises:
        OSError: its mode cannot be changed.
    """
    found = os.fstat(handle)
    own = stat.S_IMODE(found.st_mode)
    user = os.geteuid()
    if user == 0 or found.st_uid != user or own & rights == rights:
        yield
        return
    _chmod(handle, own | rights)
    try:
        yield
    finally:
        _chmod(handle, own)


def open_file(name: str | bytes, parent: int) -> int:
    """Open a file for reading without touching its access time; the caller closes the descriptor.

    What has come in its place may be opened instead, but no link: look at its status.

    Raises:
        OSError: it cannot be opened.
    """
    try:
        return os.open(name, _FILE | os.O_NOATIME, dir_fd=parent)
    except PermissionError:
        return _open_refused(name, parent)


def _open_refused(name: str | bytes, parent: int) -> int:
    """Open what is not ours (no O_NOATIME for that), or is ours and lacks the right."""
    handle = os.open(name, _HANDLE, dir_fd=parent)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise LifecycleError("a file was exchanged while it was opened: stop what writes there, and try again")
        with lent(handle, stat.S_IRUSR):
            return os.open(f"/proc/self/fd/{handle}", _FILE & ~os.O_NOFOLLOW)
    finally:
        os.close(handle)


def directories(top: int, rights: int = READ) -> Iterator[tuple[Descent, Iterator["os.DirEntry[str]"]]]:
    """Go into every directory of a tree, the topmost first, and yield it with its entries.

    In the order of the file system. Both are good until the next step; what was not taken of the entries is not gone
    into.

    Raises:
        OSError: a directory cannot be opened.
        LifecycleError: the tree changed meanwhile.
    """
    descent = Descent(top, rights)
    try:
        below: list[list[str]] = [[]]
        with os.scandir(descent.fd) as listing:
            yield descent, _noting(listing, below[0])
        while below:
            if not below[-1]:
                below.pop()
                descent.leave()
                continue
            descent.enter(below[-1].pop())
            below.append([])
            with os.scandir(descent.fd) as listing:
                yield descent, _noting(listing, below[-1])
    finally:
        with suppress(LifecycleError):  # it was raised by the step that failed
            descent.close()


def _noting(listing: Iterator["os.DirEntry[str]"], names: list[str]) -> Iterator["os.DirEntry[str]"]:
    for item in listing:
        if item.is_dir(follow_symlinks=False):
            names.append(item.name)
        yield item
