"""`disk_mb`: what a session's guest writes lies in an image of that size, and never takes more."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from alcove.contract import (
    FilesystemAccess,
    FilesystemMount,
    InvalidRequest,
    LifecycleError,
    Limited,
    SandboxSession,
    SandboxSpec,
    SandboxState,
    Unsupported,
)
from alcove.local.backend import LocalSandbox
from alcove.local.config import LocalSandboxConfig
from alcove.local.disk import disk, loopback
from alcove.local.disk.disk_use import measure
from tests.local import outside
from tests.local.cell import Cell, live

pytestmark = pytest.mark.root
MIB = 1 << 20
SIZE = 64
#: What a file system of this size needs for itself: inodes, bitmaps, and blocks kept for delayed allocation.
SLACK = 0.07


def spec(megabytes: int = SIZE, **fields: Any) -> SandboxSpec:
    return SandboxSpec(network_policy=Limited(), disk_mb=megabytes, **fields)


def home(cell: Cell) -> Path:
    """Return the session's directory; its outputs have no path on the host."""
    memory = cell.session.mounts[0].host_path
    assert memory is not None
    return Path(memory).parent


def taken(cell: Cell) -> int:
    """Return the bytes that all of the session takes on the host's disk."""
    os.sync()
    return measure(str(home(cell))).bytes


