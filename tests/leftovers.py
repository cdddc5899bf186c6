"""Look, from the kernel's side, for processes and cgroups named alcove-* that a test run left behind."""

import os
import pwd
import select
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

GRACE = 3.0  # seconds for what is already on its way out
PREFIX = b"alcove-"


@dataclass(frozen=True)
class Process:
    pid: int
    start: str
    title: str
    uid: int


def read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def processes() -> Iterator[Process]:
    """Yield what is called alcove-*, by comm or by title; zombies are their parent's affair."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        comm, title = read(f"/proc/{pid}/comm").strip(), read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").strip()
        if not comm.startswith(PREFIX) and not Path(os.fsdecode(title.split(b" ")[0])).name.startswith("alcove-"):
            continue
        fields = read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        status = read(f"/proc/{pid}/status").partition(b"Uid:")[2].split()
        if fields and status and fields[0] != b"Z":
            yield Process(int(pid), fields[19].decode(), (title or comm).decode(errors="replace"), int(status[0]))


def cgroups() -> set[str]:
    found = set()
    for directory, names, _ in os.walk("/sys/fs/cgroup"):
        found |= {f"{directory}/{name}" for name in names if name.startswith("alcove")}
    return found


def known_others() -> set[int]:
    """Return the uids of other people: of theirs this run made nothing, while a session's own range has no names."""
    return {entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid != os.geteuid()}


def links(pid: int) -> Iterator[str]:
    """Yield what a process holds open; nothing where its owner may not look (non-dumpable)."""
    try:
        names = [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        names = []
    for name in [*names, f"/proc/{pid}/cwd", f"/proc/{pid}/root"]:
        try:
            yield os.readlink(name)
        except OSError:
            continue


def wait(left: list[Process], seconds: float) -> None:
    """Wait until all have ended, `seconds` at most."""
    deadline = time.monotonic() + seconds
    for process in left:
        try:
            pidfd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            continue
        try:
            ended = select.poll()
            ended.register(pidfd, select.POLLIN)
            ended.poll(max(0.0, deadline - time.monotonic()) * 1000)
        finally:
            os.close(pidfd)


@dataclass
class Leftovers:
    """What there was when the run began, and, after `look`, what it left."""

    run: str
    places: list[Path]
    before: set[Process] = field(default_factory=lambda: set(processes()))
    cgroups_before: set[str] = field(default_factory=cgroups)
    found: list[str] = field(default_factory=list)
    fatal: bool = False

    def new_processes(self) -> list[Process]:
        known = {(process.pid, process.start) for process in self.before}
        strangers = known_others()
        return [p for p in processes() if (p.pid, p.start) not in known and p.uid not in strangers]

    def is_ours(self, process: Process) -> bool:
        """Tell whether the run's mark or one of its directories shows on a process."""
        if f"ALCOVE_TEST_RUN={self.run}".encode() in read(f"/proc/{process.pid}/environ").split(b"\0"):
            return True
        seen = [process.title, *links(process.pid)]
        return any(str(place) in text for place in self.places for text in seen)

    def look(self, mode: str) -> None:
        if self.new_processes():
            wait(self.new_processes(), GRACE)
        for process in self.new_processes():
            ours = self.is_ours(process)
            if ours or mode != "off":
                self.found.append(f"process {process.pid} (uid {process.uid}): {process.title}")
                self.fatal |= ours or mode == "fail"
        if mode == "off":
            return
        for group in sorted(cgroups() - self.cgroups_before):
            self.found.append(f"cgroup {group}")
            self.fatal |= mode == "fail"
