# ruff: noqa: ASYNC240 - small files of the host, read in between
"""What a snapshot keeps of a session and what not, as the guest sees it and as it lies on the host."""

import asyncio
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from alcove.contract import (
    FilesystemAccess,
    FilesystemMount,
    InvalidRequest,
    LifecycleError,
    Limited,
    SandboxIoError,
    SandboxSnapshot,
    SandboxSpec,
)
from alcove.local.backend import LocalSandbox
from alcove.local.cell import control
from alcove.local.cell.launch import CONTROL_SOCKET, connect
from alcove.local.cell.operations import Kind, operation
from alcove.local.snapshots import sealing
from alcove.local.snapshots.layers import OWNER
from alcove.local.snapshots.snapshot_table import SnapshotTable
from tests.conftest import PlainUser
from tests.local import outside
from tests.local.cell import Cell, begun, live, mark

pytestmark = [pytest.mark.user, pytest.mark.usefixtures("tmp_of_its_own")]

CANARY = "canary-of-the-host"

# All that lstat(2) and listxattr(2) tell of a tree but its top, whose own times a session's start may change
DESCRIBE = """
import json, os, stat, sys
found = {}
for place, directories, files in os.walk(sys.argv[1]):
    for name in sorted([*directories, *files]):
        path = os.path.join(place, name)
        facts = os.lstat(path)
        is_link = stat.S_ISLNK(facts.st_mode)
        found[os.path.relpath(path, sys.argv[1])] = {
            "mode": oct(facts.st_mode), "uid": facts.st_uid, "gid": facts.st_gid, "mtime": facts.st_mtime_ns,
            "size": 0 if stat.S_ISDIR(facts.st_mode) else facts.st_size,
            "links": 0 if stat.S_ISDIR(facts.st_mode) else facts.st_nlink,
            "sparse": facts.st_blocks * 512 < facts.st_size,
            "target": os.readlink(path) if is_link else None,
            "xattrs": {} if is_link else {name: os.getxattr(path, name).hex() for name in os.listxattr(path)},
            "content": open(path, "rb").read(64).hex() if stat.S_ISREG(facts.st_mode) else None,
        }
print(json.dumps(found, sort_keys=True))
"""


async def described(cell: Cell, place: str = "/workspace") -> dict[str, Any]:
    result = await cell.python(DESCRIBE, place)
    assert result.success, result
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def layers(store: Path) -> list[Path]:
    return sorted((store / "layers").iterdir())


def holding(store: Path, word: str) -> str:
    """Return the files of the store's layers that a word is in."""
    return subprocess.run(["grep", "-rl", word, store / "layers"], capture_output=True, text=True, check=False).stdout


@pytest.fixture
def host_directory(tmp_path: Path, plain_user: PlainUser) -> Path:
    """A directory of the host's that a guest may write to."""
    directory = tmp_path / "host"
    directory.mkdir()
    (directory / "file").write_text(CANARY)
    os.chown(directory, plain_user.uid, plain_user.gid)
    return directory


# What is captured


async def test_all_that_a_session_changed_is_captured(backend: LocalSandbox, cell: Cell) -> None:
    places = ("/workspace/deep/er/file", "/tmp/file", "/var/tmp/other", "/mnt/session/outputs/report")
    for place in places:
        await cell.out('mkdir -p "$(dirname "$1")"; echo "$1" > "$1"', place)
    snapshot = await backend.snapshot(cell.id)
    async with begun(backend, snapshot) as copy:
        for place in places:
            assert await copy.out('cat "$1"', place) == f"{place}\n"
        outputs = copy.session.mounts[1].host_path
        assert outputs is not None
        # the host reads them by their path
        assert Path(outputs, "report").read_text() == "/mnt/session/outputs/report\n"
        assert outputs != cell.session.mounts[1].host_path