def devices(store: Path) -> list[str]:
    found = [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    return [image for image in found if image.startswith(str(store))]


@asynccontextmanager
async def limited(backend: LocalSandbox, megabytes: int = SIZE, **fields: Any) -> AsyncIterator[Cell]:
    async with live(backend, spec(megabytes, **fields)) as cell:
        yield cell


class TestFilling:
    """RX04: by whatever means, it ends at the limit and inside."""

    async def test_one_big_file(self, backend: LocalSandbox) -> None:
        async with limited(backend) as cell:
            result = await cell.sh("head -c 1G /dev/zero | tr '\\0' x >big; stat -c %s big")
            assert "No space left on device" in result.stderr
            assert SIZE * MIB * (1 - SLACK) < int(result.stdout) < SIZE * MIB
            assert taken(cell) <= SIZE * MIB + 100_000

    async def test_all_places_that_a_guest_writes_share_it(self, backend: LocalSandbox) -> None:
        async with limited(backend) as cell:
            await cell.sh("head -c 1G /dev/urandom >/tmp/big")
            for place in ("/workspace", "/var/tmp", "/mnt/session/outputs"):
                result = await cell.sh(f"head -c 1M /dev/urandom >{place}/more")
                assert "No space left on device" in result.stderr, place
            await cell.out("rm /tmp/big; head -c 1M /dev/urandom >/mnt/session/outputs/more")
            assert taken(cell) <= SIZE * MIB + 100_000

    async def test_a_hundred_thousand_files(self, backend: LocalSandbox) -> None:
        program = """
import errno, os
made = 0
try:
    for made in range(100_000):
        if made % 1000 == 0:
            os.mkdir(f"d{made}")
        os.close(os.open(f"d{made // 1000 * 1000}/{made}", os.O_CREAT | os.O_WRONLY))
except OSError as error:
    print(made, errno.errorcode[error.errno])
"""
        async with limited(backend) as cell:
            made, name = (await cell.python(program)).stdout.split()
            assert (name, int(made) > SIZE * MIB // 8192 * 0.9) == ("ENOSPC", True)
            assert taken(cell) <= SIZE * MIB + 100_000

    async def test_holes_are_no_way_around(self, backend: LocalSandbox) -> None:
        program = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
KEEP_SIZE, PUNCH_HOLE = 1, 2
fd = os.open("hollow", os.O_CREAT | os.O_RDWR)
os.ftruncate(fd, 1 << 40)
piece = os.urandom(1 << 20)
def fill(start):
    count = 0
    try:
        while True:
            os.pwrite(fd, piece, start + (count << 24))
            count += 1
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
    return count
counts = []
for turn in range(4):
    counts.append(fill(turn << 36))
    for at in range(counts[-1] + 1):
        size = ctypes.c_long(1 << 20)
        where = ctypes.c_long((turn << 36) + (at << 24))
        assert libc.fallocate(fd, KEEP_SIZE | PUNCH_HOLE, where, size) == 0, ctypes.get_errno()
print(*counts)
"""
        async with limited(backend) as cell:
            counts = [int(count) for count in (await cell.python(program)).stdout.split()]
            assert len(counts) == 4
            assert all(SIZE * (1 - SLACK) - 2 < count <= SIZE for count in counts), counts
            assert taken(cell) <= SIZE * MIB + 100_000

    async def test_what_is_deleted_and_still_open_counts(self, backend: LocalSandbox) -> None:
        program = """
import errno, os
def fill(name):
    fd = os.open(name, os.O_CREAT | os.O_RDWR)
    os.unlink(name)
    count = 0
    try:
        while True:
            count += os.write(fd, bytes(1 << 20))
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
    return fd, count
fd, first = fill("one")
other, second = fill("two")
os.close(fd)
third = fill("three")[1]
print(first >> 20, second >> 20, third >> 20)
"""
        async with limited(backend) as cell:
            first, second, third = map(int, (await cell.python(program)).stdout.split())
            assert first > SIZE * (1 - SLACK) - 2
            assert second < 2
            assert third > SIZE * (1 - SLACK) - 4
            assert taken(cell) <= SIZE * MIB + 100_000

    async def test_extended_attributes_and_links(self, backend: LocalSandbox) -> None:
        program = """
import errno, os
def until_full(make):
    try:
        for number in range(100_000):
            make(number)
    except OSError as error:
        return errno.errorcode[error.errno]
def attributes(number):
    os.close(os.open(f"x{number}", os.O_CREAT | os.O_WRONLY))
    os.setxattr(f"x{number}", "user.a", os.urandom(3000))
def links(number):
    if number % 50_000 == 0:
        os.close(os.open(f"l{number}", os.O_CREAT | os.O_WRONLY))
    os.link(f"l{number // 50_000 * 50_000}", f"{number}-" + "n" * 200)
print(until_full(attributes))
print(until_full(links))
"""
        async with limited(backend, 16) as cell:
            assert (await cell.python(program)).stdout.split() == ["ENOSPC", "ENOSPC"]
            assert taken(cell) <= 16 * MIB + 100_000

    async def test_another_session_goes_on(self, backend: LocalSandbox) -> None:
        async with limited(backend) as full, limited(backend) as other, live(backend) as free:
            await full.sh("head -c 1G /dev/urandom >big")
            for cell in (other, free):
                await cell.out("head -c 8M /dev/urandom >file; sync file")
            assert "No space left" in (await full.sh("head -c 1M /dev/urandom >more")).stderr


class TestOwnedRoot:
    @pytest.fixture
    def config(self, store: Path) -> LocalSandboxConfig:
        return LocalSandboxConfig(root_dir=str(store), rootfs="owned")

    async def test_changes_of_the_root_count(self, backend: LocalSandbox) -> None:
        async with limited(backend) as cell:
            await cell.out("echo mine >/etc/mine; rm /usr/bin/yes; cat /etc/mine")
            result = await cell.sh("head -c 1G /dev/urandom >/usr/big")
            assert "No space left on device" in result.stderr
            assert taken(cell) <= SIZE * MIB + 100_000
            await cell.out("rm /usr/big")
            await backend.snapshot(cell.id, name="changed")
        async with limited(backend, rootfs="snapshot:changed") as cell:
            assert await cell.out("cat /etc/mine; command -v yes || echo none") == "mine\nnone\n"
        await backend.delete_snapshot("changed")


class TestLife:
    async def test_it_is_told(self, backend: LocalSandbox) -> None:
        async with limited(backend) as cell:
            assert f"disk_mb={SIZE}:loop-image" in cell.session.metadata["limits"].split(",")
            assert cell.session.mounts[1].host_path is None
            assert disk.refusal(root=True) == ""

    async def test_the_host_sees_no_mount_of_it(self, backend: LocalSandbox, store: Path) -> None:
        async with limited(backend) as cell:
            assert str(store) not in outside.read(os.getpid(), "mountinfo")
            assert devices(store) == [f"{home(cell)}/{disk.IMAGE}\n"]
            assert list((home(cell) / disk.PLACE).iterdir()) == []

    async def test_nothing_is_left(self, backend: LocalSandbox, store: Path) -> None:
        async with limited(backend) as cell:
            await cell.out("head -c 8M /dev/urandom >file; sleep 600 <file >/dev/null 2>&1 &")
        await outside.until(lambda: devices(store) == [], "a loop device is left")
        assert list((store / "sessions").iterdir()) == []

    @pytest.mark.parametrize("role", ["warden", "init", "spawner"])
    async def test_a_death_frees_the_device_and_the_next_exec_has_the_files(
        self, backend: LocalSandbox, store: Path, role: str
    ) -> None:
        async with limited(backend) as cell:
            await cell.out("echo kept >file; echo out >/mnt/session/outputs/file; sync")
            pid = outside.called(f"alcove-{role}", home(cell).name)[0]
            os.kill(pid, signal.SIGKILL)
            await outside.until(lambda: devices(store) == [], "a loop device is left")
            assert backend.session(cell.id).state is SandboxState.SUSPENDED
            assert await cell.out("cat file /mnt/session/outputs/file") == "kept\nout\n"
            assert len(devices(store)) == 1
            result = await cell.sh("head -c 1G /dev/urandom >big")
            assert "No space left on device" in result.stderr

    async def test_one_that_sleeps_has_no_device_and_wakes_with_its_files(
        self, backend: LocalSandbox, store: Path
    ) -> None:
        async with limited(backend) as cell:
            await cell.out("echo kept >file")
            await backend.suspend(cell.id)
            await outside.until(lambda: devices(store) == [], "a loop device is left")
            assert await cell.out("cat file") == "kept\n"
            assert len(devices(store)) == 1

    async def test_twenty_at_once(self, backend: LocalSandbox, store: Path) -> None:
        sessions = await asyncio.gather(*(backend.provision(spec(16)) for _ in range(20)))
        cells = [Cell(backend, session) for session in sessions]
        try:
            assert len(devices(store)) == 20
            results = await asyncio.gather(*(cell.sh("head -c 1G /dev/zero >big; echo $?") for cell in cells))
            assert [result.stdout for result in results] == ["1\n"] * 20
            assert sum(taken(cell) for cell in cells) <= 20 * (16 * MIB + 100_000)
        finally:
            await asyncio.gather(*(backend.terminate(session.id) for session in sessions))
        await outside.until(lambda: devices(store) == [], "a loop device is left")

    async def test_cancelled_while_it_is_made(self, backend: LocalSandbox, store: Path) -> None:
        for step in range(12):
            task = asyncio.create_task(backend.provision(spec(16)))
            loop = asyncio.get_running_loop()
            loop.call_later(step * 0.003, task.cancel)
            (made,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(made, SandboxSession):
                await backend.terminate(made.id)
            else:
                assert isinstance(made, asyncio.CancelledError), made
        await outside.until(lambda: devices(store) == [], "a loop device is left")
        assert list((store / "sessions").iterdir()) == []


class TestSnapshots:
    async def test_a_fork_has_its_files_and_a_limit_of_its_own(self, backend: LocalSandbox, store: Path) -> None:
        async with limited(backend) as cell:
            await cell.out("echo 1 >kept; echo 1 >gone; mkdir d; echo 2 >d/f; chmod 640 d/f; ln -s kept link")
            await cell.out("echo out >/mnt/session/outputs/o; echo t >/tmp/t")
            forked = Cell(backend, await backend.fork(cell.id))
            try:
                await forked.out("rm gone; echo 3 >>d/f")
                assert f"disk_mb={SIZE}:loop-image" in forked.session.metadata["limits"]
                assert await forked.out("cat kept d/f link /tmp/t /mnt/session/outputs/o; stat -c %a d/f; ls") == (
                    "1\n2\n3\n1\nt\nout\n640\nd\nkept\nlink\n"
                )
                snapshot = await backend.snapshot(forked.id)
                async with limited(backend, 16, rootfs=f"snapshot:{snapshot.snapshot_id}") as third:
                    assert await third.out("cat d/f; ls") == "2\n3\nd\nkept\nlink\n"
                    assert "No space left" in (await third.sh("head -c 1G /dev/zero >big")).stderr
                await backend.delete_snapshot(snapshot.snapshot_id)
            finally:
                await backend.terminate(forked.id)
            assert await cell.out("cat gone d/f") == "1\n2\n"

    async def test_one_in_which_processes_write_is_frozen_and_goes_on(self, backend: LocalSandbox) -> None:
        async with limited(backend) as cell:
            await cell.out("echo 1 >kept; (while :; do echo more >>log; done) >/dev/null 2>&1 &")
            await cell.out("until [ -s log ]; do :; done")
            await backend.snapshot(cell.id, name="busy")
            before = int(await cell.out("stat -c %s log"))
            await cell.out(f"until [ $(stat -c %s log) -gt {before} ]; do :; done")
        async with limited(backend, rootfs="snapshot:busy") as cell:
            assert await cell.out("cat kept; sort -u log") == "1\nmore\n"
        await backend.delete_snapshot("busy")

    async def test_a_snapshot_of_one_becomes_a_session_without(self, backend: LocalSandbox) -> None:
        async with limited(backend) as cell:
            await cell.out("echo 1 >kept")
            await backend.snapshot(cell.id, name="kept")
            assert await cell.out("cat kept") == "1\n"
        async with live(backend, SandboxSpec(network_policy=Limited(), rootfs="snapshot:kept")) as cell:
            assert await cell.out("cat kept") == "1\n"
            assert cell.session.mounts[1].host_path is not None
        await backend.delete_snapshot("kept")


class TestImage:
    @pytest.fixture(autouse=True)
    def empty(self, tmp_path: Path) -> None:
        (tmp_path / disk.EMPTY).mkdir()

    def made(self, tmp_path: Path) -> Path:
        with disk.attach(str(tmp_path), str(tmp_path / "session"), SIZE) as attached, attached.opened() as path:
            assert attached.fresh
            Path(path, "file").write_text("kept")
        return tmp_path / "session" / disk.IMAGE

    def test_two_who_attach_have_one_device(self, tmp_path: Path) -> None:
        image = self.made(tmp_path)
        first = loopback.attach(str(image))
        second = loopback.attach(str(image))
        try:
            assert (first.path, first.fresh, second.fresh) == (second.path, True, False)
            assert len(devices(tmp_path)) == 1
        finally:
            first.close()
            second.close()
        assert devices(tmp_path) == []

    def test_an_empty_image_takes_little(self, tmp_path: Path) -> None:
        image = self.made(tmp_path)
        assert image.stat().st_size == SIZE * MIB
        assert image.stat().st_blocks * 512 < MIB

    def test_after_a_power_cut_it_is_repaired_before_it_is_used(self, tmp_path: Path) -> None:
        """What a power cut leaves is the image as it is on the host's disk while it is mounted."""
        with disk.attach(str(tmp_path), str(tmp_path / "session"), SIZE) as attached, attached.opened() as path:
            Path(path, "file").write_text("kept")
            os.sync()
            Path(path, "later").write_text("not on the disk yet")
            shutil.copytree(tmp_path / "session", tmp_path / "cut")
        image = tmp_path / "cut" / disk.IMAGE
        subprocess.run(["debugfs", "-w", "-R", "setb 9000 500", image], capture_output=True, check=True)
        assert self.faults(image) == 4
        with disk.attach(str(tmp_path), str(tmp_path / "cut"), SIZE) as attached, attached.opened() as path:
            assert not attached.fresh
            assert Path(path, "file").read_text() == "kept"
        assert self.faults(image) == 0

    def faults(self, image: Path) -> int:
        return subprocess.run(["e2fsck", "-fn", image], capture_output=True, check=False).returncode

    def test_a_repair_keeps_others_out_though_who_began_it_was_killed(self, tmp_path: Path) -> None:
        image, gate = tmp_path / "image", tmp_path / "gate"
        image.write_bytes(bytes(4096))
        os.mkfifo(gate)
        (tmp_path / "e2fsck").write_text(f"#!/bin/sh\nread x <{gate}\necho ended >{gate}\n")
        (tmp_path / "e2fsck").chmod(0o755)
        program = "import sys; from alcove.local.disk import disk, loopback; disk._PATH = sys.argv[1]\n"
        program += "loopback.attach(sys.argv[2], disk._check)"
        with (
            image.open("r+b") as opened,
            subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(image)]) as attaching,
        ):
            with gate.open("w") as writing:  # as soon as the check reads
                attaching.kill()
                attaching.wait()
                assert loopback._is_taken(opened.fileno())
                writing.write("go\n")
            assert gate.read_text() == "ended\n"

    def test_one_beyond_repair_is_refused(self, tmp_path: Path) -> None:
        image = self.made(tmp_path)
        image.write_bytes(bytes(SIZE * MIB))
        with pytest.raises(LifecycleError, match="e2fsck failed with exit code 8"):
            disk.attach(str(tmp_path), str(tmp_path / "session"), SIZE)
        assert devices(tmp_path) == []

    def test_a_lost_image_is_not_replaced_by_an_empty_one(self, tmp_path: Path) -> None:
        self.made(tmp_path).unlink()
        with pytest.raises(FileNotFoundError):
            disk.attach(str(tmp_path), str(tmp_path / "session"), SIZE)


