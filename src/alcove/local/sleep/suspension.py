"""Sessions that sleep: nothing of them is in memory where nothing runs in them, else their processes stand still.

A frozen session's sockets for execs are moved out of the way first, so that whoever comes finds nobody there, looks
closer, and wakes it: an exec on a session that is awake pays nothing for that. All of this under the session's lock.
"""

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING

from msgspec.structs import replace

from alcove.contract import LifecycleError
from alcove.local.cell import cgroups, control, parts, processes
from alcove.local.cell.launch import CLOSED, DEBUG_SOCKET, EXEC_SOCKET
from alcove.local.network.policies import Save
from alcove.local.records import OWNED
from alcove.local.sleep import freezer

if TYPE_CHECKING:
    from alcove.local.sessions import LiveSession

_DOORS = (EXEC_SOCKET, DEBUG_SOCKET)


class Suspension:
    """Puts sessions to sleep and wakes them; `save` writes a session's record."""

    def __init__(self, save: Save) -> None:
        self._save = save

    async def suspend(self, live: "LiveSession") -> None:
        """Put a session to sleep, whatever runs in it; one that sleeps is left at that.

        Raises:
            LifecycleError: processes run in it that this host cannot freeze, or that do not stand still.
        """
        try:
            if not processes.alive(live.record.processes):
                await end_unrecorded(live)
                await self._bury(live)
            elif live.record.frozen:
                await freezer.freeze(live.directory)  # whoever wrote that down may have been killed before it was so
            elif await self._end_if_empty(live) is not None:
                await self._freeze(live)
        except OSError as error:
            raise LifecycleError(f"session `{live.id}` could not be suspended: {error}; try again") from None

    async def suspend_idle(self, live: "LiveSession") -> bool:
        """Put a session to sleep if no command runs in it, and its background processes can be frozen.

        Raises:
            OSError: its warden does not answer.
            LifecycleError: its processes do not stand still.
        """
        if not processes.alive(live.record.processes) or live.record.frozen:
            return True
        execs = await self._end_if_empty(live)
        if execs is None:
            return True
        if execs or live.record.groups.unified is None:
            return False
        await self._freeze(live)
        if (await freezer.status(live.directory)).execs == 0:
            return True
        await self.wake(live)  # a command has begun meanwhile
        return False

    async def rest(self, live: "LiveSession") -> bool:
        """End the processes of a session in which nothing runs and to whose files nobody can write.

        False: something runs in it, or somebody could still write, and all is as it was. A descriptor of one of its
        files can lie with a process elsewhere, so the kernel is asked before the mounts go.
        """
        if not processes.alive(live.record.processes):
            await end_unrecorded(live)
            await processes.stop(live.record.processes, live.record.groups)
            return live.record.settled == _boot()
        try:
            return await self._end_if_settled(live)
        except (ConnectionError, FileNotFoundError):
            # who asked it to end was cancelled, or killed, before it heard the answer; nobody knows what that was
            await processes.stop(live.record.processes, live.record.groups)
        except OSError:
            pass
        return False

    async def _end_if_settled(self, live: "LiveSession") -> bool:
        own = [*parts.renamed(owned_root=live.record.root == OWNED), parts.OUTPUTS]
        targets = [*(part.target for part in own), "/var/tmp"]
        if any(mount.target in targets for mount in live.record.attached):
            return False  # what lies beneath that mount cannot be asked about
        if (await freezer.end_if_empty(live.directory, targets)).error:
            return False
        await self._bury(live, settled=_boot())
        return True

    async def _end_if_empty(self, live: "LiveSession") -> int | None:
        """End the processes of a session in which nothing runs, or return how many commands somebody waits for."""
        if not live.record.frozen and await self._end_if_settled(live):
            return None
        reply = await freezer.end_if_empty(live.directory)
        if reply.error:
            return reply.execs
        await self._bury(live, settled="")
        return None

    async def _bury(self, live: "LiveSession", *, settled: str | None = None) -> None:
        """What is left of a session's processes goes; its files stay, and nobody has written to them if `settled`."""
        await processes.stop(live.record.processes, live.record.groups)
        with suppress(OSError):
            cgroups.remove(live.record.groups)
        forget_closed(live.directory)
        kept = live.record.settled if settled is None else settled
        buried = replace(live.record, processes=None, frozen=False, settled=kept)
        if buried != live.record:
            live.record = buried
            self._save(live)

    # Frozen

    async def _freeze(self, live: "LiveSession") -> None:
        if live.record.groups.unified is None:
            raise _unfreezable(live, (await freezer.status(live.directory)).processes)
        # in this order, so that a kill -9 in between leaves a session that the next exec wakes
        for name in _DOORS:
            with suppress(FileNotFoundError):
                os.rename(f"{live.directory}/{name}", f"{live.directory}/{name}{CLOSED}")
        live.record = replace(live.record, frozen=True)
        self._save(live)
        try:
            await freezer.freeze(live.directory)
        except BaseException as error:
            await asyncio.shield(self.wake(live))
            if isinstance(error, OSError) and error.errno == errno.ENOTSUP:
                raise _unfreezable(live, (await freezer.status(live.directory)).processes) from None
            raise

    async def wake(self, live: "LiveSession") -> None:
        """Let a frozen session go on, and what a kill -9 left half frozen; any other is left as it is.

        Raises:
            LifecycleError: its warden does not answer.
        """
        if live.record.processes is None or not (live.record.frozen or is_closed(live.directory)):
            return
        try:
            await freezer.thaw(live.directory)
        except TimeoutError as error:
            raise LifecycleError(f"session `{live.id}` does not answer: {error}; try again") from None
        except OSError:  # its processes are gone, or on their way out
            return
        if live.record.frozen:
            live.record = replace(live.record, frozen=False)
            self._save(live)
        open_doors(live)


