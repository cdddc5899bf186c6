"""The one thread that all servers of a world live in."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """An event loop in a thread of its own; `close` leaves neither, and raises what went wrong inside the servers."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._note)
        self._faults: list[Exception] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="world")
        self._thread.start()

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        fault = context.get("exception")
        # OSError is what a peer does: a reset, a broken handshake
        if isinstance(fault, Exception) and not isinstance(fault, OSError):
            self._faults.append(fault)

    def run(self, work: Coroutine[Any, Any, T], timeout: float = 30.0) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    def soon(self, call: Any, *arguments: Any) -> None:
        self._loop.call_soon_threadsafe(call, *arguments)

    def close(self) -> None:
        try:
            self.run(self._end_tasks())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
        if self._thread.is_alive():
            raise TimeoutError("the loop of the test servers did not stop within 10 s")
        self._loop.close()
        if self._faults:
            raise ExceptionGroup("inside the test servers", self._faults)

    async def _end_tasks(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=15)
        await asyncio.get_running_loop().shutdown_asyncgens()


class Allowance:
    """How much a server may do, given out by the test: `grant` from any thread, `take` on the loop."""

    def __init__(self, thread: LoopThread) -> None:
        self._thread = thread
        self._left = 0
        self._granted = asyncio.Event()

    def grant(self, amount: int = 1) -> None:
        self._thread.soon(self._add, amount)

    def _add(self, amount: int) -> None:
        self._left += amount
        self._granted.set()

    async def take(self, most: int = 1) -> int:
        """Wait until something is granted and return how much of it was taken, `most` at most."""
        while not self._left:
            self._granted.clear()
            await self._granted.wait()
        taken = min(self._left, most)
        self._left -= taken
        return taken
