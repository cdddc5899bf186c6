"""Processes and kernel memory as /proc tells them."""

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

PROC = Path("/proc")
NATIVE = ("alcove-warden", "alcove-spawner", "alcove-init")

# What a session costs beside its processes' pages; Percpu is where a net namespace keeps its counters.
KERNEL_FIELDS = ("Slab", "KernelStack", "PageTables", "Percpu")


def pids() -> list[int]:
    return [int(name) for name in os.listdir(PROC) if name.isdigit()]


def parents() -> dict[int, int]:
    """Parent by pid, of every process that can be seen."""
    found: dict[int, int] = {}
    for pid in pids():
        try:
            stat = (PROC / str(pid) / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found[pid] = parse_parent(stat)
    return found


def parse_parent(stat: str) -> int:
    # The command name stands in parentheses and may hold spaces and parentheses itself.
    return int(stat.rpartition(")")[2].split()[1])


def descendants(roots: Iterable[int], parent_of: Mapping[int, int] | None = None) -> frozenset[int]:
    """The roots and all that they started, directly or not."""
    tree = parents() if parent_of is None else parent_of
    found = set(roots)
    grown = True
    while grown:
        more = {pid for pid, parent in tree.items() if parent in found} - found
        grown = bool(more)
        found |= more
    return frozenset(found)


def native() -> dict[int, str]:
    """Title by pid, of every native process of any session of Alcove's on this machine."""
    found: dict[int, str] = {}
    for pid in pids():
        try:
            title = (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if title.startswith(NATIVE):
            found[pid] = title
    return found


def await_exec(pid: int, name: str, seconds: float = 10.0) -> None:
    """Wait until the process runs the program ``name``.

    Raises:
        TimeoutError: it still does not after ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while (PROC / str(pid) / "comm").read_text().strip() != name:
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} does not run {name} after {seconds:g} s")
        time.sleep(0.001)  # nothing tells of another process's execve but looking


def parse_fields(text: str) -> dict[str, int]:
    """``Name:   123 kB`` lines, as /proc/meminfo and smaps_rollup have them, in bytes."""
    fields: dict[str, int] = {}
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        words = rest.split()
        if colon and len(words) == 2 and words[1] == "kB" and words[0].isdigit():
            fields[name.strip()] = int(words[0]) * 1024
    return fields


def kernel_memory() -> int:
    """Bytes that the kernel holds for itself now, over the fields that sessions add to."""
    fields = parse_fields((PROC / "meminfo").read_text())
    return sum(fields.get(name, 0) for name in KERNEL_FIELDS)
