"""A directory of the host's and the upper directory of an overlay over it, walked side by side."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Self

from msgspec import Struct

from alcove.contract import SandboxIoError
from alcove.state.descent import READ, Descent
from alcove.state.entries import RESERVED, Facts, facts, open_content
from alcove.state.walk import shown

#: Bytes of paths that one walk may name; a chain of thousands of directories with long names has gigabytes of them.
PATH_BYTES = 256 << 20
_OPAQUE = "user.overlay.opaque"
_WHITEOUT = b"user.overlay.whiteout"


class Pair(Struct, frozen=True):
    """What a path is below and what it became; `after` is None where it is gone, `before` where it was not there."""

    path: bytes
    before: Facts | None
    after: Facts | None

    @property
    def is_merged(self) -> bool:
        """Whether it is a directory in both."""
        return _is_directory(self.before) and _is_directory(self.after)


class _Level(Struct):
    """A directory of the walk, with the names in it that are yet to come."""

    path: bytes
    names: Iterator[bytes]
    whiteouts_by_xattr: bool


class _Side:
    """The one tree or the other: a level of the walk can be missing in it, and then all beneath it is."""

    def __init__(self, root: int | None, rights: int) -> None:
        self._descent = None if root is None else Descent(root, rights)
        self._missing = 0

    @property
    def present(self) -> bool:
        return self._descent is not None and not self._missing

    @property
    def fd(self) -> int:
        return -1 if self._descent is None else self._descent.fd

    def enter(self, name: bytes | None) -> None:
        if self._descent is not None and not self._missing and name is not None:
            with suppress(FileNotFoundError, NotADirectoryError):  # it went since it was looked at
                self._descent.enter(name)
                return
        self._missing += 1

    def leave(self) -> None:
        if self._missing:
            self._missing -= 1
        elif self._descent is not None:
            self._descent.leave()

    def close(self) -> None:
        if self._descent is not None:
            self._descent.close()


class Pairs:
    """Every path that the upper directory touches, parents first, siblings in the order of their bytes.

    Without an upper directory: every path of the lower one. What a deleted directory or an opaque one hides is named
    too, each path of it. Only overlays in which renames are not recorded (`redirect_dir` and `metacopy` off) say
    everything that way. Source: Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories".

    Raises:
        LifecycleError: a directory was moved meanwhile.
        SandboxIoError: a directory cannot be read, or there are more names than `PATH_BYTES`.
    """

    def __init__(self, lower_fd: int, upper_fd: int | None) -> None:
        # a directory of the host's is not lent rights that its owner did not give it: kill -9 would leave it so
        self._lower = _Side(lower_fd, 0)
        try:
            self._upper = _Side(upper_fd, READ)
        except BaseException:
            self._lower.close()
            raise
        self._left = PATH_BYTES
        self._at = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._lower.close()
        finally:
            self._upper.close()

    def __iter__(self) -> Iterator[Pair]:
        try:
            yield from self._walk()
        except OSError as error:
            raise SandboxIoError(f"cannot read {shown(self._at)}: {error.strerror}") from None

    def open_before(self) -> int:
        """Open the lower file of the pair that came last.

        Raises:
            OSError: it cannot be read, or is no file any more.
        """
        return open_content(os.path.basename(self._at), self._lower.fd, lend=False)

    def open_after(self) -> int:
        """Open the upper file of the pair that came last.

        Raises:
            OSError: it cannot be read, or is no file any more.
        """
        return open_content(os.path.basename(self._at), self._upper.fd, lend=True)

    def _walk(self) -> Iterator[Pair]:
        levels = [self._level()]
        while levels:
            name = next(levels[-1].names, None)
            if name is None:
                self._at = levels.pop().path
                if levels:
                    self._lower.leave()
                    self._upper.leave()
                continue
            pair = self._pair(levels[-1], name)
            if pair is None:
                continue
            yield pair
            if _is_directory(pair.before) or _is_directory(pair.after):
                self._lower.enter(name if _is_directory(pair.before) else None)
                self._upper.enter(name if _is_directory(pair.after) else None)
                levels.append(self._level())

    def _level(self) -> _Level:
        mark = _overlay_mark(self._upper.fd) if self._upper.present else b""
        names = _names(self._upper.fd) if self._upper.present else set()
        if self._lower.present and (mark == b"y" or not self._upper.present):
            names |= {name for name in _names(self._lower.fd) if not RESERVED.fullmatch(name)}
        return _Level(self._at, iter(sorted(names)), whiteouts_by_xattr=mark == b"x")

    def _pair(self, level: _Level, name: bytes) -> Pair | None:
        self._at = path = b"%s/%s" % (level.path, name) if level.path else name
        self._left -= len(path)
        if self._left < 0:
            raise SandboxIoError(f"the paths there have more than {PATH_BYTES >> 20} MiB of names; look at them inside")
        before = facts(name, self._lower.fd) if self._lower.present else None
        after = self._after(name, by_xattr=level.whiteouts_by_xattr) if self._upper.present else None
        return None if before is None and after is None else Pair(path, before, after)

    def _after(self, name: bytes, *, by_xattr: bool) -> Facts | None:
        try:
            found = os.stat(name, dir_fd=self._upper.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
            return None
        if by_xattr and stat.S_ISREG(found.st_mode) and _has_whiteout(name, self._upper.fd):
            return None
        return facts(name, self._upper.fd)


def _names(directory: int) -> set[bytes]:
    return set(map(os.fsencode, os.listdir(directory)))


def _is_directory(entry: Facts | None) -> bool:
    return entry is not None and entry.is_directory


def _overlay_mark(directory: int) -> bytes:
    """`y`: what lies below is hidden; `x`: whiteouts in here may be files with an attribute."""
    try:
        return os.getxattr(directory, _OPAQUE)
    except OSError as error:
        if error.errno in {errno.ENODATA, errno.ENOTSUP}:
            return b""
        raise


def _has_whiteout(name: bytes, parent: int) -> bool:
    # lgetxattr has no directory descriptor: /proc stands for it, and only the name itself is not followed
    with suppress(OSError):
        os.getxattr(b"/proc/self/fd/%d/%s" % (parent, name), _WHITEOUT, follow_symlinks=False)
        return True
    return False
