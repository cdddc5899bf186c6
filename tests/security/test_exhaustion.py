"""RX: a guest that takes all it can get, and what the host still has afterwards."""
# ruff: noqa: ASYNC109, ASYNC220 - a test's own loop may wait for the host

import asyncio
import os
import resource
import subprocess
import time
from collections.abc import Awaitable
from pathlib import Path

import pytest
from msgspec.structs import replace

from alcove.contract import Duration, ExecRequest, InvalidRequest, LifecycleError, ResourceLimits
from alcove.local import LocalSandbox, LocalSandboxConfig, records
from alcove.testing import no_leaks
from tests.local import outside
from tests.security.cells import Cell, maps_no_host_root
from tests.security.conftest import MakeCell

pytestmark = [pytest.mark.security, pytest.mark.user]

AS_ROOT = os.geteuid() == 0
MIB = 1 << 20
PIDS = 40
#: Processes of ours that are counted with a session's: init and spawners, and in groups a little room for a monitor.
OURS = 3


async def held_pids(cell: Cell, most: int) -> None:
    """Require, as the host sees it, that the number of the session's processes is limited before anything forks."""
    pid = await cell.resident()
    maps_no_host_root(pid)
    soft, hard = outside.limits(pid)["Max processes"]
    assert max(int(soft), int(hard)) <= most + OURS
    if AS_ROOT:
        assert int((group_of(cell, "pids") / "pids.max").read_text()) <= most + OURS


def threads(cell: Cell) -> int:
    return sum(int(outside.status(pid).get("Threads", "0")) for pid in cell.members())


async def ended_within(seconds: float, ending: Awaitable[None]) -> None:
    """Require a bound of the specification, with room for a machine that does other things as well."""
    began = time.monotonic()
    await ending
    assert time.monotonic() - began <= seconds + outside.SLACK


class TestRx01:
    @pytest.mark.parametrize("kind", ["fork", "setsid", "thread", "vfork"])
    async def test_rx01_the_number_of_processes_is_held(self, make_cell: MakeCell, kind: str) -> None:
        cell, other = await make_cell(pids=PIDS), await make_cell(pids=PIDS)
        await held_pids(cell, PIDS)
        stayed = await cell.stay("exhaust", kind, str(PIDS * 10))
        assert stayed.said["last"] == "EAGAIN"
        assert threads(cell) <= PIDS + OURS
        assert (await other.run("true")).success
        await ended_within(2, cell.backend.terminate(cell.id))
        assert cell.directory.exists() is False

    async def test_rx01_a_session_with_room_takes_the_same_number(self, make_cell: MakeCell) -> None:
        cell = await make_cell(pids=PIDS * 4)
        stayed = await cell.stay("exhaust", "fork", str(PIDS * 2))
        assert stayed.said["last"] == "ok"
        assert threads(cell) > PIDS * 2

    @pytest.mark.parametrize("kind", ["fork", "setsid", "stop"])
    async def test_rx01_a_bomb_is_killed_within_the_bound(self, make_cell: MakeCell, kind: str) -> None:
        cell, other = await make_cell(pids=PIDS), await make_cell(pids=PIDS)
        await held_pids(cell, PIDS)
        warden = cell.processes().warden
        await cell.stay("bomb", kind)
        await outside.until(lambda: threads(cell) >= PIDS - 2, "the bomb does not go off")
        members = cell.members()
        assert (await other.run("true")).success
        await ended_within(2, cell.backend.terminate(cell.id))
        assert [pid for pid in members if outside.status(pid).get("PPid") and pid in _beneath(warden)] == []

    @pytest.mark.parametrize("kind", ["fork", "setsid", "stop"])
    async def test_rx01_a_bomb_ends_with_its_timeout(self, make_cell: MakeCell, kind: str) -> None:
        cell = await make_cell(pids=PIDS)
        await held_pids(cell, PIDS)
        began = time.monotonic()
        said = await cell.hostile("bomb", kind, timeout=1)
        assert said.timed_out
        assert time.monotonic() - began <= 1.5 + outside.SLACK
        await outside.until(lambda: len(cell.guests()) <= 1, "what the bomb made is still there")
        assert (await cell.run("true")).success


def _beneath(warden: int) -> set[int]:
    return {pid for pid in outside.pids() if outside.status(pid).get("PPid") == str(warden)}


MEMORY_MB = 48


