# ruff: noqa: ASYNC230 - small files of the host and pipes, in between
"""Snapshots leave as archives and come back elsewhere the same; nothing is left of what did not come through."""

import asyncio
import io
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from alcove.contract import InvalidRequest, LifecycleError, SandboxIoError, SandboxSnapshot, SandboxSpec
from alcove.local import ImportLimits, LocalSandbox, LocalSandboxConfig
from alcove.local.disk import reserve
from tests.local.cell import live
from tests.local.transfers import OFFLINE, SECRET, freed, layers_of, lineage, look, noisy, there_of, uses

pytestmark = [pytest.mark.user, pytest.mark.usefixtures("tmp_of_its_own")]


# There and back


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("compression", ["zstd", "gzip", "none"])
async def test_a_snapshot_is_the_same_elsewhere(
    backend: LocalSandbox,
    elsewhere: LocalSandbox,
    store: Path,
    compression: Literal["zstd", "gzip", "none"],
    flat: bool,
) -> None:
    snapshot = await lineage(backend)
    archive = store.with_name("archive.tar")
    packed: list[int] = []
    done = await backend.export_snapshot("second", archive, compression=compression, flat=flat, progress=packed.append)
    assert done.bytes == archive.stat().st_size
    assert sum(packed) > 128_000
    assert archive.stat().st_mode & 0o777 == 0o600
    before = await look(backend, "second")
    await freed(backend, store)  # what it was made of is gone

    made = await elsewhere.import_snapshot(archive)
    assert made.snapshot_id != snapshot.snapshot_id
    kept = ("created", "name", "parent", "root")
    assert {key: made.metadata[key] for key in kept} == {key: snapshot.metadata[key] for key in kept}
    assert (made.session_id, made.metadata["layers"]) == (snapshot.session_id, "1" if flat else "2")
    assert await look(elsewhere, "second") == before
    again = await elsewhere.export_snapshot("second", io.BytesIO(), compression=compression)
    assert again.layers == done.layers
    await freed(elsewhere, there_of(store))


async def test_what_runs_in_it_runs_elsewhere(backend: LocalSandbox, elsewhere: LocalSandbox, store: Path) -> None:
    snapshot = await lineage(backend)
    archive = io.BytesIO()
    await backend.export_snapshot(snapshot.snapshot_id, archive)
    archive.seek(0)
    made = await elsewhere.import_snapshot(archive, name="mine")
    async with live(elsewhere, SandboxSpec(network_policy=OFFLINE, rootfs="snapshot:mine")) as cell:
        assert await cell.out("./script") == "ran\n"
        await cell.out("cd deep && mv er er2 && echo x >> ../script && ln hard harder")
        child = await elsewhere.snapshot(cell.id)
        assert child.metadata["parent"] == made.snapshot_id
    await freed(backend, store)
    await freed(elsewhere, there_of(store))


async def test_a_session_that_changed_nothing(backend: LocalSandbox, store: Path) -> None:
    async with live(backend) as cell:
        await backend.snapshot(cell.id, name="bare")
    archive = store.with_name("archive.tar")
    await backend.export_snapshot("bare", archive)
    made = await backend.import_snapshot(archive, name="bare-too")
    async with live(backend, SandboxSpec(network_policy=OFFLINE, rootfs=f"snapshot:{made.snapshot_id}")) as cell:
        assert await cell.out("ls -A") == ""
    await freed(backend, store)


# Deleted


def contents(archive: Path) -> bytes:
    """Everything in every layer of an uncompressed archive."""
    with tarfile.open(archive) as layout:
        files = [layout.extractfile(member) for member in layout]
        return b"".join(file.read() for file in files if file)


