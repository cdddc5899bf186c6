"""Attaching a directory of the host to a live session: who sees it, who may write, whose the files are."""

import asyncio
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from msgspec.structs import replace

from alcove.contract import (
    MEMORY_MOUNT,
    ExecRequest,
    FilesystemAccess,
    FilesystemMount,
    InvalidRequest,
    Limited,
    SandboxError,
    SandboxIoError,
    SandboxSpec,
    SessionNotFound,
)
from alcove.local.backend import LocalSandbox
from alcove.local.config import LocalSandboxConfig
from alcove.local.mounts.mounting import Mounter
from alcove.local.snapshots.upkeep import DEEP, Upkeep
from tests.conftest import PlainUser
from tests.local import outside
from tests.local.cell import Cell, live, mark

pytestmark = pytest.mark.user

READ_WRITE = FilesystemAccess.READ_WRITE

Give = Callable[..., Path]


@pytest.fixture
def give(tmp_path: Path, plain_user: PlainUser) -> Give:
    """Return a maker of host directories that belong to a plain user, so that a guest may be given them."""

    def make(name: str = "given", **files: str) -> Path:
        directory = tmp_path / name
        directory.mkdir(parents=True)
        for file, text in files.items():
            (directory / file).write_text(text)
        for path in (directory, *directory.iterdir()):
            os.chown(path, plain_user.uid, plain_user.gid)
        return directory

    return make


async def attach(cell: Cell, source: Path | str, target: str, access: FilesystemAccess | None = None) -> None:
    mount = FilesystemMount(source, target, access) if access else FilesystemMount(source, target)
    await cell.backend.attach_filesystem(cell.id, mount)


# Seen


async def test_a_live_process_sees_it(cell: Cell, give: Give) -> None:
    watcher = """
import os, time
open("/workspace/ready", "w").close()
while not os.path.exists("/data/given"):
    time.sleep(0.01)
print(open("/data/given").read())
"""
    task = asyncio.ensure_future(cell.python(watcher))
    await outside.until((cell.directory / "workspace" / "ready").exists)
    await attach(cell, give(given="by the host"), "/data")
    assert (await task).stdout == "by the host\n"


async def test_a_live_process_writes_to_it(cell: Cell, give: Give) -> None:
    source = give()
    number = mark()
    writer = """
import os, time
while not os.path.ismount("/data"):
    time.sleep(0.01)
open("/data/made", "w").write("by an old process")
"""
    task = asyncio.ensure_future(cell.python(writer, number))
    await outside.one(number)
    await attach(cell, source, "/data", READ_WRITE)
    assert (await task).success
    assert (source / "made").read_text() == "by an old process"


async def test_what_is_written_belongs_to_the_directorys_owner(cell: Cell, give: Give, plain_user: PlainUser) -> None:
    source = give(given="by the host")
    await attach(cell, source, "/data", READ_WRITE)
    await cell.out(
        "cd /data; echo a >> given; mkdir -p d/e; echo f > d/e/f; ln -s given link; chmod 640 given; mv given kept"
    )
    for path in (source, *source.rglob("*")):
        found = path.lstat()
        assert (found.st_uid, found.st_gid) == (plain_user.uid, plain_user.gid), path
    assert (source / "kept").read_text() == "by the hosta\n"
    assert stat.S_IMODE((source / "kept").stat().st_mode) == 0o640
    assert await cell.out("stat -c '%u %g' /data /data/kept") == "0 0\n0 0\n"


async def test_read_only_is_read_only_by_every_way(cell: Cell, give: Give) -> None:
    source = give(given="by the host")
    await attach(cell, source, "/data")
    before = (source / "given").stat()
    attempts = (
        *("echo x >> /data/given", "touch /data/new", "rm /data/given", "mv /data/given /data/other"),
        *("chmod 777 /data/given", "ln /data/given /data/hard", "mkdir /data/d", "truncate -s 0 /data/given"),
        *("touch -d @1 /data/given", "chown 0:0 /data/given", "setfattr -n user.x -v y /data/given"),
    )
    for attempt in attempts:
        assert not (await cell.sh(attempt)).success, attempt
    after = (source / "given").stat()
    assert (source / "given").read_text() == "by the host"
    assert (after.st_mode, after.st_mtime_ns, after.st_nlink) == (before.st_mode, before.st_mtime_ns, before.st_nlink)
    assert [path.name for path in source.iterdir()] == ["given"]


