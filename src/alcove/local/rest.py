"""A session at rest: no process of it is there, and none comes, while its files are looked at from outside."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec.structs import replace

from alcove.contract import LifecycleError
from alcove.local import control, processes
from alcove.local.operations import Kind, operation
from alcove.local.sessions import LiveSession, Sessions


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
        running = (await control.ask(live.directory, operation(Kind.STATUS))).value
    except (ConnectionError, FileNotFoundError):
        return  # no warden, or one on its way out; ending it makes certain
    except OSError as error:
        raise LifecycleError(f"session `{live.id}` does not answer: {error}; try again") from None
    if running:
        raise LifecycleError(
            f"{running} processes run in session `{live.id}` and may be writing: wait for them to {purpose}, "
            f"or end them: alcove exec {live.id} -- kill -9 -1"
        )