async def test_nothing_of_the_hosts_is_captured(backend: LocalSandbox, store: Path, host_directory: Path) -> None:
    """Neither memory nor attached directories, wherever they are mounted; the same words written inside are found."""
    mounts = [
        FilesystemMount(host_directory, "/data"),
        FilesystemMount(host_directory, "/workspace/data", FilesystemAccess.READ_WRITE),
        FilesystemMount("", "/fresh", FilesystemAccess.READ_WRITE),
    ]
    async with live(backend, SandboxSpec(mounts=mounts, network_policy=Limited())) as cell:
        memory = cell.session.mounts[0].host_path
        assert memory is not None
        Path(memory, "fact").write_text(CANARY)
        await backend.attach_filesystem(cell.id, FilesystemMount(host_directory, "/tmp/live"))
        await cell.out(f"echo {CANARY} > /fresh/file; cat /mnt/memory/fact /tmp/live/file /workspace/data/file")
        await cell.out("echo by the guest > /workspace/data/made; echo own > /workspace/own")
        snapshot = await backend.snapshot(cell.id)
        assert len(layers(store)) == 1
        assert holding(store, CANARY) == ""
        assert holding(store, "by the guest") == ""
        assert holding(store, "own") != ""
        # the mounts are back when the session is
        assert await cell.out("cat /workspace/data/file /data/file /tmp/live/file") == CANARY * 3
    async with begun(backend, snapshot) as copy:
        assert await copy.out("cat own; ls -A data /tmp/live /mnt/memory; test ! -e /data; test ! -e /fresh") == (
            "own\n/mnt/memory:\n\n/tmp/live:\n\ndata:\n"
        )
    assert (host_directory / "made").read_text() == "by the guest\n"


async def test_outputs_are_what_they_were(backend: LocalSandbox, cell: Cell) -> None:
    """They are copied whole: what is deleted among them is deleted in what follows."""
    await cell.out("cd /mnt/session/outputs; echo 1 > one; echo 2 > two; mkdir sub; echo 3 > sub/three")
    first = await backend.snapshot(cell.id)
    await cell.out("cd /mnt/session/outputs; rm one; echo changed > two")
    second = await backend.snapshot(cell.id)
    await cell.out("rm -r /mnt/session/outputs/*")
    third = await backend.snapshot(cell.id)
    for snapshot, found in ((first, "one\nsub\ntwo\n"), (second, "sub\ntwo\n"), (third, "")):
        async with begun(backend, snapshot) as copy:
            assert await copy.out("ls /mnt/session/outputs") == found
    async with begun(backend, second) as copy:
        assert await copy.out("cat /mnt/session/outputs/two /mnt/session/outputs/sub/three") == "changed\n3\n"


MAKE = """
import os, stat, sys
os.umask(0)
for name, mode in {"plain": 0o644, "secret": 0o600, "program": 0o751, "none": 0o000}.items():
    os.close(os.open(name, os.O_WRONLY | os.O_CREAT, mode))
for name, mode in {"shared": 0o1777, "closed": 0o500}.items():
    os.mkdir(name)
    os.chmod(name, mode)
with open("linked", "w") as file:
    file.write("twice")
os.link("linked", "shared/again")
os.symlink("/nowhere/at all", "dangling")
os.symlink("plain", "link")
os.mkfifo("fifo", 0o640)
with open("sparse", "wb") as file:
    file.truncate(64 << 20)
    file.seek(32 << 20)
    file.write(b"middle")
os.setxattr("plain", "user.colour", b"\\0green")
os.setxattr("shared", "user.of", b"a directory")
if sys.argv[1] == "root":
    for name in ("plain", "link", "shared", "fifo"):
        os.chown(name, 1234, 4321, follow_symlinks=False)
for number, name in enumerate(("plain", "dangling", "fifo", "sparse", "shared", "linked")):
    os.utime(name, ns=(10**18, 10**18 + number), follow_symlinks=False)
"""


@pytest.mark.parametrize("place", ["/workspace", "/tmp/in", "/mnt/session/outputs"])
async def test_what_a_file_has_is_kept(backend: LocalSandbox, cell: Cell, place: str, *, as_root: bool) -> None:
    await cell.out('mkdir -p "$1"', place)
    made = await cell.python(MAKE, "root" if as_root else "user", cwd=place)
    assert made.success, made
    before = await described(cell, place)
    assert len(before) == 12
    assert before["sparse"]["sparse"]
    assert before["linked"]["links"] == 2
    snapshot = await backend.snapshot(cell.id)
    async with begun(backend, snapshot) as copy:
        assert await described(copy, place) == before
        again = await backend.snapshot(copy.id)
        async with begun(backend, again) as grandchild:
            assert await described(grandchild, place) == before
    assert await described(cell, place) == before