async def test_the_flags_of_the_mount(cell: Cell, give: Give) -> None:
    await attach(cell, give("one"), "/one")
    await attach(cell, give("two"), "/two", READ_WRITE)
    number = mark()
    await cell.sh('sleep "$1" >/dev/null 2>&1 &', number)
    found = outside.mounts(await outside.one(number))
    assert found["/one"] >= {"ro", "nosuid", "nodev"}
    assert found["/two"] >= {"rw", "nosuid", "nodev"}


async def test_what_the_host_changes_is_seen_at_once(cell: Cell, give: Give) -> None:
    source = give(given="one")
    await attach(cell, source, "/data")
    (source / "given").write_text("two")
    (source / "later").write_text("new")
    assert await cell.out("cat /data/given /data/later") == "twonew"


async def test_a_file_can_be_attached(cell: Cell, give: Give) -> None:
    source = give(one="first", two="second")
    await attach(cell, source / "one", "/etc-of-mine/one")
    await attach(cell, source / "two", "/workspace/two", READ_WRITE)
    assert (
        await cell.out("cat /etc-of-mine/one; echo -n more >> /workspace/two; cat /workspace/two") == "firstsecondmore"
    )
    assert (source / "two").read_text() == "secondmore"
    assert not (await cell.sh("echo x > /etc-of-mine/one")).success


async def test_the_session_tells_its_mounts(cell: Cell, give: Give) -> None:
    one, two = give("one"), give("two")
    await attach(cell, one, "/one")
    await attach(cell, two, "/two/", READ_WRITE)
    await attach(cell, "", "/three", READ_WRITE)
    found = cell.backend.session(cell.id).mounts[2:]
    assert [(mount.target, mount.access.value) for mount in found] == [
        ("/one", "read_only"),
        ("/two", "read_write"),
        ("/three", "read_write"),
    ]
    assert [mount.host_path for mount in found[:2]] == [str(one), str(two)]
    fresh = found[2].host_path
    assert fresh is not None
    assert Path(fresh).parent == cell.directory


@pytest.mark.parametrize(
    "name", ["with space", "new\nline", "tab\tand \\ back", "käse 🧀 日本", "-dash", "a" * 255, "quo'te\""]
)
async def test_any_name_will_do(cell: Cell, give: Give, name: str) -> None:
    source = give(name[:240], given="found")
    target = f"/workspace/in {name}"[:270] if len(name) < 200 else f"/workspace/{name}"
    await attach(cell, source, target)
    assert await cell.out('cat "$1/given"', target) == "found"
    assert cell.backend.session(cell.id).mounts[2].target == target


async def test_a_name_that_is_too_long_is_refused(cell: Cell, give: Give) -> None:
    source = give()
    for target in (f"/workspace/{'a' * 256}", "/workspace" + "/abcdefg" * 600):
        with pytest.raises(SandboxIoError, match="File name too long"):
            await attach(cell, source, target)
    assert len(cell.backend.session(cell.id).mounts) == 2


async def test_nested_targets_in_either_order(cell: Cell, give: Give) -> None:
    inner, outer, innermost = give("inner", f="inner"), give("outer", f="outer"), give("innermost", f="innermost")
    (outer / "in").mkdir()
    await attach(cell, outer, "/data")
    await attach(cell, inner, "/data/in")
    with pytest.raises(SandboxIoError, match="read-only inside"):  # the mount point would have to be made on the host
        await attach(cell, innermost, "/data/in/most")
    assert await cell.out("cat /data/f /data/in/f") == "outerinner"
    await attach(cell, innermost, "/new/a/b/c")
    await attach(cell, inner, "/new/a")
    assert await cell.out("cat /new/a/f; ls /new/a") == "innerf\n"


