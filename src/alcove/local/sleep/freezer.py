"""A session's processes standing still: its warden writes to the v2 group that they are in (native/freezer.c)."""

import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from alcove.contract import LifecycleError
from alcove.local.cell import control
from alcove.local.cell.launch import CONTROL_SOCKET, connect
from alcove.local.cell.operations import Kind, operation
from alcove.local.readiness import readable

#: Seconds for an answer: the warden itself waits two for the processes to stand still.
_ANSWER_WITHIN_S = 5.0
_REAPED_WITHIN_S = 1.0
_HOLD = operation(Kind.FREEZE)
_FREEZE = operation(Kind.FREEZE, n0=1)
_THAW = operation(Kind.THAW)
_END_IF_EMPTY = operation(Kind.END, n0=1)


@asynccontextmanager
async def held(directory: str) -> AsyncIterator[None]:
    """Hold every process of a session still while inside; whatever ends this process lets go too.

    Raises:
        LifecycleError: at the end: they were let go before it.
        OSError: ENOTSUP where the session has no v2 group, ETIMEDOUT where they did not stop in two seconds, or the
            warden is gone.
    """
    with connect(directory, CONTROL_SOCKET) as connection:
        control.send(connection, _HOLD)
        if not await readable(connection.fileno(), _ANSWER_WITHIN_S):
            raise TimeoutError("the session's warden did not answer")
        _check(control.parse_reply(connection.recv(control.REPLY.size)))
        yield
        if await readable(connection.fileno(), 0):  # nothing comes after the answer but the end
            raise LifecycleError("the session's processes were let go, or ended, while they were held; try again")


async def freeze(directory: str) -> None:
    """Let every process of a session stand still until `thaw`.

    Raises:
        OSError: as in `held`.
    """
    _check(await control.ask(directory, _FREEZE, within=_ANSWER_WITHIN_S))


async def thaw(directory: str) -> None:
    """Undo `freeze`, if it was done; who holds the processes still for itself goes on doing so.

    Raises:
        OSError: the warden is gone.
    """
    _check(await control.ask(directory, _THAW, within=_ANSWER_WITHIN_S))


async def end_if_empty(directory: str, places: Iterable[str] = ()) -> control.Reply:
    """End a session in which nothing runs, so that no exec can begin in between; the reply says what does run.

    `error` is 0 when the cell is gone and the warden about to go, and EBUSY when it stays: at the step `settle` because
    somebody can still write through the mount at one of `places`, a process elsewhere with a descriptor of a file.

    Raises:
        OSError: the warden is gone.
    """
    deadline = time.monotonic() + _REAPED_WITHIN_S
    pause = 0.001
    request = b"".join([_END_IF_EMPTY, *(operation(Kind.READONLY, place) for place in places)])
    while True:
        reply = await control.ask(directory, request, within=_ANSWER_WITHIN_S)
        # a monitor without a command has answered already and ends, or its command is about to be born
        passing = reply.error == errno.EBUSY and reply.step == "processes" and not reply.processes
        if not passing or time.monotonic() > deadline:
            return reply
        await asyncio.sleep(pause)  # nobody is told of a monitor's end
        pause *= 2  # a spawner that is stopped again and again reaps nothing on a busy machine


async def status(directory: str, since_ns: int = 0) -> control.Reply:
    """Who lives in a session, and how long it has stood still since `since_ns` (time.monotonic_ns()).

    Raises:
        OSError: the warden is gone.
    """
    return await control.ask(directory, operation(Kind.STATUS, v0=since_ns), within=_ANSWER_WITHIN_S)


async def stood_still(directory: str, since_ns: int, within: float) -> float:
    """How many seconds a session has stood still since then; what lives in it has no part in how soon that is told.

    Raises:
        OSError: the warden is gone, or does not answer in time.
    """
    request = operation(Kind.STATUS, n0=1, v0=since_ns)
    return (await control.ask(directory, request, within=within)).frozen_ns / 1e9


def _check(reply: control.Reply) -> None:
    if reply.error == errno.ETIMEDOUT:
        raise TimeoutError(reply.error, "its processes did not stand still within 2 s")
    if reply.error:
        raise OSError(reply.error, f"{reply.step}: {os.strerror(reply.error)}")
