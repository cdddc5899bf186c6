"""A file that takes its place whole, or not at all."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from secrets import token_hex
from typing import BinaryIO

# Linux has no unnamed files everywhere (NFS, some FUSE)
_NO_UNNAMED = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL})


@contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """Yield a new file that replaces what is at `path` when the block ends well; links are followed.

    It has no name until then, so that nothing is left after a kill -9, and is its owner's alone unless the one that it
    replaces was not.

    Raises:
        OSError: it cannot be made, or not take the place.
    """
    place, target = os.path.split(os.path.realpath(path))
    temporary = f".{target[:200]}.{token_hex(6)}"
    with ExitStack() as opened:
        directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, directory)
        fd, named = _new(directory, temporary)
        opened.callback(os.close, fd)
        try:
            with open(fd, "wb", closefd=False) as file:
                yield file
            os.fsync(fd)
            with suppress(FileNotFoundError):
                os.fchmod(fd, stat.S_IMODE(os.stat(target, dir_fd=directory).st_mode))
            if not named:
                # linkat() replaces nothing: it gets a name of its own first. Without a dir_fd os.link() follows no link
                os.link(f"/proc/self/fd/{fd}", temporary, dst_dir_fd=directory, follow_symlinks=True)
                named = True
            os.replace(temporary, target, src_dir_fd=directory, dst_dir_fd=directory)
            named = False
        finally:
            if named:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=directory)


def _new(directory: int, temporary: str) -> tuple[int, bool]:
    """A file in a directory, and whether it has a name there."""
    try:
        return os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=directory), False
    except OSError as error:
        if error.errno not in _NO_UNNAMED:
            raise
    return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory), True