async def test_a_mount_point_below_a_writable_place_is_made(cell: Cell, give: Give) -> None:
    await attach(cell, give(f="found"), "/workspace/deep/down/here")
    await attach(cell, "", "/tmp/here", READ_WRITE)
    assert await cell.out("cat /workspace/deep/down/here/f; echo x > /tmp/here/y; cat /tmp/here/y") == "foundx\n"


@pytest.mark.parametrize("target", ["/usr/new", "/etc/new/deeper", "/opt/mine"])
async def test_a_target_below_a_read_only_place_says_what_to_do(cell: Cell, give: Give, target: str) -> None:
    with pytest.raises(
        SandboxIoError, match=r"mount point: Read-only file system; .*choose a target below /mnt, /workspace"
    ):
        await attach(cell, give(), target)
    await attach(cell, "", "/fine")
    assert [mount.target for mount in cell.backend.session(cell.id).mounts[2:]] == ["/fine"]


async def test_an_existing_place_is_covered(cell: Cell, give: Give) -> None:
    await cell.out("mkdir here; echo below > here/f")
    await attach(cell, give(f="above"), "/workspace/here")
    assert await cell.out("cat here/f") == "above"
    await attach(cell, give("lib", f="of the host's library"), "/opt")
    assert await cell.out("cat /opt/f") == "of the host's library"


async def test_a_taken_target_is_refused(cell: Cell, give: Give) -> None:
    source = give()
    await attach(cell, source, "/data")
    for target in ("/data", "/data/", "//data", "/./data"):
        with pytest.raises(InvalidRequest, match="is already mounted"):
            await attach(cell, source, target)
    with pytest.raises(InvalidRequest, match="is already mounted"):
        await attach(cell, source, "/mnt/session/outputs")


async def test_one_of_two_at_once_gets_the_target(cell: Cell, give: Give) -> None:
    one, two = give("one"), give("two")
    results = await asyncio.gather(attach(cell, one, "/data"), attach(cell, two, "/data"), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["InvalidRequest", "NoneType"]
    assert len(cell.backend.session(cell.id).mounts) == 3


async def test_two_backends_know_each_others_mounts(cell: Cell, give: Give) -> None:
    other = LocalSandbox(cell.backend.config)
    try:
        theirs = Cell(other, cell.session)
        assert (await theirs.exec("true")).success
        await attach(cell, give("one"), "/data")
        with pytest.raises(InvalidRequest, match="is already mounted"):
            await attach(theirs, "", "/data")
        await attach(theirs, "", "/more")
        for backend in (other, cell.backend):
            assert [mount.target for mount in backend.session(cell.id).mounts[2:]] == ["/data", "/more"]
    finally:
        await other.aclose()


async def test_the_memory_is_replaced_once(cell: Cell, give: Give) -> None:
    source = give(fact="another")
    await attach(cell, source, MEMORY_MOUNT, READ_WRITE)
    assert await cell.out("cat /mnt/memory/fact; echo -n new > /mnt/memory/made") == "another"
    assert (source / "made").read_text() == "new"
    mounts = cell.backend.session(cell.id).mounts
    assert (mounts[0].target, mounts[0].host_path) == (MEMORY_MOUNT, str(source))
    with pytest.raises(InvalidRequest, match="is already mounted"):
        await attach(cell, give("third"), MEMORY_MOUNT)


async def test_a_failed_attach_leaves_nothing_behind(cell: Cell) -> None:
    before = sorted(path.name for path in cell.directory.iterdir())
    with pytest.raises(SandboxIoError):
        await attach(cell, "", "/usr/not/here")
    await cell.out(": > plain")
    with pytest.raises(SandboxIoError):
        await attach(cell, "", "/workspace/plain/below")
    assert sorted(path.name for path in cell.directory.iterdir()) == before
    await attach(cell, "", "/data")


# Refused sources


@pytest.mark.security
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("/", "the host's whole root"),
        ("/proc", "lies in /proc"),
        ("/proc/self", "lies in /proc"),
        ("/sys", "lies in /sys"),
        ("/sys/fs/cgroup", "lies in /sys"),
        ("/dev", "lies in /dev"),
        ("/dev/shm", "lies in /dev"),
        ("/dev/null", "neither a directory nor a regular file"),
        ("//", "the host's whole root"),
        ("/usr/..", "the host's whole root"),
        ("/proc/self/root", "the host's whole root"),
    ],
)
async def test_a_source_that_no_session_may_see(backend: LocalSandbox, cell: Cell, source: str, reason: str) -> None:
    for access in FilesystemAccess:
        mount = FilesystemMount(source, "/data", access)
        with pytest.raises(InvalidRequest, match=reason):
            await attach(cell, source, "/data", access)
        with pytest.raises(InvalidRequest, match=reason):
            await backend.provision(SandboxSpec(mounts=[mount]))