async def test_files_are_renamed_and_not_copied(backend: LocalSandbox, cell: Cell, store: Path) -> None:
    await cell.out("mkdir sub; echo file > sub/file; echo file > /tmp/file; echo file > /mnt/session/outputs/file")
    places = ["workspace/sub/file", "tmp/file"]
    before = {place: (cell.directory / place).stat().st_ino for place in [*places, "outputs/file"]}
    snapshot = await backend.snapshot(cell.id)
    (layer,) = layers(store)
    assert {place: (layer / place).stat().st_ino for place in places} == {place: before[place] for place in places}
    assert (layer / "outputs/file").stat().st_ino != before["outputs/file"]
    assert (cell.directory / "outputs/file").stat().st_ino == before["outputs/file"]
    async with begun(backend, snapshot) as copy:
        assert await copy.out("cat sub/file /tmp/file /mnt/session/outputs/file") == "file\n" * 3
        own = [path.name for path in copy.directory.rglob("file")]
        assert own == ["file"]  # the output
        assert len(list(store.glob("*/*/workspace/sub/file"))) == 1


# Deleted and replaced


REPLACE = """
set -e
rm deleted; rm -r directory
rm file-then-directory; mkdir file-then-directory; echo new > file-then-directory/new
rm -r directory-then-link; ln -s replaced directory-then-link
rm link-then-file; echo file > link-then-file
rm -r made-again; mkdir made-again; echo new > made-again/new
rm -r emptied/*
"""
REPLACED = (
    ".:\ndirectory-then-link\nemptied\nfile-then-directory\nlink-then-file\nmade-again\nreplaced\n\n"
    "./emptied:\n\n./file-then-directory:\nnew\n\n./made-again:\nnew\n"
)


async def test_what_is_deleted_or_replaced_stays_so(backend: LocalSandbox, cell: Cell) -> None:
    """In the child and in the grandchild, in the first snapshot not at all; over an overlay and beneath two."""
    await cell.out(
        "mkdir -p directory/sub directory-then-link made-again/sub emptied/sub; echo old > deleted; "
        "touch directory/sub/old directory-then-link/old made-again/old made-again/sub/old emptied/old replaced; "
        "echo old > file-then-directory; ln -s deleted link-then-file"
    )
    before = await cell.out("ls -RA")
    first = await backend.snapshot(cell.id)
    await cell.out(REPLACE)
    second = await backend.snapshot(cell.id)
    await cell.out("rm -r *")
    third = await backend.snapshot(cell.id)
    async with begun(backend, first) as copy:
        assert await copy.out("ls -RA") == before
    async with begun(backend, second) as copy:
        assert await copy.out("ls -RA") == REPLACED
        assert (
            await copy.out("cat link-then-file made-again/new; readlink directory-then-link") == "file\nnew\nreplaced\n"
        )
        await copy.out("rm made-again/new; echo only > made-again/other")
        async with begun(backend, await backend.snapshot(copy.id)) as grandchild:
            assert await grandchild.out("ls -A made-again emptied") == "emptied:\n\nmade-again:\nother\n"
    async with begun(backend, third) as copy:
        assert await copy.out("ls -A") == ""


POISON = """
import os, stat
os.mkdir("opaque"); open("opaque/inside", "w").write("seen")
os.setxattr("opaque", "user.overlay.opaque", b"y")
# overlayfs since Linux 6.7: files that an attribute makes whiteouts, in a directory that says that it has some
os.mkdir("marked"); open("marked/inside", "w").close()
os.setxattr("marked", "user.overlay.opaque", b"x")
os.setxattr("marked/inside", "user.overlay.whiteout", b"y")
os.mkdir("redirected"); os.setxattr("redirected", "user.overlay.redirect", b"/opaque")
open("metacopy", "w").write("own"); os.setxattr("metacopy", "user.overlay.metacopy", b"")
os.setxattr("metacopy", "user.overlay.redirect", b"/secret")
open("secret", "w").write("secret"); os.chmod("secret", 0)
try:
    os.mknod("whiteout", stat.S_IFCHR, 0)
except OSError as error:
    print(error.errno)
"""
POISONED = "find . | sort; cat opaque/inside metacopy"


