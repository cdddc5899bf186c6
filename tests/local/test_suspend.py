"""Sessions that sleep by hand: nothing in memory where nothing runs, else frozen; awake again by whatever comes."""

import asyncio
import os
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from alcove.contract import (
    FilesystemMount,
    LifecycleError,
    Limited,
    NetworkPolicyError,
    SandboxSpec,
    SandboxState,
    SessionNotFound,
    Unrestricted,
    Unsupported,
)
from alcove.local.backend import LocalSandbox
from alcove.local.cell import cgroups
from alcove.local.config import LocalSandboxConfig
from alcove.local.sleep import freezer
from tests.local import outside
from tests.local.cell import Cell, live, mark

pytestmark = [pytest.mark.security]

SUSPENDED, RUNNING = SandboxState.SUSPENDED, SandboxState.RUNNING
ROLES = ("warden", "spawner", "init", "exec")


def in_memory(cell: Cell) -> list[str]:
    """What there is of a session besides its files."""
    key = cell.directory.name
    found = [f"{role} {pid}" for role in ROLES for pid in outside.called(f"alcove-{role}", key)]
    found += [place for place, names, _ in os.walk("/sys/fs/cgroup") if f"alcove-{key}" in names]
    return found


def sleeper(number: str) -> str:
    return f"sleep {number} >/dev/null 2>&1 &"