async def test_what_was_deleted_is_gone_from_what_is_exported(backend: LocalSandbox, store: Path) -> None:
    await lineage(backend)
    chain, flat = store.with_name("chain.tar"), store.with_name("flat.tar")
    await backend.export_snapshot("second", chain, compression="none")
    await backend.export_snapshot("second", flat, compression="none", flat=True)
    assert SECRET.encode() in contents(chain)  # in the layer below: that is what `flat` is for
    assert SECRET.encode() not in contents(flat)
    made = await backend.import_snapshot(chain, name="again")
    assert "secrets" not in await look(backend, made.snapshot_id)
    await freed(backend, store)


# Named


async def test_a_name_that_is_taken(backend: LocalSandbox, store: Path) -> None:
    await lineage(backend)
    archive = store.with_name("archive.tar")
    await backend.export_snapshot("second", archive)
    made = await backend.import_snapshot(archive)
    assert "name" not in made.metadata
    for name in ("second", "", "../second", made.snapshot_id):
        with pytest.raises(InvalidRequest):
            await backend.import_snapshot(archive, name=name)
    assert len(backend.snapshots()) == 3
    await freed(backend, store)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"reference": "none"}, "there is no snapshot `none`"),
        ({"compression": "lzma"}, "compression"),
    ],
)
async def test_what_cannot_be_exported(backend: LocalSandbox, store: Path, call: dict[str, Any], message: str) -> None:
    await lineage(backend)
    out = store.with_name("archive.tar")
    reference = call.pop("reference", "second")
    with pytest.raises(InvalidRequest, match=message):
        await backend.export_snapshot(reference, out, **call)
    assert not out.exists()
    await freed(backend, store)


# Files


async def test_a_file_is_replaced_whole_or_not_at_all(backend: LocalSandbox, store: Path) -> None:
    await lineage(backend)
    place = store.with_name("place")
    place.mkdir()
    (place / "archive").write_text("the old one")
    (place / "archive").chmod(0o640)
    (place / "link").symlink_to("archive")

    def fail(_: int) -> None:
        raise OSError(5, "no more")

    with pytest.raises(SandboxIoError, match="no more"):
        await backend.export_snapshot("second", place / "link", progress=fail)
    assert (place / "archive").read_text() == "the old one"
    await backend.export_snapshot("second", place / "link")
    assert tarfile.is_tarfile(place / "archive")
    assert (place / "link").is_symlink()
    assert (place / "archive").stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(place)) == ["archive", "link"]
    with pytest.raises(SandboxIoError, match="No such file"):
        await backend.export_snapshot("second", place / "nowhere/archive")
    with pytest.raises(SandboxIoError, match="No such file"):
        await backend.import_snapshot(place / "nowhere")
    await freed(backend, store)


async def test_a_file_that_is_appended_to_keeps_what_it_has(backend: LocalSandbox, store: Path) -> None:
    await lineage(backend)
    path = store.with_name("archive")
    path.write_bytes(b"before")
    with path.open("ab") as file:
        done = await backend.export_snapshot("second", file)
    assert path.read_bytes()[:6] == b"before"
    made = await backend.import_snapshot(io.BytesIO(path.read_bytes()[6:]), name="appended")
    assert path.stat().st_size == 6 + done.bytes
    assert made.metadata["layers"] == "2"
    await freed(backend, store)


async def test_through_a_pipe(backend: LocalSandbox, store: Path) -> None:
    await lineage(backend)
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as source, open(writing, "wb", buffering=0) as sink:

        async def out() -> None:
            await backend.export_snapshot("second", sink)
            sink.close()

        _, made = await asyncio.gather(out(), backend.import_snapshot(source, name="piped"))
    assert await look(backend, made.snapshot_id) == await look(backend, "second")
    await freed(backend, store)


# Nothing is left


async def test_a_pipe_that_brings_nothing_holds_nobody_up(backend: LocalSandbox, store: Path) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as source, open(writing, "wb", buffering=0) as sink:
        importing = asyncio.ensure_future(backend.import_snapshot(source))
        sink.write(b"the beginning")
        done, _ = await asyncio.wait([importing], timeout=0.05)
        assert not done
        importing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(importing, 5)
    assert layers_of(store) == []


