"""What a session changed of a directory by copy-on-write: written to the host, refused, or forgotten."""
# ruff: noqa: ASYNC240 - a test's own loop may wait for the host

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from alcove.contract import (
    InvalidRequest,
    LifecycleError,
    SandboxError,
    SandboxIoError,
)
from alcove.local.backend import LocalSandbox
from alcove.local.cell import control
from alcove.local.mounts import projects
from alcove.state.contents import Contents
from tests.conftest import PlainUser
from tests.local import outside
from tests.local.cell import Cell, live, mark
from tests.local.projects import EDIT, EDITED, FILES, Make, kinds, layer, mounted, next_tick, spec, tree

pytestmark = pytest.mark.user


# Applied


async def test_apply_writes_everything_once(box: Cell, project: Path, plain_user: PlainUser) -> None:
    await box.out(EDIT)
    outcome = await box.backend.apply(box.id)
    assert outcome.complete
    assert kinds(outcome.applied) == EDITED
    assert tree(project) == {
        "added": "new\n",
        "edited": "one\ntwo\nthree\n",
        "kept": FILES["kept"],
        "sub": None,
        "sub/there": FILES["sub/moved"],
    }
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in project.rglob("*")} == {
        (plain_user.uid, plain_user.gid)
    }
    assert await box.backend.changes(box.id) == []
    assert (await box.backend.apply(box.id)).applied == ()
    assert await box.out("cd /project; ls; cat edited") == "added\nedited\nkept\nsub\none\ntwo\nthree\n"


async def test_apply_of_paths_leaves_the_rest(box: Cell, project: Path) -> None:
    await box.out(f"{EDIT}; mkdir -p deep/er; echo d >deep/er/file")
    outcome = await box.backend.apply(box.id, ["deep/er/file", "gone"])
    assert {change.path for change in outcome.applied} == {"deep", "deep/er", "deep/er/file", "gone"}
    assert tree(project).keys() == {"deep", "deep/er", "deep/er/file", "edited", "kept", "sub", "sub/moved"}
    with pytest.raises(InvalidRequest, match="changed nothing at `typo`"):
        await box.backend.apply(box.id, ["edited", "typo"])
    assert (project / "edited").read_text() == FILES["edited"]


@pytest.mark.parametrize("looked", [False, True], ids=["unseen", "seen"])
@pytest.mark.parametrize(
    ("path", "meanwhile"),
    [
        ("edited", lambda top: (top / "edited").write_text("by the host")),
        ("added", lambda top: (top / "added").write_text("by the host")),
        ("gone", lambda top: (top / "gone").write_text("by the host, longer")),
        ("sub/moved", lambda top: (top / "sub" / "moved").write_text("by the host")),
    ],
    ids=["edited", "added", "deleted", "renamed"],
)
async def test_what_changed_on_the_host_meanwhile_is_not_written_over(
    box: Cell, project: Path, looked: bool, path: str, meanwhile: Callable[[Path], object]
) -> None:
    await box.out(EDIT)
    if looked:
        await box.backend.changes(box.id)
    await next_tick(project)
    meanwhile(project)
    before = tree(project)
    outcome = await box.backend.apply(box.id)
    assert [refusal.path for refusal in outcome.conflicts] == [path]
    assert outcome.applied == ()
    assert tree(project) == before
    assert (await box.backend.apply(box.id, ["kept"])).complete


async def test_a_change_between_attach_and_the_first_write_is_seen(box: Cell, project: Path) -> None:
    await next_tick(project)
    (project / "edited").write_text("by the host")
    await box.out("echo three >/project/edited")
    assert [refusal.path for refusal in (await box.backend.apply(box.id)).conflicts] == ["edited"]
    assert (project / "edited").read_text() == "by the host"


