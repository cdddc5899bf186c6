"""What is in force on a command, as the host's /proc shows it, and that every way to start one ends the same."""

import asyncio
import fcntl
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from alcove.contract import ExecResult
from alcove.local.backend import LocalSandbox
from alcove.local.config import LocalSandboxConfig
from alcove.testing import no_leaks
from tests.local import outside
from tests.local.cell import Cell, mark
from tests.local.starts import STARTS, Seen, Started, observe, observe_all, plain

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


@pytest.fixture(scope="module")
def every_start(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen | Exception]:
    """Observe each way once, with an inheritable descriptor open that a careless fork would carry along."""
    store = tmp_path_factory.mktemp("starts") / "store"
    canary = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(canary, True)
    try:
        with no_leaks(), ThreadPoolExecutor(1) as thread:  # a loop of its own
            return thread.submit(asyncio.run, _observe(store)).result()
    finally:
        os.close(canary)


async def _observe(store: Path) -> dict[str, Seen | Exception]:
    backend = LocalSandbox(LocalSandboxConfig(root_dir=str(store)))
    try:
        return await observe_all(backend)
    finally:
        await backend.aclose()


@pytest.fixture(params=STARTS)
def seen(request: pytest.FixtureRequest, every_start: dict[str, Seen | Exception]) -> Seen:
    found = every_start[request.param]
    if isinstance(found, Exception):
        raise found
    return found


# One property a test, on every way to start a process


def test_every_namespace_is_the_sessions_own(seen: Seen) -> None:
    host = outside.namespaces(os.getpid())
    assert {name for name in host if host[name] == seen.namespaces[name]} == set()


def test_seccomp_filters_once(seen: Seen) -> None:
    assert (seen.status["Seccomp"], seen.status["Seccomp_filters"]) == ("2", "1")


def test_no_new_privileges(seen: Seen) -> None:
    assert seen.status["NoNewPrivs"] == "1"


def test_the_capabilities_are_the_small_set(seen: Seen) -> None:
    assert {name: seen.status[name] for name in ("CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb")} == {
        "CapBnd": ALLOWED,
        "CapPrm": ALLOWED,
        "CapEff": ALLOWED,
        "CapInh": NONE,
        "CapAmb": NONE,
    }


def test_landlock_fences(seen: Seen) -> None:
    assert seen.landlock == "ENOTTY\nEACCES\n"


def test_the_ids_are_never_the_hosts_root(seen: Seen, as_root: bool) -> None:
    (inside, uid, count), *more = seen.maps["uid"]
    (inside_gid, gid, gids), *more_gids = seen.maps["gid"]
    assert (inside, inside_gid, more, more_gids) == (0, 0, [], [])
    assert seen.status["Uid"].split() == [str(uid)] * 4
    assert seen.status["Gid"].split() == [str(gid)] * 4
    assert uid != 0
    assert gid != 0
    if as_root:
        assert (count, gids) == (65_536, 65_536)
        assert uid == gid >= 1 << 29
        assert (seen.status["Groups"], seen.setgroups) == ("", "allow")
    else:
        assert (uid, count, gid, gids) == (os.geteuid(), 1, os.getegid(), 1)
        assert seen.setgroups == "deny"
        assert "0" not in seen.status["Groups"].split()


def test_the_sessions_groups_hold_it(seen: Seen, as_root: bool) -> None:
    ours = outside.groups(os.getpid())
    changed = {controllers for controllers in seen.groups if seen.groups[controllers] != ours[controllers]}
    assert all(seen.groups[controllers].endswith(f"/alcove-{seen.key}") for controllers in changed)
    if as_root:
        assert changed >= {controllers for controllers in ours if controllers in {"", "pids"}}
        assert changed


def test_limits_and_score(seen: Seen) -> None:
    pids = LocalSandboxConfig().default_pids
    assert seen.limits["Max open files"] == ("4096", "4096")
    assert seen.limits["Max core file size"] == ("0", "0")
    soft, hard = seen.limits["Max processes"]
    assert soft == hard
    assert pids <= int(soft) <= pids + 8  # our own few count too
    assert seen.oom_score_adj == "500"


def test_no_descriptor_is_inherited(seen: Seen) -> None:
    assert seen.descriptors.keys() == {0, 1, 2}
    assert seen.descriptors[0] == "/dev/null"
    assert seen.descriptors[1].startswith("pipe:")
    assert seen.descriptors[2].startswith("pipe:")
    assert seen.descriptors[1] != seen.descriptors[2]


