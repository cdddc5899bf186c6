"""A session at rest: none of its processes writes while its files are looked at from outside."""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from msgspec.structs import replace

from alcove.contract import LifecycleError
from alcove.local.cell import control, processes
from alcove.local.sessions import LiveSession, Sessions
from alcove.local.sleep import freezer, suspension

#: For what was killed a moment ago, and is counted until it is gone.
_GRACE_S = 0.3
_LOOK_EVERY_S = 0.02


@asynccontextmanager
async def at_rest(sessions: Sessions, live: LiveSession, target: str) -> AsyncIterator[None]:
    """Hold a session with nothing in it that can write to the mount at `target`: ended, or else frozen; under its lock.

    Raises:
        LifecycleError: something runs in it, and cannot be frozen; at the end: it did not stand still to the last.
    """
    if await _running(sessions, live, target) is None:
        yield
        return
    async with suspension.held(live):
        yield


async def end_cell(sessions: Sessions, live: LiveSession, target: str) -> None:
    """End a session's cell, which the next exec makes again, if nothing can write to the mount at `target`.

    Raises:
        LifecycleError: something can.
    """
    if why := await _running(sessions, live, target):
        raise LifecycleError(f"{why}: end that, for example: alcove exec {live.id} -- kill -9 -- -1")


async def _running(sessions: Sessions, live: LiveSession, target: str) -> str | None:
    """What there is that can write; None: nothing, and the cell has ended."""
    if processes.alive(live.record.processes):
        try:
            until = monotonic() + _GRACE_S
            while (reply := await _ended(live, target)).processes and monotonic() < until:  # noqa: ASYNC110 - no event
                await asyncio.sleep(_LOOK_EVERY_S)
        except (ConnectionError, FileNotFoundError):
            pass  # its warden is gone, or on its way out; ending it makes certain
        except OSError as error:
            return f"session `{live.id}` does not answer ({error.strerror or error})"
        else:
            if reply.error:
                return _told(live, reply, target)
    else:
        await suspension.end_unrecorded(live)
    await processes.stop(live.record.processes, live.record.groups)
    if live.record.processes is not None:
        live.record = replace(live.record, processes=None)
        sessions.save(live)
    return None


async def _ended(live: LiveSession, target: str) -> control.Reply:
    reply = await freezer.end_if_empty(live.directory, [target])
    if reply.error not in {0, errno.EBUSY}:  # a guest has moved what the mount lies in, and it is not found
        reply = await freezer.end_if_empty(live.directory)
    return reply


def _told(live: LiveSession, reply: control.Reply, target: str) -> str:
    if count := reply.processes + reply.execs:
        return f"{count} processes run in session `{live.id}`"
    return f"somebody holds files of `{target}` open"
