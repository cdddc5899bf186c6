"""What the figures were taken on."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path

from bench.document import HostFacts
from bench.processes import parse_fields


def host_facts(scratch: Path) -> HostFacts:
    release = parse_assignments(_text("/etc/os-release"))
    return HostFacts(
        kernel=platform.release(),
        machine=platform.machine(),
        processor=processor(_text("/proc/cpuinfo")),
        cpus=len(os.sched_getaffinity(0)),
        memory_mb=parse_fields(_text("/proc/meminfo")).get("MemTotal", 0) // 10**6,
        distribution=release.get("PRETTY_NAME", "unknown"),
        file_system=file_system(_text("/proc/self/mountinfo"), scratch),
        cgroups=cgroups(),
        python=platform.python_version(),
        uid=os.getuid(),
    )


def parse_assignments(text: str) -> Mapping[str, str]:
    """``NAME="value"`` lines, as /etc/os-release has them."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip().strip('"') for name, _, value in pairs}


def processor(cpuinfo: str) -> str:
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return "unknown"


def file_system(mountinfo: str, path: Path) -> str:
    """The type of the file system that ``path`` lies on."""
    best, kind = "", "unknown"
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        place = before.split()[4]
        # A later mount on the same place covers the earlier one.
        if path.is_relative_to(place) and len(place) >= len(best):
            best, kind = place, after.split()[0]
    return kind


def cgroups() -> str:
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return "v2"
    return "hybrid" if (root / "unified").is_dir() else "v1"


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
