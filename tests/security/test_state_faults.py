"""SR01, SR08 and AP12 for what lasts: snapshots, forks and what begins with one, struck at every step of them."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from alcove.contract import ExecRequest, SandboxError
from alcove.local import LocalSandbox
from tests.conftest import PlainUser
from tests.security.driver import FIRST, LOOK, SECOND, SESSION, archive_of
from tests.security.supervisors import CLOSED, SAMPLE, Supervisors, counted, new_backend

pytestmark = [pytest.mark.security, pytest.mark.user]

DEEDS = ("snapshot", "fork", "begin", "come", "sleep", "end")
#: A sample takes each n-th event; `make soak` takes them all.
STEP = 2


class World:
    """What a session looked like at its snapshot and looks like now, by a session that nobody struck."""

    def __init__(self, before: str, now: str) -> None:
        self.before = before
        self.now = now


async def look(backend: LocalSandbox, session_id: str) -> str:
    result = await backend.exec(session_id, ExecRequest("sh", ["-c", LOOK], timeout=20))
    assert result.success, result
    return result.stdout


async def drawn(store: Path) -> World:
    backend = new_backend(store)
    session = await backend.provision(CLOSED)
    seen = []
    for script in (FIRST, SECOND):
        assert (await backend.exec(session.id, ExecRequest("sh", ["-ec", script], timeout=20))).success
        seen.append(await look(backend, session.id))
        if script is FIRST:
            snapshot = await backend.snapshot(session.id)
            await backend.export_snapshot(snapshot.snapshot_id, archive_of(backend), compression="none")
            await backend.delete_snapshot(snapshot.snapshot_id)
    await backend.terminate(session.id)
    await backend.aclose()
    assert seen[0] != seen[1]
    return World(*seen)


async def whole(store: Path, world: World, *, ending: bool) -> set[str]:
    """Act as the next process: all that is listed is whole; then it goes, and nothing of it stays."""
    backend = new_backend(store)
    try:
        await backend.terminate((await backend.provision(CLOSED)).id)  # which sweeps
        sessions = {session.id for session in backend.sessions()}
        if SESSION in sessions:
            assert await look(backend, SESSION) == world.now
        # a fork's own is not one
        assert {snapshot.metadata.get("name") for snapshot in backend.snapshots()} <= {"before", "driven", "came"}
        for snapshot in backend.snapshots():
            wanted = world.before if snapshot.metadata.get("name") in {"before", "came"} else world.now
            begun = await backend.provision(
                type(CLOSED)(rootfs=f"snapshot:{snapshot.snapshot_id}", network_policy=CLOSED.network_policy)
            )
            assert await look(backend, begun.id) == wanted, snapshot
            await backend.terminate(begun.id)
        for name, wanted in (("forked", world.now), ("begun", world.before)):
            if name in sessions:
                assert await look(backend, name) == wanted, name
        assert SESSION in sessions or ending
        found = sessions | {snapshot.metadata.get("name", "unnamed") for snapshot in backend.snapshots()}
        await asyncio.gather(*(backend.terminate(session.id) for session in backend.sessions()))
        for snapshot in backend.snapshots():
            await backend.delete_snapshot(snapshot.snapshot_id)
        return found
    finally:
        await backend.aclose()


async def nothing_is_left(supervisors: Supervisors, keys: set[str]) -> None:
    await supervisors.nothing_is_left(keys)
    assert list((supervisors.store / "layers").iterdir()) == []


async def struck_everywhere(
    supervisors: Supervisors, deed: str, kind: str, step: int
) -> tuple[set[str], dict[int, str]]:
    """Strike a deed at each `step`-th event; return what was found afterwards, and errors that were not ours."""
    world = await drawn(supervisors.store)
    supervisors.forget()
    found: set[str] = set()
    foreign: dict[int, str] = {}
    at = total = 1
    while at <= total:
        supervisors.struck("fill", 0, kind)
        said = supervisors.struck(deed, at if total > 1 else 0, kind)  # the first time nothing is struck
        if total == 1:
            assert said["error"] is None, said
            total = said["events"]
        else:
            at += step
        if (error := said.get("error")) and error.startswith("!"):
            foreign[at - step] = error
        keys = supervisors.keys()
        try:
            found |= await whole(supervisors.store, world, ending=deed == "end")
        except (AssertionError, SandboxError) as wrong:
            raise AssertionError(f"{deed} struck at event {at - step} of {total}: {wrong}") from wrong
        await nothing_is_left(supervisors, keys)
    assert total > 10
    return found, foreign


@counted
@pytest.mark.parametrize("deed", DEEDS)
async def test_sr01_killed_at_any_point(supervisors: Supervisors, deed: str, times: int) -> None:
    for _ in range(times):
        found, _ = await struck_everywhere(supervisors, deed, "kill", STEP if times == SAMPLE else 1)
        assert SESSION in found
        if wanted := {"snapshot": "driven", "fork": "forked", "begin": "begun", "come": "came"}.get(deed):
            assert wanted in found  # what was committed is there


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(2 * STEP, id="sample", marks=[pytest.mark.timeout(300)]),
        pytest.param(1, id="whole", marks=[pytest.mark.soak, pytest.mark.timeout(7200)]),
    ],
)
@pytest.mark.parametrize("kind", ["ENOSPC", "EMFILE", "EROFS"])
@pytest.mark.parametrize("deed", ["snapshot", "fork", "begin", "come", "sleep"])
async def test_sr08_an_error_anywhere_is_ours_and_loses_nothing(
    supervisors: Supervisors, deed: str, kind: str, step: int
) -> None:
    _, foreign = await struck_everywhere(supervisors, deed, kind, step)
    assert foreign == {}


BEFORE = {"changed": "old\n", "gone/f": "gone\n", "kept": "kept\n", "moved": "moved\n"}
AFTER = {"changed": "new\n", "elsewhere": "moved\n", "kept": "kept\n", "made/deep/f": "made\n"}


def lay(project: Path, plain_user: PlainUser) -> None:
    """Make the project that `rework` changes; it is a person's."""
    for name, content in BEFORE.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(content)
    for path in (project, *project.rglob("*")):
        os.chown(path, plain_user.uid, plain_user.gid)


