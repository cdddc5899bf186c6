"""Processes that stand still, for one holder or for all, and the end of a session in which nothing runs."""

import asyncio
import errno
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path

import pytest
import pytest_asyncio

from alcove.contract import LifecycleError
from alcove.local.cell import control
from alcove.local.cell.launch import CONTROL_SOCKET, connect
from alcove.local.cell.operations import Kind, operation
from alcove.local.sleep import freezer
from tests.local import outside
from tests.local.cell import Cell, mark

pytestmark = [pytest.mark.security]

#: As many as a warden serves at once (native/session.h).
MOST_CONNECTIONS = 64
#: Writes the monotonic clock to a file for as long as it lives.
TICKER = """
import os, sys, time
while True:
    with open("/workspace/next", "w") as file:
        file.write(str(time.monotonic_ns()))
    os.rename("/workspace/next", "/workspace/now")
    time.sleep(0.002)
"""
HOLDER = """
import asyncio, os, signal, sys
from alcove.local.sleep import freezer
async def hold():
    async with freezer.held(sys.argv[1]):
        print("held", flush=True)
        await asyncio.get_running_loop().create_future()
asyncio.run(hold())
"""


class Ticking:
    """A session with a background process, seen from the host."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.directory = str(cell.directory)
        self._file = cell.directory / "workspace" / "now"

    def last(self) -> int:
        try:
            return int(self._file.read_text())
        except FileNotFoundError:
            return 0

    async def goes_on(self) -> None:
        last = self.last()
        await outside.until(lambda: self.last() > last, "it stands still")

    def stands_still(self) -> bool:
        """Whether no tick comes in the time of twenty."""
        before = self.last()
        time.sleep(0.05)  # nothing is to happen: there is nothing to wait for
        return self.last() == before

    def events(self) -> str:
        unified = outside.groups(self.cell.native("spawner"))[""] + "/cgroup.events"
        (place,) = (path for path in Path("/sys/fs/cgroup").glob("**/cgroup.events") if str(path).endswith(unified))
        return place.read_text()


@pytest_asyncio.fixture
async def ticking(cell: Cell) -> AsyncIterator[Ticking]:
    await cell.sh('/usr/bin/python3 -c "$1" >/dev/null 2>&1 &', TICKER)
    ticking = Ticking(cell)
    await ticking.goes_on()
    yield ticking


def count_of_descriptors(pid: int) -> int:
    return len(outside.descriptors(pid))


@pytest.mark.root
class TestHeld:
    """By a connection."""

    async def test_nothing_of_the_session_runs_inside_and_all_does_after(self, ticking: Ticking) -> None:
        async with freezer.held(ticking.directory):
            assert ticking.stands_still()
            assert "frozen 1" in ticking.events()
            assert (await freezer.status(ticking.directory)).frozen
        await ticking.goes_on()
        assert not (await freezer.status(ticking.directory)).frozen
        assert "frozen 0" in ticking.events()

    async def test_an_exec_waits_for_the_end_of_the_hold(self, ticking: Ticking) -> None:
        async with freezer.held(ticking.directory):
            running = asyncio.ensure_future(ticking.cell.out("echo done"))
            await asyncio.sleep(0.05)  # nothing is to happen
            assert not running.done()
        assert await running == "done\n"

    async def test_two_holds_end_with_the_second(self, ticking: Ticking) -> None:
        async with freezer.held(ticking.directory):
            async with freezer.held(ticking.directory):
                pass
            assert ticking.stands_still()
        await ticking.goes_on()

    async def test_a_hold_on_a_frozen_session_does_not_thaw_it(self, ticking: Ticking) -> None:
        await freezer.freeze(ticking.directory)
        async with freezer.held(ticking.directory):
            pass
        assert ticking.stands_still()
        await freezer.thaw(ticking.directory)
        await ticking.goes_on()

    async def test_a_thaw_leaves_a_hold(self, ticking: Ticking) -> None:
        async with freezer.held(ticking.directory):
            await freezer.freeze(ticking.directory)
            await freezer.freeze(ticking.directory)
            await freezer.thaw(ticking.directory)
            assert ticking.stands_still()
        await ticking.goes_on()

    async def test_a_holder_that_is_killed_lets_go_within_a_second(self, ticking: Ticking) -> None:
        holder = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HOLDER, ticking.directory, stdout=asyncio.subprocess.PIPE
        )
        assert holder.stdout
        assert await holder.stdout.readline() == b"held\n"
        assert ticking.stands_still()
        holder.kill()
        before = time.monotonic()
        await ticking.goes_on()
        assert time.monotonic() - before < 1.0
        await holder.wait()

    async def test_a_hundred_holds_come_and_go(self, ticking: Ticking) -> None:
        """More than the warden has room for: the oldest give way, and none is left behind."""
        warden = ticking.cell.native("warden")
        before = count_of_descriptors(warden)

        async def hold() -> None:
            with suppress(OSError):
                async with freezer.held(ticking.directory):
                    await asyncio.sleep(0)

        await asyncio.gather(*(hold() for _ in range(100)))
        await ticking.goes_on()
        await outside.until(lambda: count_of_descriptors(warden) == before)

    async def test_whoever_comes_does_not_take_the_place_of_a_hold(self, ticking: Ticking) -> None:
        before = count_of_descriptors(ticking.cell.native("warden"))
        async with freezer.held(ticking.directory):
            for _ in range(3):
                with ExitStack() as idle:
                    for _ in range(MOST_CONNECTIONS):
                        idle.enter_context(connect(ticking.directory, CONTROL_SOCKET))
                    assert (await freezer.status(ticking.directory)).frozen
            assert ticking.stands_still()
        await ticking.goes_on()
        await outside.until(lambda: count_of_descriptors(ticking.cell.native("warden")) == before)

    async def test_where_all_hold_nobody_else_is_let_in(self, ticking: Ticking) -> None:
        async with AsyncExitStack() as holding:
            for _ in range(MOST_CONNECTIONS):
                await holding.enter_async_context(freezer.held(ticking.directory))
            with pytest.raises(ConnectionError):
                await freezer.status(ticking.directory)
            assert ticking.stands_still()
        await ticking.goes_on()

    async def test_a_hold_that_did_not_last_says_so(self, ticking: Ticking) -> None:
        async def hold() -> None:
            async with freezer.held(ticking.directory):
                os.kill(ticking.cell.native("warden"), signal.SIGKILL)
                await outside.until(lambda: not outside.bearing(TICKER))

        with pytest.raises(LifecycleError, match="try again"):
            await hold()

    async def test_what_a_guest_stopped_or_waits_for_its_child_can_be_held(self, ticking: Ticking) -> None:
        number = mark()
        await ticking.cell.sh('sleep "$1" & kill -STOP $!', number)
        await ticking.cell.sh('/usr/bin/python3 -c "$1" "$2" >/dev/null 2>&1 &', WAITS_IN_VFORK, number)
        await outside.until(lambda: len(outside.bearing(number)) >= 2)
        async with freezer.held(ticking.directory):
            assert ticking.stands_still()
        await ticking.goes_on()


WAITS_IN_VFORK = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
if libc.syscall(56, 0x4000 | 17, 0, 0, 0, 0) == 0:  # CLONE_VFORK: the parent sleeps without signals
    libc.pause()
"""


