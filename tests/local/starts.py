"""Every way to start a process in a session, and all that the host's /proc tells of what comes of each."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from alcove.contract import ExecResult
from alcove.local.backend import LocalSandbox
from tests.local import outside
from tests.local.cell import Cell, live, mark

Start = Callable[[Cell, str], Awaitable[ExecResult]]


# The ways to start a process


async def plain(cell: Cell, number: str) -> ExecResult:
    return await cell.exec("sleep", [number])


async def by_path(cell: Cell, number: str) -> ExecResult:
    return await cell.exec("/bin/sleep", [number])


async def through_builtin(cell: Cell, number: str) -> ExecResult:
    return await cell.exec("command", ["/bin/sleep", number])


async def with_debug(cell: Cell, number: str) -> ExecResult:
    return await cell.exec("sleep", [number], debug=True)


async def hundredth(cell: Cell, number: str) -> ExecResult:
    for _ in range(11):
        await asyncio.gather(*(cell.exec("true") for _ in range(9)))
    return await cell.exec("sleep", [number])


async def double_forked(cell: Cell, number: str) -> ExecResult:
    return await cell.sh('setsid -f /bin/sleep "$1"; exec sleep 600', number)


async def re_created(cell: Cell, number: str) -> ExecResult:
    ours = [
        pid for role in ("warden", "spawner", "init") for pid in outside.called(f"alcove-{role}", cell.directory.name)
    ]
    os.kill(cell.native("warden"), signal.SIGKILL)
    await outside.until(lambda: not any(outside.is_there(pid) for pid in ours))
    return await cell.exec("sleep", [number])


async def by_another_backend(cell: Cell, number: str) -> ExecResult:
    other = LocalSandbox(cell.backend.config)
    try:
        return await Cell(other, cell.session).exec("sleep", [number])
    finally:
        await other.aclose()


STARTS: dict[str, Start] = {
    "plain": plain,
    "by path": by_path,
    "builtin": through_builtin,
    "hundredth": hundredth,
    "double fork": double_forked,
    "another backend": by_another_backend,
    "debug": with_debug,
    "re-created": re_created,
}


class Started:
    """A sleeping command, started in one of the ways, as long as the block lasts."""

    def __init__(self, cell: Cell, start: Start) -> None:
        self._cell = cell
        self._start = start
        self._number = mark()

    async def __aenter__(self) -> int:
        self._task = asyncio.ensure_future(self._start(self._cell, self._number))
        await outside.until(lambda: self._task.done() or self._sleeping())
        if self._task.done():
            raise AssertionError(f"the command ended: {await self._task}")
        return self._sleeping()[0]

    def _sleeping(self) -> list[int]:
        return [pid for pid in outside.bearing(self._number) if outside.status(pid).get("Name") == "sleep"]

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


@dataclass(frozen=True)
class Seen:
    """One process of a guest, read whole while it slept."""

    key: str
    status: dict[str, str]
    namespaces: dict[str, str]
    maps: dict[str, list[tuple[int, int, int]]]
    setgroups: str
    groups: dict[str, str]
    limits: dict[str, tuple[str, str]]
    oom_score_adj: str
    descriptors: dict[int, str]
    mounts: dict[str, set[str]]
    mountinfo: list[str]
    root: tuple[int, int]
    root_entries: set[str]
    stat: list[str]
    coredump_filter: str
    working_directory: str
    environment: str
    owner: int
    landlock: str

    def told(self) -> dict[str, object]:
        """Return all that must not depend on the way a process was started."""
        return {
            **{name: self.status[name] for name in _OF_EVERY_START},
            "groups": self.groups,
            "limits": self.limits,
            "oom_score_adj": self.oom_score_adj,
            "descriptors": {fd: target.partition(":[")[0] for fd, target in self.descriptors.items()},
            # init mounts /proc while the warden mounts the rest: their order is not told
            "mounts": sorted(_comparable(row) for row in self.mountinfo),
            "maps": self.maps,
            "setgroups": self.setgroups,
            "terminal, policy, nice": self.scheduling,
            "coredump_filter": self.coredump_filter,
            "working directory": self.working_directory,
            # a shell on the way exports where it is
            "environment": sorted(set(self.environment.split("\0")) - {"PWD=/workspace"}),
            "owner": self.owner,
            "landlock": self.landlock,
        }

    @property
    def scheduling(self) -> tuple[str, str, str]:
        """Return the controlling terminal, the scheduling policy and the nice value (proc(5))."""
        return self.stat[4], self.stat[38], self.stat[16]


def _comparable(row: str) -> str:
    """Return a row of mountinfo without its mount ids and device, which a mount made anew has of its own."""
    fields = row.split(" ")
    return " ".join(fields[3:])


_OF_EVERY_START = (
    *("Umask", "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Seccomp_filters", "TracerPid"),
    *("Cpus_allowed", "Mems_allowed", "SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd"),
    *("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"),
)
# Landlock alone tells a device outside /dev from the same one in it: the mask over /proc/kallsyms is /dev/null
_LANDLOCK_PROBE = """
import errno, fcntl, termios
for path in ("/dev/null", "/proc/kallsyms"):
    with open(path, "rb") as file:
        try:
            fcntl.ioctl(file, termios.TCGETS, bytes(64))
            print("allowed")
        except OSError as error:
            print(errno.errorcode[error.errno])
"""


async def observe(cell: Cell, start: Start) -> Seen:
    """Start a command in one way, and read it whole."""
    async with Started(cell, start) as pid:
        probe = await cell.python(_LANDLOCK_PROBE, debug=start is with_debug)
        root = os.stat(f"/proc/{pid}/root/")
        return Seen(
            key=cell.directory.name,
            status=outside.status(pid),
            namespaces=outside.namespaces(pid),
            maps={kind: outside.id_map(pid, kind) for kind in ("uid", "gid")},
            setgroups=outside.read(pid, "setgroups").strip(),
            groups=outside.groups(pid),
            limits=outside.limits(pid),
            oom_score_adj=outside.read(pid, "oom_score_adj").strip(),
            descriptors=outside.descriptors(pid),
            mounts=outside.mounts(pid),
            mountinfo=outside.read(pid, "mountinfo").splitlines(),
            root=(root.st_dev, root.st_ino),
            root_entries=set(os.listdir(f"/proc/{pid}/root/")),
            stat=outside.read(pid, "stat").rpartition(")")[2].split(),
            coredump_filter=outside.read(pid, "coredump_filter"),
            working_directory=os.readlink(f"/proc/{pid}/cwd"),
            environment=outside.read(pid, "environ"),
            owner=os.stat(f"/proc/{pid}/environ").st_uid,
            landlock=probe.stdout,
        )


async def observe_all(backend: LocalSandbox) -> dict[str, Seen | Exception]:
    """Observe every way, all but the last in one session; what cannot be started is told by its error."""
    seen: dict[str, Seen | Exception] = {}
    async with live(backend) as cell:
        for name, start in STARTS.items():
            try:
                seen[name] = await observe(cell, start)
            except Exception as error:  # noqa: BLE001 - raised again by each test of this way
                seen[name] = error
    return seen
