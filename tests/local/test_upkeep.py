"""What happens to layers behind everybody's back: they become durable, and long chains short, and nobody notices."""

import asyncio
import errno
import os
import shutil
import sqlite3
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from alcove.contract import Limited, SandboxSession, SandboxSpec
from alcove.local import keeper
from alcove.local.backend import LocalSandbox
from alcove.local.config import LocalSandboxConfig
from alcove.local.snapshots import upkeep as module
from alcove.local.snapshots.snapshot_table import SnapshotTable
from alcove.local.snapshots.upkeep import DEEP, LayerChores, Upkeep
from alcove.state.tree import digest
from tests import keeping
from tests.local import outside
from tests.local.cell import Cell, live

LOOK = (
    "find /workspace /tmp /mnt/session/outputs -printf '%p %y %m %s\n' | sort; cat /workspace/f* /tmp/* 2>/dev/null; :"
)


@pytest.fixture
def upkeep(backend: LocalSandbox) -> Upkeep:
    return Upkeep(backend._store)


async def deep(backend: LocalSandbox, cell: Cell) -> list[str]:
    """Make a chain that is one too long: each layer adds, changes and deletes."""
    taken = []
    for number in range(DEEP + 1):
        await cell.out(
            "echo $1 >f$1; echo $1 >changing; rm -f f$(($1 - 2)); rm -rf d; mkdir d; echo $1 >d/$1; echo $1 >>/tmp/t;"
            " rm -f /mnt/session/outputs/*; echo $1 >/mnt/session/outputs/o$1",
            str(number),
        )
        taken.append((await backend.snapshot(cell.id)).snapshot_id)
    return taken


async def begun(backend: LocalSandbox, reference: str) -> SandboxSession:
    return await backend.provision(SandboxSpec(rootfs=f"snapshot:{reference}", network_policy=Limited()))


async def seen(backend: LocalSandbox, reference: str) -> str:
    cell = Cell(backend, await begun(backend, reference))
    try:
        return await cell.out(LOOK)
    finally:
        await backend.terminate(cell.id)


async def forget(backend: LocalSandbox) -> None:
    for snapshot in backend.snapshots():
        await backend.delete_snapshot(snapshot.snapshot_id)


@pytest.mark.user
async def test_a_snapshot_becomes_durable_and_its_size_known(
    backend: LocalSandbox, cell: Cell, upkeep: Upkeep, store: Path
) -> None:
    await cell.out("head -c 5000 /dev/zero >zeros; mkdir d; echo x >d/x")
    snapshot = await backend.snapshot(cell.id)
    assert (snapshot.metadata["durable"], snapshot.metadata.get("bytes")) == ("false", None)
    assert upkeep.due()
    await upkeep.run()
    assert not upkeep.due()
    (after,) = backend.snapshots()
    assert {name: after.metadata[name] for name in ("durable", "bytes", "files")} == {
        "durable": "true",
        "bytes": "5002",
        "files": "2",
    }
    (layer,) = SnapshotTable(backend._store).layers().values()
    fd = os.open(store / "layers" / layer.key, os.O_RDONLY)
    try:
        assert layer.digest == digest(fd)
    finally:
        os.close(fd)
    await forget(backend)


@pytest.mark.user
async def test_a_long_chain_becomes_one_layer_that_shows_the_same(
    backend: LocalSandbox, cell: Cell, upkeep: Upkeep, store: Path
) -> None:
    taken = await deep(backend, cell)
    before = {reference: await seen(backend, reference) for reference in (taken[0], taken[-1])}
    assert backend.find_snapshot(taken[-1]).metadata["layers"] == str(DEEP + 1)
    await upkeep.run()
    assert backend.find_snapshot(taken[-1]).metadata["layers"] == "1"
    assert {reference: await seen(backend, reference) for reference in before} == before
    await cell.out("echo later >later")  # the session itself goes on over the one layer from its next start on
    last = await backend.snapshot(cell.id)
    assert last.metadata["layers"] == "2"
    assert "later" in await seen(backend, last.snapshot_id)
    await forget(backend)
    await backend.terminate(cell.id)
    assert list((store / "layers").iterdir()) == []


@pytest.mark.user
async def test_a_session_that_runs_keeps_its_layers_until_it_is_begun_again(
    backend: LocalSandbox, cell: Cell, upkeep: Upkeep
) -> None:
    taken = await deep(backend, cell)
    running = Cell(backend, await begun(backend, taken[-1]))
    before = await running.out(LOOK)
    await upkeep.run()
    for reference in taken:
        await backend.delete_snapshot(reference)
    await backend.terminate(cell.id)
    assert await running.out(LOOK) == before
    await backend.snapshot(running.id)  # which ends its processes: it begins again over what is left
    assert await running.out(LOOK) == before
    await backend.terminate(running.id)
    await forget(backend)


