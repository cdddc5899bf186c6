"""A session under attack: how hostile programs get in and run, and what the host's own kernel tables show of it."""

import asyncio
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alcove.contract import Duration, ExecRequest, ExecResult, SandboxError, SandboxSession
from alcove.local import LocalSandbox, records
from alcove.local.cell.cgroups import Groups
from alcove.local.cell.processes import Processes
from tests.local import outside
from tests.security.corpus import PLACE

#: Every exec ends within this, so that a hanging one is told as what it is.
LIMIT = Duration(40)

Report = dict[str, str]
#: What an attempt says: "ok", or the errno's name.
REFUSED = {"EPERM", "EACCES", "EROFS", "ENOSYS"}


def report(text: str) -> Report:
    """Read what a hostile program wrote: a word for each attempt."""
    lines = [line.split(" ", 1) for line in text.splitlines()]
    return {line[0]: _word(line[1]) for line in lines if len(line) == 2}


def _word(said: str) -> str:
    return errno.errorcode.get(int(said), said) if said.isdigit() else said


@dataclass
class Stayed:
    """A hostile program that ended its attempts and stays: what it said, and its pid on the host."""

    said: Report
    pid: int


@dataclass
class Cell:
    """A session and its backend; `reports` is the host's side of where staying programs write."""

    backend: LocalSandbox
    session: SandboxSession
    corpus: Path
    running: list[asyncio.Task[ExecResult]] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.session.id

    @property
    def outputs(self) -> Path:
        """Where /mnt/session/outputs lies on the host."""
        path = self.session.mounts[1].host_path
        assert path is not None
        return Path(path)

    @property
    def directory(self) -> Path:
        """Where the session's files lie on the host."""
        return self.outputs.parent

    @property
    def key(self) -> str:
        return self.directory.name

    def processes(self) -> Processes:
        """Return what the store says of the native processes."""
        row = self.backend._store.find(self.id)
        assert row is not None
        processes = records.decode(row.record).processes
        assert processes is not None
        return processes

    def groups(self) -> Groups:
        """Return where the session's control groups are."""
        row = self.backend._store.find(self.id)
        assert row is not None
        return records.decode(row.record).groups

    # Commands

    async def run(self, command: str, *args: str, **fields: Any) -> ExecResult:
        fields.setdefault("timeout", LIMIT)
        fields["env"] = {"PYTHONPATH": PLACE, **fields.get("env", {})}
        return await self.backend.exec(self.id, ExecRequest(command, args, **fields))

    async def sh(self, script: str, *args: str, **fields: Any) -> ExecResult:
        return await self.run("sh", "-c", script, "sh", *args, **fields)

    async def hostile(self, name: str, *args: str, **fields: Any) -> ExecResult:
        """Run a program of the corpus to its end."""
        return await self.run(*self.argv(name), *args, **fields)

    def argv(self, name: str) -> list[str]:
        if (self.corpus / name).exists():
            return [f"{PLACE}/{name}"]
        return ["python3", "-m", f"tests.security.hostile.{name}"]

    async def stay(self, name: str, *args: str, **fields: Any) -> Stayed:
        """Run a program of the corpus until it stays, and find it on the host."""
        return await self.stay_command([*self.argv(name), *args], **fields)

    async def stay_command(self, argv: list[str], **fields: Any) -> Stayed:
        """Run a command that tells its pid by `stays PID`, and find it on the host."""
        before = set(self.outputs.iterdir())
        name_of_report = f"report-{len(before)}"
        command = ["sh", "-c", 'out=$1; shift; exec "$@" >"$out"', "sh", f"/mnt/session/outputs/{name_of_report}"]
        task = asyncio.create_task(self.run(*command, *argv, **fields))
        self.running.append(task)
        path = self.outputs / name_of_report

        def said() -> Report:
            assert not task.done(), task
            return report(path.read_text()) if path.exists() else {}

        await outside.until(lambda: "stays" in said(), f"{argv} does not stay")
        found = report(path.read_text())
        guest = path.read_text().partition("stays ")[2].split()[0]
        return Stayed(found, self.host_pid(int(guest)))

    async def resident(self) -> int:
        """Start a harmless process that stays; return its pid on the host."""
        return (await self.stay_command(["sh", "-c", "echo stays $$; exec sleep 100000"])).pid

    # The host's look

    def members(self) -> list[int]:
        """Return every live process beneath the warden: init, spawners, monitors and the guests'."""
        warden = self.processes().warden
        parents = {pid: int(outside.status(pid).get("PPid", 0)) for pid in outside.pids()}
        return sorted(pid for pid in parents if _descends(pid, warden, parents) and outside.is_there(pid))

    def guests(self) -> list[int]:
        """Return the live processes that run a guest's program."""
        ours = ("alcove-init", "alcove-spawner", "alcove-exec")
        return [pid for pid in self.members() if not outside.read(pid, "cmdline").startswith(ours)]

    def host_pid(self, guest: int) -> int:
        found = [pid for pid in self.members() if outside.status(pid).get("NSpid", "0").split()[-1] == str(guest)]
        assert len(found) == 1, (guest, found)
        return found[0]

    async def close(self) -> None:
        """End the session, and with it what still runs in it."""
        await self.backend.terminate(self.id)
        for ended in await asyncio.gather(*self.running, return_exceptions=True):
            if isinstance(ended, BaseException) and not isinstance(ended, SandboxError):
                raise ended


