"""Sessions that nobody uses go to sleep by themselves, and no other does."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from alcove.contract import FilesystemMount, Limited, ResourceLimits, SandboxSpec, SandboxState
from alcove.local import keeper
from alcove.local.backend import LocalSandbox
from tests import keeping
from tests.local import outside
from tests.local.cell import Cell, live, mark

pytestmark = [pytest.mark.security]

IDLE_S = 0.5
#: Long enough that a session without work would have slept; a busy machine's looks come late, never early.
WELL_OVER_S = 3 * IDLE_S
BURNS = "while True: pass"
#: Uses more than one hundredth of a processor, in bursts with sleep between, by children that end.
BURSTS = """
import subprocess, time
while True:
    subprocess.run(["/usr/bin/python3", "-c", "sum(range(100000))"])
    time.sleep(0.05)
"""


def spec(idle: float = IDLE_S) -> SandboxSpec:
    return SandboxSpec(network_policy=Limited(), limits=ResourceLimits(idle_timeout=idle))


@pytest_asyncio.fixture
async def idling(store: Path, backend: LocalSandbox) -> AsyncIterator[Cell]:
    async with live(backend, spec()) as cell:
        yield cell
    keeping.end(store)


def state(cell: Cell) -> SandboxState:
    return cell.backend.session(cell.id).state


async def falls_asleep(cell: Cell) -> None:
    await outside.until(lambda: state(cell) is SandboxState.SUSPENDED, "it does not sleep")


async def stays_awake(cell: Cell, seconds: float = WELL_OVER_S) -> None:
    """Require that it does not sleep for so long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert state(cell) is SandboxState.RUNNING
        await asyncio.sleep(0.02)


def natives(cell: Cell) -> list[int]:
    return [
        pid for role in ("warden", "spawner", "init") for pid in outside.called(f"alcove-{role}", cell.directory.name)
    ]


@pytest.mark.user
class TestAnIdleSession:
    """Nothing happens in it."""

    async def test_it_sleeps_and_wakes_and_sleeps(self, idling: Cell) -> None:
        await idling.sh("echo kept >file")
        began = time.monotonic()
        await falls_asleep(idling)
        assert time.monotonic() - began > IDLE_S * 0.9
        await outside.until(lambda: not natives(idling))
        assert await idling.out("cat file") == "kept\n"
        assert state(idling) is SandboxState.RUNNING
        await falls_asleep(idling)

    async def test_it_is_told_in_the_limits(self, idling: Cell) -> None:
        assert "idle_timeout=0.5s" in idling.session.metadata["limits"].split(",")
        assert idling.backend.capabilities().suspend_on_idle

    async def test_another_session_beside_it_goes_on(self, idling: Cell) -> None:
        async with live(idling.backend) as other:
            await falls_asleep(idling)
            assert state(other) is SandboxState.RUNNING

    async def test_many_sleep_at_once(self, store: Path, backend: LocalSandbox) -> None:
        sessions = await asyncio.gather(*(backend.provision(spec()) for _ in range(12)))
        cells = [Cell(backend, session) for session in sessions]
        await asyncio.gather(*(falls_asleep(cell) for cell in cells))
        assert [await cell.out("echo x") for cell in cells] == ["x\n"] * 12
        await asyncio.gather(*(backend.terminate(session.id) for session in sessions))
        keeping.end(store)


