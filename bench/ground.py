"""Where a run happens: its scratch directory, its runtimes, and what the cases need to know of both."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from bench.local import Alcove
from bench.processes import PROC, native
from bench.pss import PssReader
from bench.runtime import Runtime

CALLERS = 8

# What a peer must see in its current directory before it may write there: not every runtime keeps the caller's.
MARKER = "bench-workspace"


@dataclass(frozen=True)
class Ground:
    scratch: Path
    bare: Runtime
    peers: Sequence[Runtime]
    alcove: Alcove | None
    pss: PssReader
    quick: bool
    networks: Sequence[Runtime] = ()

    def runtimes(self) -> list[Runtime]:
        """The floor, the peers that work here, and Alcove where it is installed."""
        return [self.bare, *self.peers, *([self.alcove] if self.alcove is not None else [])]

    def reaching(self) -> list[Runtime]:
        """The floor and the peers whose commands can be let talk to the benchmarks' server."""
        return [runtime for runtime in (self.bare, *self.peers, *self.networks) if runtime.reaches]

    def workspace(self, *names: str) -> Path:
        """A directory on the file system of the sessions' own files; the same one for the same names."""
        path = self.scratch.joinpath("work", *(name.replace("/", "_").replace(" ", "_") for name in names))
        path.mkdir(parents=True, exist_ok=True)
        (path / MARKER).touch()
        return path

    def burst_seconds(self) -> float:
        """How long one sample of a rate is to take."""
        return 0.2 if self.quick else 0.6


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A directory that is gone afterwards, also after SIGTERM and SIGHUP."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    path = Path(tempfile.mkdtemp(prefix="alcove-bench-", dir=parent))
    try:
        yield path
    finally:
        remove(path)


def remove(path: Path) -> None:
    """Delete a tree of ours, directories without permissions included."""
    if os.geteuid() != 0 and path.exists():
        for directory, _, _ in os.walk(path):
            os.chmod(directory, 0o700, follow_symlinks=True)
    shutil.rmtree(path, ignore_errors=True)


def left_behind(path: Path) -> list[str]:
    """What a finished run still holds: its directory, mounts below it, containers' cgroups, sessions' processes."""
    found = [f"directory {path}"] if path.exists() else []
    found += [f"mount {place}" for place in mount_points("self") if place.startswith(f"{path}/")]
    found += [f"cgroup {group}" for group in sorted(_cgroups(f"bench-{os.getpid()}-"))]
    found += [f"process {pid} ({title})" for pid, title in native().items() if _mounts_from(pid, path)]
    return found


def _cgroups(prefix: str) -> Iterator[Path]:
    # A container's group lies at the top of a hierarchy, or one below where it was made by a session of systemd's.
    for pattern in (f"{prefix}*", f"*/{prefix}*", f"*/*/{prefix}*"):
        yield from Path("/sys/fs/cgroup").glob(pattern)


def mount_points(pid: int | str) -> list[str]:
    return [line.split()[4] for line in (PROC / str(pid) / "mountinfo").read_text().splitlines()]


def _mounts_from(pid: int, path: Path) -> bool:
    # A session's workspace is a bind mount of a directory below its store; only root may look, and not at what has
    # ended: EINVAL is what a zombie answers.
    try:
        return path.name in (PROC / str(pid) / "mountinfo").read_text()
    except OSError:
        return False


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
