"""Sessions that nobody uses: looked at now and then, without cost to those who use them, and put to sleep.

What an exec does to be noticed is nothing that it does not do anyway: the spawner wakes, so the kernel counts a switch.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from alcove.contract import SandboxError, to_json
from alcove.local import records
from alcove.local.cell import cgroups, processes
from alcove.local.locking import try_exclusively
from alcove.local.sessions import LiveSession, decoded
from alcove.local.sleep import freezer
from alcove.local.sleep.suspension import Suspension
from alcove.local.store import Row, Store

#: A session is looked at so many times while it must be idle.
_LOOKS = 4
_LEAST_PAUSE_S = 0.05
#: Looks that are nearly due are made together.
_TOGETHER = 0.1
#: Of one processor: background processes that use less do nothing.
_USES_CPU = 0.01
_TICKS = os.sysconf("SC_CLK_TCK")


class Watched:
    """A session that is to sleep when it has been idle for `timeout` seconds."""

    def __init__(self, row: Row, timeout: float, now: float) -> None:
        self.id = row.id
        self.timeout = timeout
        self.pause = max(timeout / _LOOKS, _LEAST_PAUSE_S)
        self.idle_since = self.looked = self.next = now
        self.seen: tuple[bytes, bytes, str] | None = None
        self.cpu = 0.0


class IdleSessions:
    """The chore: sessions with an `idle_timeout` whose processes are there and run."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._watched: dict[str, Watched] = {}

    def look(self) -> None:
        """Find the sessions to look at."""
        now = time.monotonic()
        for row in self._store.sessions():
            if row.id in self._watched:
                continue
            spec, _ = decoded(row)
            if spec.limits.idle_timeout is not None:
                self._watched[row.id] = Watched(row, spec.limits.idle_timeout.seconds, now)

    async def run_due(self) -> float | None:
        """Look at those that are due; return the seconds until the next is."""
        now = time.monotonic()
        for watched in list(self._watched.values()):
            if watched.next <= now + _TOGETHER * watched.pause and not await self._look_at(watched):
                del self._watched[watched.id]
        if not self._watched:
            return None
        return max(0.0, min(watched.next for watched in self._watched.values()) - time.monotonic())

    async def _look_at(self, watched: Watched) -> bool:
        """Look at one, and put it to sleep when it is time; False: there is nothing to look at any more."""
        row = self._store.find(watched.id)
        if row is None or row.ended is not None:
            return False
        live = LiveSession(row, *decoded(row), self._store.directory(row.key))
        maker = live.record.maker
        if maker is not None and processes.start_time(maker.pid) == maker.started:
            there = True  # or soon
        else:
            there = processes.alive(live.record.processes) and not live.record.frozen
        if not there:
            return False  # whoever wakes it says so
        now = time.monotonic()
        if await self._is_used(watched, live, row, now):
            watched.idle_since = now
        elif now - watched.idle_since >= watched.timeout:
            watched.idle_since = now  # if it does not sleep, somebody uses it
            if await self._put_to_sleep(watched, live):
                return False
        watched.looked = now
        watched.next = min(now + watched.pause, max(watched.idle_since + watched.timeout, now + _LEAST_PAUSE_S))
        return True

    async def _is_used(self, watched: Watched, live: LiveSession, row: Row, now: float) -> bool:
        seen = (row.spec, row.record, _switches(live))
        cpu = await _cpu_used(live)
        used = seen != watched.seen or not seen[2] or cpu - watched.cpu >= _USES_CPU * (now - watched.looked)
        watched.seen, watched.cpu = seen, cpu
        return used

    async def _put_to_sleep(self, watched: Watched, live: LiveSession) -> bool:
        with _locked(live.directory) as ours:
            if not ours:
                return False  # somebody is at it: it is used
            row = self._store.find(live.id)
            if row is None or watched.seen != (row.spec, row.record, _switches(live)):
                return False

            def save(changed: LiveSession, /, *, spec: bool = False) -> None:
                record = records.encode(changed.record)
                self._store.save(changed.id, record=record, spec=to_json(changed.spec) if spec else None)

            try:
                return await Suspension(save).suspend_idle(live)
            except (SandboxError, OSError) as error:
                sys.stderr.write(f"session {live.id}: {error}\n")
                return False


def _switches(live: LiveSession) -> str:
    """How often the spawner has slept and woken: it does so when a command begins or ends. Empty: it cannot be told."""
    if live.record.processes is None:
        return ""
    try:
        with open(f"/proc/{live.record.processes.spawner}/status") as file:
            return next((line for line in file if line.startswith("voluntary_ctxt_switches")), "")
    except OSError:
        return ""


async def _cpu_used(live: LiveSession) -> float:
    """Seconds of processor time that the session has used."""
    used = cgroups.cpu_used(live.record.groups)
    if used is None:
        try:
            used = (await freezer.status(live.directory)).ticks / _TICKS
        except OSError:  # on its way out: the next look sees that
            used = 0.0
    return used


@contextmanager
def _locked(directory: str) -> Iterator[bool]:
    """A session's lock, unless somebody has it."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        yield try_exclusively(fd)
    finally:
        os.close(fd)
