"""Taking back what was begun: everything in a directory of ours, by descriptors, at any depth."""

import os

from alcove.state.descent import CHANGE, Descent


def empty(top: int) -> None:
    """Remove all that the directory `top` has in it.

    Raises:
        OSError: something cannot be removed.
        LifecycleError: the tree changed meanwhile.
    """
    descent = Descent(top, CHANGE)
    try:
        way: list[str] = []
        below = [_clear(descent.fd)]
        while below:
            if below[-1]:
                way.append(below[-1].pop())
                descent.enter(way[-1])
                below.append(_clear(descent.fd))
                continue
            below.pop()
            if way:
                descent.leave()
                os.rmdir(way.pop(), dir_fd=descent.fd)
    finally:
        descent.close()


def _clear(fd: int) -> list[str]:
    """Remove everything from a directory but the directories in it; return their names."""
    names = []
    with os.scandir(fd) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                names.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=fd)
    return names