async def test_a_pipe_that_nobody_reads_holds_nobody_up(backend: LocalSandbox, store: Path) -> None:
    await noisy(backend, 1 << 20)
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as source, open(writing, "wb", buffering=0) as sink:
        exporting = asyncio.ensure_future(backend.export_snapshot("noise", sink))
        await asyncio.to_thread(source.read, 1)  # it is at it
        exporting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(exporting, 5)
        exporting = asyncio.ensure_future(backend.export_snapshot("noise", sink))
        await asyncio.to_thread(source.read, 1)
        source.close()
        with pytest.raises(BrokenPipeError):
            await asyncio.wait_for(exporting, 5)
    await freed(backend, store)


async def test_a_fifo_whose_other_end_nobody_has_holds_nobody_up(backend: LocalSandbox, store: Path) -> None:
    await noisy(backend, 1 << 20)
    fifo = store.with_name("fifo")
    os.mkfifo(fifo)
    for work in (backend.import_snapshot(fifo), backend.export_snapshot("noise", fifo)):
        going = asyncio.ensure_future(work)
        done, _ = await asyncio.wait([going], timeout=0.1)
        assert not done
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(going, 5)
    _, made = await asyncio.gather(
        backend.export_snapshot("noise", fifo), backend.import_snapshot(fifo, name="through-it")
    )
    assert made.metadata["files"] == "201"
    await freed(backend, store)


@pytest.mark.parametrize("part", [0.0, 0.4, 0.9])
async def test_cancelled_it_leaves_nothing(backend: LocalSandbox, store: Path, part: float) -> None:
    await noisy(backend, 4 << 20)
    archive = store.with_name("archive.tar")
    await backend.export_snapshot("noise", archive)
    before = layers_of(store)
    loop = asyncio.get_running_loop()
    read = 0

    def stop(number: int) -> None:
        nonlocal read
        read += number
        if read >= part * 3 * archive.stat().st_size:
            loop.call_soon_threadsafe(importing.cancel)

    importing = asyncio.ensure_future(backend.import_snapshot(archive, progress=stop))
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(importing, 5)
    assert layers_of(store) == before
    assert len(backend.snapshots()) == 1
    await freed(backend, store)


KILLED = """
import asyncio, os, signal, sys
from alcove.local import LocalSandbox, LocalSandboxConfig
store, what, *words = sys.argv[1:]
layers = len(os.listdir(f"{store}/layers"))

def kill(_):
    if what == "export" or len(os.listdir(f"{store}/layers")) > layers:
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    backend = LocalSandbox(LocalSandboxConfig(root_dir=store))
    if what == "import":
        await backend.import_snapshot(words[0], progress=kill)
    else:
        await backend.export_snapshot(words[0], words[1], flat=what == "flatten", progress=kill)

asyncio.run(main())
"""


@pytest.mark.parametrize("what", ["import", "export", "flatten"])
async def test_killed_it_leaves_nothing_that_the_next_sweep_does_not_take(
    backend: LocalSandbox, store: Path, what: str
) -> None:
    await noisy(backend, 1 << 20)
    place = store.with_name("place")
    place.mkdir()
    await backend.export_snapshot("noise", place / "archive")
    before = layers_of(store), uses(store)
    words = [str(place / "archive")] if what == "import" else ["noise", str(place / "other")]
    argv = [sys.executable, "-c", KILLED, str(store), what, *words]
    done = await asyncio.to_thread(subprocess.run, argv, check=False, timeout=30)
    assert done.returncode == -signal.SIGKILL
    assert (layers_of(store), uses(store)) != before  # there is something to be swept
    assert len(backend.snapshots()) == 1
    assert os.listdir(place) == ["archive"]
    other = LocalSandbox(backend.config)
    async with live(other, SandboxSpec(network_policy=OFFLINE, rootfs="snapshot:noise")):
        assert layers_of(store) == before[0]
    await other.aclose()
    assert uses(store) == before[1]
    await freed(backend, store)


