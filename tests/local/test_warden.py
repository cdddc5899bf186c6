"""A session's warden short of descriptors, amid processes that stand still, and asked by those who have left."""

import asyncio
import ctypes
import errno
import os
import resource
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count, islice
from pathlib import Path

import pytest

from alcove.contract import ExecError, SandboxIoError
from alcove.local import native
from alcove.local.cell import control
from alcove.local.cell.launch import CONTROL_SOCKET, Launcher, connect
from alcove.local.cell.operations import Kind, Tree, operation
from alcove.local.readiness import readable
from alcove.local.sleep import freezer
from tests.local import outside, projects, stuck
from tests.local.cell import Cell, mark

pytestmark = [pytest.mark.security, pytest.mark.root]

_OPEN_TREE, _CLONE = 428, 1  # open_tree(2)


@asynccontextmanager
async def room(cell: Cell, descriptors: int) -> AsyncIterator[None]:
    """Let a session's warden open so many descriptors more, and none beyond them."""
    pid = cell.native("warden")
    await outside.until(lambda: not any(place.startswith("pipe:") for place in outside.descriptors(pid).values()))
    with connect(str(cell.directory), CONTROL_SOCKET) as connection:
        for _ in range(2):  # with the second answer it has closed every connection that had ended before
            control.send(connection, operation(Kind.STATUS))
            assert await readable(connection.fileno(), outside.SOON)
            connection.recv(control.REPLY.size)
        used = outside.descriptors(pid)
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        limit = next(islice((number for number in count() if number not in used), descriptors, None))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
        try:
            yield
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


# Who lives in the cell


@pytest.mark.parametrize("descriptors", [1, 2])  # no more than the connection, or than it and /proc
async def test_what_it_cannot_look_at_counts(cell: Cell, descriptors: int) -> None:
    number = mark()
    await cell.sh('sleep "$1" >/dev/null 2>&1 &', number)
    await outside.one(number)
    async with room(cell, descriptors):
        reply = await freezer.end_if_empty(str(cell.directory))
    assert (reply.error, reply.step, reply.processes) == (errno.EBUSY, "processes", 0)
    assert outside.bearing(number)
    assert await cell.out("echo goes on") == "goes on\n"


async def test_a_cell_ends_with_a_spawner_that_stands_still(cell: Cell) -> None:
    """PID 1 is not gone before the spawner has reaped its monitors."""
    number, warden = mark(), cell.native("warden")
    running = asyncio.ensure_future(cell.sh('exec sleep "$1"', number))
    await outside.one(number)
    os.kill(cell.native("spawner"), signal.SIGSTOP)
    reply = await control.ask(str(cell.directory), operation(Kind.END), within=outside.SOON)
    assert reply.error == 0
    await outside.until(lambda: not outside.is_there(warden))
    with pytest.raises(ExecError):
        await running


# Pipes that outlive their command


async def test_a_pipe_stays_open_where_there_is_no_room_for_another(cell: Cell) -> None:
    read, write = os.pipe()
    with os.fdopen(write, "wb", buffering=0) as pipe:
        async with room(cell, 2):  # the connection, and what comes with it
            assert (await control.ask(str(cell.directory), operation(Kind.DRAIN), (read,))).error == 0
        os.close(read)
        await asyncio.to_thread(pipe.write, bytes(1 << 20))


# Mounts


async def test_a_mount_is_there_or_is_refused_whatever_the_room(cell: Cell, project: Path) -> None:
    made = []
    for descriptors in range(2, 12):  # from the connection with one more, to as many as it takes
        target = f"/mnt/{descriptors}"
        async with room(cell, descriptors):
            try:
                await cell.backend.attach_filesystem(cell.id, projects.mounted(project, target))
            except SandboxIoError:
                continue
        assert await cell.out(f"cat {target}/kept") == projects.FILES["kept"]
        made.append(descriptors)
    assert made
    assert made[0] > 2


