"""What the store takes of its disk, and the reserve that it leaves."""

import asyncio
import os
from pathlib import Path

import pytest

from alcove.contract import Limited, SandboxIoError, SandboxSpec
from alcove.local.backend import LocalSandbox
from alcove.local.config import LocalSandboxConfig
from alcove.local.disk import reserve
from alcove.local.disk.disk_use import measure
from alcove.local.disk.usage import StoreUsage
from alcove.local.removal import remove_tree
from tests.local.cell import Cell, live

pytestmark = pytest.mark.user
MIB = 1 << 20


def of(usage: StoreUsage, session: str) -> int:
    return next(each.own for each in usage.sessions if each.id == session)


async def test_a_sessions_own_files_are_counted(backend: LocalSandbox, cell: Cell) -> None:
    before = of(backend.usage(), cell.id)
    await cell.out("head -c 3000000 /dev/urandom >big; ln big again; truncate -s 1G hollow")
    grown = of(backend.usage(), cell.id) - before
    assert 3_000_000 <= grown < 3_100_000


async def test_the_file_system_is_the_stores(backend: LocalSandbox, store: Path) -> None:
    system = backend.usage().file_system
    found = os.statvfs(store)
    assert (system.store, system.total) == (str(store), found.f_blocks * found.f_frsize)
    assert abs(system.free - found.f_bavail * found.f_frsize) < 100 * MIB
    assert system.reserve == min(system.total // 20, 1 << 30)


async def test_layers_are_counted_once_and_told_with_who_shares_them(backend: LocalSandbox, cell: Cell) -> None:
    await cell.out("head -c 2000000 /dev/urandom >big")
    snapshot = await backend.snapshot(cell.id, name="kept")
    async with live(backend, SandboxSpec(network_policy=Limited(), rootfs="snapshot:kept")) as other:
        usage = backend.usage()
        (layer,) = usage.layers
        assert 2_000_000 <= layer.bytes < 2_100_000
        assert set(layer.users) == {f"session {cell.id}", f"session {other.id}", f"snapshot {snapshot.snapshot_id}"}
        assert {each.id: each.below for each in usage.sessions} == {cell.id: layer.bytes, other.id: layer.bytes}
        assert of(usage, other.id) < MIB
        (told,) = usage.snapshots
        assert (told.id, told.name, told.bytes, told.only) == (snapshot.snapshot_id, "kept", layer.bytes, 0)
    await backend.terminate(cell.id)
    (alone,) = backend.usage().snapshots
    assert alone.only == alone.bytes == layer.bytes
    await backend.delete_snapshot("kept")
    assert (backend.usage().layers, backend.usage().snapshots) == ((), ())


async def test_what_the_next_sweep_removes_is_reclaimable(backend: LocalSandbox, store: Path) -> None:
    for place in ("sessions/0123456789abcdef.ending", "layers/0123456789.ending"):
        (store / place).mkdir()
        (store / place / "file").write_bytes(os.urandom(500_000))
    # these no sweep removes: they can be somebody's
    for place in ("sessions/fedcba9876543210", "layers/fedcba9876"):
        (store / place).mkdir()
        (store / place / "file").write_bytes(os.urandom(500_000))
    assert 1_000_000 <= backend.usage().reclaimable < 1_100_000
    for place in ("sessions/fedcba9876543210", "layers/fedcba9876"):
        remove_tree(str(store / place))
    async with live(LocalSandbox(backend.config)):
        assert backend.usage().reclaimable == 0


async def test_a_tree_that_changes_meanwhile_is_measured_all_the_same(cell: Cell) -> None:
    """The guest moves directories from under the one that reads them; none of it is an error, or without an end."""
    churn = "mkdir -p a/b/c/d e; while :; do mv a/b/c e/c; mv e/c a/b/c; mkdir x; rmdir x; done"
    task = asyncio.create_task(cell.sh(churn, timeout=5))
    await cell.out("until [ -d e ]; do :; done")
    path = str(cell.directory / "workspace")
    for _ in range(300):
        assert measure(path).bytes < 100_000
    assert (await task).timed_out


def test_a_tree_of_any_depth_is_measured(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(2000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    with open(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd), "wb") as file:
        file.write(os.urandom(100_000))
    os.close(fd)
    counts: list[int] = []
    try:
        found = measure(str(tmp_path), counts.append)
    finally:
        remove_tree(str(tmp_path))  # pytest's own removal is as deep in calls as the tree in directories
    assert found.bytes >= 100_000
    assert not found.partly
    assert sum(counts) == 2001


class TestReserve:
    """Nothing that takes room by itself is begun while less than the reserve is free."""

    def greedy(self, store: Path) -> LocalSandboxConfig:
        found = os.statvfs(store)
        return LocalSandboxConfig(root_dir=str(store), disk_reserve_mb=found.f_blocks * found.f_frsize // MIB)

    async def test_no_session_is_made(self, backend: LocalSandbox, store: Path) -> None:
        full = LocalSandbox(self.greedy(store))
        with pytest.raises(SandboxIoError, match=r"nearly full: \d+ MiB are free, \d+ MiB .*`alcove df`"):
            await full.provision(SandboxSpec(network_policy=Limited()))
        assert full.sessions() == []
        await full.aclose()

    async def test_a_live_session_goes_on_and_a_snapshot_that_copies_nothing_is_taken(
        self, backend: LocalSandbox, cell: Cell, store: Path
    ) -> None:
        await cell.out("echo kept >file")
        full = LocalSandbox(self.greedy(store))
        await full.snapshot(cell.id, name="free-of-charge")
        assert await cell.out("cat file") == "kept\n"
        await full.delete_snapshot("free-of-charge")
        await full.aclose()

    async def test_nothing_is_imported(self, backend: LocalSandbox, cell: Cell, store: Path, tmp_path: Path) -> None:
        await cell.out("echo kept >file")
        await backend.snapshot(cell.id, name="kept")
        await backend.export_snapshot("kept", str(tmp_path / "archive.tar"))
        before = set((store / "layers").iterdir())
        full = LocalSandbox(self.greedy(store))
        with pytest.raises(SandboxIoError, match="nearly full"):
            await full.import_snapshot(str(tmp_path / "archive.tar"), name="again")
        await full.aclose()
        assert set((store / "layers").iterdir()) == before
        assert [snapshot.metadata["name"] for snapshot in backend.snapshots()] == ["kept"]
        await backend.delete_snapshot("kept")

    async def test_a_copy_is_refused_and_leaves_nothing(self, backend: LocalSandbox, cell: Cell, store: Path) -> None:
        await cell.out("echo out >/mnt/session/outputs/file")  # outputs are always copied
        full = LocalSandbox(self.greedy(store))
        with pytest.raises(SandboxIoError, match="nearly full"):
            await full.snapshot(cell.id)
        with pytest.raises(SandboxIoError, match="nearly full"):
            await full.fork(cell.id)
        assert full.snapshots() == []
        assert list((store / "layers").iterdir()) == []
        assert await cell.out("cat /mnt/session/outputs/file") == "out\n"
        await full.aclose()

    def test_a_copy_ends_where_the_reserve_begins(self, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store.mkdir()
        advance = reserve.guarding(str(store), LocalSandboxConfig(disk_reserve_mb=0))
        advance(1)
        advance = reserve.guarding(str(store), self.greedy(store))
        with pytest.raises(SandboxIoError, match="nearly full"):
            advance(1)

    def test_none_is_a_choice(self, store: Path) -> None:
        store.mkdir()
        assert reserve.size(LocalSandboxConfig(disk_reserve_mb=0), 1 << 40) == 0
        assert reserve.size(LocalSandboxConfig(), 1 << 40) == 1 << 30
        assert reserve.size(LocalSandboxConfig(), 10 << 30) == 512 << 20