@pytest.mark.parametrize("way", ["import", "flat", "pipe"])
async def test_the_reserve_of_the_disk_is_left_alone(
    backend: LocalSandbox, store: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await noisy(backend, 1 << 20)
    archive = store.with_name("archive.tar")
    await backend.export_snapshot("noise", archive)
    before = layers_of(store)
    asked = 0

    def size(_: LocalSandboxConfig, total: int) -> int:
        nonlocal asked
        asked += 1
        return total if asked > 20 else 0  # it fills meanwhile

    ways: dict[str, Callable[[], Awaitable[object]]] = {
        "import": lambda: backend.import_snapshot(archive, name="again"),
        "flat": lambda: backend.export_snapshot("noise", io.BytesIO(), flat=True),
        "pipe": lambda: backend.export_snapshot("noise", "/dev/null"),
    }
    monkeypatch.setattr(reserve, "size", size)
    with pytest.raises(SandboxIoError, match="nearly full"):
        await ways[way]()
    assert layers_of(store) == before
    await backend.export_snapshot("noise", store.with_name("other.tar"))  # to make room is always possible
    monkeypatch.undo()
    await freed(backend, store)


# At the same time


async def test_a_snapshot_deleted_while_it_is_exported(backend: LocalSandbox, store: Path) -> None:
    await lineage(backend)
    before = await look(backend, "second")
    loop = asyncio.get_running_loop()
    archive = store.with_name("archive.tar")

    def delete(_: int) -> None:
        for snapshot in backend.snapshots():
            asyncio.run_coroutine_threadsafe(backend.delete_snapshot(snapshot.snapshot_id), loop).result(10)

    await backend.export_snapshot("second", archive, progress=delete)
    assert (backend.snapshots(), layers_of(store), uses(store)) == ([], [], [])
    await backend.import_snapshot(archive)
    assert await look(backend, "second") == before
    await freed(backend, store)


async def test_several_of_one_archive_at_once(backend: LocalSandbox, store: Path) -> None:
    await lineage(backend)
    archive = store.with_name("archive.tar")
    await backend.export_snapshot("second", archive)
    outcomes = await asyncio.gather(
        *(backend.import_snapshot(archive, name="one") for _ in range(4)), return_exceptions=True
    )
    made = [outcome for outcome in outcomes if isinstance(outcome, SandboxSnapshot)]
    assert len(made) == 1
    assert all(isinstance(outcome, InvalidRequest) for outcome in outcomes if outcome is not made[0])
    assert len(layers_of(store)) == 4
    await freed(backend, store)


# Limits, and what is not what it was


async def test_what_is_too_large_is_refused_and_let_in_on_request(backend: LocalSandbox, store: Path) -> None:
    await noisy(backend, 2 << 20)
    archive = store.with_name("archive.tar")
    await backend.export_snapshot("noise", archive)
    for limits in (ImportLimits(total_bytes=1 << 20), ImportLimits(entries=100)):
        with pytest.raises(InvalidRequest, match="more than"):
            await backend.import_snapshot(archive, name="more", limits=limits)
    assert (await backend.import_snapshot(archive, name="more")).metadata["files"] == "201"
    await freed(backend, store)


async def test_a_layer_that_was_changed_in_the_store_does_not_leave_it(
    backend: LocalSandbox, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lineage(backend)
    archive = store.with_name("archive.tar")
    await backend.export_snapshot("second", archive)
    changed = next(path for path in layers_of(store) if (path / "workspace/script").exists())
    (changed / "workspace/script").write_text("#!/bin/sh\necho another\n")
    with pytest.raises(LifecycleError, match=f"the layer {changed.name} is not what was sealed"):
        await backend.export_snapshot("second", store.with_name("other.tar"))
    assert not store.with_name("other.tar").exists()
    monkeypatch.setattr("alcove.local.snapshots.transfer.Transfer._check", lambda *_: None)
    await backend.export_snapshot("second", store.with_name("other.tar"))  # it is this check that refuses
    await freed(backend, store)
