"""The descriptors of this process: guests' connections never take the last ones."""

import errno
import os
import resource

#: Kept for what is asked of the service: a guest that exhausts the rest must not be able to keep its policy.
SPARE = 64


def check(fd: int) -> None:
    """Require that `fd`, which is new, is none of those that are kept: the kernel gives the lowest that is free.

    Raises:
        OSError: EMFILE, as if there were no more.
    """
    if fd >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
