"""What is in force on a command, as the host's /proc shows it, and that every way to start one ends the same."""

import asyncio
import fcntl
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from alcove.contract import ExecResult
from alcove.local.backend import LocalSandbox
from tests.local import outside
from tests.local.cell import Cell, mark

pytestmark = [pytest.mark.user, pytest.mark.security]

# linux/capability.h
CAPABILITIES = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_BIND_SERVICE": 10,
}
ALLOWED = f"{sum(1 << number for number in CAPABILITIES.values()):016x}"
NONE = "0" * 16

NS_GET_USERNS = 0xB701
NS_GET_PARENT = 0xB702

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
    warden = cell.native("warden")
    os.kill(warden, signal.SIGKILL)
    await outside.until(lambda: not outside.called("alcove-spawner", cell.directory.name))
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
    "re-created": re_created,
    "another backend": by_another_backend,
    "debug": with_debug,
}


class Started:
    """A sleeping command, started in one of the ways, as long as the block lasts."""

    def __init__(self, cell: Cell, start: Start) -> None:
        self._cell = cell
        self._start = start
        self._number = mark()

    async def __aenter__(self) -> int:
        self._task = asyncio.ensure_future(self._start(self._cell, self._number))
        sleeping = asyncio.ensure_future(self._sleeping())
        await asyncio.wait([self._task, sleeping], return_when=asyncio.FIRST_COMPLETED)
        if not sleeping.done():
            sleeping.cancel()
            raise AssertionError(f"the command ended: {await self._task}")
        return await sleeping

    async def _sleeping(self) -> int:
        def found() -> list[int]:
            return [pid for pid in outside.bearing(self._number) if outside.status(pid).get("Name") == "sleep"]

        await outside.until(found)
        return found()[0]

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


@pytest.fixture(params=STARTS)
def start(request: pytest.FixtureRequest) -> Start:
    return STARTS[request.param]


# One property a test, on every way


async def test_every_namespace_is_the_sessions_own(cell: Cell, start: Start) -> None:
    host = outside.namespaces(os.getpid())
    async with Started(cell, start) as pid:
        cell_ = outside.namespaces(pid)
    assert {name for name in host if host[name] == cell_[name]} == set()


async def test_privileges_are_gone_for_good(cell: Cell, start: Start) -> None:
    async with Started(cell, start) as pid:
        found = outside.status(pid)
    assert (found["NoNewPrivs"], found["Seccomp"], found["Seccomp_filters"]) == ("1", "2", "1")
    assert found["TracerPid"] == "0"


async def test_the_capabilities_are_the_small_set(cell: Cell, start: Start) -> None:
    async with Started(cell, start) as pid:
        found = outside.status(pid)
    assert {name: found[name] for name in ("CapBnd", "CapPrm", "CapEff")} == dict.fromkeys(
        ("CapBnd", "CapPrm", "CapEff"), ALLOWED
    )
    assert (found["CapInh"], found["CapAmb"]) == (NONE, NONE)


async def test_the_ids_are_never_the_hosts_root(cell: Cell, start: Start, as_root: bool) -> None:
    async with Started(cell, start) as pid:
        found, maps = outside.status(pid), {kind: outside.id_map(pid, kind) for kind in ("uid", "gid")}
        setgroups = outside.read(pid, "setgroups").strip()
    (inside, uid, count), *more = maps["uid"]
    (inside_gid, gid, gids), *more_gids = maps["gid"]
    assert (inside, inside_gid, more, more_gids) == (0, 0, [], [])
    assert found["Uid"].split() == [str(uid)] * 4
    assert found["Gid"].split() == [str(gid)] * 4
    if as_root:
        assert (count, gids) == (65_536, 65_536)
        assert uid == gid >= 1 << 29
        assert (found["Groups"], setgroups) == ("", "allow")
    else:
        assert (uid, count, gid, gids) == (os.geteuid(), 1, os.getegid(), 1)
        assert setgroups == "deny"
        assert "0" not in found["Groups"].split()


