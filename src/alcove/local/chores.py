"""What must happen without anybody asking: a service of its own, kept like the egress service, asleep between chores.

It does what the store says is to be done, so that one that was killed is followed by one that goes on; it ends when
nothing is left to do. Whoever makes something to do pokes it.
"""

import asyncio
import socket
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from alcove.contract import LifecycleError
from alcove.local import keeper
from alcove.local.readiness import readable
from alcove.local.store import Store

_ATTEMPTS = 4  # to start a keeper is one
_ANSWER_WITHIN_S = 10.0
#: After a chore that failed: until it is tried again.
_AGAIN_AFTER_S = 5.0


class Chore(Protocol):
    """One kind of thing to be done."""

    def look(self) -> None:
        """Find out from the store what there is to do: at the start, and when somebody has made something."""

    async def run_due(self) -> float | None:
        """Do what is due now; return the seconds until something is, or None when nothing is left to do.

        What takes long is to be done beside the event loop: other chores have their own times. It may be cancelled.
        """


def chores(store: Store) -> list[Chore]:
    """Every chore of a store."""
    from alcove.local.sleep.idleness import IdleSessions
    from alcove.local.snapshots.upkeep import LayerChores

    return [IdleSessions(store), LayerChores(store.root)]


def nudge(root: str) -> None:
    """Say that there is something to do, and wait for nobody: the next who says so catches up with what was missed."""
    with suppress(OSError):
        keeper.nudge(root, keeper.CHORES)


async def poke(root: str) -> None:
    """Say that there is something to do; it is known when this returns.

    Raises:
        LifecycleError: the service does not start, or does not answer.
    """
    with suppress(OSError):
        for _ in range(_ATTEMPTS):  # it may be on its way out, or die
            try:
                connection = keeper.reach(root, keeper.CHORES)
            except OSError:
                await keeper.start(root, keeper.CHORES)
                continue
            with connection, suppress(OSError):
                connection.send(b"p")
                if await readable(connection.fileno(), _ANSWER_WITHIN_S) and connection.recv(1) == b"k":
                    return
    raise LifecycleError(f"the chores service does not answer; {root}/chores.err may tell why")


async def run(root: str, listener: socket.socket) -> None:
    """Do chores until nothing has been left to do for a while."""
    store = Store(root)
    try:
        await _Service(chores(store), listener).run()
    finally:
        store.close()


class _Runner:
    """One chore, at its own pace: one that takes long is in nobody's way."""

    def __init__(self, chore: Chore, tell: Callable[[], None]) -> None:
        self._chore = chore
        self._tell = tell
        self._wanted = asyncio.Event()
        self.idle = False

    def look(self) -> None:
        self._chore.look()
        self.idle = False
        self._wanted.set()

    async def run(self) -> None:
        while True:
            self._wanted.clear()
            pause = await self._run_due()
            self.idle = pause is None and not self._wanted.is_set()
            self._tell()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wanted.wait()

    async def _run_due(self) -> float | None:
        try:
            return await self._chore.run_due()
        except Exception:  # noqa: BLE001 - a service of ours goes on
            traceback.print_exc()
            return _AGAIN_AFTER_S


class _Service:
    def __init__(self, all_chores: Sequence[Chore], listener: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._lingering: asyncio.TimerHandle | None = None
        self._listener = listener
        self._runners = [_Runner(chore, self._settle) for chore in all_chores]
        self._answering: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        for runner in self._runners:
            runner.look()
        running = [self._loop.create_task(runner.run()) for runner in self._runners]
        self._loop.add_reader(self._listener.fileno(), self._accept)
        try:
            await self._over
        finally:
            self._loop.remove_reader(self._listener.fileno())
            for task in running:
                task.cancel()
            await asyncio.gather(*running, *self._answering, return_exceptions=True)

    def _settle(self) -> None:
        """End a while after nothing is left to do."""
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        if all(runner.idle for runner in self._runners):
            self._lingering = self._loop.call_later(keeper.CHORES.linger, self._end)

    def _end(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            while True:
                task = self._loop.create_task(self._answer(self._listener.accept()[0]))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)

    async def _answer(self, connection: socket.socket) -> None:
        """Look again for who says so; a connection that says nothing only asked whether we are there."""
        with connection, suppress(OSError):
            if await readable(connection.fileno(), _ANSWER_WITHIN_S) and connection.recv(1) == b"p":
                if self._over.done():  # it is not looked at any more: whoever asked starts another
                    return
                for runner in self._runners:
                    runner.look()
                self._settle()
                connection.send(b"k")
