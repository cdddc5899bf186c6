"""A snapshot of a session in which processes run: they stand still while it is copied, and go on whatever happens."""

import asyncio
import os
import select
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from alcove.contract import LifecycleError, Limited, SandboxIoError, SandboxSpec
from alcove.local.backend import LocalSandbox
from alcove.local.snapshots import sealing
from tests.local import outside
from tests.local.cell import Cell, live

#: Writes the same number into two files, one after the other, for ever: never apart by more than one.
PAIR = "n=0; while :; do n=$((n+1)); echo $n >one; echo $n >two; done"
#: Moves a directory from here to there and back: it is always at one of both.
MOVE = "mkdir -p here; mkdir here/d; echo x >here/d/x; while :; do mv here/d there; mv there here/d; done"


async def start(cell: Cell, script: str) -> None:
    await cell.out(f"({script}) >/dev/null 2>&1 & while ! ls one two >/dev/null 2>&1 && ! test -d here; do :; done")


async def goes_on(cell: Cell) -> None:
    """Prove that what writes in the session still runs."""
    await cell.out('was=$(cat one); while [ "$(cat one)" = "$was" ]; do :; done')


@pytest.mark.root
class TestBusy:
    async def test_the_copy_is_of_one_moment(self, backend: LocalSandbox, cell: Cell) -> None:
        await start(cell, PAIR)
        for _ in range(5):
            snapshot = await backend.snapshot(cell.id)
            spec = SandboxSpec(rootfs=f"snapshot:{snapshot.snapshot_id}", network_policy=Limited())
            async with live(backend, spec) as fork:
                one, two = (int(text.strip() or 0) for text in (await fork.out("cat one; echo -; cat two")).split("-"))
                assert one - two in {0, 1} or 0 in {one, two}  # a file that is being written again is empty
            await backend.delete_snapshot(snapshot.snapshot_id)
        await goes_on(cell)

    async def test_a_directory_that_moves_is_in_one_place(self, backend: LocalSandbox, cell: Cell) -> None:
        await start(cell, MOVE)
        for _ in range(5):
            fork = await backend.fork(cell.id)
            places = await Cell(backend, fork).out("find here there -name x 2>/dev/null; :")
            assert len(places.splitlines()) <= 1
            await backend.terminate(fork.id)

    async def test_an_error_thaws(self, backend: LocalSandbox, cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
        await start(cell, PAIR)

        def fails(*_: object) -> None:
            raise OSError(28, os.strerror(28))

        with monkeypatch.context() as patch:
            patch.setattr(sealing, "copy", fails)
            with pytest.raises(SandboxIoError, match="lost nothing"):
                await backend.snapshot(cell.id)
        await goes_on(cell)
        assert backend.snapshots() == []

    async def test_one_that_was_let_go_in_the_middle_is_no_snapshot(
        self, backend: LocalSandbox, cell: Cell, store: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await start(cell, PAIR)
        copy = sealing.copy

        def let_go(*arguments: Any) -> None:
            copy(*arguments)
            warden = os.pidfd_open(cell.native("warden"))
            signal.pidfd_send_signal(warden, signal.SIGKILL)
            select.select([warden], [], [])
            os.close(warden)

        with monkeypatch.context() as patch:
            patch.setattr(sealing, "copy", let_go)
            with pytest.raises(LifecycleError, match="try again"):
                await backend.snapshot(cell.id)
        assert (backend.snapshots(), list((store / "layers").iterdir())) == ([], [])

    async def test_a_cancelled_one_thaws_and_leaves_nothing(
        self, backend: LocalSandbox, cell: Cell, store: Path
    ) -> None:
        await start(cell, PAIR)
        await cell.out("head -c 200M /dev/urandom >large")
        taking = asyncio.create_task(backend.snapshot(cell.id))
        await outside.until(lambda: bool(list((store / "layers").iterdir())), "no layer was begun")
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        await goes_on(cell)
        assert (backend.snapshots(), list((store / "layers").iterdir())) == ([], [])

    async def test_kill_9_of_the_copying_process_thaws(self, backend: LocalSandbox, cell: Cell, store: Path) -> None:
        await start(cell, PAIR)
        await cell.out("head -c 200M /dev/urandom >large")
        program = (
            "import asyncio, sys; from alcove.local import LocalSandbox, LocalSandboxConfig as C\n"
            "asyncio.run(LocalSandbox(C(root_dir=sys.argv[1])).snapshot(sys.argv[2]))"
        )
        taking = await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(store), cell.id)
        await outside.until(lambda: bool(list((store / "layers").iterdir())), "no layer was begun")
        taking.send_signal(signal.SIGKILL)
        await taking.wait()
        await goes_on(cell)
        await backend.recover()
        assert (backend.snapshots(), list((store / "layers").iterdir())) == ([], [])


@pytest.mark.user(only=True)
async def test_without_a_freezer_it_is_refused_with_the_remedy(backend: LocalSandbox, cell: Cell) -> None:
    await start(cell, PAIR)
    if cell.session.metadata["isolation"].endswith("cgroup:none"):
        with pytest.raises(LifecycleError, match="cannot be frozen"):
            await backend.snapshot(cell.id)
    assert backend.snapshots() == []