async def test_the_sessions_groups_hold_it(cell: Cell, start: Start, as_root: bool) -> None:
    name = f"/alcove-{cell.directory.name}"
    ours = outside.groups(os.getpid())
    async with Started(cell, start) as pid:
        found = outside.groups(pid)
    changed = {controllers for controllers in found if found[controllers] != ours[controllers]}
    if not as_root:
        assert found == ours or changed <= {""}
        return
    assert all(found[controllers].endswith(name) for controllers in changed)
    assert changed >= {controllers for controllers in found if controllers in {"", "pids"}}


async def test_limits_and_score(cell: Cell, start: Start) -> None:
    async with Started(cell, start) as pid:
        found, score = outside.limits(pid), outside.read(pid, "oom_score_adj").strip()
    assert found["Max open files"] == ("4096", "4096")
    assert found["Max processes"] == (str(cell.backend.config.default_pids + 1),) * 2
    assert found["Max core file size"] == ("0", "0")
    assert score == "500"


async def test_no_descriptor_is_inherited(cell: Cell, start: Start) -> None:
    secret = os.open("/etc/passwd", os.O_RDONLY)  # a descriptor that a careless fork would carry along
    os.set_inheritable(secret, True)
    try:
        async with Started(cell, start) as pid:
            found = outside.descriptors(pid)
    finally:
        os.close(secret)
    assert found.keys() == {0, 1, 2}
    assert found[0] == "/dev/null"
    assert found[1].startswith("pipe:")
    assert found[2].startswith("pipe:")
    assert found[1] != found[2]


async def test_signals_and_session_are_fresh(cell: Cell, start: Start) -> None:
    async with Started(cell, start) as pid:
        found, stat = outside.status(pid), outside.read(pid, "stat").rpartition(")")[2].split()
    assert {found[name] for name in ("SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd")} == {NONE}
    assert found["Umask"] == "0022"
    terminal, policy, nice = stat[4], stat[38], stat[16]
    assert (terminal, policy, nice) == ("0", "0", "0")


async def test_the_hosts_root_is_not_among_the_mounts(cell: Cell, start: Start) -> None:
    host = os.stat("/")
    async with Started(cell, start) as pid:
        found = outside.mounts(pid)
        root = os.stat(f"/proc/{pid}/root/")
        there = set(os.listdir(f"/proc/{pid}/root/"))
    assert (root.st_dev, root.st_ino) != (host.st_dev, host.st_ino)
    assert there.isdisjoint({"home", "srv", "media", "boot", "lost+found"})
    assert "ro" in found["/"]
    for place in ("/usr", "/etc", "/opt", "/mnt/memory", "/proc/sys"):
        assert "ro" in found[place], place
    for place, options in found.items():
        assert "nosuid" in options, place
        assert "nodev" in options or place.startswith(("/dev", "/proc/")), place
    for place in ("/workspace", "/tmp", "/mnt/session/outputs", "/dev/shm"):
        assert "rw" in found[place], place


async def test_no_mount_is_shared_with_the_host(cell: Cell, start: Start) -> None:
    async with Started(cell, start) as pid:
        rows = outside.read(pid, "mountinfo").splitlines()
    tags = [row.partition(" - ")[0].split(" ")[6:] for row in rows]
    assert [tag for tag in tags if any(part.startswith(("shared:", "master:")) for part in tag)] == []


async def test_every_way_ends_the_same(cell: Cell) -> None:
    """Whatever the kernel tells of a process, compared whole, so that no way can lack what nobody thought of."""
    seen = {}
    for name, way in STARTS.items():
        if way is re_created:
            continue  # other namespaces, the same numbers: the tests above
        async with Started(cell, way) as pid:
            seen[name] = everything(pid)
    first = seen["plain"]
    for name, found in seen.items():
        assert {key: value for key, value in found.items() if value != first[key]} == {}, name


async def test_a_user_of_the_session_has_the_same_without_capabilities(cell: Cell, as_root: bool) -> None:
    async with Started(cell, plain) as pid:
        wanted = everything(pid)
    user = {"user": "agent"} if as_root else {"user": "root"}

    async def as_user(cell: Cell, number: str) -> ExecResult:
        return await cell.exec("sleep", [number], **user)

    async with Started(cell, as_user) as pid:
        found = everything(pid)
    different = {key for key in wanted if wanted[key] != found[key]}
    assert different == ({"Uid", "Gid", "Groups", "CapPrm", "CapEff", "/proc owner"} if as_root else set())
    if as_root:
        assert (found["CapPrm"], found["CapEff"]) == (NONE, NONE)


