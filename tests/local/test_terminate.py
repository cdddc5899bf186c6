# ruff: noqa: ASYNC240 - small files of the host, read in between
"""The end of a session: within a bound, twice if need be, whatever its guest has done to stay."""

import asyncio
import os
import time
from pathlib import Path
from typing import Self

import pytest

from alcove.contract import FilesystemAccess, FilesystemMount
from alcove.local.backend import LocalSandbox
from tests.conftest import PlainUser
from tests.local import outside
from tests.local.cell import Cell, live, mark

pytestmark = [pytest.mark.user, pytest.mark.security]

#: Seconds in which even a hostile session ends; many files take as long as they take.
WITHIN = 2.0


async def end(cell: Cell, within: float = WITHIN) -> None:
    """Terminate, and require that nothing is left and that it did not take long."""
    key, directory = cell.directory.name, cell.directory
    before = time.monotonic()
    await cell.backend.terminate(cell.id)
    assert time.monotonic() - before < within + outside.SLACK
    assert not directory.exists()
    assert not [pid for role in ("warden", "spawner", "init", "exec") for pid in outside.called(f"alcove-{role}", key)]
    # os.walk: other sessions' groups come and go meanwhile
    assert not [place for place, names, _ in os.walk("/sys/fs/cgroup") if f"alcove-{key}" in names]
    await cell.backend.terminate(cell.id)


async def test_an_honest_session_ends_twice_and_at_once(cell: Cell) -> None:
    await end(cell)
    await asyncio.gather(*(cell.backend.terminate(cell.id) for _ in range(5)))


async def test_five_ends_at_once_are_one(backend: LocalSandbox) -> None:
    async with live(backend) as cell:
        await asyncio.gather(*(backend.terminate(cell.id) for _ in range(5)))
        assert not cell.directory.exists()


async def test_a_cancelled_end_comes_to_its_end(backend: LocalSandbox) -> None:
    async with live(backend) as cell:
        task = asyncio.ensure_future(backend.terminate(cell.id))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await outside.until(lambda: not cell.directory.exists())
        await backend.terminate(cell.id)


async def test_running_execs_end_with_it(cell: Cell) -> None:
    number = mark()
    tasks = [asyncio.ensure_future(cell.sh('setsid sleep "$1" & exec sleep "$1"', number)) for _ in range(5)]
    await outside.until(lambda: len(outside.bearing(number)) == 10)
    await end(cell)
    assert outside.bearing(number) == []
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, Exception) for result in results)


STAYS = {
    "fork bomb": """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
    "stops everything": """
import os, signal
while True:
    try:
        os.kill(-1, signal.SIGSTOP)
    except OSError:
        pass
""",
    "deaf": """
import signal, time
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
time.sleep(600)
""",
    "holds files open": """
import os, time
kept = [os.open(f"/workspace/{number}", os.O_CREAT | os.O_RDWR) for number in range(500)]
for number in range(250):
    os.unlink(f"/workspace/{number}")
time.sleep(600)
""",
    "holds mappings": """
import mmap, os, time
fd = os.open("/tmp/mapped", os.O_CREAT | os.O_RDWR)
os.ftruncate(fd, 1 << 20)
kept = mmap.mmap(fd, 1 << 20)
kept[:3] = b"abc"
os.fchmod(fd, 0)
time.sleep(600)
""",
    "forks and exits": """
import os
while True:
    if os.fork():
        os._exit(0)
""",
}


@pytest.mark.parametrize("kind", STAYS)
async def test_a_guest_that_wants_to_stay_does_not(cell: Cell, kind: str) -> None:
    number = mark()
    script = 'ulimit -u 150; setsid /usr/bin/python3 -c "$1" "$2" <&- >&- 2>&- & exit 0'
    await cell.sh(script, STAYS[kind], number)
    await outside.until(lambda: outside.bearing(number))
    await end(cell)
    assert outside.bearing(number) == []


LEAVES = {
    "no rights": "mkdir -p a/b/c && echo x > a/b/c/f && chmod 000 a/b/c a/b a; chmod 000 . /tmp /mnt/session/outputs",
    "read-only names": "mkdir d; touch d/f; chmod 555 d; chmod 444 d/f",
    "odd names": "touch -- -rf '*' 'new\nline' '..a' \"$(printf '\\377\\376')\"; mkdir -- '-d' ' '",
    "links": "ln -s / root; ln -s .. up; ln -s self self; mkdir x; ln -s ../x x/y; ln /etc/passwd hard",
    "fifos and sockets": "mkfifo a b; /usr/bin/python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"s\")'",
    "sparse giant": "truncate -s 1T giant; truncate -s 1T /tmp/giant",
}


@pytest.mark.parametrize("kind", LEAVES)
async def test_what_a_guest_leaves_is_removed(cell: Cell, kind: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("stays")
    await cell.sh(LEAVES[kind])
    await end(cell)
    assert canary.read_text() == "stays"
    assert Path("/etc/passwd").exists()


async def test_a_link_of_the_guests_is_not_followed(cell: Cell, tmp_path: Path, plain_user: PlainUser) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("stays")
    await cell.sh('ln -s "$1" link; ln -s "$1" /tmp/link; mkdir d; ln -s "$1" d/link', str(victim))
    await end(cell)
    assert (victim / "file").read_text() == "stays"


async def test_what_was_attached_is_left_as_it_is(cell: Cell, tmp_path: Path, plain_user: PlainUser) -> None:
    source = tmp_path / "given"
    source.mkdir()
    (source / "file").write_text("stays")
    for path in (source, source / "file"):
        os.chown(path, plain_user.uid, plain_user.gid)
    for target in ("/data", "/workspace/in", "/tmp/in"):
        await cell.backend.attach_filesystem(cell.id, FilesystemMount(source, target, FilesystemAccess.READ_WRITE))
    await cell.sh("echo made > /workspace/in/made")
    await end(cell)
    assert sorted(path.name for path in source.iterdir()) == ["file", "made"]


DEEP = """
import os
for place in ("/workspace", "/tmp"):
    os.chdir(place)
    for _ in range(5000):
        os.mkdir("d")
        os.chdir("d")
    open("bottom", "w").close()
"""


async def test_five_thousand_deep(cell: Cell) -> None:
    assert (await cell.python(DEEP)).success
    await end(cell, within=20)


class Heartbeat:
    """The longest time for which the event loop did nothing else while the block lasted."""

    longest = 0.0

    async def __aenter__(self) -> Self:
        self._task = asyncio.ensure_future(self._beat())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _beat(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.01)
            now = time.monotonic()
            self.longest = max(self.longest, now - last)
            last = now


@pytest.mark.slow
async def test_a_hundred_thousand_files_and_the_others_are_served_meanwhile(cell: Cell) -> None:
    program = """
import os
os.mkdir("many")
for number in range(100_000):
    os.close(os.open(f"many/{number}", os.O_CREAT | os.O_WRONLY))
"""
    assert (await cell.python(program)).success
    async with Heartbeat() as heart:
        await end(cell, within=40)
    assert heart.longest < 0.5


async def test_many_sessions_end_at_once(backend: LocalSandbox) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(12):
            group.create_task(_whole_life(backend))
    assert backend.sessions() == []


async def _whole_life(backend: LocalSandbox) -> None:
    async with live(backend) as cell:
        number = mark()
        await cell.sh('setsid -f sleep "$1" <&- >&- 2>&-; echo x > /tmp/f', number)
        await end(cell, within=10)  # a dozen on what may be two processors
        assert outside.bearing(number) == []