def test_signals_terminal_and_priority_are_fresh(seen: Seen) -> None:
    assert {seen.status[name] for name in ("SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd")} == {NONE}
    assert seen.status["Umask"] == "0022"
    assert seen.scheduling == ("0", "0", "0")


def test_the_hosts_root_is_gone(seen: Seen) -> None:
    host = os.stat("/")
    assert seen.root != (host.st_dev, host.st_ino)
    assert seen.root_entries.isdisjoint({"home", "srv", "media", "boot", "lost+found"})


def test_the_mounts_are_as_closed_as_they_can_be(seen: Seen) -> None:
    assert "ro" in seen.mounts["/"]
    for place in ("/usr", "/etc", "/var", "/mnt/memory", "/proc/sys"):
        assert "ro" in seen.mounts[place], place
    for place in ("/workspace", "/tmp", "/mnt/session/outputs", "/dev/shm"):
        assert "rw" in seen.mounts[place], place
    for place, options in seen.mounts.items():
        assert "nosuid" in options, place
        assert "nodev" in options or place == "/dev" or place.startswith(("/dev/", "/proc/")), place
        assert "noexec" in options or not place.startswith(("/dev/pts", "/proc/sys")), place


def test_no_mount_is_shared_with_the_host(seen: Seen) -> None:
    tags = [row.partition(" - ")[0].split(" ")[6:] for row in seen.mountinfo]
    assert [tag for tag in tags if any(part.startswith(("shared:", "master:")) for part in tag)] == []


def test_every_way_ends_the_same(seen: Seen, every_start: dict[str, Seen | Exception]) -> None:
    """Whatever the kernel tells of a process, compared whole, so that no way can lack what nobody thought of."""
    first = every_start["plain"]
    assert isinstance(first, Seen)
    wanted, found = first.told(), seen.told()
    assert {name: (value, wanted[name]) for name, value in found.items() if value != wanted[name]} == {}
    if seen is not every_start["re-created"]:
        # a spawner has a cgroup namespace of its own; what it is rooted at is seen in the groups
        shared = [name for name in first.namespaces if name != "cgroup"]
        assert {name: seen.namespaces[name] for name in shared} == {name: first.namespaces[name] for name in shared}


# What has no counterpart on every way


async def test_another_user_has_the_same_without_capabilities(cell: Cell, as_root: bool) -> None:
    user = "agent" if as_root else "root"

    async def start(cell: Cell, number: str) -> ExecResult:
        return await cell.exec("sleep", [number], user=user)

    wanted, found = (await observe(cell, plain)).told(), (await observe(cell, start)).told()
    different = {name for name, value in found.items() if value != wanted[name]}
    theirs = {"Uid", "Gid", "Groups", "CapPrm", "CapEff", "environment", "owner"}
    assert different == (theirs if as_root else set())
    if as_root:
        assert (found["CapPrm"], found["CapEff"], found["CapBnd"]) == (NONE, NONE, ALLOWED)


async def test_the_check_sees_what_is_not_confined() -> None:
    """The positive control: an ordinary child of ours has none of this."""
    number = mark()
    child = subprocess.Popen(["sleep", number])  # noqa: ASYNC220 - it only sleeps
    try:
        found, ours = outside.status(await outside.one(number)), outside.status(os.getpid())
        assert outside.namespaces(child.pid) == outside.namespaces(os.getpid())
        assert {name: found[name] for name in ("NoNewPrivs", "Seccomp", "CapBnd")} == {
            name: ours[name] for name in ("NoNewPrivs", "Seccomp", "CapBnd")
        }
        assert found["CapBnd"] != ALLOWED
        assert outside.id_map(child.pid, "uid") == outside.id_map(os.getpid(), "uid")
    finally:
        child.kill()
        child.wait()


def _ask(fd: int, question: int) -> tuple[int, int]:
    """Return a descriptor and the inode of the namespace that a namespace's ioctl tells (ioctl_ns(2))."""
    found = fcntl.ioctl(fd, question)
    return found, os.fstat(found).st_ino