async def test_the_check_sees_what_is_not_confined() -> None:
    """The positive control: an ordinary child of ours has none of this."""
    number = mark()
    child = subprocess.Popen(["sleep", number])
    try:
        pid = await outside.one(number)
        found = outside.status(pid)
        assert outside.namespaces(pid) == outside.namespaces(os.getpid())
        assert (found["NoNewPrivs"], found["Seccomp"]) == (
            outside.status(os.getpid())["NoNewPrivs"],
            outside.status(os.getpid())["Seccomp"],
        )
        assert found["CapBnd"] != ALLOWED
    finally:
        child.kill()
        child.wait()


def everything(pid: int) -> dict[str, Any]:
    """Return all that must not depend on the way a process was started."""
    status = outside.status(pid)
    told = ("Umask", "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Seccomp_filters", "Cpus_allowed", "Mems_allowed")
    signals = ("SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd")
    capabilities = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    namespaces = outside.namespaces(pid)
    del namespaces["cgroup"]  # a spawner has its own; what it is rooted at is seen in the groups
    descriptors = {fd: target.partition(":[")[0] for fd, target in outside.descriptors(pid).items()}
    mounts = [row.split(" ", 2)[2] for row in outside.read(pid, "mountinfo").splitlines()]
    stat = outside.read(pid, "stat").rpartition(")")[2].split()
    return {
        **{name: status[name] for name in (*told, *signals, *capabilities)},
        "namespaces": namespaces,
        "descriptors": descriptors,
        "groups": outside.groups(pid),
        "limits": outside.limits(pid),
        "oom_score_adj": outside.read(pid, "oom_score_adj"),
        "mounts": mounts,
        "maps": (outside.id_map(pid, "uid"), outside.id_map(pid, "gid")),
        "nice, policy, terminal": (stat[16], stat[38], stat[4]),
        "coredump_filter": outside.read(pid, "coredump_filter"),
        "working directory": os.readlink(f"/proc/{pid}/cwd"),
        "environment": outside.read(pid, "environ"),
        "/proc owner": os.stat(f"/proc/{pid}/environ").st_uid,
    }


# Two levels of user namespace


def _namespace(fd: int, question: int) -> int:
    return fcntl.ioctl(fd, question)


async def test_the_cell_is_nested_and_owns_only_what_it_may(cell: Cell) -> None:
    """Capabilities of the guest never apply to mounts, network or processes of the outer user namespace."""
    host = os.stat("/proc/self/ns/user").st_ino
    async with Started(cell, plain) as pid:
        opened = {name: os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY) for name in outside.NAMESPACES}
        try:
            outer = _namespace(opened["user"], NS_GET_PARENT)
            above = _namespace(outer, NS_GET_PARENT)
            inner = os.fstat(opened["user"]).st_ino
            middle = os.fstat(outer).st_ino
            assert os.fstat(above).st_ino == host
            owners = {}
            for name in ("mnt", "pid", "net", "ipc", "uts", "cgroup"):
                owner = _namespace(opened[name], NS_GET_USERNS)
                owners[name] = os.fstat(owner).st_ino
                os.close(owner)
            os.close(outer)
            os.close(above)
        finally:
            for fd in opened.values():
                os.close(fd)
    assert len({inner, middle, host}) == 3
    assert {owners[name] for name in ("mnt", "net", "ipc", "uts", "pid")} == {middle}
    assert owners["cgroup"] in {inner, middle}


async def test_no_namespace_can_be_made_inside(cell: Cell) -> None:
    assert await cell.out("cat /proc/sys/user/max_user_namespaces") == "0\n"
    result = await cell.sh("unshare -U true; unshare -m true; unshare -n true; echo tried")
    assert result.stdout == "tried\n"
    assert result.stderr.count("unshare:") == 3


