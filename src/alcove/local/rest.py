"""A session at rest: no process of it is there, and none comes, while its files are looked at from outside."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from msgspec.structs import replace

from alcove.contract import LifecycleError
from alcove.local import control, processes
from alcove.local.operations import Kind, operation
from alcove.local.sessions import LiveSession, Sessions

#: For what was killed a moment ago, and is counted until it is gone.
_GRACE_S = 0.5
_LOOK_EVERY_S = 0.02


@asynccontextmanager
async def at_rest(sessions: Sessions, live: LiveSession, purpose: str) -> AsyncIterator[None]:
    """Hold a session's lock with its cell ended; the next exec makes the cell again, over the same files.

    Raises:
        LifecycleError: something runs in it, or its warden does not answer.
        SessionNotFound: it was terminated meanwhile.
    """
    async with live.lock, sessions.locked(live):
        sessions.refresh(live)
        if live.record.processes is not None:
            await _refuse_running(live, purpose)
            await processes.stop(live.record.processes, live.record.groups)
            live.record = replace(live.record, processes=None)
            sessions.save(live)
        yield


async def _refuse_running(live: LiveSession, purpose: str) -> None:
    """The one place that decides what becomes of a session in which something runs."""
    try:
        until = monotonic() + _GRACE_S
        while (running := await _running(live)) and monotonic() < until:  # noqa: ASYNC110 - no event tells of their end
            await asyncio.sleep(_LOOK_EVERY_S)
    except (ConnectionError, FileNotFoundError):
        return  # no warden, or one on its way out; ending it makes certain
    except OSError as error:
        raise LifecycleError(f"session `{live.id}` does not answer: {error}; try again") from None
    if running:
        raise LifecycleError(
            f"{running} processes run in session `{live.id}` and may be writing: wait for them to {purpose}, "
            f"or end them: alcove exec {live.id} -- kill -9 -- -1"
        )


async def _running(live: LiveSession) -> int:
    return (await control.ask(live.directory, operation(Kind.STATUS))).value