def files_of(project: Path) -> dict[str, str]:
    return {str(path.relative_to(project)): path.read_text() for path in project.rglob("*") if path.is_file()}


@counted
@pytest.mark.parametrize("kind", ["kill", "ENOSPC", "EMFILE"])
async def test_sr01_applying_struck_at_any_point_can_be_done_again(
    supervisors: Supervisors, plain_user: PlainUser, kind: str, times: int
) -> None:
    """Every file of the project is the old or the new one, and applying once more ends what was begun."""
    for _ in range(times):
        await applied_everywhere(supervisors, plain_user, kind, STEP if times == SAMPLE else 1)


async def applied_everywhere(supervisors: Supervisors, plain_user: PlainUser, kind: str, step: int) -> None:
    project, seen, at, total = Path(f"{supervisors.store}.project"), set(), 1, 1
    while at <= total:
        lay(project, plain_user)
        supervisors.struck("rework", 0, kind)
        said = supervisors.struck("apply", at if total > 1 else 0, kind)
        if total == 1:
            assert said["error"] is None, said
            total = said["events"]
        else:
            at += step
        assert not (said.get("error") or "").startswith("!"), said
        found = files_of(project)
        seen.add(len(found.items() & AFTER.items()))
        for name, content in found.items():
            assert content in {BEFORE.get(name), AFTER.get(name)} or ".alcove-apply-" in name, (name, content)
        assert found["kept"] == "kept\n"
        backend = new_backend(supervisors.store)
        again = await backend.apply(SESSION)
        assert again.left == ()
        if again.conflicts:  # a file that was on its way out and was put back has another time of change
            assert kind != "kill"
            assert files_of(project).items() >= {one.path: BEFORE[one.path] for one in again.conflicts}.items()
        else:
            assert files_of(project) == AFTER
            assert not (project / "gone").exists()
        keys = supervisors.keys()
        await backend.terminate(SESSION)
        await backend.aclose()
        shutil.rmtree(project)
        await supervisors.nothing_is_left(keys)
    assert total > 10
    assert len(seen) > 2 or kind != "kill"  # it was struck before, in the middle and after
