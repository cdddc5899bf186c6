"""Sealing: what a session has changed becomes a layer, by renaming where nobody can write to it any more, else by copy.

By renaming: the record tells first which layer the files are on their way into, so that whoever has the session next
brings them back where the one who moved them was killed before it was a layer.
"""

import errno
import os
from contextlib import suppress

from alcove.local.cell import parts
from alcove.local.cell.parts import OUTPUTS, Part
from alcove.local.snapshots import layers
from alcove.local.snapshots.layers import OWNER
from alcove.state.contents import Progress

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def changed(directory: str, *, owned_root: bool) -> list[Part]:
    """The parts of a session, but its outputs, that have anything of their own."""
    return [part for part in parts.renamed(owned_root=owned_root) if _is_used(f"{directory}/{part.upper}")]


def has_outputs(directory: str) -> bool:
    """Whether a session has put anything out."""
    return _is_used(f"{directory}/{OUTPUTS.upper}")


def _is_used(path: str) -> bool:
    with suppress(FileNotFoundError), os.scandir(path) as entries:
        return next(entries, None) is not None
    return False


def move(directory: str, layer: str, moved: list[Part]) -> None:
    """Move parts of a session into a layer, which says from then on whose they are.

    Raises:
        OSError: one cannot be moved; `move_back` undoes the rest.
    """
    with suppress(OSError):  # tmpfs has no attributes before Linux 6.6, and outlives no power cut either
        os.setxattr(layer, OWNER, os.path.basename(directory).encode())
    for part in moved:
        if "/" in part.name:
            with suppress(FileExistsError):
                os.mkdir(f"{layer}/{os.path.dirname(part.name)}", 0o755)
        os.rename(f"{directory}/{part.upper}", f"{layer}/{part.name}")


def move_back(directory: str, layer: str) -> bool:
    """Give a session back what was moved of it; to do so again does no harm. False: there is something else already.

    The layer is the session's no longer once it has all of it back.

    Raises:
        OSError: something cannot be moved.
    """
    whole = True
    for part in parts.renamed(owned_root=True):
        try:
            os.rename(f"{layer}/{part.name}", f"{directory}/{part.upper}")
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            whole = False
    if whole:
        with suppress(OSError):
            os.removexattr(layer, OWNER)
    return whole


def copy(directory: str, layer: int, copied: list[Part], progress: Progress | None = None) -> None:
    """Copy parts of a session in which nobody writes into a layer.

    Raises:
        OSError: something cannot be read or written, for instance for want of space.
        LifecycleError: the tree changed meanwhile.
    """
    from alcove.state.copying import copy_tree

    for part in copied:
        source = os.open(f"{directory}/{part.upper}", _DIRECTORY)
        try:
            target = layers.open_part(layer, part.name, make=True)
            try:
                copy_tree(source, target, progress=progress)
            finally:
                os.close(target)
        finally:
            os.close(source)


def copy_outputs(directory: str, layer: int, progress: Progress | None = None) -> None:
    """Copy a session's outputs into a layer, where they hide those of the layers below.

    Raises:
        OSError: as `copy`.
        LifecycleError: as `copy`.
    """
    from alcove.state.scan import clean, scan

    copy(directory, layer, [OUTPUTS], progress)
    target = layers.open_part(layer, OUTPUTS.name)
    try:
        clean(target, scan(target, lowest=True), keep_set_id=True)
        os.setxattr(target, "user.overlay.opaque", b"y")
    finally:
        os.close(target)


def bring_outputs(source: str, directory: str) -> None:
    """Copy the outputs that a layer has into a session's own, plain directory.

    Raises:
        OSError: as `copy`.
        LifecycleError: as `copy`.
    """
    from alcove.state.copying import copy_tree

    reading = os.open(source, _DIRECTORY)
    try:
        writing = os.open(f"{directory}/{OUTPUTS.upper}", _DIRECTORY)
        try:
            copy_tree(reading, writing)
            with suppress(OSError):
                os.removexattr(writing, "user.overlay.opaque")
        finally:
            os.close(writing)
    finally:
        os.close(reading)
