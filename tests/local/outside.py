"""What the host's /proc and cgroup trees show of a session, read by nobody but the test: no word of the guest's."""

import asyncio
import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

#: Seconds for what happens by itself; a bound against hanging, never a pause.
SOON = 20.0
#: What a bound of the specification may be exceeded by on a machine that is busy with other tests.
SLACK = 3.0
NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")


def pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def read(pid: int, name: str) -> str:
    """Return a file of /proc/PID, or nothing when the process is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="surrogateescape")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    except OSError as error:
        if error.errno != errno.EINVAL:  # of the mounts of a zombie
            raise
        return ""


def command_line(pid: int) -> list[str]:
    """Return the arguments; a process amid execve has none for a moment, and is looked at until it has."""
    deadline = time.monotonic() + SOON
    while not (found := read(pid, "cmdline")) and _has_memory(pid) and time.monotonic() < deadline:
        time.sleep(0)
    return found.split("\0")[:-1]


def _has_memory(pid: int) -> bool:
    """Tell whether a process has an address space; zombies and the kernel's threads have none."""
    return read(pid, "statm").partition(" ")[0] not in ("", "0")


def bearing(mark: str) -> list[int]:
    """Return the live processes that have `mark` as an argument of their own; zombies have none."""
    return sorted(pid for pid in pids() if mark in command_line(pid))


def called(role: str, key: str) -> list[int]:
    """Return the native processes of the session whose directory is `key`, by their titles."""
    return sorted(pid for pid in pids() if read(pid, "cmdline").rstrip("\0") == f"{role} {key}")


def status(pid: int) -> dict[str, str]:
    lines = (line.partition(":") for line in read(pid, "status").splitlines())
    return {name: " ".join(value.split()) for name, _, value in lines}


def namespaces(pid: int) -> dict[str, str]:
    return {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in NAMESPACES}


def limits(pid: int) -> dict[str, tuple[str, str]]:
    """Return soft and hard limit by name."""
    rows = [line for line in read(pid, "limits").splitlines()[1:] if line]
    return {row[:26].strip(): (row[26:47].strip(), row[47:68].strip()) for row in rows}


def descriptors(pid: int) -> dict[int, str]:
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # closed since
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def groups(pid: int) -> dict[str, str]:
    """Return the path in each hierarchy, by controllers; the unified one has the empty name."""
    lines = (line.split(":", 2) for line in read(pid, "cgroup").splitlines())
    return {controllers: path for _, controllers, path in lines}


def id_map(pid: int, kind: str) -> list[tuple[int, int, int]]:
    rows = (line.split() for line in read(pid, f"{kind}_map").splitlines())
    return [(int(inside), int(outside), int(count)) for inside, outside, count in rows]


def mounts(pid: int) -> dict[str, set[str]]:
    """Return the options of each mount of a process by its place; later ones lie over earlier ones."""
    fields = (line.split(" ") for line in read(pid, "mountinfo").splitlines())
    return {row[4]: set(row[5].split(",")) for row in fields}


def is_there(pid: int) -> bool:
    return status(pid).get("State", "Z")[0] not in "ZX"


async def until(condition: Callable[[], object], what: str = "", within: float = SOON) -> None:
    """Return when `condition` holds; it is looked at, since no event tells of other people's processes."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, what or f"not so within {within} s"
        await asyncio.sleep(0.01)


async def one(mark: str, program: str | None = None) -> int:
    """Return the one process that bears `mark` (and is of `program`), as soon as there is just one."""
    deadline = time.monotonic() + SOON
    while len(found := [pid for pid in bearing(mark) if program in {None, *command_line(pid)[:1]}]) != 1:
        assert time.monotonic() < deadline, f"not one {program or 'process'} bears {mark}: {found}"
        await asyncio.sleep(0.01)
    return found[0]


async def gone(mark: str, within: float = SOON) -> None:
    await until(lambda: not bearing(mark), f"{mark}: {bearing(mark)} still there", within)