def group_of(cell: Cell, controller: str) -> Path:
    """Return the session's own group of a controller."""
    groups = cell.groups()
    directory = groups.v1.get(controller) or groups.unified
    assert directory is not None
    return Path(directory)


def peak(group: Path) -> int:
    names = ("memory.max_usage_in_bytes", "memory.peak", "memory.current")
    return int(next((group / name).read_text() for name in names if (group / name).exists()))


if AS_ROOT:

    class TestRx02:
        @pytest.mark.parametrize("what", ["heap", "memfd", "shm", "segment", "pipe", "socket", "entry"])
        async def test_rx02_memory_is_held_whatever_it_is_called(self, make_cell: MakeCell, what: str) -> None:
            limits = ResourceLimits(memory_mb=MEMORY_MB)
            cell, other = await make_cell(limits=limits), await make_cell(limits=limits)
            group = group_of(cell, "memory")
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            task = asyncio.create_task(cell.hostile("exhaust", what, "2000000", open_files=None))
            await _killed_or_full(cell, task, group)
            assert peak(group) <= (MEMORY_MB + 4) * MIB
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before <= 32 * 1024
            assert (await other.run("true")).success
            await cell.close()
            await asyncio.gather(task, return_exceptions=True)

        async def test_rx02_the_kernels_kill_is_told_apart(self, make_cell: MakeCell) -> None:
            cell = await make_cell(limits=ResourceLimits(memory_mb=MEMORY_MB))
            said = await cell.hostile("exhaust", "heap")
            assert (said.oom_killed, said.exit_code, said.signal) == (True, 137, 9)
            ordinary = await cell.sh("kill -9 $$")
            assert (ordinary.oom_killed, ordinary.signal) == (False, 9)
            assert (await cell.run("true")).success

        async def test_rx02_with_room_the_same_amount_is_taken(self, make_cell: MakeCell) -> None:
            cell = await make_cell(limits=ResourceLimits(memory_mb=MEMORY_MB * 4))
            stayed = await cell.stay("exhaust", "heap", str(MEMORY_MB * 2))
            assert stayed.said["last"] == "ok"
            assert peak(group_of(cell, "memory")) >= MEMORY_MB * 2 * MIB

    async def _killed_or_full(cell: Cell, task: "asyncio.Task[object]", group: Path) -> None:
        """Wait until the guest's program was killed, or holds all that it can get."""
        await outside.until(
            lambda: task.done() or any(outside.read(pid, "wchan") and _stays(pid) for pid in cell.guests()),
            f"{group.name} does not fill",
            40,
        )

    def _stays(pid: int) -> bool:
        return outside.descriptors(pid).get(1) == "/dev/null"

else:

    class TestRx02AsPlainUser:
        async def test_rx02_a_limit_that_cannot_be_enforced_is_refused(self, make_cell: MakeCell) -> None:
            with pytest.raises(LifecycleError, match="memory_mb cannot be enforced"):
                await make_cell(limits=ResourceLimits(memory_mb=MEMORY_MB))

        async def test_rx02_best_effort_is_an_rlimit_and_says_so(self, make_cell: MakeCell) -> None:
            cell = await make_cell(limits=ResourceLimits(memory_mb=256), best_effort=True)
            assert "memory_mb=256:rlimit" in cell.session.metadata["limits"]
            stayed = await cell.stay("exhaust", "heap")
            assert stayed.said["last"] == "ENOMEM"
            assert int(outside.status(stayed.pid)["VmSize"].split()[0]) <= 256 * 1024
            assert int(outside.limits(stayed.pid)["Max address space"][1]) == 256 * MIB


async def test_rx02_file_systems_in_memory_are_bounded(make_cell: MakeCell) -> None:
    """Where no group holds it, the size of each tmpfs does; its inodes too."""
    cell = await make_cell()
    root = Path(f"/proc/{await cell.resident()}/root")
    for place in ("dev/shm", "run"):
        found = os.statvfs(root / place)
        assert 0 < found.f_blocks * found.f_frsize <= 1 << 30
        assert 0 < found.f_files <= 1 << 20
    stayed = await cell.stay("exhaust", "run")
    assert stayed.said["last"] == "ENOSPC"
    found = os.statvfs(root / "run")
    assert found.f_bfree * found.f_frsize < MIB


