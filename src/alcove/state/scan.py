"""What would poison an overlay made over a layer, or would give a guest more than it has: found, and taken away.

A guest writes a plain directory as it likes, so that all of an overlay's own there is forged. The upper directory of an
overlay is written by the kernel alone, which puts another prefix before what a guest calls `user.overlay.*`; nothing
else than what the kernel leaves there is to be trusted (Documentation/filesystems/overlayfs.rst; crafted `redirect` and
`metacopy` attributes show files of other layers).
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from enum import Enum
from secrets import token_hex

from msgspec import Struct

from alcove.contract import LifecycleError
from alcove.state.descent import CHANGE, READ, Descent, directories, lent, open_file
from alcove.state.walk import is_whiteout, shown

_SET_ID = stat.S_ISUID | stat.S_ISGID
_CAPABILITY = "security.capability"
_OVERLAYS = ("user.overlay.", "trusted.overlay.")
# `uuid` is on the topmost directory of every upper layer since Linux 6.6; only an upper layer's is ever looked at
_KERNELS = frozenset(f"user.overlay.{name}" for name in ("impure", "opaque", "origin", "uuid", "whiteout"))
_EXAMPLES = 5


class Trouble(Enum):
    """What is found; the values are for messages."""

    OVERLAY = "overlay attribute"
    WHITEOUT = "whiteout in a plain directory"
    CAPABILITY = "file capability"
    SET_ID = "set-id bit"
    SOCKET = "socket"
    DEVICE = "device node"


class Findings(Struct, frozen=True):
    """How often each trouble is in a layer, and the first few of them by path."""

    lowest: bool
    counts: dict[Trouble, int]
    examples: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.counts)


class _Found:
    """One trouble where it is: `file` is the file or the directory itself, if that could be opened."""

    __slots__ = ("descent", "file", "name", "names", "trouble")

    def __init__(self, trouble: Trouble, descent: Descent, name: str, file: int, names: list[str]) -> None:
        self.trouble = trouble
        self.descent = descent
        self.name = name
        self.file = file
        self.names = names

    def __str__(self) -> str:
        path = b"/".join(part for part in (self.descent.path, os.fsencode(self.name)) if part)
        return f"{shown(path)}: {self.trouble.value}{''.join(f' {name!r}' for name in self.names)}"


def scan(layer: int, *, lowest: bool) -> Findings:
    """Look for trouble in a layer; no file is read.

    `lowest`: it is plain files, with no layer below, and not an overlay's upper directory.

    Raises:
        OSError: something cannot be opened.
        LifecycleError: the tree changed meanwhile.
    """
    counts: Counter[Trouble] = Counter()
    examples: list[str] = []
    for found in _troubles(layer, READ, lowest=lowest):
        counts[found.trouble] += 1
        if len(examples) < _EXAMPLES:
            examples.append(str(found))
    return Findings(lowest, dict(counts), tuple(examples))


def clean(layer: int, findings: Findings, *, keep_set_id: bool = False) -> None:
    """Take away what a scan of the layer found, by looking for it again; sockets too, as nobody is at them any more.

    A socket of an upper layer leaves a whiteout: what it hid in a layer below stays hidden.

    Raises:
        LifecycleError: there are device nodes, which no guest of ours can make; nothing was changed for them.
        OSError: something cannot be changed.
    """
    if findings.counts.get(Trouble.DEVICE):
        raise LifecycleError(
            f"a layer has device nodes, which no session can make ({'; '.join(findings.examples)}): "
            "it was changed from outside, so delete the snapshot or remove them"
        )
    if not findings:
        return
    for found in _troubles(layer, CHANGE, lowest=findings.lowest):
        _take_away(found, lowest=findings.lowest, keep_set_id=keep_set_id)


def _troubles(layer: int, rights: int, *, lowest: bool) -> Iterator[_Found]:
    for descent, entries in directories(layer, rights):
        if names := _forged(os.listxattr(descent.fd), lowest=lowest):
            yield _Found(Trouble.OVERLAY, descent, "", descent.fd, names)
        for item in entries:
            if item.is_file(follow_symlinks=False):
                file = open_file(item.name, descent.fd)
                try:
                    yield from _file_troubles(descent, item.name, file, lowest=lowest)
                finally:
                    os.close(file)
            elif not item.is_dir(follow_symlinks=False) and not item.is_symlink():
                yield from _other_troubles(descent, item, lowest=lowest)


def _file_troubles(descent: Descent, name: str, file: int, *, lowest: bool) -> Iterator[_Found]:
    mode = os.fstat(file).st_mode
    names = os.listxattr(file)
    if names:
        if _CAPABILITY in names:
            yield _Found(Trouble.CAPABILITY, descent, name, file, [])
        if forged := _forged(names, lowest=lowest):
            yield _Found(Trouble.OVERLAY, descent, name, file, forged)
    if mode & _SET_ID:
        yield _Found(Trouble.SET_ID, descent, name, file, [])


def _other_troubles(descent: Descent, item: "os.DirEntry[str]", *, lowest: bool) -> Iterator[_Found]:
    found = item.stat(follow_symlinks=False)
    if stat.S_ISSOCK(found.st_mode):
        yield _Found(Trouble.SOCKET, descent, item.name, -1, [])
    elif is_whiteout(found):
        if lowest:
            yield _Found(Trouble.WHITEOUT, descent, item.name, -1, [])
    elif stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
        yield _Found(Trouble.DEVICE, descent, item.name, -1, [])


def _forged(names: list[str], *, lowest: bool) -> list[str]:
    return [name for name in names if name.startswith(_OVERLAYS) and (lowest or name not in _KERNELS)]


def _take_away(found: _Found, *, lowest: bool, keep_set_id: bool) -> None:
    match found.trouble:
        case Trouble.OVERLAY:
            with lent(found.file, stat.S_IWUSR):
                for name in found.names:
                    os.removexattr(found.file, name)
        case Trouble.CAPABILITY | Trouble.SET_ID:
            _make_ordinary(found.file, keep_set_id=keep_set_id)
        case Trouble.SOCKET if not lowest:
            _white_out(found.name, found.descent.fd)
        case Trouble.SOCKET | Trouble.WHITEOUT:
            os.unlink(found.name, dir_fd=found.descent.fd)
        case Trouble.DEVICE:
            raise LifecycleError(f"a layer has a device node that was not there before ({found}): delete the snapshot")


def _make_ordinary(file: int, *, keep_set_id: bool) -> None:
    """Take a file's capabilities away, which a change of owner does even where the same as an attribute is refused."""
    mode = stat.S_IMODE(os.fstat(file).st_mode)
    os.fchown(file, -1, -1)
    os.fchmod(file, mode if keep_set_id else mode & ~_SET_ID)


def _white_out(name: str, parent: int) -> None:
    # by renaming: at no moment does what lies below show
    new = f".whiteout-{token_hex(8)}"
    os.mknod(new, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
    os.rename(new, name, src_dir_fd=parent, dst_dir_fd=parent)
