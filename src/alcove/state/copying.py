"""A tree copied whole, and a chain of layers copied into one: everything that an entry has, nothing beside the target.

What is written lies in a directory of ours, under names that did not exist: no link leads out of it. Sockets become
sockets that nobody is at, since leaving one out would show again what it hid in a layer below.
"""

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from secrets import token_hex

from alcove.contract import LifecycleError
from alcove.state.contents import Contents, Progress
from alcove.state.descent import CHANGE, Descent
from alcove.state.tree import merge, walk
from alcove.state.walk import Entry, Kind, Walk, shown, white_out

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_NODES = {Kind.FIFO: stat.S_IFIFO, Kind.SOCKET: stat.S_IFSOCK}


def copy_tree(source: int, target: int, *, reflink: bool = True, progress: Progress | None = None) -> None:
    """Copy a tree in which nobody writes into an empty directory, with what the directory itself has.

    Modes, owners (as root), times of change, `user.*` attributes, hard links, holes, whiteouts and opaque directories
    are kept; file capabilities and the rest of an overlay's attributes are not. After an error, what was written so far
    is there: remove it.

    Raises:
        OSError: something cannot be read or written, for instance for want of space.
        LifecycleError: there is a device node, or the tree changed meanwhile.
    """
    with walk(source) as entries:
        _copy(entries, target, Contents(reflink=reflink, progress=progress))


def flatten(
    layers: Sequence[int],
    target: int,
    *,
    over: bool = False,
    reflink: bool = True,
    progress: Progress | None = None,
) -> None:
    """Make one layer of a chain, the lowest first, in an empty directory: what an overlay of them would show.

    It is a plain one, or with `over` an upper layer that deletes and hides what the chain does of that which lies
    below it.

    Raises:
        OSError: as `copy_tree`.
        LifecycleError: as `copy_tree`.
    """
    with merge(layers, over=over) as entries:
        _copy(entries, target, Contents(reflink=reflink, progress=progress))


def _copy(entries: Walk, target: int, contents: Contents) -> None:
    writer = _Writer(entries.top, target, contents)
    try:
        for entry in entries:
            writer.write(entry, entries.fd)
            contents.pause()
        writer.finish()
    finally:
        writer.close()


class _Writer:
    """Writes entries in the order of a walk; a directory gets what it has when everything in it is there."""

    def __init__(self, top: Entry, target: int, contents: Contents) -> None:
        self._contents = contents
        self._root = os.geteuid() == 0
        self._directories = [top]
        self._descent = Descent(target, CHANGE)
        self._held = _Held(self._descent.fd)

    def write(self, entry: Entry, source: int) -> None:
        while len(self._directories) > entry.depth:
            self._leave()
        parent = self._descent.fd
        if entry.kind is Kind.DIRECTORY:
            os.mkdir(entry.name, 0o700, dir_fd=parent)
            self._descent.enter(entry.name)
            self._directories.append(entry)
        elif not (entry.linked and self._held.link(entry, parent)):
            self._make(entry, source, parent)
            if entry.links > 1:
                self._held.hold(entry, parent)

    def finish(self) -> None:
        while len(self._directories) > 1:
            self._leave()
        self._held.let_go()
        self._leave()

    def close(self) -> None:
        self._held.close()
        self._descent.close()

    def _leave(self) -> None:
        entry = self._directories.pop()
        self._dress(self._descent.fd, entry)
        if entry.opaque:
            os.setxattr(self._descent.fd, "user.overlay.opaque", b"y")
        self._descent.leave(entry.mode)  # at last: with it the way back up may be barred

    def _make(self, entry: Entry, source: int, parent: int) -> None:
        if entry.kind is Kind.FILE:
            self._make_file(entry, source, parent)
        elif entry.kind is Kind.SYMLINK:
            os.symlink(entry.target, entry.name, dir_fd=parent)
            self._dress_by_name(entry, parent)
        elif entry.kind is Kind.WHITEOUT:
            white_out(entry.name, parent)
        elif entry.kind in _NODES:
            os.mknod(entry.name, _NODES[entry.kind] | stat.S_IRUSR, dir_fd=parent)
            self._dress_by_name(entry, parent)
        else:
            raise LifecycleError(f"{shown(entry.path)} is a device node, which is not copied: remove it")

    def _make_file(self, entry: Entry, source: int, parent: int) -> None:
        file = os.open(entry.name, _NEW, 0o600, dir_fd=parent)
        try:
            if entry.size:
                self._contents.copy(source, file, entry.size, sparse=entry.sparse)
            self._dress(file, entry)
            os.fchmod(file, entry.mode)
        finally:
            os.close(file)

    def _dress(self, fd: int, entry: Entry) -> None:
        for name, value in entry.xattrs:
            os.setxattr(fd, name, value)
        if self._root:
            os.fchown(fd, entry.uid, entry.gid)
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def _dress_by_name(self, entry: Entry, parent: int) -> None:
        if self._root:
            os.chown(entry.name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        os.utime(entry.name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)
        if entry.kind is not Kind.SYMLINK:
            handle = os.open(entry.name, _HANDLE, dir_fd=parent)
            try:
                os.chmod(f"/proc/self/fd/{handle}", entry.mode)
            finally:
                os.close(handle)


class _Held:
    """Files with several names, held under numbers until all is copied: no path is too long or barred for that."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._name = f".links-{token_hex(8)}"  # the topmost directory's other names are a guest's choice
        self._fd = -1

    def hold(self, entry: Entry, parent: int) -> None:
        if self._fd < 0:
            os.mkdir(self._name, 0o700, dir_fd=self._top)
            self._fd = os.open(
                self._name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._top
            )
        held = str(entry.first)
        with suppress(FileNotFoundError):
            os.unlink(held, dir_fd=self._fd)
        os.link(entry.name, held, src_dir_fd=parent, dst_dir_fd=self._fd, follow_symlinks=False)

    def link(self, entry: Entry, parent: int) -> bool:
        """Give a held file another name; False: it can have no more, so that a second one has to be made."""
        try:
            os.link(str(entry.first), entry.name, src_dir_fd=self._fd, dst_dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            if error.errno == errno.EMLINK:
                return False
            raise
        return True

    def let_go(self) -> None:
        if self._fd >= 0:
            for name in os.listdir(self._fd):
                os.unlink(name, dir_fd=self._fd)
            os.rmdir(self._name, dir_fd=self._top)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