class TestRx05:
    async def test_rx05_descriptors_are_held(self, make_cell: MakeCell) -> None:
        cell, other = await make_cell(open_files=100), await make_cell()
        before = len(os.listdir("/proc/self/fd"))
        stayed = await cell.stay("exhaust", "descriptor")
        assert stayed.said["last"] == "EMFILE"
        assert len(outside.descriptors(stayed.pid)) <= 100
        assert outside.limits(stayed.pid)["Max open files"] == ("100", "100")
        assert len(os.listdir("/proc/self/fd")) <= before + 8
        assert (await cell.run("true")).success
        assert (await other.run("true")).success

    async def test_rx05_a_session_with_room_takes_more(self, make_cell: MakeCell) -> None:
        stayed = await (await make_cell(open_files=1000)).stay("exhaust", "descriptor", "500")
        assert stayed.said["last"] == "ok"
        assert len(outside.descriptors(stayed.pid)) >= 500


class TestRx06:
    @pytest.mark.parametrize("how", ["one", "both", "line"])
    async def test_rx06_a_flood_is_drained_and_not_kept(self, make_cell: MakeCell, how: str) -> None:
        cell = await make_cell()
        await cell.hostile("flood", "32", how)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        said = await cell.hostile("flood", "1024", how, output_limit=MIB)
        assert said.exit_code == 0
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before <= 64 * 1024
        assert len(said.stdout) <= MIB
        assert len(said.stdout) + len(said.stderr) + said.stdout_omitted + said.stderr_omitted == 1024 * MIB

    async def test_rx06_less_than_the_limit_is_kept_whole(self, make_cell: MakeCell) -> None:
        said = await (await make_cell()).hostile("flood", "2", "one")
        assert (len(said.stdout), said.stdout_omitted) == (2 * MIB, 0)

    async def test_rx06_a_writer_that_outlives_its_command_does_not_hold_the_result(self, make_cell: MakeCell) -> None:
        cell = await make_cell()
        said = await cell.hostile("flood", "100000000", "after", output_limit=MIB)
        assert said.exit_code == 0
        (writer,) = [pid for pid in cell.guests() if "flood" in outside.read(pid, "cmdline")]
        assert outside.is_there(writer)
        assert (await cell.run("true")).success


class TestRx08:
    async def test_rx08_no_priority_above_others(self, make_cell: MakeCell) -> None:
        code = (
            "import os, contextlib\n"
            "for policy in (os.SCHED_FIFO, os.SCHED_RR):\n"
            "    with contextlib.suppress(OSError): os.sched_setscheduler(0, policy, os.sched_param(50))\n"
            "with contextlib.suppress(OSError): os.setpriority(os.PRIO_PROCESS, 0, -20)\n"
            "with contextlib.suppress(OSError): os.setpriority(os.PRIO_USER, 0, -20)\n"
            "with contextlib.suppress(OSError): open('/proc/self/oom_score_adj', 'w').write('-1000')\n"
            "os.execv('/bin/sh', ['sh', '-c', 'echo stays $$; exec sleep 100000'])\n"
        )
        cell = await make_cell()
        pid = (await cell.stay_command(["python3", "-c", code])).pid
        assert os.sched_getscheduler(pid) == os.SCHED_OTHER
        assert os.getpriority(os.PRIO_PROCESS, pid) >= 0
        assert int(outside.read(pid, "oom_score_adj")) >= 500
        lowered = (await cell.stay_command(["nice", "-n", "5", "sh", "-c", "echo stays $$; exec sleep 100000"])).pid
        assert os.getpriority(os.PRIO_PROCESS, lowered) == 5

    @pytest.mark.parametrize("what", ["inotify", "timer", "signal"])
    async def test_rx08_kernel_tables_are_not_used_up_for_others(
        self, make_cell: MakeCell, corpus: Path, what: str
    ) -> None:
        """Such budgets are counted for the host's user who made the namespaces, too (user_namespaces(7))."""
        cell, other = await make_cell(), await make_cell()
        stayed = await cell.stay("exhaust", what, "1000000")
        assert stayed.said["last"] in {"EMFILE", "ENOSPC", "EAGAIN", "ENOMEM"}, stayed.said
        if what == "inotify":
            assert 0 < sum("inotify" in name for name in outside.descriptors(stayed.pid).values()) <= 64
        assert (await other.stay("exhaust", what, "32")).said["last"] == "ok"
        with subprocess.Popen([corpus / "exhaust", what, "32"], stdout=subprocess.PIPE, text=True) as here:
            assert here.stdout is not None
            said = [here.stdout.readline() for _ in range(2)]
            here.kill()
        assert said == ["got 32\n", "last ok\n"]

    async def test_rx08_spinning_leaves_the_processor_to_others(self, make_cell: MakeCell) -> None:
        cell, other = await make_cell(), await make_cell()
        pids = [(await cell.stay_command(["sh", "-c", "echo stays $$; while :; do :; done"])).pid for _ in range(4)]
        assert all(outside.is_there(pid) for pid in pids)
        assert (await other.run("true")).success
        await ended_within(2, cell.backend.terminate(cell.id))

    if AS_ROOT:

        async def test_rx08_a_quota_of_processor_time_holds(self, make_cell: MakeCell) -> None:
            cell = await make_cell(limits=ResourceLimits(cpu_count=1))
            group = group_of(cell, "cpu")
            for _ in range(3):
                await cell.stay_command(["sh", "-c", "echo stays $$; while :; do :; done"])
            await outside.until(lambda: _throttled(group) > 2, "three spinning processes are not throttled to one")


