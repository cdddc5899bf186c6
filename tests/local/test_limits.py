# ruff: noqa: ASYNC240 - small files of the host, read in between
"""Limits: held by the kernel, told on the session, refused where this host cannot hold them."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from alcove.contract import ExecResult, LifecycleError, Limited, ResourceLimits, SandboxSpec
from alcove.local.backend import LocalSandbox
from alcove.local.config import LocalSandboxConfig
from tests.local import outside
from tests.local.cell import Cell, live, mark

EAT = """
import sys
held = []
for _ in range(int(sys.argv[1])):
    held.append(bytearray(b"x") * (1 << 20))
print("ate", len(held))
"""
FORK = """
import os, sys, time
children = []
try:
    for _ in range(int(sys.argv[1])):
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
        children.append(pid)
except OSError as error:
    print(error.strerror, flush=True)
print(len(children), flush=True)
for pid in children:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
"""


def spec(limits: ResourceLimits | None = None, **fields: object) -> SandboxSpec:
    return SandboxSpec(network_policy=Limited(), limits=limits or ResourceLimits(), **fields)  # type: ignore[arg-type]


async def eat(cell: Cell, mebibytes: int, **fields: object) -> ExecResult:
    return await cell.python(EAT, str(mebibytes), **fields)


# Memory


@pytest.mark.root
async def test_memory_beyond_the_limit_is_an_oom_kill(backend: LocalSandbox) -> None:
    async with live(backend, spec(ResourceLimits(memory_mb=64))) as cell:
        assert (await eat(cell, 16)).stdout == "ate 16\n"
        result = await eat(cell, 256)
        assert (result.exit_code, result.signal, result.oom_killed) == (137, signal.SIGKILL, True)
        assert await cell.out("echo alive") == "alive\n"


@pytest.mark.root
async def test_any_other_kill_is_none(backend: LocalSandbox) -> None:
    async with live(backend, spec(ResourceLimits(memory_mb=64))) as cell:
        killed = await cell.sh("kill -9 $$")
        assert (killed.signal, killed.oom_killed) == (signal.SIGKILL, False)
        assert (await eat(cell, 256)).oom_killed
        killed = await cell.sh("kill -9 $$")
        assert (killed.signal, killed.oom_killed) == (signal.SIGKILL, False)
        assert not (await cell.exec("false")).oom_killed


@pytest.mark.root
async def test_an_oom_kill_is_told_of_the_exec_it_met(backend: LocalSandbox) -> None:
    async with live(backend, spec(ResourceLimits(memory_mb=64))) as cell:
        survived = await cell.sh('/usr/bin/python3 -c "$1" 256; exit 0', EAT)
        assert (survived.exit_code, survived.oom_killed) == (0, False)
        assert not (await cell.exec("false")).oom_killed
        failed = await cell.sh('/usr/bin/python3 -c "$1" 256; exit 3', EAT)
        assert (failed.exit_code, failed.oom_killed) == (3, True)


@pytest.mark.root
async def test_an_oom_kill_is_told_after_the_session_came_back(backend: LocalSandbox) -> None:
    async with live(backend, spec(ResourceLimits(memory_mb=64))) as cell:
        assert (await eat(cell, 256)).oom_killed
        warden = cell.native("warden")
        os.kill(warden, signal.SIGKILL)
        await outside.until(lambda: not outside.is_there(warden))
        assert (await eat(cell, 256)).oom_killed


FILLS = {
    "shm": "head -c 300M /dev/zero > /dev/shm/f",
    "run": "head -c 300M /dev/zero > /run/f",
    "memfd": "/usr/bin/python3 -c 'import os; [os.write(fd, bytes(300 << 20)) for fd in [os.memfd_create(\"m\")]]'",
}


@pytest.mark.root
@pytest.mark.security
@pytest.mark.parametrize("kind", FILLS)
async def test_memory_that_is_no_process_is_limited_too(backend: LocalSandbox, kind: str) -> None:
    async with live(backend, spec(ResourceLimits(memory_mb=64))) as cell:
        group = await _memory_group(cell)
        result = await cell.sh(FILLS[kind])
        assert not result.success
        assert result.oom_killed or "No space left" in result.stderr
        peak = group / ("memory.max_usage_in_bytes" if "memory" in group.parts else "memory.peak")
        assert int(peak.read_text()) <= 65 << 20
        assert await cell.out("rm -f /dev/shm/f /run/f; echo alive") == "alive\n"


async def _memory_group(cell: Cell) -> Path:
    """Return the session's group of the memory controller, v1 or v2."""
    number = mark()
    await cell.sh('sleep "$1" >/dev/null 2>&1 &', number)
    found = outside.groups(await outside.one(number))
    if "memory" in found:
        return Path(f"/sys/fs/cgroup/memory{found['memory']}")
    return Path(f"/sys/fs/cgroup{found['']}")