@pytest.mark.user
class TestWithoutProcesses:
    """Files, and nothing else."""

    async def test_nothing_stays_but_the_files(self, cell: Cell) -> None:
        await cell.sh("echo kept >file; echo mine >/tmp/mine; echo told >/mnt/session/outputs/told")
        network = int((await cell.out("readlink /proc/self/ns/net")).strip().removeprefix("net:[").removesuffix("]"))
        assert (await cell.backend.suspend(cell.id)).state is SUSPENDED
        assert in_memory(cell) == []
        assert not [pid for pid in outside.pids() if network_of(pid) == network]
        assert (cell.directory / "workspace" / "file").read_text() == "kept\n"
        assert await cell.out("cat file /tmp/mine /mnt/session/outputs/told") == "kept\nmine\ntold\n"
        assert cell.backend.session(cell.id).state is RUNNING

    async def test_twice_is_once(self, cell: Cell) -> None:
        states = [(await cell.backend.suspend(cell.id)).state for _ in range(2)]
        states += [(await cell.backend.resume(cell.id)).state for _ in range(2)]
        assert states == [SUSPENDED, SUSPENDED, RUNNING, RUNNING]
        assert await cell.out("echo here") == "here\n"

    async def test_another_process_sees_it_and_wakes_it(self, cell: Cell, config: LocalSandboxConfig) -> None:
        await cell.out("echo kept >file")
        await cell.backend.suspend(cell.id)
        other = LocalSandbox(config)
        try:
            assert other.session(cell.id).state is SUSPENDED
            assert (await other.resume(cell.id)).state is RUNNING
            assert await Cell(other, cell.session).out("cat file") == "kept\n"
        finally:
            await other.aclose()
        assert await cell.out("cat file") == "kept\n"

    async def test_an_attach_wakes_it(self, cell: Cell, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.mkdir(mode=0o755)
        (source / "given").write_text("by the host\n")
        await cell.backend.suspend(cell.id)
        told = await cell.backend.attach_filesystem(cell.id, FilesystemMount(str(source), "/data"))
        assert told.state is RUNNING
        await cell.backend.suspend(cell.id)
        assert await cell.out("cat /data/given") == "by the host\n"

    async def test_it_may_be_ended_and_is_then_gone(self, cell: Cell) -> None:
        await cell.backend.suspend(cell.id)
        await cell.backend.terminate(cell.id)
        assert not cell.directory.exists()
        for call in (cell.backend.suspend, cell.backend.resume):
            with pytest.raises(SessionNotFound):
                await call(cell.id)

    async def test_an_unknown_one_is_not_found(self, backend: LocalSandbox) -> None:
        for call in (backend.suspend, backend.resume):
            with pytest.raises(SessionNotFound):
                await call("nobody")

    async def test_what_a_killed_warden_left_sleeps_like_any(self, cell: Cell) -> None:
        os.kill(cell.native("warden"), signal.SIGKILL)
        await outside.until(lambda: not outside.called("alcove-spawner", cell.directory.name))
        assert (await cell.backend.suspend(cell.id)).state is SUSPENDED
        assert in_memory(cell) == []
        assert await cell.out("echo here") == "here\n"

    async def test_it_takes_its_network_along(self, cell: Cell) -> None:
        await cell.backend.suspend(cell.id)
        told = await cell.backend.apply_network_policy(cell.id, Unrestricted())
        assert told.metadata["network"] == "host"
        await cell.backend.suspend(cell.id)
        assert (await cell.out("readlink /proc/self/ns/net")).strip() == os.readlink("/proc/self/ns/net")


def network_of(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return 0


@pytest.mark.root
class TestFrozen:
    """With processes in it."""

    async def test_they_stand_still_until_the_next_exec(self, cell: Cell) -> None:
        number = mark()
        await cell.sh(sleeper(number))
        pid = await outside.one(number)
        assert (await cell.backend.suspend(cell.id)).state is SUSPENDED
        assert cgroups.frozen(live_groups(cell))
        assert await cell.out("echo awake") == "awake\n"
        assert not cgroups.frozen(live_groups(cell))
        assert await outside.one(number) == pid
        assert cell.backend.session(cell.id).state is RUNNING

    async def test_twice_is_once_and_resume_wakes(self, cell: Cell) -> None:
        await cell.sh(sleeper(mark()))
        states = [(await cell.backend.suspend(cell.id)).state for _ in range(2)]
        states += [(await cell.backend.resume(cell.id)).state for _ in range(2)]
        assert states == [SUSPENDED, SUSPENDED, RUNNING, RUNNING]
        assert not cgroups.frozen(live_groups(cell))

    @pytest.mark.parametrize("what", ["exec", "debug", "attach", "policy"])
    async def test_whatever_comes_wakes_it(self, cell: Cell, what: str) -> None:
        number = mark()
        await cell.sh(sleeper(number))
        await outside.one(number)
        await cell.sh("true", debug=True)  # its spawner is frozen too
        await cell.backend.suspend(cell.id)
        if what == "attach":
            await cell.backend.attach_filesystem(cell.id, FilesystemMount("", "/data"))
        elif what == "policy":
            with pytest.raises(NetworkPolicyError, match="1 processes run"):
                await cell.backend.apply_network_policy(cell.id, Unrestricted())
        else:
            assert await cell.out("echo x", debug=what == "debug") == "x\n"
        assert cell.backend.session(cell.id).state is RUNNING
        assert not cgroups.frozen(live_groups(cell))
        assert await outside.one(number)
        assert await cell.out("echo x", debug=True) == "x\n"

    async def test_sockets_and_clocks_go_on(self, cell: Cell) -> None:
        """A connection, a timer and the monotonic clock, over a sleep that is longer than the timer."""
        await cell.sh('/usr/bin/python3 -c "$1" >log 2>&1 &', CONVERSATION)
        log = cell.directory / "workspace" / "log"
        await outside.until(lambda: log.exists() and log.read_text().count("\n") > 3)
        await cell.backend.suspend(cell.id)
        before = log.read_text()
        asleep = time.monotonic()
        await asyncio.sleep(1.0)  # the test is about time that goes by
        assert log.read_text() == before
        await cell.backend.resume(cell.id)
        asleep = time.monotonic() - asleep
        count = before.count("\n")
        await outside.until(lambda: log.read_text().count("\n") > count + 5)
        times = [float(line.split()[1]) for line in log.read_text().splitlines()]
        numbers = [int(line.split()[0]) for line in log.read_text().splitlines()]
        assert numbers == list(range(len(numbers)))
        steps = [later - earlier for earlier, later in pairwise(times)]
        assert min(steps) > 0
        assert sum(step > asleep * 0.8 for step in steps) == 1

    async def test_a_pipe_that_is_being_written_loses_nothing(self, cell: Cell) -> None:
        running = asyncio.ensure_future(cell.sh("for i in 1 2 3 4 5; do echo $i; sleep 0.1; done"))
        for _ in range(4):
            await cell.backend.suspend(cell.id)
            await cell.backend.resume(cell.id)
        assert (await running).stdout == "1\n2\n3\n4\n5\n"

    async def test_it_ends_within_the_bound_of_any(self, cell: Cell) -> None:
        number = mark()
        for _ in range(5):
            await cell.sh(f"setsid {sleeper(number)}")
        await cell.backend.suspend(cell.id)
        before = time.monotonic()
        await cell.backend.terminate(cell.id)
        assert time.monotonic() - before < 2.0 + outside.SLACK
        assert in_memory(cell) == []
        assert outside.bearing(number) == []

    @pytest.mark.parametrize("role", ["warden", "init", "spawner"])
    async def test_a_killed_one_comes_back_with_its_files(self, cell: Cell, role: str) -> None:
        await cell.sh(f"echo kept >file; {sleeper(mark())}")
        await cell.backend.suspend(cell.id)
        key, pid = cell.directory.name, cell.native(role)
        os.kill(pid, signal.SIGKILL)
        await outside.until(
            lambda: not outside.called("alcove-spawner", key) and not outside.called("alcove-init", key)
        )
        assert await cell.out("cat file") == "kept\n"
        await cell.sh(sleeper(mark()))
        assert (await cell.backend.suspend(cell.id)).state is SUSPENDED
        assert await cell.out("cat file") == "kept\n"

    @pytest.mark.parametrize("after", ["rename", "save"])
    async def test_what_a_kill_in_the_middle_left_is_woken_by_the_next_exec(
        self, cell: Cell, config: LocalSandboxConfig, after: str
    ) -> None:
        await cell.sh(sleeper(mark()))
        killed = await asyncio.create_subprocess_exec(
            sys.executable, "-c", KILLED_IN_BETWEEN, str(config.root_dir), cell.id, after
        )
        assert await killed.wait() == -signal.SIGKILL
        assert not (cell.directory / "exec.sock").exists()
        assert cell.backend.session(cell.id).state is (SUSPENDED if after == "save" else RUNNING)
        assert await cell.out("echo awake") == "awake\n"
        assert cell.backend.session(cell.id).state is RUNNING
        assert (cell.directory / "exec.sock").exists()

    async def test_a_snapshot_leaves_it_frozen(self, cell: Cell) -> None:
        await cell.sh(f"echo kept >file; {sleeper(mark())}")
        await cell.backend.suspend(cell.id)
        snapshot = await cell.backend.snapshot(cell.id)
        assert cell.backend.session(cell.id).state is SUSPENDED
        assert cgroups.frozen(live_groups(cell))
        async with live(cell.backend, copy_of(snapshot.snapshot_id)) as copy:
            assert await copy.out("cat file") == "kept\n"
        assert await cell.out("cat file") == "kept\n"
        await cell.backend.delete_snapshot(snapshot.snapshot_id)


CONVERSATION = """
import socket, threading, time
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
other = server.accept()[0]
number = 0
while True:
    client.sendall(b"%d\\n" % number)
    assert int(other.recv(64)) == number
    print(number, time.monotonic(), flush=True)
    number += 1
    time.sleep(0.02)
"""

KILLED_IN_BETWEEN = """
import asyncio, os, signal, sys
from alcove.local.sleep import freezer
from alcove.local.backend import LocalSandbox
from alcove.local.config import LocalSandboxConfig
root, session, after = sys.argv[1:]
backend = LocalSandbox(LocalSandboxConfig(root_dir=root))
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
if after == "rename":
    backend._sessions.suspension._save = die
else:
    freezer.freeze = die
asyncio.run(backend.suspend(session))
"""


def live_groups(cell: Cell) -> cgroups.Groups:
    return cell.backend._sessions.live(cell.id).record.groups


def copy_of(snapshot_id: str) -> SandboxSpec:
    return SandboxSpec(network_policy=Limited(), rootfs=f"snapshot:{snapshot_id}")


@pytest.mark.root
class TestExecsThatRun:
    """Commands that somebody waits for, in a session that is frozen under them."""

    async def test_time_asleep_is_no_wall_time(self, cell: Cell) -> None:
        running = asyncio.ensure_future(cell.sh("echo began >began; sleep 0.5; echo done", timeout=1.0))
        await outside.until((cell.directory / "workspace" / "began").exists)
        await cell.backend.suspend(cell.id)
        await asyncio.sleep(1.2)  # longer than its whole time
        assert not running.done()
        await cell.backend.resume(cell.id)
        result = await running
        assert (result.stdout, result.timed_out) == ("done\n", False)

    async def test_the_time_that_was_left_still_runs_out(self, cell: Cell) -> None:
        number = mark()
        running = asyncio.ensure_future(cell.sh(f"exec sleep {number}", timeout=0.6))
        await outside.one(number)
        await cell.backend.suspend(cell.id)
        await asyncio.sleep(1.0)  # longer than its whole time
        assert not running.done()
        await cell.backend.resume(cell.id)
        result = await asyncio.wait_for(running, 0.6 + outside.SLACK)
        assert result.timed_out
        assert outside.bearing(number) == []
        assert await cell.out("echo here") == "here\n"

    async def test_a_cancelled_one_is_dead_and_the_rest_lives(self, cell: Cell) -> None:
        number, other = mark(), mark()
        await cell.sh(sleeper(other))
        await outside.one(other)
        running = asyncio.ensure_future(cell.sh(f"exec sleep {number}"))
        await outside.one(number)
        await cell.backend.suspend(cell.id)
        running.cancel()
        await asyncio.wait([running], timeout=2.0 + outside.SLACK)
        assert running.cancelled()
        assert outside.bearing(number) == []
        assert len(outside.bearing(other)) == 1

    async def test_one_that_came_just_before_wakes_it(self, cell: Cell) -> None:
        """Its request lies in the queue of a spawner that stands still: nobody else will resume the session."""
        await cell.sh(sleeper(mark()))
        async with freezer.held(str(cell.directory)):
            running = asyncio.ensure_future(cell.out("echo awake"))
            await asyncio.sleep(0)
            await cell.backend.suspend(cell.id)
        assert await asyncio.wait_for(running, outside.SOON) == "awake\n"
        assert not cgroups.frozen(live_groups(cell))

    async def test_a_timeout_during_a_hold_waits_for_its_end(self, cell: Cell) -> None:
        """A snapshot that takes longer than a command has must not end the whole session."""
        number, other = mark(), mark()
        await cell.sh(sleeper(other))
        await outside.one(other)
        running = asyncio.ensure_future(cell.sh(f"exec sleep {number}", timeout=0.3))
        await outside.one(number)
        async with freezer.held(str(cell.directory)):
            await asyncio.sleep(1.0)  # longer than its time, its kill and what comes after
            assert not running.done()
        assert (await running).timed_out
        assert len(outside.bearing(other)) == 1


@pytest.mark.user(only=True)
async def test_processes_that_cannot_be_frozen_are_told_and_go_on(cell: Cell) -> None:
    number = mark()
    await cell.sh(sleeper(number))
    await outside.one(number)
    with pytest.raises(LifecycleError, match=r"1 processes run in session .* cannot be frozen.*end them.*delegate"):
        await cell.backend.suspend(cell.id)
    assert cell.backend.session(cell.id).state is RUNNING
    assert len(outside.bearing(number)) == 1
    os.kill(await outside.one(number), signal.SIGKILL)
    await outside.gone(number)
    assert (await cell.backend.suspend(cell.id)).state is SUSPENDED


@pytest.mark.user
@pytest.mark.parametrize(
    ("criu", "why"),
    [
        (None, "CRIU is not installed"),
        ("echo needs more >&2; exit 1", "`criu check` fails on this host: needs more"),
        ("exit 0", "CRIU is there, but a session's processes are held by a Landlock domain"),
    ],
    ids=["absent", "failing", "there"],
)
async def test_a_checkpoint_is_refused_with_the_reason(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, criu: str | None, why: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if criu is not None:
        (tmp_path / "criu").write_text(f"#!/bin/sh\n{criu}\n")
        (tmp_path / "criu").chmod(0o755)
    with pytest.raises(Unsupported, match=why):
        await cell.backend.checkpoint(cell.id)
    with pytest.raises(SessionNotFound):
        await cell.backend.checkpoint("nobody")


RACING = """
import asyncio, os, random, sys
from alcove.contract import ExecRequest, LifecycleError
from alcove.local.backend import LocalSandbox
from alcove.local.config import LocalSandboxConfig
root, session, seed, calls = sys.argv[1:]
random.seed(int(seed))
async def main():
    backend = LocalSandbox(LocalSandboxConfig(root_dir=root))
    async def one(number):
        what = random.choice(["suspend", "resume", "exec", "exec"])
        if what == "exec":
            result = await backend.exec(session, ExecRequest("sh", ["-c", "echo $1 >>log; echo $1", "sh", number]))
            assert result.stdout == number + "\\n", result
            print(number, flush=True)
        else:
            try:
                await getattr(backend, what)(session)
            except LifecycleError:  # something runs, and there is no group to freeze it in
                assert what == "suspend" and os.geteuid() != 0
    await asyncio.gather(*(one(f"{seed}-{n}") for n in range(int(calls))))
    await backend.aclose()
asyncio.run(main())
"""


@pytest.mark.user
@pytest.mark.parametrize("busy", [False, True], ids=["empty", "with processes"])
async def test_two_processes_that_race_lose_no_exec(
    cell: Cell, config: LocalSandboxConfig, as_root: bool, busy: bool
) -> None:
    """Suspend, resume and exec, 64 at once from two processes: each returns, each command has run once.

    A command that runs while its session is suspended stands still until somebody resumes that, as the test does.
    """
    if busy and as_root:
        await cell.sh(sleeper(mark()))
    racers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", RACING, str(config.root_dir), cell.id, seed, "32", stdout=asyncio.subprocess.PIPE
        )
        for seed in ("1", "2")
    ]
    racing = asyncio.ensure_future(asyncio.gather(*(racer.communicate() for racer in racers)))
    while not racing.done():
        await cell.backend.resume(cell.id)
        await asyncio.wait([racing], timeout=0.2)
    outputs = await racing
    assert [racer.returncode for racer in racers] == [0, 0]
    ran = sorted(line for output, _ in outputs for line in output.decode().split())
    assert ran
    assert sorted((await cell.out("cat log")).split()) == ran