def _descends(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid in parents and pid != ancestor:
        pid = parents[pid]
        if pid == ancestor:
            return True
    return False


# Guards: what must be seen from the host before an attack runs that could do harm if its layer were missing


def maps_no_host_root(pid: int) -> None:
    """Require that no id of the process's is the host's root: without it, it writes no sysctl and no host file."""
    for kind in ("uid", "gid"):
        for inside, host, count in outside.id_map(pid, kind):
            assert host > 0, f"{kind}_map of {pid}: {inside} is {host} on the host, {count} ids"
    assert all(int(uid) > 0 for uid in outside.status(pid)["Uid"].split()), "a guest runs as the host's root"


def has_own(pid: int, *kinds: str) -> None:
    """Require that the process is not in our own namespaces of these kinds."""
    theirs, ours = outside.namespaces(pid), outside.namespaces(os.getpid())
    shared = [kind for kind in kinds if theirs[kind] == ours[kind]]
    assert not shared, f"{pid} is in the host's {', '.join(shared)} namespace"


# Oracles


def fingerprint(root: Path, *, times: bool = True) -> dict[str, tuple[object, ...]]:
    """Return what would change if anything beneath `root` were changed: content, owner, mode, links, times."""
    return {str(path.relative_to(root)): _fingerprint(path, times=times) for path in sorted(_walk(root))}


def _walk(root: Path) -> Iterator[Path]:
    yield root
    for directory, names, files in os.walk(root):
        yield from (Path(directory, name) for name in [*names, *files])


def _fingerprint(path: Path, *, times: bool) -> tuple[object, ...]:
    found = path.lstat()
    content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(found.st_mode) else ""
    when = (found.st_mtime_ns, found.st_ctime_ns) if times else ()
    size = found.st_size if stat.S_ISREG(found.st_mode) else 0
    return (found.st_ino, found.st_mode, found.st_uid, found.st_gid, found.st_nlink, size, content, *when)


def marks(paths: list[str]) -> dict[str, tuple[int, ...]]:
    """Return identity, mode, owner, size and times of host files: a change of any kind changes the ctime."""
    found: dict[str, tuple[int, ...]] = {}
    for path in paths:
        with suppress(FileNotFoundError):
            seen = os.lstat(path)
            found[path] = (
                seen.st_ino,
                seen.st_mode,
                seen.st_uid,
                seen.st_gid,
                seen.st_nlink,
                seen.st_size,
                seen.st_mtime_ns,
                seen.st_ctime_ns,
            )
    return found


def anonymous_descriptors(pid: int) -> set[str]:
    """Return the kinds of kernel objects that a process has open: `anon_inode:[io_uring]`, `socket`, and so on."""
    names = outside.descriptors(pid).values()
    return {name.partition(":[")[0] if name.startswith(("socket:", "pipe:")) else name for name in names}


def sockets(pid: int) -> int:
    """Return how many sockets a process has open."""
    return sum(name.startswith("socket:") for name in outside.descriptors(pid).values())
