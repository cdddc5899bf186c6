"""The leak check: each kind of thing left behind is named, and what is not ours disturbs nothing."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from alcove.testing import no_leaks
from alcove.testing.fixtures import leak_store, leaks
from alcove.testing.leaks import held

__all__ = ["leak_store", "leaks"]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    place = tmp_path / "store with space"
    place.mkdir()
    return place


@pytest.fixture
def title(tmp_path: Path) -> str:
    """Return a program called like one of our native processes, which ends when its standard input does."""
    program = tmp_path / "alcove-warden"
    program.symlink_to(shutil.which("cat") or "/bin/cat")
    return str(program)


def detached(argv: list[str], stdin: int, cwd: Path | str = "/") -> None:
    """Start a program that is no descendant of ours: its parent is gone at once."""
    script = "import os, sys\nif os.fork() == 0: os.execv(sys.argv[1], ['alcove-warden', *sys.argv[2:]])"
    subprocess.run([sys.executable, "-c", script, *argv], stdin=stdin, cwd=cwd, check=True)


def test_nothing_left_is_nothing_said(store: Path, leaks: None) -> None:
    with no_leaks(store), Path("/dev/null").open():
        (store / "session").mkdir()
        (store / "session").rmdir()
        subprocess.run(["true"], check=True)


def test_a_descriptor() -> None:
    with pytest.raises(AssertionError, match=r"descriptors: \+ \d+ -> /dev/null"), no_leaks(within=0):
        descriptor = os.open("/dev/null", os.O_RDONLY)
    os.close(descriptor)


def test_a_descriptor_that_is_gone() -> None:
    descriptor = os.open("/dev/null", os.O_RDONLY)
    with pytest.raises(AssertionError, match=r"descriptors: - \d+ -> /dev/null"), no_leaks(within=0):
        os.close(descriptor)


def test_a_child_and_a_zombie() -> None:
    reader, writer = os.pipe()
    with pytest.raises(AssertionError, match=r"processes: \+ \d+ cat"), no_leaks(within=0):
        child = subprocess.Popen(["cat"], stdin=reader)
    before = held()
    os.close(reader)
    os.close(writer)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert held().processes - before.processes == {f"{child.pid} cat (zombie)"}
    child.wait()


def test_a_directory_of_the_store(store: Path) -> None:
    with pytest.raises(AssertionError, match=r"directories: \+ .*/store with space/a/b"), no_leaks(store, within=0):
        (store / "a" / "b").mkdir(parents=True)


def test_a_process_that_names_the_store(store: Path, title: str) -> None:
    reader, writer = os.pipe()
    with pytest.raises(AssertionError, match=r"processes: \+ \d+ alcove-warden"), no_leaks(store, within=0):
        detached([title, "-", str(store)], reader)
    os.close(reader)
    os.close(writer)


def test_a_process_that_stands_in_the_store(store: Path, title: str) -> None:
    reader, writer = os.pipe()
    with pytest.raises(AssertionError, match=r"processes: \+ \d+ alcove-warden"), no_leaks(store, within=0):
        detached([title], reader, cwd=store)
    os.close(reader)
    os.close(writer)


def test_a_process_of_a_session_that_the_store_remembers(store: Path, title: str) -> None:
    reader, writer = os.pipe()
    (store / "store.db").write_bytes(b"\0\1a tombstone of 00c0ffee00c0ffee\0")
    with pytest.raises(AssertionError, match=r"processes: \+ \d+ alcove-warden - 00c0ffee"), no_leaks(store, within=0):
        detached([title, "-", "00c0ffee00c0ffee"], reader)
    os.close(reader)
    os.close(writer)


def test_a_process_of_another_store_is_not_seen(store: Path, tmp_path: Path, title: str) -> None:
    reader, writer = os.pipe()
    with no_leaks(store, within=0):
        detached([title, "-", str(tmp_path / "other store")], reader)
    os.close(reader)
    os.close(writer)


def test_an_error_of_the_block_goes_first() -> None:
    checked = no_leaks(within=0)
    checked.__enter__()
    descriptor = os.open("/dev/null", os.O_RDONLY)
    checked.__exit__(KeyError, KeyError(), None)
    os.close(descriptor)


async def test_what_ends_by_itself_has_its_time() -> None:
    async with no_leaks(within=20):
        child = await asyncio.create_subprocess_exec("sleep", "0.2")
    await child.wait()


async def test_an_async_block_is_checked_too() -> None:
    checked = no_leaks(within=0)
    await checked.__aenter__()
    descriptor = os.open("/dev/null", os.O_RDONLY)
    with pytest.raises(AssertionError, match="descriptors"):
        await checked.__aexit__(None, None, None)
    os.close(descriptor)
    await checked.__aexit__(None, None, None)


@pytest.mark.root
def test_a_mount_and_a_network_namespace(store: Path) -> None:
    """Mounts are this process's own, so the check runs where a mount disturbs nobody."""
    script = f"""
import subprocess, pytest
from pathlib import Path
from alcove.testing import no_leaks
store = Path({str(store)!r})
(store / "m").mkdir()
with pytest.raises(AssertionError, match="mounts: . .*m "), no_leaks(store, within=0):
    subprocess.run(["mount", "-t", "tmpfs", "none", store / "m"], check=True)
with no_leaks(store, within=0):
    subprocess.run(["mount", "-t", "tmpfs", "none", "/mnt"], check=True)
with pytest.raises(AssertionError, match="net_namespaces: . net:"), no_leaks(store, within=0):
    child = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec cat"], stdin=-1, stdout=-1)
    child.stdout.readline()
child.communicate()
"""
    subprocess.run(["unshare", "-m", sys.executable, "-c", script], check=True)


@pytest.mark.root
def test_a_cgroup(store: Path) -> None:
    hierarchy = next(Path("/sys/fs/cgroup").rglob("cgroup.procs")).parent
    key = f"leaktest{os.getpid():08x}"
    group = hierarchy / f"alcove-{key}"
    with no_leaks(store, within=0):
        group.mkdir()
    with (
        pytest.raises(AssertionError, match=f"cgroups: - .*/alcove-{key}"),
        no_leaks(within=0, cgroup_prefix="alcove-l"),
    ):
        group.rmdir()
    (store / "store.db").write_bytes(b"a row of " + key.encode())
    with pytest.raises(AssertionError, match=rf"cgroups: \+ .*/alcove-{key}"), no_leaks(store, within=0):
        group.mkdir()
    with no_leaks(within=0):
        group.rmdir()


@pytest.mark.root
def test_a_loop_device(store: Path) -> None:
    image = store / "image"
    image.write_bytes(bytes(1 << 20))
    with pytest.raises(AssertionError, match=r"loop_devices: \+ loop\d+ -> .*/image"), no_leaks(store, within=0):
        device = subprocess.run(
            ["losetup", "--find", "--show", image], capture_output=True, text=True, check=True
        ).stdout.strip()
    with pytest.raises(AssertionError, match=r"loop_devices: - loop\d+ -> .*/image"), no_leaks(store, within=0):
        subprocess.run(["losetup", "--detach", device], check=True)
