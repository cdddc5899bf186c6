"""Waiting for a descriptor, within a bound: what is there already costs no turn of the event loop."""

import asyncio
import select


async def readable(fd: int, within: float) -> bool:
    """Wait until a read of `fd` would not block, a pidfd until its process has ended; False: not within the bound."""
    if _at_once(fd):
        return True
    loop = asyncio.get_running_loop()
    waiting: asyncio.Future[bool] = loop.create_future()

    def tell(answer: bool) -> None:
        if not waiting.done():
            waiting.set_result(answer)

    timer = loop.call_later(within, tell, False)
    try:
        loop.add_reader(fd, tell, True)
        return await waiting
    finally:
        loop.remove_reader(fd)
        timer.cancel()


def _at_once(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