class TestRefused:
    async def test_what_would_be_outside_of_it(self, backend: LocalSandbox, tmp_path: Path) -> None:
        fresh = FilesystemMount("", "/mnt/fresh", FilesystemAccess.READ_WRITE)
        with pytest.raises(Unsupported, match="would not bound it"):
            await backend.provision(spec(mounts=[fresh]))
        readable = FilesystemMount("", "/mnt/fresh", FilesystemAccess.READ_ONLY)
        async with limited(backend, mounts=[readable]) as cell:
            assert "Read-only" in (await cell.sh("touch /mnt/fresh/x")).stderr
            (tmp_path / "project").mkdir()
            project = FilesystemMount(
                str(tmp_path / "project"), "/mnt/p", FilesystemAccess.READ_ONLY, copy_on_write=True
            )
            with pytest.raises(Unsupported, match="would not bound it"):
                await backend.attach_filesystem(cell.id, project)
            with pytest.raises(Unsupported, match="would not bound it"):
                await backend.attach_filesystem(cell.id, FilesystemMount("", "/mnt/b", FilesystemAccess.READ_WRITE))

    async def test_too_little_for_a_file_system(self, backend: LocalSandbox) -> None:
        with pytest.raises(InvalidRequest, match="disk_mb must be at least"):
            await backend.provision(spec(disk.LEAST_MB - 1))
        async with limited(backend, disk.LEAST_MB) as cell:
            await cell.out("echo fits >file")


@pytest.mark.parametrize(
    ("lacking", "because"),
    [("loop-control", "modprobe loop"), ("mkfs.ext4", "install e2fsprogs")],
)
def test_a_host_without_the_means_says_what_to_do(lacking: str, because: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if lacking == "loop-control":
        monkeypatch.setattr(loopback, "CONTROL", "/nowhere/loop-control")
    else:
        monkeypatch.setattr(disk, "_PATH", "/nowhere")
    assert because in disk.refusal(root=True)
