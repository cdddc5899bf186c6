"""Taking away what a kill -9 or a power cut left half made or half removed, and giving back what it left on its way."""

import asyncio
import os
from contextlib import suppress
from functools import partial

from alcove.contract import LifecycleError, SandboxError, SandboxIoError, SessionNotFound
from alcove.local.cell import processes
from alcove.local.removal import remove_tree
from alcove.local.sessions import ENDING, LiveSession, Sessions, decoded
from alcove.local.store import Store


async def sweep(store: Store, sessions: Sessions) -> None:
    """Sweep a store; sessions that live are left alone.

    Raises:
        LifecycleError: something of a session cannot be removed; all else is.
        OSError: something that is no session's cannot be removed.
        SandboxIoError: the store cannot be read or written; or a process cannot be looked at, and all else is done.
    """
    rows = store.sessions()
    failure: SandboxError | None = None
    for row in rows:
        try:
            if sessions.unmade(row):
                await sessions.sweep_row(row)
        except (LifecycleError, SandboxIoError) as error:
            failure = error
    await _sweep_passing(store, sessions)
    sealing = {key for row in rows if (key := decoded(row)[1].sealing)}
    await sessions.layers.sweep(sealing, partial(give_back, store, sessions))
    known = {row.key for row in rows}
    for name in os.listdir(f"{store.root}/sessions"):
        key = name.removesuffix(ENDING)
        if name != key and key not in known:
            with suppress(OSError):  # somebody is at it, or it will be tried again
                await asyncio.to_thread(remove_tree, store.directory(name))
    if not sessions.layers.all_durable():
        from alcove.local import chores

        chores.nudge(store.root)
    if failure is not None:
        raise failure


async def give_back(store: Store, sessions: Sessions, key: str, name: str) -> bool:
    """Give a session what was moved into a layer that the store knows nothing of; False: nobody can take it.

    A power cut can take the last that was written to the database along, and leave what was renamed before it.
    """
    row = next((row for row in store.sessions() if row.key == key), None)
    if row is None:
        return False
    live = LiveSession(row, *decoded(row), store.directory(key))
    try:
        async with sessions.locked(live):
            sessions.refresh(live)
            return not processes.alive(live.record.processes) and sessions.move_back(live, name)
    except SessionNotFound:
        return False


async def _sweep_passing(store: Store, sessions: Sessions) -> None:
    """A fork that a kill -9 ended has left the snapshot that it took for itself."""
    table = sessions.layers.table
    left = [one for one, pid, started in table.passing() if processes.start_time(pid) != started]
    for snapshot_id in left:
        with store.transaction():
            table.remove(snapshot_id)
    if left:
        await sessions.layers.collect()