@pytest.mark.user
async def test_what_nobody_uses_any_more_is_not_flattened(
    backend: LocalSandbox, cell: Cell, upkeep: Upkeep, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deep(backend, cell)
    copy = Upkeep._copy

    def gone_meanwhile(self: Upkeep, *arguments: object) -> None:
        copy(self, *arguments)  # type: ignore[arg-type]
        with sqlite3.connect(store / "store.db") as database:
            database.execute("DELETE FROM uses")
            database.execute("DELETE FROM layers")

    monkeypatch.setattr(Upkeep, "_copy", gone_meanwhile)
    layers = set((store / "layers").iterdir())
    await upkeep.run()
    assert set((store / "layers").iterdir()) == layers  # nothing new, and what is nobody's is the next sweep's
    await backend.terminate(cell.id)
    await forget(backend)
    await backend.recover()
    assert list((store / "layers").iterdir()) == []
    shutil.rmtree(store / "lost")  # the only copies, as far as anybody can know


_SNAPSHOTS = """
import asyncio, sys
from alcove.local import LocalSandbox, LocalSandboxConfig

async def main():
    backend = LocalSandbox(LocalSandboxConfig(root_dir=sys.argv[1]))
    await asyncio.gather(*(backend.snapshot(session) for session in sys.argv[2:]))

asyncio.run(main())
"""


@pytest.mark.user
async def test_it_happens_by_itself_after_whoever_took_the_snapshot_has_gone(
    backend: LocalSandbox, cell: Cell, store: Path
) -> None:
    await cell.out("echo x >f")
    async with live(backend) as other:
        await other.out("echo y >f")
        argv = [sys.executable, "-c", _SNAPSHOTS, str(store), cell.id, other.id]
        taking = await asyncio.create_subprocess_exec(*argv)
        assert await taking.wait() == 0
    await outside.until(
        lambda: [one.metadata["durable"] for one in backend.snapshots()] == ["true", "true"], "they do not get durable"
    )
    await outside.until(lambda: keeping.keeper_of(store, keeper.CHORES) is None, "who saw to it stays")
    assert (store / "chores.err").read_text() == ""


@pytest.mark.user
async def test_many_who_say_so_at_once_start_one(backend: LocalSandbox, store: Path) -> None:
    for _ in range(10):
        keeper.nudge(str(store), keeper.CHORES)
    await outside.until(lambda: keeping.keeper_of(store, keeper.CHORES) is not None, "nobody came")
    mine = [pid for pid in outside.pids() if outside.command_line(pid)[-3:] == [str(store), "chores", "alone"]]
    listening = [pid for pid in mine if int(outside.status(pid).get("PPid", "0")) not in mine and _listens(pid)]
    assert len(listening) == 1
    await outside.until(lambda: not any(outside.is_there(pid) for pid in mine), "they stay")


def _listens(pid: int) -> bool:
    with suppress(OSError):  # one that saw that another was first ends meanwhile
        return any(name.startswith("socket:") for name in outside.descriptors(pid).values())
    return False


@pytest.mark.root
class TestOwned:
    @pytest.fixture
    def config(self, store: Path) -> LocalSandboxConfig:
        return LocalSandboxConfig(root_dir=str(store), rootfs="owned")

    async def test_what_a_chain_deletes_of_the_hosts_stays_deleted(
        self, backend: LocalSandbox, cell: Cell, upkeep: Upkeep
    ) -> None:
        await cell.out(
            "rm -r /usr/share/doc; rm /etc/hostname 2>/dev/null; mkdir /usr/share/doc; echo mine >/usr/share/doc/mine"
        )
        taken = []
        for number in range(DEEP + 1):
            await cell.out(f"echo {number} >/usr/local/f{number}; echo {number} >/etc/changing")
            taken.append(await backend.snapshot(cell.id))
        last = taken[-1]
        await upkeep.run()
        assert backend.find_snapshot(last.snapshot_id).metadata["layers"] == "1"
        async with live(backend, SandboxSpec(rootfs=f"snapshot:{last.snapshot_id}", network_policy=Limited())) as fork:
            assert (
                await fork.out("ls /usr/share/doc; ls /usr/local | grep -c '^f'; cat /etc/changing") == "mine\n9\n8\n"
            )
        await forget(backend)


async def test_what_takes_a_durable_chains_place_is_on_the_disk_first(
    backend: LocalSandbox, cell: Cell, upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = await deep(backend, cell)
    before = backend._snapshots.find(taken[-1]).layers

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_flush", fail)
        with pytest.raises(OSError, match="Input/output"):
            await upkeep.flatten(before)
    assert backend._snapshots.find(taken[-1]).layers == before


async def test_chores_that_failed_are_done_again(store: Path, cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    await cell.out("echo x > note")
    await cell.backend.snapshot(cell.id)
    chores = LayerChores(str(store))
    chores.look()
    with monkeypatch.context() as patch:
        patch.setattr(Upkeep, "_unsettled", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await chores.run_due()
        # a service that can do nothing comes to its end, or no repair would ever have the store
        with pytest.raises(ZeroDivisionError):
            await chores.run_due()
        with pytest.raises(ZeroDivisionError):
            await chores.run_due()
        assert await chores.run_due() is None
    assert cell.backend.snapshots()[-1].metadata["durable"] == "false"
    chores.look()
    await chores.run_due()
    assert cell.backend.snapshots()[-1].metadata["durable"] == "true"
