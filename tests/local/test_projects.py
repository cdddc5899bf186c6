"""A directory of the host's that a session has by copy-on-write: written inside, unchanged outside."""
# ruff: noqa: ASYNC240 - a test's own loop may wait for the host

import asyncio
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from alcove.contract import (
    FilesystemMount,
    InvalidRequest,
    LifecycleError,
    Limited,
    SandboxIoError,
    SandboxSpec,
)
from alcove.local import overlays
from alcove.local.backend import LocalSandbox
from tests.local import outside
from tests.local.cell import Cell, live
from tests.local.projects import EDIT, EDITED, FILES, Make, kinds, mounted, spec, tree

pytestmark = pytest.mark.user


# Seen and written


async def test_the_guest_writes_and_the_host_does_not_change(box: Cell, project: Path) -> None:
    before = tree(project)
    await box.out(EDIT)
    assert await box.out("cd /project; cat edited added sub/there; ls") == (
        "one\ntwo\nthree\nnew\ncontent of it\nadded\nedited\nkept\nsub\n"
    )
    assert tree(project) == before
    assert (project / "kept").stat().st_mode & 0o111 == 0


async def test_the_contract_calls_it_read_only_with_its_place(box: Cell, project: Path) -> None:
    mount = box.session.mounts[-1]
    assert (mount.target, mount.access, mount.host_path) == ("/project", "read_only", str(project))


async def test_the_owner_on_disk_is_the_sessions_root(box: Cell) -> None:
    assert await box.out("stat -c %u:%g /project /project/kept /project/sub") == "0:0\n" * 3
    assert (await box.sh("chmod 700 /project/sub && touch /project/sub/x")).success


async def test_attached_live(backend: LocalSandbox, cell: Cell, project: Path) -> None:
    before = tree(project)
    await backend.attach_filesystem(cell.id, mounted(project, "/workspace/deep/project"))
    await cell.out("cd deep/project; rm -r sub; echo more >>kept; cat kept")
    assert tree(project) == before
    assert kinds(await backend.changes(cell.id)) == {
        ("deleted", "sub"),
        ("deleted", "sub/moved"),
        ("modified", "kept"),
    }


async def test_two_sessions_on_one_directory_do_not_meet(backend: LocalSandbox, box: Cell, project: Path) -> None:
    async with live(backend, spec(mounted(project))) as other:
        await asyncio.gather(box.out("echo a >/project/kept"), other.out("echo b >/project/kept"))
        assert await box.out("cat /project/kept") == "a\n"
        assert await other.out("cat /project/kept") == "b\n"
    assert (project / "kept").read_text() == FILES["kept"]


async def test_what_was_written_is_there_after_a_restart(box: Cell) -> None:
    await box.out(EDIT)
    processes = [box.native(role) for role in ("warden", "init", "spawner")]
    os.kill(processes[0], signal.SIGKILL)
    await outside.until(lambda: not any(map(outside.is_there, processes)))
    assert await box.out("cd /project; cat edited; ls") == "one\ntwo\nthree\nadded\nedited\nkept\nsub\n"
    assert kinds(await box.backend.changes(box.id)) == EDITED


async def test_a_directory_of_roots_needs_no_leave(backend: LocalSandbox, make_project: Make, as_root: bool) -> None:
    """The host's directory never changes, so nothing that root owns is at stake."""
    mine = make_project("mine", os.geteuid(), os.getegid())
    async with live(backend, spec(mounted(mine))) as cell:
        await cell.out("echo x >>/project/kept")
        assert await cell.out("stat -c %u /project") == "0\n"
    assert (mine / "kept").read_text() == FILES["kept"]
    assert not as_root or mine.stat().st_uid == 0


async def test_a_session_with_set_id_may_have_one(backend: LocalSandbox, project: Path) -> None:
    wanted = SandboxSpec(network_policy=Limited(), mounts=[mounted(project)], set_id=True)
    async with live(backend, wanted) as cell:
        await cell.out("cd /project; echo '#!/bin/sh' >tool; chmod 4755 tool")
        outcome = await backend.apply(cell.id)
    assert outcome.complete
    assert (project / "tool").stat().st_mode & 0o7777 == 0o755


