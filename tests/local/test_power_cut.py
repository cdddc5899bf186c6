"""A power cut takes the last transactions of the database along, and leaves the renames that came before them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from alcove.contract import Limited, SandboxSpec
from alcove.local.backend import LocalSandbox
from tests.local.cell import Cell, live

pytestmark = [pytest.mark.user]


class Store:
    """A store whose database can be taken back to what it was."""

    def __init__(self, backend: LocalSandbox, place: Path, copy: Path) -> None:
        self.backend = backend
        self.place = place
        self.copy = copy

    def remember(self) -> None:
        self._copied(self.place / "store.db", self.copy)

    def cut(self) -> None:
        """Put back what was there."""
        self._copied(self.copy, self.place / "store.db")
        self.backend._sessions._live.clear()

    def change(self, statement: str, *values: str) -> None:
        self._run(
            "database = sqlite3.connect(sys.argv[1]); database.execute(sys.argv[2], sys.argv[3:]); database.commit()",
            str(self.place / "store.db"),
            statement,
            *values,
        )

    def _copied(self, source: Path, target: Path) -> None:
        self._run("sqlite3.connect(sys.argv[1]).backup(sqlite3.connect(sys.argv[2]))", str(source), str(target))

    def _run(self, program: str, *arguments: str) -> None:
        """Through SQLite, as the backend has the file open; by another process, whose locks are its own."""
        subprocess.run([sys.executable, "-c", f"import sqlite3, sys; {program}", *arguments], check=True)

    def layers(self) -> list[Path]:
        return list((self.place / "layers").iterdir())


@pytest.fixture
def cut(backend: LocalSandbox, store: Path, tmp_path: Path) -> Store:
    return Store(backend, store, tmp_path / "copy.db")


async def _snapshot_that_the_database_forgets(cut: Store, cell: Cell) -> None:
    await cell.out("mkdir d; echo kept >d/f; echo t >/tmp/t; echo o >/mnt/session/outputs/o")
    await cut.backend.suspend(cell.id)
    cut.remember()
    await cut.backend.snapshot(cell.id)
    cut.cut()
    assert len(cut.layers()) == 1


async def test_a_session_has_its_files_again_at_its_next_exec(backend: LocalSandbox, cell: Cell, cut: Store) -> None:
    await _snapshot_that_the_database_forgets(cut, cell)
    assert backend.snapshots() == []
    assert await cell.out("cat d/f /tmp/t /mnt/session/outputs/o") == "kept\nt\no\n"
    await backend.recover()
    assert cut.layers() == []


async def test_a_session_has_its_files_again_at_recovery(backend: LocalSandbox, cell: Cell, cut: Store) -> None:
    await _snapshot_that_the_database_forgets(cut, cell)
    await backend.recover()
    assert cut.layers() == []
    assert await cell.out("cat d/f /tmp/t") == "kept\nt\n"


async def test_files_that_nobody_can_take_are_kept_apart(backend: LocalSandbox, cell: Cell, cut: Store) -> None:
    await _snapshot_that_the_database_forgets(cut, cell)
    cut.change("UPDATE sessions SET key = 'fedcba9876543210' WHERE id = ?", cell.id)
    await backend.recover()
    assert cut.layers() == []
    (lost,) = (cut.place / "lost").iterdir()
    assert (lost / "workspace" / "d" / "f").read_text() == "kept\n"
    shutil.rmtree(cut.place / "lost")
    shutil.rmtree(cell.directory)  # of the session that the store has forgotten


async def test_a_deleted_snapshot_comes_to_no_session(backend: LocalSandbox, cell: Cell, cut: Store) -> None:
    """What is on its way out is nobody's, though a session's files were renamed into it once."""
    await cell.out("echo old >f")
    first = await backend.snapshot(cell.id)
    spec = SandboxSpec(rootfs=f"snapshot:{first.snapshot_id}", network_policy=Limited())
    async with live(backend, spec) as fork:
        await backend.delete_snapshot(first.snapshot_id)
        assert await fork.out("cat f") == "old\n"
    await cell.out("rm f; echo new >g")
    await backend.snapshot(cell.id)
    await backend.recover()
    assert await cell.out("ls") == "g\n"
