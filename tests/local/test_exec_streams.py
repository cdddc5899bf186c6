"""Standard input, output and error: all of it in, all of it or its two ends out, and nobody waits for nobody."""

import asyncio
import os
import subprocess
import sys
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import pytest

from alcove.contract import SandboxSpec
from alcove.local.backend import LocalSandbox
from alcove.local.config import LocalSandboxConfig
from tests.local import outside
from tests.local.cell import Cell, live, mark, raw_output

pytestmark = pytest.mark.user

MIB = 1 << 20


# Input


async def test_no_stdin_is_the_end_at_once(cell: Cell) -> None:
    assert await cell.out("cat; read line; echo $?") == "1\n"
    assert await cell.out("readlink /proc/self/fd/0") == "/dev/null\n"


async def test_an_empty_stdin_is_the_end_at_once(cell: Cell) -> None:
    assert (await cell.exec("cat", stdin="")).stdout == ""
    assert (await cell.exec("wc", ["-c"], stdin_base64="")).stdout == "0\n"


async def test_fifty_mebibytes_of_stdin_arrive(cell: Cell) -> None:
    data = os.urandom(MIB) * 50
    text = b64encode(data).decode()
    count, digest = await asyncio.gather(
        cell.exec("wc", ["-c"], stdin_base64=text), cell.exec("sha256sum", stdin_base64=text)
    )
    assert count.stdout == f"{50 * MIB}\n"
    assert digest.stdout == f"{sha256(data).hexdigest()}  -\n"


async def test_a_slow_reader_of_stdin_gets_all_of_it(cell: Cell) -> None:
    program = """
import os
total = 0
while chunk := os.read(0, 4097):
    total += len(chunk)
print(total)
"""
    assert (await cell.python(program, stdin="x" * (3 * MIB + 1))).stdout == f"{3 * MIB + 1}\n"


@pytest.mark.parametrize("script", ["exit 3", "exec <&-; exit 3", "head -c 10 >/dev/null; exit 3"])
async def test_a_stdin_that_is_not_read_holds_nothing_back(cell: Cell, script: str) -> None:
    result = await cell.sh(script, stdin="x" * (4 * MIB))
    assert (result.exit_code, result.timed_out) == (3, False)


async def test_a_background_child_may_keep_an_unread_stdin(cell: Cell) -> None:
    number = mark()
    result = await cell.sh('exec 3<&0; sleep "$1" <&3 >/dev/null 2>&1 & exit 0', number, stdin="x" * MIB)
    assert result.success
    await outside.one(number)


async def test_stdin_of_any_bytes(cell: Cell) -> None:
    data = bytes(range(256)) * 300
    result = await cell.exec("cat", stdin_base64=b64encode(data).decode(), raw=True)
    assert raw_output(result) == data


# Output


async def test_streams_keep_apart_and_in_order(cell: Cell) -> None:
    result = await cell.sh("for i in 1 2 3; do echo o$i; echo e$i >&2; done")
    assert (result.stdout, result.stderr) == ("o1\no2\no3\n", "e1\ne2\ne3\n")


async def test_any_bytes_come_out(cell: Cell) -> None:
    data = bytes(range(256)) + b"\xed\xa0\x80\xff\xfe" + "é\u202e\U0001f600".encode() + b"\0\xf0\x9f"
    await cell.exec("tee", ["data"], stdin_base64=b64encode(data).decode())
    raw = await cell.sh("cat data; cat data >&2", raw=True)
    assert raw_output(raw) == data
    assert raw.stderr_base64 == raw.stdout_base64
    assert raw.stdout == raw.stderr == data.decode("utf-8", "replace")
    plain = await cell.exec("cat", ["data"])
    assert (plain.stdout, plain.stdout_base64, plain.stderr_base64) == (raw.stdout, None, None)


def kept(data: bytes, limit: int) -> tuple[bytes, int]:
    """Return what the contract keeps: the first and the last half, the odd byte with the first."""
    if len(data) <= limit:
        return data, 0
    tail = limit // 2
    return data[: limit - tail] + (data[-tail:] if tail else b""), len(data) - limit


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 7, 10, 4095, 65_536, 65_537, 99_999, 100_000, 100_001])
async def test_beyond_the_limit_both_ends_are_kept(cell: Cell, limit: int) -> None:
    data = b"".join(b"%09d\n" % number for number in range(10_000))
    result = await cell.exec("tee", ["/dev/stderr"], stdin=data.decode(), output_limit=limit, raw=True)
    wanted, omitted = kept(data, limit)
    assert raw_output(result) == wanted
    assert (result.stdout_omitted, result.stderr_omitted) == (omitted, omitted)
    assert (result.stdout, result.stderr) == (wanted.decode(), wanted.decode())


async def test_each_stream_has_a_limit_of_its_own(cell: Cell) -> None:
    result = await cell.sh("printf 0123456789; printf abc >&2", output_limit=4)
    assert (result.stdout, result.stdout_omitted) == ("0189", 6)
    assert (result.stderr, result.stderr_omitted) == ("abc", 0)


async def test_the_nearest_limit_holds(backend: LocalSandbox) -> None:
    async with live(backend, SandboxSpec(output_limit=6)) as cell:
        assert (await cell.exec("printf", ["0123456789"])).stdout == "012789"
        assert (await cell.exec("printf", ["0123456789"], output_limit=2)).stdout == "09"
        assert (await cell.exec("printf", ["0123456789"], output_limit=0)).stdout == ""
        assert (await cell.exec("printf", ["0123456789"], output_limit=100)).stdout == "0123456789"


