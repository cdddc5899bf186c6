"""An entry of a directory as it lies there: what it is, its content, and the way to it, never along a link."""

import errno
import os
import re
import stat
from enum import StrEnum
from typing import Self

from msgspec import Struct

from alcove.state.descent import READ, Descent, open_file

#: Under such a name an entry is made on the host before it takes its place; one that kill -9 left is nobody's.
RESERVED = re.compile(rb"\.alcove-apply-[0-9a-f]{16}")
# O_NONBLOCK: a FIFO that was put in a file's place does not keep us waiting
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class EntryType(StrEnum):
    """What an entry of a directory is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    FIFO = "fifo"
    SOCKET = "socket"
    DEVICE = "device"


_TYPES = {
    stat.S_IFREG: EntryType.FILE,
    stat.S_IFDIR: EntryType.DIRECTORY,
    stat.S_IFLNK: EntryType.SYMLINK,
    stat.S_IFIFO: EntryType.FIFO,
    stat.S_IFSOCK: EntryType.SOCKET,
}


class Facts(Struct, frozen=True):
    """What is known of an entry without reading it: `mode` has the permission, sticky and set-id bits.

    `size` is in bytes, and 0 for what is no file; `links` counts the names of the same file; `target` is a symbolic
    link's; the times are in nanoseconds.
    """

    type: EntryType
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    links: int
    target: bytes | None = None

    @classmethod
    def of(cls, found: os.stat_result, target: bytes | None = None) -> Self:
        """The facts in what `stat` found."""
        kind = _TYPES.get(stat.S_IFMT(found.st_mode), EntryType.DEVICE)
        return cls(
            type=kind,
            mode=stat.S_IMODE(found.st_mode),
            uid=found.st_uid,
            gid=found.st_gid,
            size=found.st_size if kind is EntryType.FILE else 0,
            mtime_ns=found.st_mtime_ns,
            ctime_ns=found.st_ctime_ns,
            inode=found.st_ino,
            links=found.st_nlink,
            target=target,
        )

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory, and no link to one."""
        return self.type is EntryType.DIRECTORY


def facts(name: bytes, parent: int) -> Facts | None:
    """The facts of an entry; None where there is none."""
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        target = os.readlink(name, dir_fd=parent) if stat.S_ISLNK(found.st_mode) else None
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.EINVAL}:  # EINVAL: a link when it was looked at, and no more when read
            return None
        raise
    return Facts.of(found, target)


def open_content(name: bytes, parent: int, *, lend: bool) -> int:
    """Open a regular file for reading; what has come in its place since counts as gone.

    With `lend`, a file of ours that its mode forbids us to read is lent that right for the moment.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    fd = open_file(name, parent) if lend else os.open(name, _FILE, dir_fd=parent)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise FileNotFoundError(errno.ENOENT, "it is no file any more")


class Reach:
    """From path to path of one tree, each by the components that it does not share with the one before.

    With `lend`, directories of ours that their mode forbids us to read are lent those rights while we are in them.
    """

    def __init__(self, root: int, *, lend: bool = False) -> None:
        self._descent = Descent(root, READ if lend else 0)
        self._at = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it."""
        self._descent.close()

    def parent(self, path: bytes) -> tuple[int, bytes]:
        """The directory that `path` lies in, valid until the next call, and the name there.

        Raises:
            OSError: a component of the way is not there, or is no directory (a link never is).
            LifecycleError: somebody moved a directory meanwhile.
        """
        directory, _, name = path.rpartition(b"/")
        while not (directory + b"/").startswith(self._at + b"/" if self._at else b""):
            self._at = os.path.dirname(self._at)
            self._descent.leave()
        for component in directory[len(self._at) :].split(b"/"):
            if component:
                self._descent.enter(component)
                self._at = b"%s/%s" % (self._at, component) if self._at else component
        return self._descent.fd, name