async def test_the_mount_is_one_more_and_nothing_staged_is_left(backend: LocalSandbox, project: Path) -> None:
    async with live(backend) as bare:
        await bare.sh("sleep 7000 >/dev/null 2>&1 &")
        without = outside.mounts(bare.native("spawner"))
    async with live(backend, spec(mounted(project))) as cell:
        found = outside.mounts(cell.native("spawner"))
        assert found.keys() - without.keys() == {"/project"}
        assert len(outside.read(cell.native("spawner"), "mountinfo").splitlines()) == len(found)
        assert found["/project"] >= {"rw", "nosuid", "nodev"}
        line = next(row for row in outside.read(cell.native("warden"), "mountinfo").splitlines() if " /project " in row)
        options = line.rsplit(" ", 1)[1].split(",")
        assert "userxattr" in options
        assert str(project) not in line
        assert not {"metacopy=on", "redirect_dir=on", "redirect_dir=follow"} & set(options)


async def test_no_process_stays_behind_the_mount(box: Cell) -> None:
    warden = box.native("warden")
    own = {box.native("init"), box.native("spawner")}
    await outside.until(lambda: set(children(warden)) == own)


def children(parent: int) -> list[int]:
    return [pid for pid in outside.pids() if outside.status(pid).get("PPid") == str(parent)]


# Refused


async def test_what_cannot_be_copied_on_write_is_refused(
    backend: LocalSandbox, cell: Cell, project: Path, tmp_path: Path
) -> None:
    refused = {
        FilesystemMount(project / "kept", "/file", copy_on_write=True): "is a file, and copy_on_write is for directori",
        FilesystemMount("", "/fresh", copy_on_write=True): "copy_on_write needs a source",
        FilesystemMount(tmp_path / "store", "/store", copy_on_write=True): "contains or lies in Alcove's store",
        FilesystemMount("/", "/all", copy_on_write=True): "is the host's whole root",
    }
    for mount, why in refused.items():
        with pytest.raises(InvalidRequest, match=why):
            await backend.provision(spec(mount))
        with pytest.raises(InvalidRequest, match=why):
            await backend.attach_filesystem(cell.id, mount)
    assert [path.name for path in cell.directory.iterdir() if path.name.startswith("cow-")] == []


async def test_a_directory_with_mounts_in_it_is_refused(backend: LocalSandbox) -> None:
    """An overlay would show it without them, and what is there would be told as deleted."""
    points = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    above = next(point for point in points if point.count("/") > 1 and not point.startswith(("/proc", "/sys", "/dev")))
    with pytest.raises(InvalidRequest, match="has mounts in it"):
        await backend.provision(spec(mounted(Path(above).parent)))


async def test_a_mount_that_fails_leaves_nothing(backend: LocalSandbox, cell: Cell, project: Path) -> None:
    await cell.out("ln -s /etc /workspace/link")
    with pytest.raises(SandboxIoError, match="target"):
        await backend.attach_filesystem(cell.id, mounted(project, "/workspace/link/project"))
    assert [path.name for path in cell.directory.iterdir() if path.name.startswith("cow-")] == []


