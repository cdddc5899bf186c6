"""What must happen without anybody asking: a service of its own, kept like the egress service, asleep between chores.

It does what the store says is to be done, so that one that was killed is followed by one that goes on; it ends when
nothing is left to do. Whoever makes something to do pokes it.
"""

import asyncio
import socket
import traceback
from collections.abc import Sequence
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
        """Do what is due now; return the seconds until something is, or None when nothing is left to do."""


def chores(store: Store) -> list[Chore]:
    """Every chore of a store."""
    from alcove.local.idleness import IdleSessions

    return [IdleSessions(store)]


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


class _Service:
    def __init__(self, all_chores: Sequence[Chore], listener: socket.socket) -> None:
        self._chores = all_chores
        self._listener = listener
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        for chore in self._chores:
            chore.look()
        idle_since = None
        while True:
            pause = await self._run_due()
            if pause is not None:
                idle_since = None
            elif idle_since is None:
                idle_since = self._loop.time()
            if idle_since is not None:
                pause = idle_since + keeper.LINGER_S - self._loop.time()
                if pause <= 0:
                    return
            if await readable(self._listener.fileno(), pause or 0.0):
                await self._answer()

    async def _run_due(self) -> float | None:
        """Run each chore; one that fails is told of, and does not hinder the others."""
        pauses = []
        for chore in self._chores:
            try:
                pause = await chore.run_due()
            except Exception:  # noqa: BLE001 - a service of ours goes on
                traceback.print_exc()
                pause = _AGAIN_AFTER_S
            if pause is not None:
                pauses.append(pause)
        return min(pauses, default=None)

    async def _answer(self) -> None:
        """Look again for each connection that says so; one that says nothing only asked whether we are there."""
        with suppress(BlockingIOError):
            while True:
                connection, _ = self._listener.accept()
                with connection, suppress(OSError):
                    if await readable(connection.fileno(), _ANSWER_WITHIN_S) and connection.recv(1) == b"p":
                        for chore in self._chores:
                            chore.look()
                        connection.send(b"k")
