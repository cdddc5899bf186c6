"""A layer read entry by entry in canonical order, alone or merged with others.

An upper layer has whiteouts (a character device 0:0, or an empty file with `user.overlay.whiteout`) and opaque
directories (`user.overlay.opaque` is `y`): Documentation/filesystems/overlayfs.rst of the kernel.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from enum import Enum
from typing import Any, Self

from msgspec import Struct

from alcove.contract import LifecycleError
from alcove.state.descent import Descent, lent, open_file

_OPAQUE = "user.overlay.opaque"
_WHITEOUT = "user.overlay.whiteout"
_ORIGIN = "user.overlay.origin"
_OVERLAY = "user.overlay."
_SHOWN = 200
# Directories of all layers together
_KEPT_OPEN = 256
# A hole takes no block; st_blocks counts these, whatever the file system's own are
_BLOCK = 512


class Kind(Enum):
    """What an entry is; the values are part of every digest."""

    DIRECTORY = b"d"
    FILE = b"f"
    SYMLINK = b"l"
    FIFO = b"p"
    SOCKET = b"s"
    CHARACTER_DEVICE = b"c"
    BLOCK_DEVICE = b"b"
    WHITEOUT = b"w"


_KINDS = {
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFREG: Kind.FILE,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
    stat.S_IFCHR: Kind.CHARACTER_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
}


def shown(path: bytes) -> str:
    """Quote a guest's path for a message: its end, with nothing in it that a terminal would act on."""
    return repr(path[-_SHOWN:])[1:]


class Entry(Struct, frozen=True):
    """One name of a layer; `depth` is 1 for a name in the topmost directory.

    `mode` has the permissions, set-id and sticky bits. `uid` and `gid` are those inside the session: a plain user's own
    are 0. `size` is of a file's content, `sparse` says that it has holes; `target` is a symbolic link's, `device` a
    device node's. `xattrs` are the guest's `user.*`, sorted: nothing of an overlay's or of the kernel's is among them.
    `position` counts the entries of a walk from 0; `first` is that of the first name of the same file, another than
    `position` for a hard link. `links` is the number of names that the file has, elsewhere too.
    """

    directory: bytes
    name: bytes
    depth: int
    position: int
    first: int
    kind: Kind
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    links: int = 1
    sparse: bool = False
    opaque: bool = False
    device: int = 0
    target: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def path(self) -> bytes:
        """The path from the top of the layer, of any length."""
        return self.directory + b"/" + self.name if self.directory else self.name

    @property
    def linked(self) -> bool:
        """Whether this is another name of a file that came before."""
        return self.first != self.position


_Place = tuple[Descent, Kind | None]
_Found = tuple[_Place, ...]


