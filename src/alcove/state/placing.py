"""Putting entries into a directory of the host's: every name has what it had or what it is to have, whatever happens.

What is new is made whole under a name of ours beside its place, and takes the place in one step. Kill -9 can leave such
a name behind; the next one who comes to that directory removes it.
"""

import ctypes
import errno
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from secrets import token_hex
from typing import Self

from alcove.contract import LifecycleError
from alcove.state.changes import Change, ChangeKind
from alcove.state.contents import Contents
from alcove.state.entries import RESERVED, Facts, Reach, facts, open_content
from alcove.state.fingerprints import Fingerprint, fingerprint
from alcove.state.pairs import Pairs

_NOREPLACE = 1
_EXCHANGE = 2
_NO_SUCH_RENAME = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PINNED = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
#: What of a mode comes to the host.
PERMISSIONS = 0o777
_SET_ID = stat.S_ISUID | stat.S_ISGID
# of a file that is replaced: what its owner said about it. A capability or a security label is not the new content's.
_KEPT_ATTRIBUTES = re.compile(r"user\..*|system\.posix_acl_access")


class ChangedMeanwhileError(Exception):
    """Something on the host is not what it was a moment ago; it is left as it is."""


def sweep(lower_fd: int, upper_fd: int) -> None:
    """Remove what a killed one left in the directories that the session has changes in.

    Raises:
        OSError: a directory cannot be read.
        LifecycleError: a directory was moved meanwhile.
        SandboxIoError: a directory cannot be read.
    """
    _sweep(lower_fd)
    with Reach(lower_fd) as reach, Pairs(lower_fd, upper_fd) as pairs:
        for pair in pairs:
            if pair.is_merged:
                directory, _ = reach.parent(pair.path + b"/.")
                _sweep(directory)


