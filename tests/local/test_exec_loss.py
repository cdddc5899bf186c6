"""When a process of ours dies under a command, the caller hears of it at once, and the files are still there."""

import asyncio
import os
import signal
import time

import pytest

from alcove.contract import ExecError, FilesystemAccess, FilesystemMount, SandboxState
from alcove.local.backend import LocalSandbox
from tests.local import outside
from tests.local.cell import Cell, mark

pytestmark = pytest.mark.user

#: What is promised between such a death and our error.
WITHIN = 1.0
ROLES = ("warden", "spawner", "init")


async def lose(cell: Cell, role: str, number: str) -> None:
    """Kill `role` under a running command, and require the error in time."""
    task = asyncio.ensure_future(cell.sh('setsid sleep "$1" & sleep "$1"', number))
    await outside.until(lambda: len(outside.bearing(number)) == 3)
    before = time.monotonic()
    os.kill(cell.native(role), signal.SIGKILL)
    with pytest.raises(ExecError):
        await task
    assert time.monotonic() - before < WITHIN + outside.SLACK


@pytest.mark.parametrize("role", ROLES)
async def test_a_pending_exec_ends_with_our_error_and_the_next_one_works(cell: Cell, role: str) -> None:
    number = mark()
    await cell.out("echo work > note; echo temporary > /tmp/note; echo out > /mnt/session/outputs/note")
    natives = {name: cell.native(name) for name in ROLES}
    await lose(cell, role, number)
    assert await cell.out("cat note /tmp/note /mnt/session/outputs/note") == "work\ntemporary\nout\n"
    await outside.until(lambda: not any(outside.is_there(pid) for pid in natives.values()))
    assert outside.bearing(number) == []
    assert all(cell.native(name) != natives[name] for name in ROLES)


@pytest.mark.parametrize("role", ROLES)
async def test_without_a_pending_exec_the_next_one_works(cell: Cell, role: str) -> None:
    await cell.out("echo kept > note")
    pid = cell.native(role)
    os.kill(pid, signal.SIGKILL)
    await outside.until(lambda: not outside.is_there(pid))
    assert await cell.out("cat note") == "kept\n"


async def test_an_exec_that_finds_init_dead_is_begun_again(cell: Cell) -> None:
    """A pid namespace without its init takes nobody: no word of how many processes the session may have."""
    await cell.out("echo kept > note")
    init, late = cell.native("init"), [cell.native(role) for role in ("warden", "spawner")]
    await outside.until(lambda: not outside.read(late[1], f"task/{late[1]}/children"))  # else init could not end
    for pid in late:
        os.kill(pid, signal.SIGSTOP)
    os.kill(init, signal.SIGKILL)
    await outside.until(lambda: not outside.is_there(init))
    task = asyncio.ensure_future(cell.out("cat note"))
    await asyncio.sleep(0.05)  # its request is in the queue
    os.kill(late[1], signal.SIGCONT)
    assert await task == "kept\n"
    await outside.until(lambda: not any(outside.is_there(pid) for pid in late))


@pytest.mark.parametrize("role", ROLES)
async def test_nothing_of_the_session_outlives_it(cell: Cell, role: str) -> None:
    number = mark()
    await cell.out('setsid -f sleep "$1" <&- >&- 2>&-', number)
    key = cell.directory.name
    os.kill(cell.native(role), signal.SIGKILL)
    await outside.gone(number)
    await outside.until(lambda: not any(outside.called(f"alcove-{name}", key) for name in ROLES))


async def test_all_of_ten_pending_execs_end(cell: Cell) -> None:
    number = mark()
    tasks = [asyncio.ensure_future(cell.exec("sleep", [number])) for _ in range(10)]
    await outside.until(lambda: len(outside.bearing(number)) == 10)
    before = time.monotonic()
    os.kill(cell.native("warden"), signal.SIGKILL)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert time.monotonic() - before < WITHIN + outside.SLACK
    assert [type(result) for result in results] == [ExecError] * 10


async def test_ten_execs_at_once_bring_the_session_back_once(cell: Cell) -> None:
    warden = cell.native("warden")
    os.kill(warden, signal.SIGKILL)
    await outside.until(lambda: not outside.is_there(warden))
    results = await asyncio.gather(*(cell.sh("echo back") for _ in range(10)))
    assert [result.stdout for result in results] == ["back\n"] * 10
    assert cell.native("warden") != warden  # and there is one


async def test_the_mounts_come_back_with_the_session(cell: Cell) -> None:
    writable = FilesystemMount("", "/data", FilesystemAccess.READ_WRITE)
    await cell.backend.attach_filesystem(cell.id, writable)
    await cell.backend.attach_filesystem(cell.id, FilesystemMount("", "/data/in/side"))
    await cell.out("echo kept > /data/note")
    before = cell.backend.session(cell.id).mounts
    warden = cell.native("warden")
    os.kill(warden, signal.SIGKILL)
    await outside.until(lambda: not outside.is_there(warden))
    assert (
        await cell.out("cat /data/note; ls /data/in; touch /data/in/side/x || echo refused") == "kept\nside\nrefused\n"
    )
    assert cell.backend.session(cell.id).mounts == before


async def test_the_state_tells(cell: Cell) -> None:
    assert cell.backend.session(cell.id).state is SandboxState.RUNNING
    warden = cell.native("warden")
    os.kill(warden, signal.SIGKILL)
    await outside.until(lambda: not outside.is_there(warden))
    assert cell.backend.session(cell.id).state is SandboxState.SUSPENDED
    await cell.out("true")
    assert cell.backend.session(cell.id).state is SandboxState.RUNNING


async def test_a_stopped_warden_holds_no_exec_back(cell: Cell) -> None:
    warden = cell.native("warden")
    os.kill(warden, signal.SIGSTOP)
    try:
        assert await cell.out("echo alive") == "alive\n"
        assert (await cell.sh("sleep 600", timeout=0.4)).timed_out
    finally:
        os.kill(warden, signal.SIGCONT)


async def test_a_stopped_spawner_does_not_outlast_a_timeout(cell: Cell) -> None:
    spawner = cell.native("spawner")
    os.kill(spawner, signal.SIGSTOP)
    before = time.monotonic()
    result = await cell.exec("true", timeout=0.5)
    assert time.monotonic() - before < 0.5 + 0.5 + outside.SLACK
    assert (result.timed_out, result.exit_code) == (True, -1)
    assert await cell.out("echo alive") == "alive\n"


async def test_terminate_works_with_everything_of_ours_stopped(cell: Cell) -> None:
    number = mark()
    await cell.out('setsid -f sleep "$1" <&- >&- 2>&-', number)
    for role in ROLES:
        os.kill(cell.native(role), signal.SIGSTOP)
    before = time.monotonic()
    await cell.backend.terminate(cell.id)
    assert time.monotonic() - before < 2 + outside.SLACK
    assert outside.bearing(number) == []


async def test_terminate_works_after_each_death(backend: LocalSandbox, cell: Cell) -> None:
    for pid in [cell.native(role) for role in ROLES]:
        os.kill(pid, signal.SIGKILL)
    await backend.terminate(cell.id)
    assert not cell.directory.exists()
