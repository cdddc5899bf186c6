"""The end of a command is the end of all that it started: by timeout, by cancelling, by the caller's own death."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from alcove.contract import ExecResult
from alcove.local.backend import LocalSandbox
from alcove.local.exec.execution import ESCALATE_AFTER_S
from tests.local import outside
from tests.local.cell import Cell, live, mark

pytestmark = [pytest.mark.user, pytest.mark.security]

#: What is promised between a timeout and its result.
WITHIN = 0.5

# Each starts a tree whose processes all bear argument 1, does not end by itself, and says so when it stands.
TREES = {
    "children": 'sleep "$1" & sleep "$1" & echo ready; wait',
    "setsid": 'setsid sleep "$1" & setsid -f sleep "$1"; echo ready; sleep "$1"',
    "double fork": '( ( sleep "$1" & ) & ); ( setsid sh -c "setsid sleep $1 &" & ); echo ready; sleep "$1"',
    "without environment": 'env -i /usr/bin/setsid -f /bin/sleep "$1"; echo ready; exec env -i /bin/sleep "$1"',
    "closed descriptors": 'setsid -f sleep "$1" <&- >&- 2>&-; echo ready; exec sleep "$1" <&- >&- 2>&-',
    "deaf": 'trap "" TERM INT HUP QUIT; sh -c \'while :; do sleep "$1"; done\' sh "$1" & echo ready; sleep "$1"',
    "stopped": 'sleep "$1" & kill -STOP $!; echo ready; kill -STOP $$; sleep "$1"',
    "parent gone": 'nohup sleep "$1" >/dev/null 2>&1 & echo ready; sh -c \'sleep "$1" & exec sleep "$1"\' sh "$1"',
}
FORKING = {
    "fork and exit": """
import os, sys
print("ready", flush=True)
while True:
    if os.fork():
        os._exit(0)
""",
    "fork and exit, apart": """
import os, sys
print("ready", flush=True)
while True:
    if os.fork():
        os._exit(0)
    os.setsid()
""",
    "fork bomb": """
import os, sys
print("ready", flush=True)
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
    "fork bomb of stopped": """
import os, signal, sys
print("ready", flush=True)
while True:
    try:
        if not os.fork():
            os.kill(os.getpid(), signal.SIGSTOP)
    except OSError:
        pass
""",
}


class TimedOut(NamedTuple):
    """How a command ended that did not end by itself; `alone`: without the rest of its session.

    On a machine too busy for the tree to be killed in that time, the bound goes first: everything of the session ends.
    """

    result: ExecResult
    alone: bool


async def timed_out(cell: Cell, seconds: float, script: str, *args: str) -> TimedOut:
    """Run what does not end, and require that the result was there in time."""
    before = time.monotonic()
    result = await cell.sh(script, *args, timeout=seconds)
    took = time.monotonic() - before
    assert (result.timed_out, result.exit_code, result.signal) == (True, -1, None)
    assert seconds <= took < seconds + WITHIN + outside.SLACK
    return TimedOut(result, alone=took < seconds + ESCALATE_AFTER_S)


@pytest.mark.parametrize("kind", TREES)
async def test_a_timeout_ends_the_whole_tree(cell: Cell, kind: str) -> None:
    number, neighbour = mark(), mark()
    other = asyncio.ensure_future(cell.exec("sleep", [neighbour]))
    lives = await outside.one(neighbour)
    result, alone = await timed_out(cell, 0.5, TREES[kind], number)
    assert result.stdout == "ready\n"
    assert outside.bearing(number) == []
    assert outside.bearing(neighbour) == ([lives] if alone else [])
    assert not (alone and other.done())
    other.cancel()
    await asyncio.gather(other, return_exceptions=True)
    assert outside.bearing(neighbour) == []