class Placing:
    """Changes of an upper directory on their way into the lower one."""

    def __init__(self, lower_fd: int, upper_fd: int) -> None:
        self._lower = Reach(lower_fd)
        try:
            self._upper = Reach(upper_fd, lend=True)
        except BaseException:
            self._lower.close()
            raise
        self._contents = Contents(reflink=True, progress=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._lower.close()
        finally:
            self._upper.close()

    def put(self, change: Change, after: Facts) -> Fingerprint:
        """Put a file, a link or an empty directory in its place.

        Raises:
            ChangedMeanwhileError: the place, or the file in the session, is not what it was.
            OSError: it cannot be written; the place is as it was.
        """
        parent, name = self._lower.parent(change.path)
        before = None if change.kind is ChangeKind.RENAMED else change.before
        temporary = _temporary_name()
        try:
            if after.target is not None:
                os.symlink(after.target, temporary, dir_fd=parent)
                _own_link(temporary, parent, before)
            elif after.is_directory:
                _make_directory(temporary, parent, before, after)
            else:
                self._make_file(temporary, parent, change, after)
        except BaseException:
            _discard(temporary, parent)
            raise
        _install(temporary, name, parent, before, after)
        return _placed(name, parent)

    def set_mode(self, change: Change, after: Facts) -> Fingerprint:
        """Give what is there the mode it has in the session; set-id bits are the host's alone.

        Raises:
            ChangedMeanwhileError: it is not what it was.
            OSError: it is not ours.
        """
        parent, name = self._lower.parent(change.path)
        pinned = os.open(name, _PINNED, dir_fd=parent)
        try:
            found = os.fstat(pinned)
            if not after.is_directory:
                _check(Facts.of(found), change.before)
            elif not stat.S_ISDIR(found.st_mode):
                raise ChangedMeanwhileError("it is no directory any more")
            os.chmod(f"/proc/self/fd/{pinned}", _mode(after, found))  # fchmod takes no O_PATH descriptor
        finally:
            os.close(pinned)
        return _placed(name, parent)

    def remove(self, path: bytes, before: Facts | None) -> None:
        """Remove what was there, if it still is; a directory only with nothing in it.

        Raises:
            ChangedMeanwhileError: it is not what it was.
            OSError: it cannot be removed.
        """
        parent, name = self._lower.parent(path)
        now = facts(name, parent)
        if now is None:
            return
        _check(now, before)
        if now.is_directory:
            _remove_directory(name, parent)
        else:
            _remove_file(name, parent, before)

    def _copy(self, source: int, target: int, after: Facts) -> None:
        try:
            self._contents.copy(source, target, after.size, sparse=True)
            copied = os.fstat(source)
            if (copied.st_ino, copied.st_size, copied.st_mtime_ns) == (after.inode, after.size, after.mtime_ns):
                return
        except LifecycleError:  # it became shorter
            pass
        raise ChangedMeanwhileError("the session wrote to it meanwhile; suspend it first")

    def _make_file(self, temporary: bytes, parent: int, change: Change, after: Facts) -> None:
        directory, name = self._upper.parent(change.path)
        with (
            open(open_content(name, directory, lend=True), "rb", buffering=0) as source,
            open(os.open(temporary, _NEW, 0o600, dir_fd=parent), "wb", buffering=0) as target,
        ):
            self._copy(source.fileno(), target.fileno(), after)
            replaced = change.before if change.kind is ChangeKind.MODIFIED else None
            _own(target.fileno(), parent, replaced)
            if replaced is not None and replaced.type is after.type:
                _keep_attributes(os.path.basename(change.path), parent, target.fileno())
                # a power cut is not to cost the old content and the new
                os.fsync(target.fileno())
            os.fchmod(target.fileno(), _mode(after, None))


def _temporary_name() -> bytes:
    return b".alcove-apply-" + token_hex(8).encode()


def _make_directory(name: bytes, parent: int, before: Facts | None, after: Facts) -> None:
    os.mkdir(name, 0o700, dir_fd=parent)
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        _own(fd, parent, before)
        # ours to write in until all is there
        os.fchmod(fd, _mode(after, os.fstat(fd)) | stat.S_IRWXU)
    finally:
        os.close(fd)


def _mode(after: Facts, directory: os.stat_result | None) -> int:
    """A mode for the host: permissions alone, and for a directory what it has or inherited there."""
    if directory is None or not stat.S_ISDIR(directory.st_mode):
        return after.mode & PERMISSIONS
    return after.mode & (PERMISSIONS | stat.S_ISVTX) | directory.st_mode & _SET_ID


def _owner(parent: int, before: Facts | None) -> tuple[int, int]:
    if before is not None:
        return before.uid, before.gid
    found = os.fstat(parent)
    return found.st_uid, found.st_gid


def _own(fd: int, parent: int, before: Facts | None) -> None:
    """Who had what is replaced has it again, else who has the directory; a plain user can only give to himself."""
    with suppress(PermissionError):
        os.fchown(fd, *_owner(parent, before))


def _own_link(name: bytes, parent: int, before: Facts | None) -> None:
    pinned = os.open(name, _PINNED, dir_fd=parent)
    try:
        if stat.S_ISLNK(os.fstat(pinned).st_mode):  # and nothing that somebody put there since
            with suppress(PermissionError):
                os.chown(f"/proc/self/fd/{pinned}", *_owner(parent, before))
    finally:
        os.close(pinned)


def _keep_attributes(name: bytes, parent: int, target: int) -> None:
    old = b"/proc/self/fd/%d/%s" % (parent, name)  # lgetxattr has no directory descriptor
    with suppress(OSError):  # a file system without them
        for attribute in os.listxattr(old, follow_symlinks=False):
            if _KEPT_ATTRIBUTES.fullmatch(attribute):
                os.setxattr(target, attribute, os.getxattr(old, attribute, follow_symlinks=False))


def _check(now: Facts | None, before: Facts | None) -> None:
    """Refuse to go on where the host's entry is not the one that was looked at.

    Links and times of change are left out: replacing one of two hard links changes both.
    """
    if before is None or now is None:
        same = before is now
    elif now.is_directory:
        same = before.is_directory
    else:
        same = _identity(now) == _identity(before)
    if not same:
        raise ChangedMeanwhileError("it changed on the host meanwhile")


def _identity(entry: Facts) -> tuple[object, ...]:
    return entry.type, entry.mode, entry.size, entry.mtime_ns, entry.inode


def _install(temporary: bytes, name: bytes, parent: int, before: Facts | None, after: Facts) -> None:
    """Let what was made take its place in one step, and look at what was there once nobody finds it any more."""
    try:
        _check(facts(name, parent), before)
        exchanged = _take_place(temporary, name, parent, before, after)
    except BaseException:
        _discard(temporary, parent)
        raise
    if not exchanged:
        return
    try:
        _check(facts(temporary, parent), before)
        if before is not None and before.is_directory:
            _remove_directory(temporary, parent)
        else:
            os.unlink(temporary, dir_fd=parent)
    except BaseException:
        _put_back(temporary, name, parent)
        raise


def _take_place(temporary: bytes, name: bytes, parent: int, before: Facts | None, after: Facts) -> bool:
    """Whether what was there lies at `temporary` now."""
    if before is None:
        _move(temporary, name, parent)
        return False
    try:
        _rename(temporary, name, parent, _EXCHANGE)
    except OSError as error:
        # a directory and what is none cannot take each other's place in any other way
        if error.errno not in _NO_SUCH_RENAME or before.is_directory != after.is_directory:
            raise
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        return False
    return True


def _put_back(temporary: bytes, name: bytes, parent: int) -> None:
    try:
        _rename(temporary, name, parent, _EXCHANGE)
    except FileNotFoundError:  # somebody removed what we had put there
        _move(temporary, name, parent)
    else:
        _discard(temporary, parent)


@cache
def _renameat2() -> Callable[..., int]:
    function: Callable[..., int] = ctypes.CDLL(None, use_errno=True).renameat2
    return function


def _rename(old: bytes, new: bytes, parent: int, flags: int) -> None:
    if _renameat2()(parent, old, parent, new, flags) != 0:
        number = ctypes.get_errno()
        if number == errno.EEXIST:
            raise ChangedMeanwhileError("it was made on the host meanwhile")
        raise OSError(number, os.strerror(number))


def _remove_file(name: bytes, parent: int, before: Facts | None) -> None:
    """Look at it once more where nobody else finds it, and only then remove it."""
    aside = _temporary_name()
    _move(name, aside, parent)
    try:
        _check(facts(aside, parent), before)
        os.unlink(aside, dir_fd=parent)
    except BaseException:
        _move(aside, name, parent)
        raise


def _move(old: bytes, new: bytes, parent: int) -> None:
    """Rename, and replace nothing."""
    try:
        _rename(old, new, parent, _NOREPLACE)
    except OSError as error:
        if error.errno not in _NO_SUCH_RENAME:
            raise
        os.rename(old, new, src_dir_fd=parent, dst_dir_fd=parent)  # we looked a moment ago


def _remove_directory(name: bytes, parent: int) -> None:
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        _sweep(fd)
    finally:
        os.close(fd)
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            raise ChangedMeanwhileError("something that is to stay lies in it") from None
        raise


def _sweep(directory: int) -> None:
    for left in map(os.fsencode, os.listdir(directory)):
        if RESERVED.fullmatch(left):
            _discard(left, directory)


def _discard(name: bytes, parent: int) -> None:
    """Remove what was made under a name of ours: a file, a link or an empty directory."""
    with suppress(OSError):
        try:
            os.unlink(name, dir_fd=parent)
        except IsADirectoryError:
            os.rmdir(name, dir_fd=parent)


def _placed(name: bytes, parent: int) -> Fingerprint:
    placed = facts(name, parent)
    if placed is None:
        raise ChangedMeanwhileError("it was removed on the host as soon as it was there")
    return fingerprint(placed)