async def test_overlay_metadata_of_a_guests_making_does_nothing(backend: LocalSandbox, cell: Cell, store: Path) -> None:
    """In a plain directory a guest can write what overlayfs takes as its own once a layer lies there."""
    made = await cell.python(POISON)
    assert made.stdout == "1\n", made  # EPERM: no whiteout by hand
    before = await cell.out(POISONED)
    snapshot = await backend.snapshot(cell.id)
    assert await cell.out(POISONED) == before
    async with begun(backend, snapshot) as copy:
        assert await copy.out(POISONED) == before
        await copy.out("mkdir -p marked redirected; echo more > opaque/more; echo more > marked/more")
        async with begun(backend, await backend.snapshot(copy.id)) as grandchild:
            assert await grandchild.out("ls opaque marked redirected; cat metacopy") == (
                "marked:\ninside\nmore\n\nopaque:\ninside\nmore\n\nredirected:\nown"
            )
    (lowest,) = [layer for layer in layers(store) if (layer / "workspace" / "metacopy").exists()]
    left = {str(path) for path in (lowest / "workspace").rglob("*") if _overlay_attributes(path)}
    assert left == set()


def _overlay_attributes(path: Path) -> list[str]:
    return [name for name in os.listxattr(path, follow_symlinks=False) if name.startswith("user.overlay.")]


async def test_options_that_follow_crafted_metadata_are_off(backend: LocalSandbox, cell: Cell) -> None:
    await cell.out("echo file > file; echo file > /tmp/file")
    snapshot = await backend.snapshot(cell.id)
    async with begun(backend, snapshot) as copy:
        number = mark()
        await copy.sh('sleep "$1" >/dev/null 2>&1 &', number)
        rows = outside.read(await outside.one(number), "mountinfo").splitlines()
        own = {row.split(" ")[4]: row for row in rows if " - overlay " in row}
        assert {"/workspace", "/tmp", "/var/tmp"} <= own.keys()
        for row in own.values():
            options = row.rpartition(" ")[2].split(",")
            assert "userxattr" in options
            assert not {"metacopy=on", "redirect_dir=on", "redirect_dir=follow"} & set(options)


# Sealed


async def test_nobody_holds_what_is_sealed(backend: LocalSandbox, cell: Cell, store: Path) -> None:
    """No descriptor and no mapping leads into a layer; nothing but the layer has the file."""
    await cell.out("mkdir sub; echo file > sub/file")
    snapshot = await backend.snapshot(cell.id)
    async with begun(backend, snapshot) as copy:
        await copy.out("cat sub/file; exec 3<sub/file; (sleep 600 >/dev/null 2>&1 &)")
        held = []
        for pid in outside.pids():
            with suppress(OSError):
                held += [
                    (pid, target) for target in outside.descriptors(pid).values() if str(store / "layers") in target
                ]
            with suppress(OSError):
                held += [
                    (pid, line) for line in outside.read(pid, "maps").splitlines() if str(store / "layers") in line
                ]
        assert held == []
        (sealed,) = (store / "layers").rglob("file")
        assert sealed.stat().st_nlink == 1
        await copy.out("echo changed > sub/file; chmod 600 sub/file; touch sub/new")
        assert sealed.read_text() == "file\n"
        assert [path.name for path in sealed.parent.iterdir()] == ["file"]


@contextmanager
def receiver(directory: Path) -> Iterator[list[int]]:
    """Yield the descriptors that somebody sends to a socket in `directory`; they are closed at the end."""
    taken: list[int] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(directory / "socket"))
        (directory / "socket").chmod(0o777)
        listener.listen()
        listener.settimeout(30)

        def take() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(30)
                taken.extend(socket.recv_fds(connection, 1, 1)[1])
                connection.send(b"x")

        thread = threading.Thread(target=take)
        thread.start()
        try:
            yield taken
        finally:
            thread.join()
            for fd in taken:
                os.close(fd)


PARK = """
import socket
with socket.socket(socket.AF_UNIX) as connection, open("file", "r+") as file:
    connection.connect("/host/socket")
    socket.send_fds(connection, [b"x"], [file.fileno()])
    connection.recv(1)
"""


