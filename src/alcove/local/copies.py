"""Long copies beside the event loop: a cancelled one stops at its next step, and is waited for."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from alcove.state.contents import Progress

T = TypeVar("T")


class _StoppedError(Exception):
    """Nobody wants the copy any more."""


async def beside(work: Callable[[Progress], T], progress: Progress | None = None) -> T:
    """Do `work` in a thread; it is given what to call with each number of bytes, which is what stops it when cancelled.

    `progress` is called from that thread.
    """
    stop = threading.Event()

    def step(count: int) -> None:
        if stop.is_set():
            raise _StoppedError
        if progress is not None:
            progress(count)

    task = asyncio.ensure_future(asyncio.to_thread(work, step))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        while not task.done():
            with suppress(asyncio.CancelledError):  # once more: what is being written must not be left to itself
                await asyncio.wait({task})
        task.exception()
        raise