@pytest.mark.root
class TestFrozen:
    """Until it is thawed."""

    async def test_its_time_is_told(self, ticking: Ticking) -> None:
        began = time.monotonic_ns()
        async with freezer.held(ticking.directory):
            pass
        await freezer.freeze(ticking.directory)
        inside = time.monotonic_ns()
        assert ticking.stands_still()
        told = (await freezer.status(ticking.directory, began)).frozen_ns
        assert 0 < time.monotonic_ns() - inside <= told + 10_000_000
        await freezer.thaw(ticking.directory)
        whole = (await freezer.status(ticking.directory, began)).frozen_ns
        assert told < whole < time.monotonic_ns() - began
        assert (await freezer.status(ticking.directory, began)).frozen_ns == whole
        assert (await freezer.status(ticking.directory, time.monotonic_ns())).frozen_ns == 0

    async def test_the_sum_of_many_spells_is_right(self, ticking: Ticking) -> None:
        began, sum_of_all = time.monotonic_ns(), 0
        for _ in range(50):
            before = (await freezer.status(ticking.directory, began)).frozen_ns
            await freezer.freeze(ticking.directory)
            await freezer.thaw(ticking.directory)
            after = (await freezer.status(ticking.directory, began)).frozen_ns
            assert after > before
            sum_of_all = after
        assert 0 < sum_of_all < time.monotonic_ns() - began

    async def test_it_outlives_who_asked_for_it(self, ticking: Ticking) -> None:
        program = "import asyncio, sys; from alcove.local.sleep.freezer import freeze; asyncio.run(freeze(sys.argv[1]))"
        assert (
            await (await asyncio.create_subprocess_exec(sys.executable, "-c", program, ticking.directory)).wait() == 0
        )
        assert ticking.stands_still()
        await freezer.thaw(ticking.directory)
        await ticking.goes_on()

    async def test_no_spawner_is_born_into_it(self, ticking: Ticking) -> None:
        await freezer.freeze(ticking.directory)
        reply = await control.ask(ticking.directory, operation(Kind.SPAWNER, n0=1))
        assert (reply.error, reply.step) == (errno.EBUSY, "frozen")
        await freezer.thaw(ticking.directory)
        await ticking.goes_on()

    @pytest.mark.parametrize("how", ["terminated", "the warden killed", "init killed", "the spawner killed"])
    async def test_it_ends_as_soon_as_any(self, ticking: Ticking, how: str) -> None:
        await freezer.freeze(ticking.directory)
        cell = ticking.cell
        key = cell.directory.name
        roles = {"the warden killed": "warden", "init killed": "init", "the spawner killed": "spawner"}
        before = time.monotonic()
        if role := roles.get(how):
            os.kill(cell.native(role), signal.SIGKILL)
        else:
            await cell.backend.terminate(cell.id)
        await outside.until(lambda: not [role for role in ("spawner", "init") if outside.called(f"alcove-{role}", key)])
        await outside.until(lambda: not outside.bearing(TICKER))
        assert time.monotonic() - before < 2.0 + outside.SLACK


