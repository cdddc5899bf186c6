"""Removing what a guest left behind: any depth, any mode, any number, by descriptors, never following a link."""

import os

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: str, budget: int | None = None) -> bool:
    """Remove a directory of ours and all beneath it; absent is fine. False: more than `budget` entries, not done yet.

    Directories queue up in the topmost one, under numbers: one that lies deep is moved up beside its ancestors, so that
    neither the length of a path nor the number of open descriptors grows with the depth of what a guest made.

    Raises:
        OSError: something cannot be removed, such as a mount point of somebody else's.
    """
    try:
        root = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return True
    try:
        if not _empty(root, budget):
            return False
    finally:
        os.close(root)
    os.rmdir(path)
    return True


def _empty(root: int, budget: int | None) -> bool:
    queued, seen = _unlink_files(root)
    _open_up(root, queued)
    number = 0
    while queued:
        if budget is not None and seen > budget:
            return False
        name = queued.pop()
        fd = os.open(name, _DIRECTORY, dir_fd=root)
        try:
            children, count = _unlink_files(fd)
            _open_up(fd, children)
            seen += count
            for child in children:
                number += 1
                unique = f".removing-{seen}-{number}"  # no guest can name anything in the topmost directory
                os.rename(child, unique, src_dir_fd=fd, dst_dir_fd=root)
                queued.append(unique)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=root)
    return True


def _unlink_files(fd: int) -> tuple[list[str], int]:
    """Unlink everything in a directory that is no directory; return the names of those that are, and a count of all."""
    directories = []
    count = 0
    with os.scandir(fd) as entries:
        for entry in entries:
            count += 1
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=fd)
    return directories, count


def _open_up(parent: int, names: list[str]) -> None:
    """Give ourselves the rights to directories of our own; root has them anyway."""
    if os.geteuid() == 0:
        return
    for name in names:
        os.chmod(name, 0o700, dir_fd=parent)