async def test_eight_mebibytes_are_kept_by_default(cell: Cell) -> None:
    assert LocalSandboxConfig().default_output_limit == 8 * MIB
    full = await cell.exec("head", ["-c", str(8 * MIB), "/dev/zero"])
    assert (len(full.stdout), full.stdout_omitted) == (8 * MIB, 0)
    more = await cell.exec("head", ["-c", str(8 * MIB + 1), "/dev/zero"])
    assert (len(more.stdout), more.stdout_omitted) == (8 * MIB, 1)


FLOOD = """
import asyncio, os, resource, sys
from alcove.contract import ExecRequest, Limited, SandboxSpec
from alcove.local.backend import LocalSandbox
from alcove.local.config import LocalSandboxConfig

async def main():
    native = os.environ.get("ALCOVE_TEST_NATIVE")
    backend = LocalSandbox(LocalSandboxConfig(root_dir=sys.argv[1], native=native))
    session = await backend.provision(SandboxSpec(network_policy=Limited()))
    async def run(size):
        request = ExecRequest("head", ["-c", str(size), "/dev/zero"], timeout=50, output_limit=1 << 20)
        result = await backend.exec(session.id, request)
        assert result.success and len(result.stdout) + result.stdout_omitted == size, result.exit_code
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        before = await run(16 << 20)
        print(await run(int(sys.argv[2])) - before)
    finally:
        await backend.terminate(session.id)

asyncio.run(main())
"""


def test_a_flood_of_two_gigabytes_leaves_our_memory_flat(store: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FLOOD, str(store), str(2 << 30)], capture_output=True, text=True, check=False, timeout=55
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 32 << 10  # KiB, of 2 GiB


async def test_a_flood_on_both_streams_is_drained(cell: Cell) -> None:
    script = "head -c 60000000 /dev/zero >&2 & head -c 50000000 /dev/zero; wait"
    result = await cell.sh(script, output_limit=100)
    assert (result.exit_code, result.stdout_omitted, result.stderr_omitted) == (0, 49_999_900, 59_999_900)


# Whoever holds a pipe beyond the command's end


async def test_a_background_child_holds_nothing_back_and_lives_on(cell: Cell) -> None:
    number = mark()
    result = await cell.sh('echo before; sleep "$1" & exit 7', number)
    assert (result.stdout, result.exit_code, result.timed_out) == ("before\n", 7, False)
    assert outside.is_there(await outside.one(number))
    assert (await cell.exec("true")).success


WRITER = """
import os, sys, time
if os.fork():
    os._exit(0)
open("/workspace/started", "w").close()
while not os.path.exists("/workspace/go"):
    time.sleep(0.01)
for _ in range(200):
    os.write(1, b"x" * 65536)
    os.write(2, b"y" * 65536)
open("/workspace/written", "w").close()
"""


async def test_that_child_can_still_write(cell: Cell) -> None:
    """Neither SIGPIPE nor a full pipe meets it: what it writes is read and dropped."""
    assert (await cell.python(WRITER)).success
    workspace = cell.directory / "workspace"
    (workspace / "go").touch()
    await outside.until((workspace / "written").exists, "the child did not come to its end")


async def test_the_monitors_end_lets_a_server_live(cell: Cell) -> None:
    server = "import socket\ns = socket.create_server(('127.0.0.1', 8901))\nwhile True: s.accept()[0].sendall(b'up')"
    assert (await cell.sh('/usr/bin/python3 -c "$1" & echo $!', server)).success
    client = """
import socket, time
for _ in range(1000):
    try:
        print(socket.create_connection(("127.0.0.1", 8901), timeout=5).recv(9).decode())
        break
    except ConnectionRefusedError:
        time.sleep(0.01)
"""
    assert (await cell.python(client)).stdout == "up\n"


# The names of the streams


@pytest.mark.parametrize("name", ["/dev/std{}", "/proc/self/fd/{}", "/dev/fd/{}"])
async def test_streams_can_be_opened_again_by_name(cell: Cell, name: str) -> None:
    names = {"in": "in", "out": "out", "err": "err"} if "std" in name else {"in": "0", "out": "1", "err": "2"}
    paths = {key: name.format(value) for key, value in names.items()}
    script = f"cat {paths['in']} > {paths['out']}; echo problem > {paths['err']}; echo more >> {paths['out']}"
    result = await cell.sh(script, stdin="given\n")
    assert (result.stdout, result.stderr) == ("given\nmore\n", "problem\n")


async def test_a_stream_is_a_fresh_one_way_pipe(cell: Cell) -> None:
    """Never the caller's own file or terminal: flags that a guest sets on it must change nothing for others."""
    program = """
import fcntl, os, stat
for fd in (0, 1, 2):
    assert stat.S_ISFIFO(os.fstat(fd).st_mode)
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    assert flags & os.O_ACCMODE == (os.O_RDONLY if fd == 0 else os.O_WRONLY), flags
    assert not flags & os.O_NONBLOCK
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_NONBLOCK)
print(len({os.fstat(fd).st_ino for fd in (0, 1, 2)}))
"""
    assert (await cell.python(program, stdin="x")).stdout == "3\n"
    assert (await cell.python(program, stdin="x")).stdout == "3\n"


async def test_nonblocking_output_is_not_lost(cell: Cell) -> None:
    program = """
import os, select
os.set_blocking(1, False)
left = b"x" * 5_000_000
while left:
    try:
        left = left[os.write(1, left):]
    except BlockingIOError:
        select.select([], [1], [])
"""
    assert len((await cell.python(program)).stdout) == 5_000_000