@pytest.mark.parametrize("killed", [False, True], ids=["alive", "killed"])
async def test_a_descriptor_parked_elsewhere_changes_no_snapshot(
    backend: LocalSandbox, short_tmp: Path, *, killed: bool
) -> None:
    """A read-only mount lets a guest connect to a socket in it, and hand somebody a descriptor of a file of its own.

    What that can write to is never sealed: it is copied, or else (where nothing can be frozen) the snapshot is refused.
    """
    short_tmp.chmod(0o755)
    spec = SandboxSpec(mounts=[FilesystemMount(short_tmp, "/host")], network_policy=Limited())
    async with live(backend, spec) as cell:
        await cell.out("echo before > file")
        with receiver(short_tmp) as taken:
            parked = await cell.python(PARK)
            assert parked.success, parked
            (fd,) = taken
            if killed:
                warden = cell.native("warden")
                os.kill(warden, 9)
                await outside.until(lambda: not outside.is_there(warden))
            try:
                await backend.snapshot(cell.id)
            except LifecycleError:
                assert not killed
            os.pwrite(fd, b"AFTER!", 0)
            snapshots = backend.snapshots()
            assert len(snapshots) == 1 or not killed
            for snapshot in snapshots:
                async with begun(backend, snapshot) as copy:
                    assert await copy.out("cat file") == "before\n"
            assert await cell.out("cat file") == "AFTER!\n"
        # nobody can write to it any more
        last = await backend.snapshot(cell.id)
        async with begun(backend, last) as copy:
            assert await copy.out("cat file") == "AFTER!\n"


# Many, and at once


async def test_a_long_chain_shows_all_of_it(backend: LocalSandbox, cell: Cell) -> None:
    for number in range(24):
        await cell.out('echo "$1" > "file-$1"; echo "$1" > last; rm -f "file-$(($1 - 3))"', str(number))
        await backend.snapshot(cell.id)
    async with begun(backend, backend.snapshots()[-1]) as copy:
        assert await copy.out("ls; cat last") == "file-21\nfile-22\nfile-23\nlast\n23\n"
    assert await cell.out("ls; cat last") == "file-21\nfile-22\nfile-23\nlast\n23\n"


async def test_a_snapshot_of_nothing_new_costs_no_layer(backend: LocalSandbox, cell: Cell, store: Path) -> None:
    await backend.snapshot(cell.id)
    assert layers(store) == []
    await cell.out("echo file > file")
    first = await backend.snapshot(cell.id)
    second = await backend.snapshot(cell.id)
    assert len(layers(store)) == 1
    await backend.delete_snapshot(first.snapshot_id)
    async with begun(backend, second) as copy:
        assert await copy.out("cat file") == "file\n"


async def test_one_of_many_at_once_gets_the_name(backend: LocalSandbox, cell: Cell) -> None:
    await cell.out("echo file > file")
    results = await asyncio.gather(*(backend.snapshot(cell.id, name="base") for _ in range(5)), return_exceptions=True)
    taken = [result for result in results if isinstance(result, SandboxSnapshot)]
    assert len(taken) == 1
    assert all(isinstance(result, InvalidRequest) for result in results if result not in taken)
    assert [one.snapshot_id for one in backend.snapshots()] == [taken[0].snapshot_id]
    assert await cell.out("cat file") == "file\n"


async def test_a_session_on_its_way_to_rest_is_captured_whole(backend: LocalSandbox, cell: Cell) -> None:
    """Whoever asked its warden to end was cancelled or killed: the next one meets it listening, leaving or gone."""
    for number in range(12):
        await cell.out('echo "$1" > file', str(number))
        with connect(str(cell.directory), CONTROL_SOCKET) as connection:
            control.send(connection, operation(Kind.END, n0=1))
            for _ in range(number):  # a little later each time
                await asyncio.sleep(0)
        await backend.snapshot(cell.id)
    for number, snapshot in enumerate(backend.snapshots()):
        async with begun(backend, snapshot) as copy:
            assert await copy.out("cat file") == f"{number}\n"


# Deleted


async def test_what_lives_on_a_deleted_snapshot_lives_on(backend: LocalSandbox, cell: Cell, store: Path) -> None:
    await cell.out("seq 1 1000 > file; echo other > other")
    snapshot = await backend.snapshot(cell.id)
    async with begun(backend, snapshot) as one, begun(backend, snapshot) as other:
        await backend.delete_snapshot(snapshot.snapshot_id)
        await backend.terminate(cell.id)
        assert len(layers(store)) == 1
        warden = other.native("warden")
        os.kill(warden, 9)  # it comes back over the same layers
        await outside.until(lambda: not outside.is_there(warden))
        for copy in (one, other):
            assert await copy.out("tail -1 file; echo changed >> file; rm other; wc -l < file") == "1000\n1001\n"
        await backend.terminate(one.id)
        assert len(layers(store)) == 1
    assert layers(store) == []