async def test_the_cell_is_nested_and_owns_only_what_it_may(cell: Cell) -> None:
    """Capabilities of the guest never apply to mounts, network or processes of the outer user namespace."""
    host = os.stat("/proc/self/ns/user").st_ino
    opened: list[int] = []
    owners = {}
    async with Started(cell, plain) as pid:
        try:
            for name in outside.NAMESPACES:
                opened.append(os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY))
                if name != "user":
                    fd, owners[name] = _ask(opened[-1], NS_GET_USERNS)
                    opened.append(fd)
            inner = os.fstat(opened[0]).st_ino
            outer_fd, outer = _ask(opened[0], NS_GET_PARENT)
            above_fd, above = _ask(outer_fd, NS_GET_PARENT)
            opened += [outer_fd, above_fd]
        finally:
            for fd in opened:
                os.close(fd)
    assert above == host
    assert len({inner, outer, host}) == 3
    assert {name: owners[name] for name in ("mnt", "net", "ipc", "uts", "pid")} == dict.fromkeys(
        ("mnt", "net", "ipc", "uts", "pid"), outer
    )
    assert owners["cgroup"] in {inner, outer}


async def test_no_namespace_can_be_made_inside(cell: Cell) -> None:
    assert await cell.out("cat /proc/sys/user/max_user_namespaces") == "0\n"
    result = await cell.sh("for kind in U m n p i u C; do unshare -$kind true; done; echo tried")
    assert result.stdout == "tried\n"
    assert result.stderr.count("unshare: unshare failed") == 7


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
            assert int(outside.status(ours)["Uid"].split()[0]) == guest


async def test_ours_have_titles(cell: Cell) -> None:
    for role in ("warden", "spawner", "init"):
        pid = cell.native(role)
        assert outside.status(pid)["Name"] == f"alcove-{role}"
        assert outside.command_line(pid)[0].startswith(f"alcove-{role}")


async def test_init_can_do_nothing_but_reap(cell: Cell, as_root: bool) -> None:
    init = cell.native("init")
    found = outside.status(init)
    assert {found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {NONE}
    assert (found["NoNewPrivs"], found["Seccomp"], found["Seccomp_filters"]) == ("1", "2", "1")
    assert found["NSpid"].split()[1:] == ["1"]
    if as_root:
        opened = outside.descriptors(init)
        assert opened.keys() == {0, 1}
        assert opened[0].startswith("pipe:")
        assert opened[1].startswith("socket:")


async def test_the_spawner_is_as_confined_as_what_it_starts(cell: Cell, as_root: bool) -> None:
    spawner = cell.native("spawner")
    found = outside.status(spawner)
    assert {found[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {ALLOWED}
    assert (found["NoNewPrivs"], found["Seccomp"], found["Seccomp_filters"]) == ("1", "2", "1")
    assert len(found["NSpid"].split()) == 1  # it stands outside the cell's pid namespace: no guest can signal it
    if as_root:
        assert outside.groups(spawner)["pids"].endswith(f"/alcove-{cell.directory.name}")


async def test_the_warden_stays_out_of_the_cell(cell: Cell, as_root: bool) -> None:
    warden = cell.native("warden")
    assert len(outside.status(warden)["NSpid"].split()) == 1
    assert outside.groups(warden) == outside.groups(os.getpid())
    if as_root:
        places = {target for target in outside.descriptors(warden).values() if target.startswith("/")}
        # its own session's groups, so that later spawners can enter them and it can freeze them; nothing else
        group = f"/alcove-{cell.directory.name}"
        mine = (group, *(f"{group}/{name}" for name in ("tasks", "cgroup.procs", "cgroup.freeze", "cgroup.events")))
        places = {place for place in places if not place.startswith("/memfd:alcove-plan") and not place.endswith(mine)}
        assert places <= {"/", "/proc", "/dev/null"}


async def test_guests_see_only_init_and_monitors_of_ours(cell: Cell) -> None:
    script = "for place in /proc/[0-9]*; do tr '\\0' ' ' < $place/cmdline; echo; done"
    titles = {line.split(" ")[0] for line in (await cell.out(script)).splitlines() if line.startswith("alcove-")}
    assert titles == {"alcove-init", "alcove-exec"}
    probe = "for name in environ maps mem fd/0 fd/1 root/etc cwd/etc; do head -c 1 /proc/1/$name 2>&1; echo; done"
    lines = [line for line in (await cell.out(probe)).splitlines() if line]
    assert len(lines) == 7
    assert all("Permission denied" in line for line in lines), lines