@asynccontextmanager
async def held(live: "LiveSession") -> AsyncIterator[None]:
    """Keep the processes of a session from running, for as long as this lasts; a kill -9 of us ends it too.

    Raises:
        LifecycleError: this host cannot freeze them, or they do not stand still; at the end: they did not to the last.
    """
    if not processes.alive(live.record.processes):
        yield
        return
    async with AsyncExitStack() as holding:
        try:
            await holding.enter_async_context(freezer.held(live.directory))
        except OSError as error:
            raise LifecycleError(
                f"processes run in session `{live.id}` or hold its files open, and cannot be frozen: "
                f"{error.strerror or error}; end them, or delegate a cgroup (`alcove doctor`)"
            ) from None
        yield


def is_closed(directory: str) -> bool:
    """Tell whether nobody can begin an exec in a session because it sleeps, or was to."""
    return os.path.lexists(f"{directory}/{EXEC_SOCKET}{CLOSED}")


def open_doors(live: "LiveSession") -> None:
    """Let execs in again, or for the first time.

    Raises:
        LifecycleError: they stay out; whoever comes next tries again.
    """
    try:
        for name in _DOORS:
            with suppress(FileNotFoundError):
                os.rename(f"{live.directory}/{name}{CLOSED}", f"{live.directory}/{name}")
    except OSError as error:
        raise LifecycleError(f"session `{live.id}` cannot be opened: {error.strerror}; try again") from None


async def end_unrecorded(live: "LiveSession") -> None:
    """End the processes that whoever made them was killed before it wrote down: they listen where a session's do."""
    with suppress(OSError):
        await control.end(live.directory)


def forget_closed(directory: str) -> None:
    """What belonged to processes that are gone."""
    for name in _DOORS:
        with suppress(FileNotFoundError):
            os.unlink(f"{directory}/{name}{CLOSED}")


def _unfreezable(live: "LiveSession", running: int) -> LifecycleError:
    return LifecycleError(
        f"{running} processes run in session `{live.id}` and cannot be frozen, since this host gives this user no "
        "cgroup v2 group: end them first, or delegate a group (`alcove doctor` has the command)"
    )


@cache
def _boot() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