@pytest.mark.root
async def test_the_neighbour_and_we_are_not_met(backend: LocalSandbox, cell: Cell) -> None:
    number = mark()
    task = asyncio.ensure_future(cell.exec("sleep", [number]))
    pid = await outside.one(number)
    async with live(backend, spec(ResourceLimits(memory_mb=32))) as greedy:
        assert (await eat(greedy, 128)).oom_killed
    assert outside.is_there(pid)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# Processes


@pytest.mark.user
async def test_the_number_of_processes_holds(backend: LocalSandbox) -> None:
    async with live(backend, spec(pids=20)) as cell:
        result = await cell.python(FORK, "100")
        refusal, count = result.stdout.splitlines()
        assert refusal == "Resource temporarily unavailable"
        assert 10 <= int(count) <= 20
        assert (await cell.python(FORK, "5")).stdout == "5\n"


@pytest.mark.user
async def test_threads_count_too(backend: LocalSandbox) -> None:
    program = """
import threading
event = threading.Event()
started = []
try:
    for _ in range(100):
        thread = threading.Thread(target=event.wait, daemon=True)
        thread.start()
        started.append(thread)
except RuntimeError:
    print(len(started))
event.set()
"""
    async with live(backend, spec(pids=20)) as cell:
        assert 5 <= int((await cell.python(program)).stdout) <= 20


@pytest.mark.user
@pytest.mark.parametrize("debug", [False, True])
async def test_the_limit_is_of_the_whole_session(backend: LocalSandbox, debug: bool) -> None:
    async with live(backend, spec(pids=24)) as cell:
        number = mark()
        await cell.sh('for i in 1 2 3 4 5 6 7 8 9 10; do sleep "$1" >/dev/null 2>&1 & done', number, debug=debug)
        await outside.until(lambda: len(outside.bearing(number)) == 10)
        assert int((await cell.python(FORK, "100")).stdout.splitlines()[1]) <= 14


@pytest.mark.user
async def test_one_process_is_enough_for_a_command(backend: LocalSandbox) -> None:
    async with live(backend, spec(pids=1)) as cell:
        assert (await cell.exec("echo", ["alone"])).stdout == "alone\n"
        assert (await cell.python(FORK, "100")).stdout.splitlines()[0] == "Resource temporarily unavailable"


@pytest.mark.user
@pytest.mark.security
async def test_a_fork_bomb_stays_in_its_session(backend: LocalSandbox, cell: Cell) -> None:
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    async with live(backend, spec(pids=200)) as bombed:
        number = mark()
        task = asyncio.ensure_future(bombed.python(bomb, number, timeout=3))
        await outside.until(lambda: len(outside.bearing(number)) > 100)
        assert await cell.out("echo alive") == "alive\n"
        assert len(outside.bearing(number)) <= 200
        assert (await task).timed_out
        assert outside.bearing(number) == []


@pytest.mark.user
async def test_every_session_has_a_limit(store: Path) -> None:
    backend = LocalSandbox(LocalSandboxConfig(root_dir=str(store), default_pids=12, default_open_files=99))
    try:
        async with live(backend) as cell:
            assert int((await cell.python(FORK, "100")).stdout.splitlines()[1]) <= 12
            assert await cell.out("ulimit -n; ulimit -Hn") == "99\n99\n"
            told = cell.session.metadata["limits"].split(",")
            assert [entry.split(":")[0] for entry in told] == ["open_files=99", "pids=12"]
    finally:
        await backend.aclose()


# Files, processors, time


@pytest.mark.user
async def test_the_number_of_open_files_holds(backend: LocalSandbox) -> None:
    program = """
import os
opened = []
try:
    while True:
        opened.append(os.dup(1))
except OSError as error:
    print(len(opened) + 4, error.strerror)
"""
    async with live(backend, spec(open_files=64)) as cell:
        count, reason = (await cell.python(program)).stdout.split(" ", 1)
        assert int(count) <= 65
        assert reason == "Too many open files\n"
        assert not (await cell.sh("ulimit -n 65")).success
        assert "open_files=64:rlimit" in cell.session.metadata["limits"].split(",")