@pytest.mark.user
class TestEndIfEmpty:
    """The end of a session in which nothing runs."""

    async def test_an_empty_one_ends_and_the_next_exec_brings_it_back(self, cell: Cell) -> None:
        await cell.sh("echo kept >file")
        assert (await freezer.end_if_empty(str(cell.directory))).error == 0
        assert await cell.out("cat file") == "kept\n"

    async def test_one_with_a_process_stays(self, cell: Cell) -> None:
        number = mark()
        await cell.sh('sleep "$1" >/dev/null 2>&1 &', number)
        await outside.one(number)
        reply = await freezer.end_if_empty(str(cell.directory))
        assert (reply.error, reply.step, reply.processes, reply.execs) == (errno.EBUSY, "processes", 1, 0)
        assert outside.bearing(number)
        assert await cell.out("echo goes on") == "goes on\n"

    async def test_one_with_an_exec_stays(self, cell: Cell) -> None:
        number = mark()
        running = asyncio.ensure_future(cell.sh('exec sleep "$1"', number))
        await outside.one(number)
        status = await freezer.status(str(cell.directory))
        assert (status.processes, status.execs) == (1, 1)
        reply = await freezer.end_if_empty(str(cell.directory))
        assert (reply.error, reply.processes, reply.execs) == (errno.EBUSY, 1, 1)
        os.kill(await outside.one(number), signal.SIGTERM)
        assert (await running).exit_code == 143

    async def test_a_guest_cannot_pass_for_a_monitor(self, cell: Cell) -> None:
        number = mark()
        await cell.sh('cp /bin/sleep alcove-exec; ./alcove-exec "$1" >/dev/null 2>&1 &', number)
        await outside.one(number)
        status = await freezer.status(str(cell.directory))
        assert (status.processes, status.execs) == (1, 0)

    async def test_execs_that_begin_meanwhile_all_succeed(self, cell: Cell) -> None:
        """None is lost to an end: each has begun, or is told to begin again."""
        ended = 0
        for _ in range(20):
            ends = asyncio.ensure_future(freezer.end_if_empty(str(cell.directory)))
            assert await asyncio.gather(*(cell.out("echo x") for _ in range(4))) == ["x\n"] * 4
            with suppress(OSError):
                ended += (await ends).error == 0
        assert ended


@pytest.mark.user(only=True)
async def test_without_a_group_nothing_can_be_frozen(cell: Cell) -> None:
    if cell.backend._host.hierarchies.unified is not None:
        pytest.fail("this plain user has a group of its own: see docs/isolation.md")
    with pytest.raises(OSError, match=f"{errno.ENOTSUP}.*freeze"):
        await freezer.freeze(str(cell.directory))