def _throttled(group: Path) -> int:
    lines = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return int(lines["nr_throttled"])


class TestRx10:
    async def test_rx10_churn_leaves_nothing(self, make_cell: MakeCell, store: Path) -> None:
        cell = await make_cell()
        async with no_leaks(store, within=10):
            for number in range(30):
                each = await make_cell()
                if number % 10 == 3:
                    assert (await each.hostile("stubborn", "ignores", timeout=0.1)).timed_out
                elif number % 10 == 7:
                    task = asyncio.create_task(each.run("sleep", "100000"))
                    await outside.until(each.guests)
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                else:
                    assert (await each.run("true")).success
                await each.backend.terminate(each.id)
        assert (await cell.run("true")).success

    async def test_rx10_a_reused_pid_is_not_signalled(self, make_cell: MakeCell, store: Path) -> None:
        """The record names a process that is another one by now: same pid, other start time."""
        cell = await make_cell()
        await cell.run("true")
        row = cell.backend._store.find(cell.id)
        assert row is not None
        record = records.decode(row.record)
        processes = cell.processes()
        ticks = os.sysconf("SC_CLK_TCK")  # a session is made in less than one, and no pid comes back so soon
        await outside.until(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) * ticks > processes.started + 2)
        with subprocess.Popen(["sleep", "100000"]) as stranger:
            wrong = replace(processes, warden=stranger.pid, init=stranger.pid, spawner=stranger.pid)
            os.kill(processes.warden, 9)
            cell.backend._store.save(cell.id, record=records.encode(replace(record, processes=wrong)))
            again = LocalSandbox(LocalSandboxConfig(root_dir=str(store), native=cell.backend.config.native))
            await again.terminate(cell.id)
            await again.aclose()
            assert stranger.poll() is None
            stranger.kill()


class TestRx11:
    @pytest.mark.parametrize("how", ["ignores", "stops", "stops-all", "leaves", "runs-ahead", "vforks"])
    async def test_rx11_a_timeout_ends_the_whole_tree(self, make_cell: MakeCell, how: str) -> None:
        cell = await make_cell(pids=200)
        await held_pids(cell, 200)
        began = time.monotonic()
        said = await cell.hostile("stubborn", how, timeout=0.5)
        assert time.monotonic() - began <= 0.5 + 0.5 + outside.SLACK
        if how != "runs-ahead":  # whose first process ends by itself
            assert (said.timed_out, said.exit_code) == (True, -1)
            await outside.until(
                lambda: not [pid for pid in cell.guests() if "stubborn" in outside.read(pid, "cmdline")],
                "what the command started is still there",
            )
        assert (await cell.run("echo", "on")).stdout == "on\n"

    async def test_rx11_a_frozen_session_is_killed_too(self, make_cell: MakeCell) -> None:
        cell = await make_cell()
        await cell.resident()
        members = cell.members()
        for pid in {*members} - {cell.processes().spawner}:  # what a guest can reach, and more: init
            os.kill(pid, 19)
        await ended_within(2, cell.backend.terminate(cell.id))
        await outside.until(lambda: not any(outside.is_there(pid) for pid in members))

    @pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e308, -0.0, 1e400])
    async def test_rx11_timeouts_of_no_sense_are_refused(self, make_cell: MakeCell, timeout: float) -> None:
        cell = await make_cell()
        with pytest.raises(InvalidRequest):
            await cell.backend.exec(cell.id, ExecRequest("true", timeout=timeout))
        assert (await cell.run("true", timeout=Duration(5))).success