@pytest.mark.user
class TestAUsedSession:
    """Something happens in it."""

    async def test_a_command_that_runs_keeps_it_awake(self, idling: Cell) -> None:
        running = asyncio.ensure_future(idling.sh(f"exec sleep {WELL_OVER_S}"))
        while not running.done():
            assert state(idling) is SandboxState.RUNNING
            await asyncio.sleep(0.02)
        assert (await running).success
        await falls_asleep(idling)

    async def test_commands_now_and_then_keep_it_awake(self, idling: Cell) -> None:
        deadline = time.monotonic() + WELL_OVER_S
        while time.monotonic() < deadline:
            await idling.sh("true")
            await stays_awake(idling, IDLE_S / 3)
        await falls_asleep(idling)

    async def test_attaches_keep_it_awake(self, idling: Cell) -> None:
        deadline, number = time.monotonic() + WELL_OVER_S, 0
        while time.monotonic() < deadline:
            number += 1
            await idling.backend.attach_filesystem(idling.id, FilesystemMount("", f"/data/{number}"))
            await stays_awake(idling, IDLE_S / 3)
        await falls_asleep(idling)

    @pytest.mark.parametrize("program", [BURNS, BURSTS], ids=["burns", "bursts"])
    async def test_a_background_process_that_computes_keeps_it_awake(self, idling: Cell, program: str) -> None:
        await idling.sh('/usr/bin/python3 -c "$1" >/dev/null 2>&1 &', program)
        await stays_awake(idling)


@pytest.mark.root
async def test_background_processes_that_sleep_are_frozen_and_woken(idling: Cell) -> None:
    number = mark()
    await idling.sh(f"sleep {number} >/dev/null 2>&1 &")
    await falls_asleep(idling)
    pid = await outside.one(number)
    assert await idling.out("echo awake") == "awake\n"
    assert await outside.one(number) == pid
    await falls_asleep(idling)


@pytest.mark.user(only=True)
async def test_background_processes_that_cannot_be_frozen_go_on(idling: Cell) -> None:
    number = mark()
    await idling.sh(f"sleep {number} >/dev/null 2>&1 &")
    await stays_awake(idling)
    os.kill(await outside.one(number), signal.SIGKILL)
    await falls_asleep(idling)


@pytest.mark.user
class TestWhoLooks:
    """The chores service and its keeper."""

    async def test_a_keeper_that_is_killed_is_back_with_the_next_call(self, idling: Cell, store: Path) -> None:
        first = keeping.keeper_of(store, keeper.CHORES)
        assert first is not None
        keeping.end(store)
        await idling.sh("true")
        again = keeping.keeper_of(store, keeper.CHORES)
        assert again not in {None, first}
        await falls_asleep(idling)

    async def test_a_service_that_is_killed_is_back_by_itself(self, idling: Cell, store: Path) -> None:
        pid = keeping.keeper_of(store, keeper.CHORES)
        assert pid is not None
        (service,) = keeping.children(pid)
        os.kill(service, signal.SIGKILL)
        await falls_asleep(idling)
        assert keeping.keeper_of(store, keeper.CHORES) == pid

    async def test_it_ends_when_nothing_is_left_to_do(self, idling: Cell, store: Path) -> None:
        await falls_asleep(idling)
        await outside.until(
            lambda: keeping.keeper_of(store, keeper.CHORES) is None, "it stays", keeper.CHORES.linger + outside.SOON
        )
        await idling.sh("true")
        await falls_asleep(idling)

    async def test_it_sleeps_itself_while_nothing_is_due(self, store: Path, backend: LocalSandbox) -> None:
        async with live(backend, spec(600)):
            pid = keeping.keeper_of(store, keeper.CHORES)
            assert pid is not None
            (service,) = keeping.children(pid)
            before = cpu_ticks(service)
            await asyncio.sleep(0.5)  # nothing is to happen
            assert cpu_ticks(service) - before <= 1
        keeping.end(store)


def cpu_ticks(pid: int) -> int:
    return sum(int(field) for field in outside.read(pid, "stat").rpartition(")")[2].split()[11:13])


@pytest.mark.user
async def test_what_woke_it_for_no_command_lets_it_sleep_again(idling: Cell) -> None:
    await falls_asleep(idling)
    async with live(idling.backend, spec()) as other:  # keeps those who look
        await idling.backend.attach_filesystem(idling.id, FilesystemMount("", "/data"))
        await falls_asleep(idling)
        assert other.id
