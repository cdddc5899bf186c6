"""Two processes of one user at the same session: every result is one of some order, and nobody waits for ever."""

import asyncio
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from alcove.contract import ExecRequest, Limited, SandboxSpec, SessionNotFound
from alcove.local.backend import LocalSandbox
from alcove.local.config import LocalSandboxConfig
from tests import keeping
from tests.local.cell import Cell, live

AT_ONCE = 100
WITHIN_S = 120

_RACER = """
import asyncio, collections, json, random, sys
from alcove.contract import ExecRequest, SandboxError
from alcove.local import LocalSandbox, LocalSandboxConfig

store, session, seed, count, kinds = sys.argv[1:]
chance = random.Random(seed)
told = collections.Counter()
snapshots, forks, appended = [], [], 0

async def one(backend, kind, number):
    global appended
    try:
        if kind == "exec":
            request = ExecRequest("sh", ["-c", f"echo {seed}.{number} >>log"], timeout=60)
            result = await backend.exec(session, request)
            appended += result.exit_code == 0
        elif kind == "snapshot":
            snapshots.append((await backend.snapshot(session)).snapshot_id)
        elif kind == "fork":
            forks.append((await backend.fork(session)).id)
        elif kind == "suspend":
            await backend.suspend(session)
        elif kind == "resume":
            await backend.resume(session)
        else:
            await backend.terminate(session)
        told[kind] += 1
    except SandboxError as error:
        told[f"{kind}: {type(error).__name__}"] += 1

async def main():
    backend = LocalSandbox(LocalSandboxConfig(root_dir=store))
    await asyncio.gather(*(one(backend, chance.choice(kinds.split(",")), n) for n in range(int(count))))
    print(json.dumps({"told": told, "snapshots": snapshots, "forks": forks, "appended": appended}))

asyncio.run(main())
"""


async def race(store: Path, session: str, kinds: str, seeds: tuple[str, ...] = ("a", "b")) -> list[dict[str, Any]]:
    racers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", _RACER, str(store), session, seed, str(AT_ONCE), kinds, stdout=asyncio.subprocess.PIPE
        )
        for seed in seeds
    ]
    outputs = await asyncio.wait_for(asyncio.gather(*(racer.communicate() for racer in racers)), WITHIN_S)
    assert [racer.returncode for racer in racers] == [0] * len(racers)
    return [json.loads(output) for output, _ in outputs]


@pytest.mark.root  # a plain user without a group cannot freeze what others run: snapshots are refused then
@pytest.mark.timeout(200)
async def test_two_hundred_calls_of_two_processes_are_linear(backend: LocalSandbox, cell: Cell, store: Path) -> None:
    told = await race(store, cell.id, "exec,exec,exec,snapshot,fork,suspend,resume")
    assert all(":" not in kind for each in told for kind in each["told"]), told
    lines = (await cell.out("cat log")).split()
    assert len(lines) == len(set(lines)) == sum(each["appended"] for each in told)  # none lost, none twice
    taken = [snapshot for each in told for snapshot in each["snapshots"]]
    assert sorted(taken) == sorted(snapshot.snapshot_id for snapshot in backend.snapshots())
    seen = []
    for snapshot in backend.snapshots():
        begun = await backend.provision(
            SandboxSpec(rootfs=f"snapshot:{snapshot.snapshot_id}", network_policy=Limited())
        )
        seen.append((await Cell(backend, begun).out("cat log 2>/dev/null || :")).split())
        await backend.terminate(begun.id)
    for earlier, later in pairwise(seen):  # in the order of their making each has what it had before
        assert later[: len(earlier)] == earlier
    for fork in (fork for each in told for fork in each["forks"]):
        log = (await Cell(backend, backend.session(fork)).out("cat log 2>/dev/null || :")).split()
        assert log == lines[: len(log)]
        await backend.terminate(fork)
    for snapshot_id in taken:
        await backend.delete_snapshot(snapshot_id)


@pytest.mark.root
@pytest.mark.timeout(200)
async def test_an_end_among_them_is_the_end(backend: LocalSandbox, cell: Cell, store: Path) -> None:
    told = await race(store, cell.id, "exec,exec,snapshot,terminate")
    wrong = [
        kind
        for each in told
        for kind in each["told"]
        if ":" in kind and not kind.endswith((": SessionNotFound", "exec: ExecError"))
    ]
    assert wrong == []
    with pytest.raises(SessionNotFound):
        await backend.exec(cell.id, ExecRequest("true"))
    for snapshot in backend.snapshots():
        await backend.delete_snapshot(snapshot.snapshot_id)
    assert list((store / "layers").iterdir()) == []


async def test_those_who_wait_for_a_session_hold_nobody_up(tmp_path: Path) -> None:
    """Whoever has the session's lock copies in a thread: those who wait for the lock must not have taken them all."""
    backends = [LocalSandbox(LocalSandboxConfig(root_dir=str(tmp_path / "store"))) for _ in range(6)]
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(2) as few:
        loop.set_default_executor(few)
        try:
            async with live(backends[0]) as cell:
                await cell.out("echo out > /mnt/session/outputs/file")
                taken = await asyncio.wait_for(asyncio.gather(*(each.snapshot(cell.id) for each in backends)), 60)
        finally:
            loop.set_default_executor(ThreadPoolExecutor())
    assert len({snapshot.snapshot_id for snapshot in taken}) == 6
    for each in backends:
        await each.aclose()
    keeping.end(tmp_path / "store")