async def test_sessions_of_another_backend_keep_what_they_use(backend: LocalSandbox, cell: Cell, store: Path) -> None:
    await cell.out("echo file > file")
    snapshot = await backend.snapshot(cell.id)
    other = LocalSandbox(backend.config)
    try:
        async with begun(other, snapshot) as copy:
            await backend.delete_snapshot(snapshot.snapshot_id)
            await backend.terminate(cell.id)
            assert await copy.out("cat file") == "file\n"
    finally:
        await other.aclose()
    assert layers(store) == []


# What was moved is the only copy


async def test_nothing_is_taken_from_a_layer_that_is_being_removed(
    backend: LocalSandbox, cell: Cell, store: Path
) -> None:
    await cell.out("echo new > note")
    await backend.snapshot(cell.id)
    leaving = store / "layers" / "0123456789.ending"
    (leaving / "workspace").mkdir(parents=True)
    (leaving / "workspace" / "note").write_text("old\n")
    os.setxattr(leaving, OWNER, cell.directory.name.encode())
    assert await cell.out("cat note") == "new\n"
    await backend.recover()
    assert not leaving.exists()


@pytest.mark.parametrize("step", ["rename", "commit"])
async def test_files_that_could_not_be_moved_back_come_back_later(
    backend: LocalSandbox, cell: Cell, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Two errors in a row: of the snapshot, and of undoing it."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    await cell.out("echo kept > note")
    with monkeypatch.context() as patch:
        if step == "commit":
            patch.setattr(SnapshotTable, "add", fail)
        else:
            rename = os.rename
            patch.setattr(os, "rename", lambda old, new: fail() if old.endswith("/tmp") else rename(old, new))
        patch.setattr(sealing, "move_back", fail)
        await cell.out("echo t > /tmp/t")
        with pytest.raises(SandboxIoError, match="No space left"):
            await backend.snapshot(cell.id)
    assert await cell.out("cat note /tmp/t") == "kept\nt\n"


async def test_what_has_no_place_any_more_is_kept_apart(backend: LocalSandbox, cell: Cell, store: Path) -> None:
    """A power cut brought back the record of a snapshot that was begun, after the session had gone on."""
    await cell.out("echo later > note")
    layer = store / "layers" / "0123456789"
    (layer / "workspace").mkdir(parents=True)
    (layer / "workspace" / "note").write_text("earlier\n")
    os.setxattr(layer, OWNER, cell.directory.name.encode())
    live = backend._sessions.live(cell.id)
    live.record = replace(live.record, sealing=layer.name)
    backend._sessions.save(live)
    await backend.suspend(cell.id)
    assert await cell.out("cat note") == "later\n"
    await backend.recover()
    assert (store / "lost" / f"layer-{layer.name}" / "workspace" / "note").read_text() == "earlier\n"
    shutil.rmtree(store / "lost")


DIES = """
import asyncio, os, sys
from alcove.contract import ExecRequest
from alcove.local import LocalSandbox, LocalSandboxConfig
from alcove.local.sessions import Sessions

make_again = Sessions._make_again

async def and_die(*arguments):
    await make_again(*arguments)
    os._exit(9)

Sessions._make_again = and_die
asyncio.run(LocalSandbox(LocalSandboxConfig(root_dir=sys.argv[1])).exec(sys.argv[2], ExecRequest("true")))
"""


@pytest.mark.parametrize("then", ["snapshot", "exec", "suspend"])
async def test_processes_that_nobody_wrote_down_do_not_write_on(
    backend: LocalSandbox, cell: Cell, store: Path, then: str
) -> None:
    """Whoever brought a session back was killed before it could say so."""
    await cell.out("echo kept > note")
    await backend.suspend(cell.id)
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", DIES, str(store), cell.id], check=False, timeout=60)
    (unknown,) = outside.called("alcove-warden", cell.directory.name)
    if then == "snapshot":
        taken = await backend.snapshot(cell.id)
        async with begun(backend, taken) as other:
            assert await other.out("cat note") == "kept\n"
    elif then == "exec":
        assert await cell.out("cat note") == "kept\n"
    else:
        await backend.suspend(cell.id)
    await outside.until(lambda: not outside.is_there(unknown), f"{unknown} lives on")