# Landlock, which /proc does not show


async def test_landlock_is_in_force(cell: Cell, start: Start) -> None:
    """Landlock alone tells a device outside /dev from the same one in it: the mask over /proc/kallsyms is /dev/null."""
    program = """
import errno, fcntl, sys, termios
for path in ("/dev/null", "/proc/kallsyms"):
    with open(path, "rb") as file:
        try:
            fcntl.ioctl(file, termios.TCGETS, bytes(64))
        except OSError as error:
            print(errno.errorcode[error.errno])
"""
    fields = {"debug": True} if start is with_debug else {}
    if start is re_created:
        async with Started(cell, start):
            pass
    assert (await cell.python(program, **fields)).stdout == "ENOTTY\nEACCES\n"


# The processes of ours


async def test_ours_are_not_to_be_looked_into(cell: Cell) -> None:
    """What is not dumpable has its /proc files owned by the host's root, whoever it runs as."""
    async with Started(cell, plain) as pid:
        guest = os.stat(f"/proc/{pid}/environ").st_uid
        assert guest == int(outside.status(pid)["Uid"].split()[0]) != 0
        monitor = int(outside.status(pid)["PPid"])
        assert outside.status(monitor)["Name"] == "alcove-exec"
        for ours in (*(cell.native(role) for role in ("warden", "spawner", "init")), monitor):
            assert os.stat(f"/proc/{ours}/environ").st_uid == 0, outside.command_line(ours)
            assert int(outside.status(ours)["Uid"].split()[0]) != 0


async def test_ours_have_titles(cell: Cell) -> None:
    for role in ("warden", "spawner", "init"):
        pid = cell.native(role)
        assert outside.status(pid)["Name"] == f"alcove-{role}"
        assert outside.command_line(pid)[0].startswith(f"alcove-{role}")


async def test_init_can_do_nothing_but_reap(cell: Cell, as_root: bool) -> None:
    found = outside.status(cell.native("init"))
    assert {found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {NONE}
    assert (found["NoNewPrivs"], found["Seccomp"], found["Seccomp_filters"]) == ("1", "2", "1")
    assert found["NSpid"].split()[-1] == "1"
    if as_root:
        opened = outside.descriptors(cell.native("init"))
        assert opened.keys() == {0, 1}
        assert opened[0].startswith("pipe:")
        assert opened[1].startswith("socket:")


async def test_the_spawner_is_as_confined_as_what_it_starts(cell: Cell, as_root: bool) -> None:
    found = outside.status(cell.native("spawner"))
    assert {found[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {ALLOWED}
    assert (found["NoNewPrivs"], found["Seccomp"], found["Seccomp_filters"]) == ("1", "2", "1")
    assert len(found["NSpid"].split()) == 1  # it stands outside the cell's pid namespace: no guest can signal it
    if as_root:
        assert "alcove-" in outside.groups(cell.native("spawner"))["pids"]


async def test_the_warden_stays_out_of_the_cell(cell: Cell, as_root: bool) -> None:
    warden = cell.native("warden")
    assert len(outside.status(warden)["NSpid"].split()) == 1
    assert outside.groups(warden) == outside.groups(os.getpid())
    if as_root:
        places = outside.descriptors(warden)
        assert not [target for target in places.values() if target.startswith("/") and target not in {"/", "/proc"}], places
        assert set(places) & {0, 1, 2} == {0, 1, 2}


async def test_guests_see_only_init_and_themselves_of_ours(cell: Cell) -> None:
    script = "for place in /proc/[0-9]*; do tr '\\0' ' ' < $place/cmdline; echo; done"
    titles = {line.split(" ")[0] for line in (await cell.out(script)).splitlines() if line.startswith("alcove-")}
    assert titles <= {"alcove-init", "alcove-exec"}
    probe = "for name in environ maps fd/0 mem root cwd; do cat /proc/1/$name 2>&1 >/dev/null | head -1; done; exit 0"
    refused = (await cell.out(probe)).splitlines()
    assert len(refused) == 6
    assert all("denied" in line.lower() or "not permitted" in line.lower() for line in refused), refused
