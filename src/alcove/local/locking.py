"""Locks of whole files between processes (flock(2)), waited for without holding up anybody else."""

import asyncio
import fcntl

_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.02


async def exclusively(fd: int) -> None:
    """Lock what is open at `fd` as soon as nobody else has it locked; closing it lets go.

    It is looked at again and again: nobody tells when a lock is let go of, and a thread that waits for one can neither
    be cancelled nor does it leave its place in the pool to whoever has the lock.

    Raises:
        OSError: it cannot be locked.
    """
    pause = _FIRST_PAUSE_S
    while not try_exclusively(fd):
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def try_exclusively(fd: int) -> bool:
    """Lock what is open at `fd`, unless somebody else has it locked; closing it lets go.

    Raises:
        OSError: it cannot be locked.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