@pytest.mark.root
@pytest.mark.parametrize("cpus", [1, 2])
async def test_processors_are_a_quota_of_the_group(backend: LocalSandbox, cpus: int) -> None:
    async with live(backend, spec(ResourceLimits(cpu_count=cpus))) as cell:
        number = mark()
        await cell.sh('sleep "$1" >/dev/null 2>&1 &', number)
        groups = outside.groups(await outside.one(number))
        controllers = next((names for names in groups if "cpu" in names.split(",")), "")
        assert groups[controllers].endswith(f"/alcove-{cell.directory.name}")
        if controllers:
            place = next(path for path in Path("/sys/fs/cgroup").iterdir() if "cpu" in path.name.split(","))
            quota, period = (
                (place / groups[controllers][1:] / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
            )
        else:
            quota, period = Path(f"/sys/fs/cgroup{groups['']}/cpu.max").read_text().split()
        assert int(quota) == cpus * int(period)
        assert any(
            entry.startswith(f"cpu_count={cpus}:cgroup-v") for entry in cell.session.metadata["limits"].split(",")
        )


@pytest.mark.user
async def test_wall_time_bounds_each_exec(backend: LocalSandbox) -> None:
    async with live(backend, spec(ResourceLimits(wall_time=0.6))) as cell:
        number = mark()
        for _ in range(2):
            result = await cell.sh('echo so far; setsid sleep "$1" & sleep 600', number, timeout=None)
            assert (result.timed_out, result.stdout, result.exit_code) == (True, "so far\n", -1)
            assert outside.bearing(number) == []
        assert (await cell.sh("sleep 0.8; echo whole", timeout=30)).stdout == "whole\n"
        assert "wall_time=0.6s" in cell.session.metadata["limits"].split(",")


# What this host cannot hold


@pytest.mark.user(only=True)
async def test_a_plain_user_has_no_disk_limit_and_is_told_why(backend: LocalSandbox) -> None:
    with pytest.raises(LifecycleError, match=r"disk_mb cannot be enforced: .*as root.*alcove doctor.*best_effort"):
        await backend.provision(spec(disk_mb=10))
    async with live(backend, spec(disk_mb=10, best_effort=True)) as cell:
        assert "disk_mb=unenforced" in cell.session.metadata["limits"].split(",")
        await cell.out("head -c 12M /dev/zero >file")


@pytest.mark.user(only=True)
@pytest.mark.parametrize(
    ("limits", "name", "told"),
    [
        (ResourceLimits(memory_mb=256), "memory_mb", "memory_mb=256:rlimit-per-process"),
        (ResourceLimits(cpu_count=1), "cpu_count", "cpu_count=1:unenforced"),
    ],
)
async def test_a_plain_users_missing_controller_is_refused_with_the_remedy(
    backend: LocalSandbox, limits: ResourceLimits, name: str, told: str
) -> None:
    if any(controller in _writable_controllers() for controller in ("memory", "cpu")):
        return  # delegated here: the root half's tests hold
    with pytest.raises(LifecycleError, match=rf"{name} cannot be enforced: .*alcove doctor.*best_effort"):
        await backend.provision(spec(limits))
    async with live(backend, spec(limits, best_effort=True)) as cell:
        assert told in cell.session.metadata["limits"].split(",")
        if limits.memory_mb:
            result = await eat(cell, 512)
            assert (result.exit_code, result.oom_killed) == (1, False)
            assert "MemoryError" in result.stderr
            assert (await eat(cell, 64)).success


def _writable_controllers() -> set[str]:
    own = outside.groups(os.getpid()).get("", "/")
    for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        place = Path(root + own)
        if os.access(place, os.W_OK) and (place / "cgroup.controllers").exists():
            return set((place / "cgroup.controllers").read_text().split())
    return set()


@pytest.mark.user
async def test_the_metadata_has_its_keys_and_tells_each_layer(cell: Cell, as_root: bool) -> None:
    metadata = cell.session.metadata
    assert set(metadata) == {"root", "isolation", "network", "limits"}
    assert (metadata["root"], metadata["network"]) == ("host:shared", "none")
    layers = [entry.split(":")[0] for entry in metadata["isolation"].split(",")]
    assert {
        *("userns", "mountns", "pidns", "netns", "ipcns", "utsns", "cgroupns"),
        *("caps", "nnp", "landlock", "seccomp", "cgroup"),
    } <= set(layers)
    limits = dict(entry.split("=", 1) for entry in metadata["limits"].split(","))
    assert set(limits) == {"open_files", "pids"}
    assert limits["open_files"] == "4096:rlimit"
    assert limits["pids"].startswith("1024:cgroup-v" if as_root else "1024:")
