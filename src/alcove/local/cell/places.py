"""A session's directories on disk: made for a new one, completed where its files went into a layer, removed unused."""

import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress

from alcove.local.cell import parts
from alcove.local.cell.launch import CLOSED, CONTROL_SOCKET, EXEC_SOCKET
from alcove.local.cell.parts import OUTPUTS

_MEMORY = "memory"
# every user of a session may write here; nobody else of the host comes as far as these directories
_MODES = {"tmp": 0o1777, "workspace": 0o777, "outputs": 0o777}


def make(
    directory: str,
    layers: str,
    below: Mapping[str, tuple[str, ...]],
    *,
    owned_root: bool,
    owner: int | None,
    own: str | None = None,
) -> bool:
    """Make what a session needs and has not; True: it had nothing yet.

    With `owner`, the ids on disk are those of its range. With `own`, what the guest writes lies there.

    A part over layers begins with the mode and the owner that it has in the topmost of those.

    Raises:
        OSError: one cannot be made.
    """
    fresh = True
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        fresh = False
    _make(f"{directory}/{_MEMORY}", None, owner)
    directory = own or directory
    _make(f"{directory}/{OUTPUTS.upper}", _MODES[OUTPUTS.upper], owner)
    for part in parts.renamed(owned_root=owned_root):
        if part.upper.startswith("layers/"):
            for above in ("layers", os.path.dirname(part.upper)):
                _make(f"{directory}/{above}", None, owner)
        keys = below.get(part.name)
        if keys or part.upper.startswith("layers/"):
            _make(f"{directory}/{part.work}", None, owner)
        if _make(f"{directory}/{part.upper}", _MODES.get(part.name), owner) and keys:
            _dress(f"{directory}/{part.upper}", f"{layers}/{keys[0]}/{part.name}")
    return fresh


def has_files(directory: str) -> bool:
    """Whether a session's own files are where they belong; after a snapshot they are not, until it is begun again."""
    return all(os.path.isdir(f"{directory}/{part.upper}") for part in parts.OWN)


def _make(path: str, mode: int | None, owner: int | None) -> bool:
    try:
        os.mkdir(path)
    except FileExistsError:
        return False
    if mode is not None:
        os.chmod(path, mode)
    if owner is not None:
        os.chown(path, owner, owner)
    return True


def _dress(upper: str, like: str) -> None:
    found = os.stat(like, follow_symlinks=False)
    os.chmod(upper, stat.S_IMODE(found.st_mode))
    if os.geteuid() == 0:
        os.chown(upper, found.st_uid, found.st_gid)


def remove_unused(directory: str, *, owned_root: bool) -> None:
    """Remove what no guest has been in, by name: where descriptors have run out, this still works."""
    names = [_MEMORY, OUTPUTS.upper]
    for part in parts.renamed(owned_root=owned_root):
        names += [part.upper, part.work]
    names += [os.path.dirname(part.upper) for part in parts.owned()] if owned_root else []
    _remove_empty(directory, (*names, *(["layers"] if owned_root else [])))


def remove_plain(directory: str, *, layered: bool) -> None:
    """Remove what is empty of a session that is on its way out, but no upper directory of an overlay.

    Its cell may still be there: nobody makes anything in a directory that has been removed. Whoever lets go of such a
    directory last frees its block, and on a disk with `discard` waits for that; here this is the cell as it goes.
    """
    plain = () if layered else tuple(part.upper for part in parts.OWN)
    _remove_empty(directory, (_MEMORY, OUTPUTS.upper, *plain))


def _remove_empty(directory: str, names: Iterable[str]) -> None:
    for name in (CONTROL_SOCKET, EXEC_SOCKET, f"{EXEC_SOCKET}{CLOSED}"):
        with suppress(OSError):
            os.unlink(f"{directory}/{name}")
    for name in names:
        with suppress(OSError):
            os.rmdir(f"{directory}/{name}")
    with suppress(OSError):
        os.rmdir(directory)