async def test_an_overlay_with_other_options_is_taken_away(
    backend: LocalSandbox, cell: Cell, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise LifecycleError("this kernel's overlay has options that are not safe here")

    monkeypatch.setattr(overlays, "check_overlays", refuse)
    with pytest.raises(LifecycleError, match="not safe"):
        await backend.attach_filesystem(cell.id, mounted(project))
    monkeypatch.undo()
    assert not (await cell.sh("ls /project/kept")).success


async def test_the_options_are_read_back(box: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `check_overlays` reads is there for it, as a plain user too."""
    overlays.check_overlays(box.native("warden"))
    monkeypatch.setattr(overlays, "_UNSAFE_OPTIONS", frozenset({"redirect_dir=nofollow"}))
    with pytest.raises(LifecycleError, match="not safe"):
        overlays.check_overlays(box.native("warden"))


# Told


async def test_changes_are_told_live(box: Cell, project: Path) -> None:
    assert await box.backend.changes(box.id) == []
    await box.out(f"{EDIT}; sleep 7000 >/dev/null 2>&1 &")
    found = await box.backend.changes(box.id)
    assert kinds(found) == EDITED
    by_path = {change.path: change for change in found}
    assert by_path["sub/there"].old_path == "sub/moved"
    assert (by_path["kept"].old_mode, by_path["kept"].mode) == (0o644, 0o755)
    assert {change.target for change in found} == {"/project"}
    assert tree(project) == {**FILES, "sub": None}


async def test_the_text_is_what_git_and_patch_apply(box: Cell, project: Path, make_project: Make) -> None:
    await box.out(EDIT)
    text = await box.backend.diff(box.id)
    assert "+three" in text
    copy = make_project("copy")
    git = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CEILING_DIRECTORIES": str(copy.parent)}
    applying = ["git", "apply", "-"]
    done = await asyncio.to_thread(
        subprocess.run, applying, cwd=copy, input=text.encode(), capture_output=True, check=False, env=git
    )
    assert done.returncode == 0, done.stderr
    await box.backend.apply(box.id)
    assert tree(copy) == tree(project)


async def test_paths_choose(box: Cell) -> None:
    await box.out(EDIT)
    for paths in (["sub"], ["/project/sub"], ["./sub/"], ["sub/there"], ["sub/moved"]):
        assert kinds(await box.backend.changes(box.id, paths)) == {("renamed", "sub/there")}, paths
    assert kinds(await box.backend.changes(box.id, ["/project"])) == EDITED
    with pytest.raises(InvalidRequest, match="`/elsewhere` lies in no copy-on-write mount: /project"):
        await box.backend.changes(box.id, ["/elsewhere"])
    with pytest.raises(InvalidRequest, match="lies in no copy-on-write mount"):
        await box.backend.changes(box.id, ["/project/../etc"])
    wrong: list[tuple[Any, str]] = [
        ([], "no path"),
        ([""], "an empty path"),
        ("sub", r'write \["sub"\]'),
        (b"sub", "a list"),
    ]
    for paths, reason in wrong:
        for call in (box.backend.changes, box.backend.apply):
            with pytest.raises(InvalidRequest, match=reason):
                await call(box.id, paths)


async def test_several_mounts(backend: LocalSandbox, make_project: Make) -> None:
    one, two = make_project("one"), make_project("two")
    async with live(backend, spec(mounted(one, "/one"), mounted(two, "/two"))) as cell:
        await cell.out("echo 1 >/one/kept; echo 2 >/two/kept")
        assert [(c.target, c.path) for c in await backend.changes(cell.id)] == [("/one", "kept"), ("/two", "kept")]
        assert [c.target for c in await backend.changes(cell.id, target="/two/")] == ["/two"]
        for call in (backend.apply, backend.discard):
            with pytest.raises(InvalidRequest, match=r"several copy-on-write mounts \(/one, /two\).*--target /one"):
                await call(cell.id)
        with pytest.raises(InvalidRequest, match="no copy-on-write mount at `/three`; there is: /one, /two"):
            await backend.apply(cell.id, target="/three")
        assert (await backend.apply(cell.id, target="/one")).complete
        assert (await backend.apply(cell.id, ["/two/kept"])).complete
    assert (one / "kept").read_text() == "1\n"
    assert (two / "kept").read_text() == "2\n"


async def test_a_session_without_one_is_told_how(backend: LocalSandbox, cell: Cell) -> None:
    for call in (backend.changes, backend.diff, backend.apply, backend.discard):
        with pytest.raises(InvalidRequest, match=f"alcove mount {cell.id} ./project:/workspace/project:cow"):
            await call(cell.id)