class Walk:
    """A walk through one layer, or through several that are `merged` as an overlay shows them, the topmost first.

    Merged ones may lie `over` something else: then the entries include the whiteouts and opaque directories with which
    one layer hides the same as they do together.

    The entries of a directory come in the order of their names' bytes, and what a directory has comes right after it.
    `top` stands for the topmost directory, which is not among the entries. While a directory or a file is the latest
    entry, `fd` is it, open for reading; else it is -1.

    Raises:
        OSError: something cannot be read.
        LifecycleError: the tree changed meanwhile.
    """

    def __init__(self, layers: Sequence[int], *, merged: bool, over: bool = False) -> None:
        self.fd = -1
        self._file = -1
        self._merged = merged
        # nothing lies below the topmost directory that could be hidden
        self._alone = merged and not over
        self._user, self._group = os.geteuid(), os.getegid()
        self._count = 0
        self._firsts: dict[tuple[int, int], int] = {}
        self._directory = b""
        self._descents: list[Descent] = []
        kept_open = max(2, min(32, _KEPT_OPEN // len(layers)))
        with ExitStack() as opened:
            for layer in layers:
                self._descents.append(Descent(layer, kept_open=kept_open))
                opened.callback(self._descents[-1].close)
            opaque = not merged and _is_opaque(self._descents[0].fd)
            self.top = self._as_directory(self._descents[0], b"", 0, opaque=opaque)
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._close_file()
        self._opened.close()

    def __iter__(self) -> Iterator[Entry]:
        levels = [(self._descents, self._listed(self._descents), self._alone)]
        while levels:
            descents, names, alone = levels[-1]
            if not names:
                levels.pop()
                self._leave(descents)
                continue
            name, found = names.pop()
            if found[0][1] is Kind.DIRECTORY:
                entered, hides = self._enter(name, found, alone=alone)
                entry = self._as_directory(entered[0], name, len(levels), opaque=hides and not alone)
                levels.append((entered, self._listed(entered), alone or (hides and self._merged)))
                self.fd = entered[0].fd
            else:
                entry = self._as_leaf(name, found[0], len(levels))
                self.fd = self._file
            if not (alone and entry.kind is Kind.WHITEOUT):
                self._count += 1
                yield entry
            if entry.kind is Kind.DIRECTORY:
                self._directory = entry.path
            self._close_file()

    def _listed(self, descents: list[Descent]) -> list[tuple[bytes, _Found]]:
        """Every name with the layers that have it, to be taken from the end."""
        names: dict[bytes, _Found] = {}
        for descent in descents:
            alike: dict[Kind | None, _Found] = {kind: ((descent, kind),) for kind in (Kind.DIRECTORY, Kind.FILE, None)}
            with os.scandir(descent.fd) as listing:
                for item in listing:
                    name = os.fsencode(item.name)
                    here = alike[_listed_kind(item)]
                    names[name] = names[name] + here if name in names else here
        # a name occurs once: the places themselves are never compared
        return sorted(names.items(), reverse=True)

    def _enter(self, name: bytes, found: _Found, *, alone: bool) -> tuple[list[Descent], bool]:
        """Go into a directory in every layer that counts: from the topmost to where it is opaque, or something else.

        Tell whether what else lies below is hidden. `alone`: there can be nothing below these layers.
        """
        entered: list[Descent] = []
        for descent, kind in found:
            if kind is not Kind.DIRECTORY:
                return entered, True
            descent.enter(name)
            entered.append(descent)
            if not (alone and len(found) == 1) and _is_opaque(descent.fd):
                return entered, True
        return entered, False

    def _leave(self, descents: list[Descent]) -> None:
        for descent in descents:
            descent.leave()
        self._directory = self._directory.rpartition(b"/")[0]

    def _close_file(self) -> None:
        self.fd = -1
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _as_directory(self, descent: Descent, name: bytes, depth: int, *, opaque: bool) -> Entry:
        xattrs = _of_guest(descent.fd, os.listxattr(descent.fd))
        return self._entry(name, depth, Kind.DIRECTORY, descent.found, opaque=opaque, xattrs=xattrs)

    def _as_leaf(self, name: bytes, place: _Place, depth: int) -> Entry:
        descent, kind = place
        return self._as_file(descent, name, depth) if kind else self._as_other(descent, name, depth)

    def _as_file(self, descent: Descent, name: bytes, depth: int) -> Entry:
        self._file = open_file(name, descent.fd)
        found = os.fstat(self._file)
        if not stat.S_ISREG(found.st_mode):
            raise _changed(self._directory, name)
        names = os.listxattr(self._file)
        if found.st_size == 0 and _WHITEOUT in names:
            return self._whiteout(name, depth)
        return self._entry(
            name,
            depth,
            Kind.FILE,
            found,
            size=found.st_size,
            sparse=found.st_blocks * _BLOCK < found.st_size,
            xattrs=_of_guest(self._file, names),
        )

    def _as_other(self, descent: Descent, name: bytes, depth: int) -> Entry:
        found = os.stat(name, dir_fd=descent.fd, follow_symlinks=False)
        kind = _KINDS[stat.S_IFMT(found.st_mode)]
        if kind in {Kind.DIRECTORY, Kind.FILE}:
            raise _changed(self._directory, name)
        if is_whiteout(found):
            return self._whiteout(name, depth)
        target = os.readlink(name, dir_fd=descent.fd) if kind is Kind.SYMLINK else b""
        return self._entry(name, depth, kind, found, device=found.st_rdev, target=target)

    def _entry(self, name: bytes, depth: int, kind: Kind, found: os.stat_result, **special: Any) -> Entry:
        mine = self._user != 0
        return Entry(
            directory=self._directory,
            name=name,
            depth=depth,
            position=self._count,
            first=self._first(found) if found.st_nlink > 1 and kind is not Kind.DIRECTORY else self._count,
            kind=kind,
            mode=stat.S_IMODE(found.st_mode),
            uid=0 if mine and found.st_uid == self._user else found.st_uid,
            gid=0 if mine and found.st_gid == self._group else found.st_gid,
            mtime_ns=found.st_mtime_ns,
            links=found.st_nlink,
            **special,
        )

    def _whiteout(self, name: bytes, depth: int) -> Entry:
        """All whiteouts are alike: the kernel links one and the same device node wherever it needs one."""
        here = self._count
        return Entry(self._directory, name, depth=depth, position=here, first=here, kind=Kind.WHITEOUT)

    def _first(self, found: os.stat_result) -> int:
        return self._firsts.setdefault((found.st_dev, found.st_ino), self._count)


def is_whiteout(found: os.stat_result) -> bool:
    """Tell whether a status is that of a character device 0:0."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def white_out(name: bytes, directory: int) -> None:
    """Put a whiteout into a directory, and let the kernel look for some there even where nothing lies below it.

    It lists what only one layer has as it lies there, whiteouts included, unless an origin is told of; an empty one is
    an unknown one (`ovl_get_inode`, fs/overlayfs/inode.c).

    Raises:
        OSError: there is something of that name, or the directory cannot be changed.
    """
    # Any user may make this node, and no other: Linux 5.8, a3c751a50fe6
    os.mknod(name, stat.S_IFCHR | stat.S_IRUSR, os.makedev(0, 0), dir_fd=directory)
    os.setxattr(directory, _ORIGIN, b"")


def _listed_kind(item: "os.DirEntry[str]") -> Kind | None:
    if item.is_dir(follow_symlinks=False):
        return Kind.DIRECTORY
    return Kind.FILE if item.is_file(follow_symlinks=False) else None


def _is_opaque(fd: int) -> bool:
    # `x` is no opaque directory, but one with whiteouts that are files
    return _OPAQUE in os.listxattr(fd) and os.getxattr(fd, _OPAQUE) == b"y"


def _of_guest(fd: int, names: list[str]) -> tuple[tuple[bytes, bytes], ...]:
    chosen = [name for name in names if name.startswith("user.") and not name.startswith(_OVERLAY)]
    if not chosen:
        return ()
    with lent(fd, stat.S_IRUSR):  # the mode counts, not what the descriptor was opened for
        return tuple(sorted((os.fsencode(name), os.getxattr(fd, name)) for name in chosen))


def _changed(directory: bytes, name: bytes) -> LifecycleError:
    path = directory + b"/" + name if directory else name
    return LifecycleError(f"{shown(path)} changed while it was read: stop what writes there, and try again")