@pytest.mark.security
async def test_the_store_and_what_holds_it_are_refused(cell: Cell, store: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(store)
    inside = cell.directory / "outputs"
    for source in (
        store,
        store / "sessions",
        inside,
        store / "store.db",
        tmp_path,
        tmp_path.parent,
        link,
        link / "sessions",
    ):
        with pytest.raises(InvalidRequest, match="Alcove's store"):
            await attach(cell, source, "/data")


@pytest.mark.security
@pytest.mark.parametrize("kind", ["socket", "fifo"])
async def test_what_is_no_file_is_refused(cell: Cell, short_tmp: Path, kind: str) -> None:
    path = short_tmp / kind
    os.mknod(path, 0o666 | (stat.S_IFSOCK if kind == "socket" else stat.S_IFIFO))
    with pytest.raises(InvalidRequest, match="sockets and devices stay outside"):
        await attach(cell, path, "/data")


@pytest.mark.security
async def test_another_mount_of_proc_is_refused_too(cell: Cell, tmp_path: Path, as_root: bool) -> None:
    """The kernel's file systems are known by what they are, wherever somebody has mounted them."""
    if not as_root:  # who cannot mount has no other /proc than this one
        return
    place = tmp_path / "chroot" / "proc"
    place.mkdir(parents=True)
    done = await asyncio.create_subprocess_exec("mount", "-t", "proc", "proc", str(place))
    assert await done.wait() == 0
    try:
        with pytest.raises((InvalidRequest, SandboxIoError)):
            await attach(cell, place, "/direct")
        with suppress(InvalidRequest, SandboxIoError):
            await attach(cell, place.parent, "/around")
        assert await cell.out("ls /around/proc 2>/dev/null; true") == ""
    finally:
        done = await asyncio.create_subprocess_exec("umount", "-l", str(place))
        await done.wait()


async def test_a_missing_source_is_told(backend: LocalSandbox, cell: Cell, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(SandboxIoError, match=f"{missing}`: No such file or directory"):
        await attach(cell, missing, "/data")
    with pytest.raises(SandboxIoError, match="No such file"):
        await backend.provision(SandboxSpec(mounts=[FilesystemMount(missing, "/data")]))
    with pytest.raises(InvalidRequest, match="must be absolute"):
        await attach(cell, "relative", "/data")


@pytest.mark.security
async def test_a_link_as_source_is_judged_by_where_it_leads(cell: Cell, give: Give, tmp_path: Path) -> None:
    source = give(given="real")
    link = tmp_path / "link"
    link.symlink_to(source)
    await attach(cell, link, "/data")
    assert cell.backend.session(cell.id).mounts[2].host_path == str(source)
    link.unlink()
    link.symlink_to("/proc")
    with pytest.raises(InvalidRequest, match="lies in /proc"):
        await attach(cell, link, "/more")
    assert await cell.out("cat /data/given") == "real"


@pytest.mark.security
async def test_a_source_that_is_exchanged_all_the_time_never_leads_elsewhere(
    cell: Cell, give: Give, tmp_path: Path, store: Path
) -> None:
    """A name that is a directory when looked at, and a link to the store when mounted."""
    real = give("real", given="real")
    name, other = tmp_path / "name", tmp_path / "other"
    name.symlink_to(real)
    other.symlink_to(store)
    stop = Event()

    def exchange() -> None:
        spare = tmp_path / "spare"
        while not stop.is_set():
            os.rename(name, spare)
            os.rename(other, name)
            os.rename(spare, other)

    thread = Thread(target=exchange)
    thread.start()
    try:
        targets = []
        for number in range(40):
            try:
                await attach(cell, name, f"/data{number}")
                targets.append(f"/data{number}")
            except (InvalidRequest, SandboxIoError):
                continue
    finally:
        stop.set()
        thread.join()
    for target in targets:
        assert await cell.out('ls "$1"', target) == "given\n"


# Refused and hostile targets


@pytest.mark.security
@pytest.mark.parametrize(
    "place", ["/proc", "/sys", "/dev", "/run", "/proc/self", "/dev/shm", "/run/lock", "/sys/x", "//dev//x"]
)
async def test_a_target_that_is_the_sessions_own(backend: LocalSandbox, cell: Cell, place: str) -> None:
    with pytest.raises(InvalidRequest, match="which is the session's own"):
        await attach(cell, "", place)
    with pytest.raises(InvalidRequest, match="which is the session's own"):
        await backend.provision(SandboxSpec(mounts=[FilesystemMount("", place)]))


@pytest.mark.security
@pytest.mark.parametrize("target", ["/", "//", "", " ", "relative", "/a/../b", "/..", "/.", "/a\0b"])
async def test_a_target_that_is_none(cell: Cell, target: str) -> None:
    with pytest.raises(InvalidRequest):
        await attach(cell, "", target)


@pytest.mark.security
@pytest.mark.parametrize("leads", ["/", "/usr", "/proc/1/root", "..", "/proc/self/cwd", "/etc", "nowhere"])
async def test_a_target_through_a_guests_link_does_not_escape(cell: Cell, give: Give, leads: str) -> None:
    source = give(given="canary")
    await cell.out('ln -s "$1" /workspace/link; mkdir -p /workspace/real/below', leads)
    before = outside.read(os.getpid(), "mountinfo")
    for target in ("/workspace/link", "/workspace/link/below", "/workspace/link/tmp/x", "/workspace/link/workspace"):
        with pytest.raises(SandboxIoError, match=r"target|mount point"):
            await attach(cell, source, target, READ_WRITE)
    assert outside.read(os.getpid(), "mountinfo") == before
    assert await cell.out("ls /usr/given /etc/given /given /tmp/x 2>/dev/null; true") == ""
    await attach(cell, source, "/workspace/real/below")
    assert await cell.out("cat real/below/given") == "canary"


SWAPPER = """
import os
os.makedirs("/workspace/swap/below", exist_ok=True)
os.symlink("/", "/workspace/link")
print("ready", flush=True)
while True:
    os.rename("/workspace/swap", "/workspace/spare")
    os.rename("/workspace/link", "/workspace/swap")
    os.rename("/workspace/swap", "/workspace/link")
    os.rename("/workspace/spare", "/workspace/swap")
"""


@pytest.mark.security
async def test_a_target_that_is_exchanged_all_the_time_stays_inside(cell: Cell, give: Give) -> None:
    source = give(given="canary")
    number = mark()
    task = asyncio.ensure_future(cell.python(SWAPPER, number))
    await outside.one(number)
    before = outside.read(os.getpid(), "mountinfo")
    try:
        for count in range(60):
            try:
                await attach(cell, source, f"/workspace/swap/below{count}")
            except SandboxIoError:
                continue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert outside.read(os.getpid(), "mountinfo") == before
    number = mark()
    await cell.sh('sleep "$1" >/dev/null 2>&1 &', number)
    places = [place for place in outside.mounts(await outside.one(number)) if "below" in place]
    assert all(place.startswith(("/workspace/", "/workspace/spare/")) for place in places), places
    assert await cell.out("ls -d /below* 2>/dev/null; true") == ""


# Who may write


async def test_set_id_and_writing_to_the_host_exclude_each_other(backend: LocalSandbox, give: Give) -> None:
    source = give(given="readable")
    spec = SandboxSpec(set_id=True, network_policy=Limited())
    async with live(backend, spec) as cell:
        with pytest.raises(InvalidRequest, match="set_id"):
            await attach(cell, source, "/data", READ_WRITE)
        await attach(cell, source, "/data")
        await attach(cell, "", "/own", READ_WRITE)
        assert await cell.out("cat /data/given; echo x > /own/y") == "readable"
    with pytest.raises(InvalidRequest, match="set_id"):
        await backend.provision(SandboxSpec(set_id=True, mounts=[FilesystemMount(source, "/data", READ_WRITE)]))


@pytest.mark.security
async def test_no_set_id_file_can_be_left_on_the_host(cell: Cell, give: Give) -> None:
    source = give()
    await attach(cell, source, "/data", READ_WRITE)
    await cell.sh("cd /data; cp /bin/true t; chmod 4755 t; chmod 2755 t; install -m 4755 /bin/true u; chmod 755 t")
    program = "import os; [os.open(f'/data/v{m}', os.O_CREAT | os.O_WRONLY, m) for m in (0o4755, 0o2755)]"
    await cell.python(program)
    assert (source / "t").exists()  # the positive control: the guest can write there
    for path in source.iterdir():
        assert not path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID), path


async def test_a_directory_of_roots_needs_the_word(store: Path, tmp_path: Path, as_root: bool) -> None:
    source = tmp_path / "of root's" if as_root else Path("/etc")
    if as_root:
        source.mkdir()
        (source / "given").write_text("by root")
    for allowed in (False, True):
        backend = LocalSandbox(LocalSandboxConfig(root_dir=str(store), allow_root_owned=allowed))
        try:
            async with live(backend) as cell:
                await attach(cell, source, "/seen")
                if not allowed:
                    with pytest.raises(InvalidRequest, match=r"belongs to root.*allow_root_owned.*--allow-root-owned"):
                        await attach(cell, source, "/data", READ_WRITE)
                    continue
                await attach(cell, source, "/data", READ_WRITE)
                written = await cell.sh("echo guest > /data/made")
                assert written.success == as_root  # a plain user's guest has no right there, whatever the word
        finally:
            await backend.aclose()
    if as_root:
        assert ((source / "made").read_text(), (source / "made").stat().st_uid) == ("guest\n", 0)


@pytest.mark.security
async def test_a_user_beside_the_owner_gets_nothing(cell: Cell, give: Give, as_root: bool) -> None:
    """Only the owner on disk is the session's root; every other id of the host is nobody."""
    source = give(given="open")
    if as_root:
        (source / "of roots").write_text("closed")
        (source / "of roots").chmod(0o600)
    await attach(cell, source, "/data", READ_WRITE)
    assert await cell.out("cat /data/given") == "open"
    if as_root:
        assert not (await cell.sh("cat '/data/of roots'")).success
        assert not (await cell.sh("chmod 644 '/data/of roots'")).success
        assert not (await cell.sh("chown 1000 /data/given")).success
        assert (source / "of roots").stat().st_uid == 0


async def test_a_source_below_a_closed_directory_works(cell: Cell, give: Give, tmp_path: Path) -> None:
    source = give("closed/given", given="found")
    (tmp_path / "closed").chmod(0o700)
    await attach(cell, source, "/data")
    assert await cell.out("cat /data/given") == "found"


async def test_a_source_that_goes_away_harms_nobody(cell: Cell, give: Give) -> None:
    source = give(given="gone")
    await attach(cell, source, "/data")
    shutil.rmtree(source)
    assert await cell.out("ls /data; echo alive") == "alive\n"
    await cell.backend.terminate(cell.id)


# Again, after a sleep


@pytest.mark.security
async def test_a_source_that_a_guest_exchanged_is_not_mounted_again(cell: Cell, give: Give) -> None:
    """Whoever can write above a source can put a link in its place, and what that leads to was never allowed."""
    above, secret = give("above"), give("secret", secret="the host's")
    project = above / "project"
    project.mkdir()
    shutil.chown(project, above.stat().st_uid, above.stat().st_gid)
    await attach(cell, above, "/above", READ_WRITE)
    await attach(cell, project, "/project")
    await cell.out('mv /above/project /above/moved && ln -s "$1" /above/project', str(secret))
    await cell.backend.suspend(cell.id)
    with pytest.raises(SandboxIoError, match="is not what was attached"):
        await cell.out("cat /project/secret")
    (above / "project").unlink()
    (above / "moved").rename(project)
    assert await cell.out("ls -A /project; ls /above") == "project\n"


async def test_a_command_waits_for_the_mounts_of_a_session_that_wakes(
    cell: Cell, give: Give, monkeypatch: pytest.MonkeyPatch
) -> None:
    await attach(cell, give(given="by the host"), "/data")
    await cell.backend.suspend(cell.id)
    mount, mounting = Mounter.mount, asyncio.Event()

    async def slowly(*arguments: Any, **options: Any) -> None:
        mounting.set()
        await asyncio.sleep(0.3)
        await mount(*arguments, **options)

    monkeypatch.setattr(Mounter, "mount", slowly)
    first = asyncio.ensure_future(cell.out("cat /data/given"))
    await mounting.wait()
    other = LocalSandbox(cell.backend.config)
    try:
        assert (await other.exec(cell.id, ExecRequest("cat", ["/data/given"]))).stdout == "by the host"
        assert await first == "by the host"
    finally:
        await other.aclose()


async def test_a_mount_of_a_record_of_before_is_mounted_again(cell: Cell, give: Give) -> None:
    await attach(cell, give(given="by the host"), "/data")
    live = cell.backend._sessions.live(cell.id)
    live.record = replace(live.record, attached=tuple(replace(one, owner=None) for one in live.record.attached))
    cell.backend._sessions.save(live)
    await cell.backend.suspend(cell.id)
    assert await cell.out("cat /data/given") == "by the host"


async def test_a_session_that_is_being_made_is_nobodys_yet(
    backend: LocalSandbox, give: Give, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach_, attaching = Mounter.attach, asyncio.Event()

    async def slowly(*arguments: Any) -> None:
        attaching.set()
        await asyncio.sleep(0.3)
        await attach_(*arguments)

    monkeypatch.setattr(Mounter, "attach", slowly)
    mount = FilesystemMount(give(given="by the host"), "/data")
    making = asyncio.ensure_future(backend.provision(SandboxSpec("early", network_policy=Limited(), mounts=[mount])))
    await attaching.wait()
    other = LocalSandbox(backend.config)
    try:
        assert other.sessions() == []
        for call in (other.exec("early", ExecRequest("true")), other.suspend("early"), other.terminate("early")):
            with pytest.raises(SessionNotFound):
                await call
        await making
        assert (await other.exec("early", ExecRequest("cat", ["/data/given"]))).stdout == "by the host"
        await other.terminate("early")
    finally:
        await other.aclose()


async def test_a_cancelled_attach_is_told_of_if_it_was_made(
    cell: Cell, give: Give, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, asked = Mounter._request, asyncio.Event()

    async def then_wait(*arguments: Any) -> Any:
        reply = await ask(*arguments)
        asked.set()
        await asyncio.sleep(0.2)
        return reply

    monkeypatch.setattr(Mounter, "_request", then_wait)
    attaching = asyncio.ensure_future(attach(cell, give(given="by the host"), "/data"))
    await asked.wait()
    attaching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attaching
    assert await cell.out("cat /data/given") == "by the host"
    assert cell.backend.session(cell.id).mounts[-1].target == "/data"


async def test_a_session_that_cannot_be_brought_back_keeps_its_mounts(
    backend: LocalSandbox, cell: Cell, give: Give
) -> None:
    source = give(given="by the host")
    await attach(cell, source, "/data")
    for number in range(DEEP + 1):
        await cell.out('echo "$1" > note', str(number))
        await backend.snapshot(cell.id)
    await Upkeep(backend._store).run()  # its chain is another when it is brought back
    source.rename(source.with_name("away"))
    for _ in range(2):
        with pytest.raises(SandboxError, match="No such file"):
            await cell.out("true")
    source.with_name("away").rename(source)
    assert await cell.out("cat /data/given note") == f"by the host{DEEP}\n"