@pytest.mark.parametrize("kind", FORKING)
async def test_a_timeout_ends_what_forks_faster_than_we_look(cell: Cell, kind: str) -> None:
    number, neighbour = mark(), mark()
    other = asyncio.ensure_future(cell.sh('sleep "$1" & wait; exit 5', neighbour))
    lives = await outside.one(neighbour, "sleep")
    # few processes are enough for a bomb, and one processor's time belongs to the other tests
    script = 'ulimit -u 100; /usr/bin/python3 -c "$1" "$2" & wait; sleep 600'
    result, alone = await timed_out(cell, 0.7, script, FORKING[kind], number)
    assert result.stdout.startswith("ready\n")
    assert outside.bearing(number) == []
    if alone:
        assert outside.status(lives)["State"][0] in "SR"  # not left stopped
        os.kill(lives, signal.SIGKILL)
        assert (await other).exit_code == 5
    await asyncio.gather(other, return_exceptions=True)
    assert await cell.out("echo alive") == "alive\n"


async def test_the_output_so_far_is_kept(cell: Cell) -> None:
    result, _ = await timed_out(cell, 0.6, "echo out; echo err >&2; printf unfinished; sleep 600")
    assert (result.stdout, result.stderr) == ("out\nunfinished", "err\n")


async def test_a_full_pipe_of_output_is_kept_too(cell: Cell) -> None:
    result, _ = await timed_out(cell, 1.0, "head -c 3000000 /dev/zero; sleep 600")
    assert len(result.stdout) == 3_000_000


async def test_a_timeout_in_the_middle_of_stdin(cell: Cell) -> None:
    before = time.monotonic()
    result = await cell.sh("head -c 100000 >/dev/null; echo read; sleep 600", stdin="x" * 5_000_000, timeout=0.5)
    assert (result.timed_out, result.stdout) == (True, "read\n")
    assert time.monotonic() - before < 0.5 + WITHIN + outside.SLACK


async def test_a_result_before_the_timeout_is_the_result(cell: Cell) -> None:
    result = await cell.sh("exit 3", timeout=30)
    assert (result.exit_code, result.timed_out) == (3, False)


async def test_earlier_background_processes_survive_a_later_timeout(cell: Cell) -> None:
    number = mark()
    await cell.sh('setsid sleep "$1" >/dev/null 2>&1 &', number)
    lives = await outside.one(number)
    _, alone = await timed_out(cell, 0.4, "setsid -f sleep 600; sleep 600")
    assert outside.bearing(number) == ([lives] if alone else [])


# Cancelling, and callers that die


