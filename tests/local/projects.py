"""A person's directory that a session has by copy-on-write, and what the sessions of the tests do in it."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from alcove.changes import Change
from alcove.contract import FilesystemMount, Limited, SandboxSpec
from alcove.local import records
from tests.conftest import PlainUser
from tests.local import outside
from tests.local.cell import Cell

FILES = {"kept": "as it was\n", "edited": "one\ntwo\n", "gone": "bye\n", "sub/moved": "content of it\n"}
EDIT = "cd /project; echo three >>edited; rm gone; mv sub/moved sub/there; echo new >added; chmod 755 kept"
EDITED = {
    ("added", "added"),
    ("modified", "edited"),
    ("deleted", "gone"),
    ("modified", "kept"),
    ("renamed", "sub/there"),
}

Make = Callable[..., Path]


def make(top: Path, owner: int, group: int) -> Path:
    """Make a directory with files that belong to somebody."""
    for path, text in FILES.items():
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_text(text)
    give(top, owner, group)
    return top


def give(top: Path, owner: int, group: int) -> None:
    for path in (top, *top.rglob("*")):
        os.chown(path, owner, group, follow_symlinks=False)


def give_to(top: Path, user: PlainUser) -> None:
    give(top, user.uid, user.gid)


def mounted(source: Path, target: str = "/project") -> FilesystemMount:
    return FilesystemMount(source, target, copy_on_write=True)


def spec(*mounts: FilesystemMount) -> SandboxSpec:
    return SandboxSpec(network_policy=Limited(), mounts=list(mounts))


def tree(top: Path) -> dict[str, str | None]:
    """What is in a directory: the text of files, None for directories."""
    return {str(path.relative_to(top)): path.read_text() if path.is_file() else None for path in top.rglob("*")}


def kinds(found: Iterable[Change]) -> set[tuple[str, str]]:
    return {(change.kind, change.path) for change in found}


def layer(cell: Cell) -> Path:
    """Where the changes of a session's one mount lie."""
    row = cell.backend._store.find(cell.id)
    assert row is not None
    (mount,) = records.decode(row.record).attached
    return cell.directory / mount.layer


async def next_tick(directory: Path) -> None:
    """Wait until the kernel stamps files with a later time than those that are there."""
    probe = directory.parent / "clock"
    probe.write_text("")
    first = probe.stat().st_ctime_ns

    def later() -> bool:
        probe.write_text("")
        return probe.stat().st_ctime_ns > first

    await outside.until(later)
