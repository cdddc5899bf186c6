"""Long counts: `make soak` runs them whole, CI a sample of them."""

import asyncio
import os
import random
import resource
from pathlib import Path

import pytest

from alcove import ExecRequest, Limited, LocalSandbox, LocalSandboxConfig, SandboxSpec
from alcove.testing import no_leaks

WHOLE = 1000
SAMPLE = 60
AT_ONCE = 8
#: MiB that this process may have grown by, once warm.
GROWTH = 5


async def one_life(backend: LocalSandbox, chance: random.Random) -> None:
    """Make a session, run something in it, end it; one in ten times out, one in twenty is cancelled."""
    session = await backend.provision(SandboxSpec(network_policy=Limited()))
    try:
        fate = chance.random()
        if fate < 0.10:
            request = ExecRequest("sh", ["-c", "setsid sleep 600 & sleep 600"], timeout=0.1)
            result = await backend.exec(session.id, request)
            assert (result.timed_out, result.exit_code) == (True, -1)
        elif fate < 0.15:
            pending = asyncio.create_task(backend.exec(session.id, ExecRequest("sleep", ["600"])))
            await asyncio.wait([pending], timeout=0.05)
            pending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await pending
        else:
            result = await backend.exec(session.id, ExecRequest("sh", ["-c", "echo $$ >kept; cat kept"]))
            assert result.success
    finally:
        await backend.terminate(session.id)


async def many_lives(store: Path, count: int) -> None:
    backend = LocalSandbox(LocalSandboxConfig(root_dir=str(store)))
    chance = random.Random(count)
    left = iter(range(count))

    async def live_on() -> None:
        for _ in left:
            await one_life(backend, chance)

    await asyncio.gather(*(live_on() for _ in range(AT_ONCE)))
    await backend.aclose()


async def lives_leave_nothing(tmp_path: Path, count: int) -> None:
    store = tmp_path / "store"
    await many_lives(store, AT_ONCE)  # warm: what is made once for a store stays
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with no_leaks(store):
        await many_lives(store, count)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GROWTH << 10
    assert os.listdir(store / "sessions") == []


@pytest.mark.user
@pytest.mark.timeout(120)
async def test_a_sample_of_lives_leaves_nothing(tmp_path: Path) -> None:
    await lives_leave_nothing(tmp_path, SAMPLE)


@pytest.mark.soak
@pytest.mark.user
@pytest.mark.timeout(900)
async def test_a_thousand_lives_leave_nothing(tmp_path: Path) -> None:
    await lives_leave_nothing(tmp_path, WHOLE)


@pytest.mark.soak
@pytest.mark.user
@pytest.mark.timeout(900)
async def test_a_thousand_sessions_at_once_all_answer(tmp_path: Path) -> None:
    store = tmp_path / "store"
    backend = LocalSandbox(LocalSandboxConfig(root_dir=str(store)))
    async with no_leaks(store):
        made = [await backend.provision(SandboxSpec(network_policy=Limited())) for _ in range(WHOLE)]
        for number, session in enumerate(made):
            result = await backend.exec(session.id, ExecRequest("echo", [str(number)]))
            assert result.stdout == f"{number}\n"
        for session in made:
            await backend.terminate(session.id)
    await backend.aclose()