@pytest.mark.parametrize("kind", ["setsid", "double fork", "stopped"])
async def test_cancelling_ends_the_whole_tree(cell: Cell, kind: str) -> None:
    number = mark()
    task = asyncio.ensure_future(cell.sh(TREES[kind], number))
    await outside.until(lambda: len(outside.bearing(number)) > 1)
    descriptors = len(os.listdir("/proc/self/fd"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert outside.bearing(number) == []
    assert len(os.listdir("/proc/self/fd")) < descriptors
    assert await cell.out("echo alive") == "alive\n"


async def test_cancelling_twice_still_ends_the_tree(cell: Cell) -> None:
    number = mark()
    task = asyncio.ensure_future(cell.sh(TREES["stopped"], number))
    await outside.until(lambda: len(outside.bearing(number)) > 1)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert outside.bearing(number) == []


CALLER = """
import asyncio, os, sys
from alcove.contract import ExecRequest
from alcove.local.backend import LocalSandbox
from alcove.local.exec.execution import ESCALATE_AFTER_S
from alcove.local.config import LocalSandboxConfig

async def main():
    backend = LocalSandbox(LocalSandboxConfig(root_dir=sys.argv[1], native=os.environ.get("ALCOVE_TEST_NATIVE")))
    request = ExecRequest("sh", ["-c", 'setsid sleep "$1" & exec sleep "$1"', "sh", sys.argv[3]])
    await backend.exec(sys.argv[2], request)

asyncio.run(main())
"""


async def test_a_callers_death_is_the_end_of_its_command(cell: Cell, store: Path) -> None:
    number = mark()
    caller = subprocess.Popen([sys.executable, "-c", CALLER, str(store), cell.id, number])  # noqa: ASYNC220
    try:
        await outside.until(lambda: len(outside.bearing(number)) == 3)  # with the caller itself
    finally:
        caller.kill()
        caller.wait()
    await outside.gone(number)
    assert await cell.out("echo alive") == "alive\n"


# Signals among the guests


async def test_one_exec_signals_another(cell: Cell) -> None:
    number = mark()
    task = asyncio.ensure_future(cell.sh('echo $$ > pid; exec sleep "$1"', number))
    await outside.one(number)
    assert (await cell.sh('kill -USR1 "$(cat pid)"')).success
    result = await task
    assert (result.exit_code, result.signal) == (128 + signal.SIGUSR1, signal.SIGUSR1)


async def test_kill_of_everything_spares_the_session(cell: Cell) -> None:
    number = mark()
    other = asyncio.ensure_future(cell.exec("sleep", [number]))
    await outside.one(number)
    natives = {role: cell.native(role) for role in ("warden", "spawner", "init")}
    await cell.out("echo kept > note")
    # a builtin of the shell, which kill(2) spares: it lives to exit by itself
    result = await cell.sh("kill -9 -1; exit 42")
    assert (result.exit_code, result.signal, result.timed_out) == (42, None, False)
    killed = await other
    assert (killed.exit_code, killed.signal) == (137, signal.SIGKILL)
    assert await cell.out("cat note") == "kept\n"
    assert {role: cell.native(role) for role in natives} == natives


async def test_output_after_kill_of_everything_is_whole(cell: Cell) -> None:
    result = await cell.sh("echo before; kill -9 -1; head -c 500000 /dev/zero; echo after >&2; kill -TERM $$")
    assert (len(result.stdout), result.stderr) == (500_007, "after\n")
    assert (result.exit_code, result.signal) == (143, signal.SIGTERM)


async def test_a_timeout_still_comes_after_kill_of_everything(cell: Cell) -> None:
    number = mark()
    result, _ = await timed_out(cell, 0.6, 'kill -9 -1; echo alone; sleep "$1"', number)
    assert result.stdout == "alone\n"
    await outside.gone(number)
    assert await cell.out("echo alive") == "alive\n"


STOPPER = """
import os, signal
print("ready", flush=True)
while True:
    try:
        os.kill(-1, signal.SIGSTOP)
    except ProcessLookupError:
        pass
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in (1, os.getpid()):
            try:
                os.kill(int(name), signal.SIGSTOP)
            except OSError:
                pass
"""


async def test_a_guest_that_stops_everything_times_out_in_time(cell: Cell) -> None:
    number = mark()
    result, _ = await timed_out(cell, 0.8, 'exec /usr/bin/python3 -c "$1" "$2"', STOPPER, number)
    assert result.stdout == "ready\n"
    await outside.gone(number, WITHIN + outside.SLACK)
    assert await cell.out("echo alive") == "alive\n"


async def test_execs_under_a_guest_that_stops_everything_end(cell: Cell) -> None:
    """Its neighbours may be held still, by their own timeouts they end; the backend never hangs."""
    number = mark()
    stopper = asyncio.ensure_future(cell.python(STOPPER, number, timeout=4))
    await outside.one(number)
    before = time.monotonic()
    neighbours = await asyncio.gather(*(cell.exec("true", timeout=1) for _ in range(5)), return_exceptions=True)
    assert time.monotonic() - before < 1 + WITHIN + outside.SLACK
    assert len(neighbours) == 5
    await asyncio.gather(stopper, return_exceptions=True)
    assert await cell.out("echo alive") == "alive\n"


# Many at once


async def test_fifty_execs_at_once(backend: LocalSandbox) -> None:
    async with live(backend) as cell:
        words = [f"word {number}" for number in range(50)]
        results = await asyncio.gather(*(cell.sh('cat; echo "$1"; exit 3', word, stdin=word * 1000) for word in words))
        assert [result.stdout for result in results] == [f"{word * 1000}{word}\n" for word in words]
        assert {result.exit_code for result in results} == {3}


async def test_fifty_timeouts_at_once(cell: Cell) -> None:
    number = mark()
    before = time.monotonic()
    results = await asyncio.gather(*(cell.sh('setsid sleep "$1" & wait', number, timeout=1) for _ in range(50)))
    assert time.monotonic() - before < 1 + WITHIN + outside.SLACK
    assert all(result.timed_out for result in results)
    assert outside.bearing(number) == []
