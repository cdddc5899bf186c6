"""Long copies beside the event loop: a cancelled one stops at its next step, and is waited for."""

from collections.abc import Callable
from typing import TypeVar

from alcove.local.interruption import in_thread
from alcove.state.contents import Progress

T = TypeVar("T")


async def beside(work: Callable[[Progress], T], progress: Progress | None = None) -> T:
    """Do `work` in a thread; it is given what to call with each number of bytes, which is what stops it when cancelled.

    `progress` is called from that thread.
    """
    return await in_thread(lambda interruption: work(interruption.telling(progress)))