async def test_a_directory_that_the_host_exchanged_is_not_written_over(backend: LocalSandbox, project: Path) -> None:
    (project / "sub.new").mkdir()
    (project / "sub.new" / "moved").write_text("of another version")
    await next_tick(project)
    async with live(backend, spec(mounted(project))) as box:
        await next_tick(project)
        await box.out("echo three >/project/sub/moved; echo x >/project/added")
        (project / "sub").rename(project / "sub.old")
        (project / "sub.new").rename(project / "sub")
        assert [refusal.path for refusal in (await backend.apply(box.id)).conflicts] == ["sub/moved"]
        assert (project / "sub" / "moved").read_text() == "of another version"
        assert (await backend.apply(box.id, ["added"])).complete


async def test_a_session_goes_on_after_a_host_that_was_full(
    box: Cell, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Contents.copy

    def full(contents: Contents, *arguments: Any, **options: Any) -> None:
        if (project / "added").exists():
            raise OSError(errno.ENOSPC, "no room")
        copy(contents, *arguments, **options)

    await box.out(EDIT)
    with monkeypatch.context() as patch:
        patch.setattr(Contents, "copy", full)
        with pytest.raises(SandboxIoError, match="no room; what was written before it stays"):
            await box.backend.apply(box.id)
    assert (project / "added").read_text() == "new\n"
    await box.out("echo newer >/project/added")
    assert (await box.backend.apply(box.id)).complete
    assert (project / "added").read_text() == "newer\n"


async def test_another_directory_in_its_place_is_refused(box: Cell, project: Path, make_project: Make) -> None:
    await box.out("echo x >/project/added")
    project.rename(project.parent / "elsewhere")
    make_project()
    for call in (box.backend.apply, box.backend.changes):
        with pytest.raises(LifecycleError, match="another directory than the one that the session began with"):
            await call(box.id)
    assert not (project / "added").exists()
    await box.backend.discard(box.id)
    assert await box.backend.changes(box.id) == []


async def test_a_link_on_the_way_is_not_followed(backend: LocalSandbox, make_project: Make, tmp_path: Path) -> None:
    """The very directory, elsewhere, by way of a link in a directory that somebody else may write to."""
    inner = make_project("above/project")
    async with live(backend, spec(mounted(inner))) as cell:
        await cell.out("echo x >/project/added")
        (tmp_path / "above").rename(tmp_path / "moved")
        (tmp_path / "above").symlink_to(tmp_path / "moved")
        with pytest.raises(LifecycleError, match="another directory than the one that the session began with"):
            await backend.apply(cell.id)
        (tmp_path / "above").unlink()
        (tmp_path / "moved").rename(tmp_path / "above")
        assert (await backend.apply(cell.id)).complete


#: Writes the same number into two files, one after the other, for ever.
PAIR = """
(cd /project; n=0; while :; do n=$((n+1)); echo $n >.next; mv .next one; echo $n >.next; mv .next two; done) \\
    >/dev/null 2>&1 &
while ! test -e /project/two; do :; done
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a plain user has no group to freeze by")
async def test_what_runs_stands_still_while_it_is_applied(box: Cell, project: Path) -> None:
    await box.out(PAIR)
    for _ in range(5):
        outcome = await box.backend.apply(box.id, ["one", "two"])
        assert outcome.complete
        one, two = int((project / "one").read_text()), int((project / "two").read_text())
        assert one - two in {0, 1}
        await box.out('was=$(cat /project/one); while [ "$(cat /project/one)" = "$was" ]; do :; done')


@pytest.mark.skipif(os.geteuid() == 0, reason="root can freeze what runs")
async def test_what_cannot_be_frozen_refuses_to_apply(box: Cell, project: Path) -> None:
    await box.out("echo x >/project/added; sleep 7000 >/dev/null 2>&1 &")
    with pytest.raises(LifecycleError, match=f"processes run in session `{box.id}`.*cannot be frozen"):
        await box.backend.apply(box.id)
    assert not (project / "added").exists()
    assert await box.out("cat /project/added") == "x\n"
    await box.exec("kill", ["-9", "--", "-1"])
    assert (await box.backend.apply(box.id)).complete
    assert (project / "added").read_text() == "x\n"


async def test_discard_is_refused_while_something_runs(box: Cell) -> None:
    await box.out("echo x >/project/added; sleep 7000 >/dev/null 2>&1 &")
    with pytest.raises(LifecycleError, match=f"1 processes run in session `{box.id}`.*kill -9 -- -1"):
        await box.backend.discard(box.id)
    assert await box.out("cat /project/added") == "x\n"
    await box.exec("kill", ["-9", "--", "-1"])
    await box.backend.discard(box.id)
    assert await box.backend.changes(box.id) == []


async def test_a_mount_that_a_guest_has_moved_away_is_applied_all_the_same(
    backend: LocalSandbox, cell: Cell, project: Path
) -> None:
    await backend.attach_filesystem(cell.id, mounted(project, "/workspace/above/project"))
    await cell.out("echo x >above/project/added; mv above moved; mkdir -p above/project")
    assert (await backend.apply(cell.id)).complete
    assert (project / "added").read_text() == "x\n"


async def test_two_who_apply_at_once_write_it_once(box: Cell, project: Path, config: object) -> None:
    await box.out(EDIT)
    other = LocalSandbox(box.backend.config)
    try:
        outcomes = await asyncio.gather(box.backend.apply(box.id), other.apply(box.id))
    finally:
        await other.aclose()
    assert all(outcome.complete for outcome in outcomes)
    assert sorted(len(outcome.applied) for outcome in outcomes) == [0, len(EDITED)]


# Discarded


async def test_discard_shows_the_hosts_directory_as_it_is_now(box: Cell, project: Path) -> None:
    await box.out(EDIT)
    old = layer(box)
    (project / "later").write_text("by the host\n")
    await box.backend.discard(box.id)
    assert (
        await box.out("cd /project; ls; cat edited later") == "edited\ngone\nkept\nlater\nsub\none\ntwo\nby the host\n"
    )
    assert await box.backend.changes(box.id) == []
    assert not old.exists()
    assert layer(box).exists()


async def test_discard_begins_anew_for_what_the_host_has(box: Cell, project: Path) -> None:
    await next_tick(project)
    (project / "edited").write_text("by the host\n")
    await box.backend.discard(box.id)
    await box.out("echo three >>/project/edited")
    assert (await box.backend.apply(box.id)).complete
    assert (project / "edited").read_text() == "by the host\nthree\n"


async def test_what_a_killed_discard_left_goes_with_the_next(box: Cell) -> None:
    left = box.directory / "cow-00000000"
    (left / "upper").mkdir(parents=True)
    await box.backend.discard(box.id)
    assert not left.exists()


async def test_a_damaged_base_is_told_and_discarded(box: Cell) -> None:
    await box.out("echo x >/project/added")
    (layer(box) / "base").write_bytes(b"\xc1")
    with pytest.raises(SandboxIoError, match="is damaged; discard the changes"):
        await box.backend.apply(box.id)
    await box.backend.discard(box.id)
    assert await box.backend.changes(box.id) == []


async def test_a_lack_of_descriptors_ends_no_session(box: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """That its warden cannot be asked is no word that it is gone."""
    number = mark()
    await box.sh('sleep "$1" >/dev/null 2>&1 &', number)
    await outside.one(number)

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    for module, name in ((control, "connect"), (os, "pidfd_open")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fail)
            with suppress(SandboxError):  # what runs may stand still all the same
                await box.backend.apply(box.id)
            with pytest.raises(SandboxError, match="Too many open files"):
                await box.backend.discard(box.id)
    assert await outside.one(number)


@pytest.mark.security
async def test_what_was_applied_is_told_though_the_session_ran_at_the_end(
    box: Cell, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await box.out(EDIT)

    @asynccontextmanager
    async def not_to_the_last(*_: object) -> AsyncIterator[None]:
        yield
        raise LifecycleError("it was let go")

    with monkeypatch.context() as patch:
        patch.setattr(projects, "at_rest", not_to_the_last)
        with pytest.raises(LifecycleError, match="it was let go: what was applied stays"):
            await box.backend.apply(box.id)
    assert (project / "added").exists()
    assert (await box.backend.apply(box.id)).complete