@contextmanager
def clone(directory: Path) -> Iterator[int]:
    """Yield a mount of a directory that is nowhere yet, as a porter hands it over."""
    libc = ctypes.CDLL(None, use_errno=True)
    tree = libc.syscall(_OPEN_TREE, -1, os.fsencode(directory), _CLONE | os.O_CLOEXEC)
    assert tree >= 0, os.strerror(ctypes.get_errno())
    try:
        yield tree
    finally:
        os.close(tree)


async def attach_clone(cell: Cell, directory: Path, target: str) -> control.Reply:
    with clone(directory) as tree:
        request = operation(Kind.ATTACH, "", target, flags=Tree.NOSUID | Tree.NODEV)
        return await control.ask(str(cell.directory), request, (tree,))


async def test_a_mount_whose_caller_has_hung_up_is_not_made(cell: Cell, project: Path) -> None:
    warden = cell.native("warden")
    os.kill(warden, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(attach_clone(cell, project, "/mnt/late"), 0.1)
    os.kill(warden, signal.SIGCONT)
    assert (await attach_clone(cell, project, "/mnt/there")).error == 0
    assert {"/mnt/late", "/mnt/there"} & set(outside.mounts(cell.native("spawner"))) == {"/mnt/there"}
    assert "late" not in await cell.out("ls /mnt")


async def test_a_layer_on_a_disk_that_hangs_holds_nobody_up(cell: Cell, tmp_path: Path) -> None:
    warden, lower, holder = cell.native("warden"), tmp_path / "lower", tmp_path / "holder"
    for directory in (lower, holder / "upper", holder / "work"):
        directory.mkdir(parents=True)
    flags = Tree.COW | Tree.NOSUID | Tree.NODEV | Tree.NOT_RECURSIVE
    request = operation(Kind.ATTACH, "", "/mnt/stuck", flags=flags) + operation(Kind.TREE, "", flags=flags)
    with stuck.mounted(lower) as disk:
        with clone(lower) as source, clone(holder) as changes:
            asking = asyncio.ensure_future(control.ask(str(cell.directory), request, (source, changes)))
            child = await asyncio.wait_for(disk.asking, outside.SOON)
        places = [place.partition(":")[0] for place in outside.descriptors(child).values()]
        assert (places.count("socket"), places.count("mnt")) == (1, 0)
        reply = await asking
        assert (reply.error, reply.step) == (errno.ETIMEDOUT, "overlay")
        assert (await control.ask(str(cell.directory), operation(Kind.END))).error == 0
        await outside.until(lambda: not outside.is_there(warden))
        assert outside.is_there(child)
    await outside.until(lambda: not outside.is_there(child))


async def test_ids_that_cannot_be_mapped_are_told_like_every_refusal(cell: Cell, project: Path) -> None:
    """By the porter, whose caller waits for a reply of the warden's form."""
    nobody = {"n0": 2**32 - 1, "n1": 2**32 - 1}  # (uid_t)-1, which no map may name
    porter = Launcher(str(native.find()), "porter", cell.directory.name)
    userns, source = os.open(f"/proc/{cell.native('warden')}/ns/user", os.O_RDONLY), os.open(project, os.O_PATH)
    try:
        with connect(str(cell.directory), CONTROL_SOCKET) as connection:
            porter.plan(operation(Kind.ATTACH, "", "/mnt/nobody", flags=Tree.IDMAP_OWNER, **nobody))
            porter.send(connection.fileno(), userns, source)
        reply = control.parse_reply(await porter.answer(control.REPLY.size, control.ANSWER_WITHIN_S))
    finally:
        os.close(userns)
        os.close(source)
        porter.abandon()
    assert (reply.error, reply.step) == (errno.EINVAL, "idmapped mount")


async def test_more_slashes_lead_nowhere_else(cell: Cell, project: Path) -> None:
    reply = await attach_clone(cell, project, "//somewhere//below")
    assert (reply.error, reply.step) == (0, "")
    assert await cell.out("ls -d /somewhere/below/kept") == "/somewhere/below/kept\n"
