# ruff: noqa: ASYNC240 - small files of the host, read in between
"""`debug` allows ptrace among a session's own processes; without it there is none."""

import asyncio
import os
import signal

import pytest

from tests.local import outside
from tests.local.cell import Cell, mark

pytestmark = pytest.mark.user

# PTRACE_TRACEME 0 and PTRACE_CONT 7 of a child that stops itself, PTRACE_ATTACH 16 to another; sys/ptrace.h
TRACER = """
import ctypes, errno, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long

def ptrace(request, pid=0):
    ctypes.set_errno(0)
    answer = libc.ptrace(request, pid, None, None)
    error = ctypes.get_errno()
    return errno.errorcode[error] if answer == -1 and error else "ok"

child = os.fork()
if child == 0:
    traced = ptrace(0)
    os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(7 if traced == "ok" else 8)
_, status = os.waitpid(child, os.WUNTRACED)
continued = ptrace(7, child)
print("stopped" if os.WIFSTOPPED(status) else status, continued)
if continued != "ok":
    os.kill(child, signal.SIGCONT)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status))
target = os.fork()
if target == 0:
    signal.pause()
print(ptrace(16, target))
os.kill(target, signal.SIGKILL)
"""


async def test_debug_allows_ptrace(cell: Cell) -> None:
    result = await cell.python(TRACER, debug=True)
    assert (result.stdout, result.exit_code) == ("stopped ok\n7\nok\n", 0), result


async def test_without_debug_ptrace_is_refused(cell: Cell) -> None:
    result = await cell.python(TRACER)
    assert (result.stdout, result.exit_code) == ("stopped EPERM\n8\nEPERM\n", 0), result


async def test_a_tracer_of_the_machines_own_works(cell: Cell) -> None:
    if not os.path.exists("/usr/bin/strace"):  # the tests above need no program of the host's
        return
    result = await cell.sh("strace -f -e trace=execve /bin/true", debug=True)
    assert result.success
    assert 'execve("/bin/true"' in result.stderr


async def test_both_kinds_of_exec_live_side_by_side(cell: Cell) -> None:
    number = mark()
    task = asyncio.ensure_future(cell.sh('echo $$ > pid; exec sleep "$1"', number, debug=True))
    await outside.one(number)
    assert (await cell.sh('kill -TERM "$(cat pid)"', debug=True)).success
    assert (await task).signal == signal.SIGTERM
    outputs = await asyncio.gather(*(cell.out('echo "$1"', str(i), debug=i % 2 == 0) for i in range(20)))
    assert outputs == [f"{i}\n" for i in range(20)]


async def test_a_debug_exec_is_killed_like_any(cell: Cell) -> None:
    number = mark()
    result = await cell.sh('setsid sleep "$1" & echo ready; exec sleep "$1"', number, debug=True, timeout=0.5)
    assert (result.timed_out, result.stdout) == (True, "ready\n")
    assert outside.bearing(number) == []
    assert (await cell.exec("true", debug=True)).success


async def test_debug_comes_back_with_the_session(cell: Cell) -> None:
    assert (await cell.exec("true", debug=True)).success
    warden = cell.native("warden")
    os.kill(warden, signal.SIGKILL)
    await outside.until(lambda: not outside.is_there(warden))
    assert (await cell.python(TRACER, debug=True)).stdout == "stopped ok\n7\nok\n"


async def test_a_lost_debug_spawner_is_replaced(cell: Cell) -> None:
    assert (await cell.exec("true", debug=True)).success
    ordinary = cell.backend.session(cell.id)
    first = min(outside.called("alcove-spawner", cell.directory.name))
    (debugger,) = set(outside.called("alcove-spawner", cell.directory.name)) - {first}
    os.kill(debugger, signal.SIGKILL)
    await outside.until(lambda: not outside.is_there(debugger))
    assert (await cell.exec("true")).success
    assert (await cell.exec("true", debug=True)).success
    assert cell.backend.session(cell.id) == ordinary
