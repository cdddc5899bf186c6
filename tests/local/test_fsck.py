"""`alcove doctor --store`: each damage is made by hand, found, put right, and not found again."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from alcove.contract import Limited, SandboxIoError, SandboxSpec, SandboxState
from alcove.local.backend import LocalSandbox
from alcove.local.cell import processes
from alcove.local.config import LocalSandboxConfig
from alcove.local.doctor import fsck
from alcove.local.doctor.fsck import Damage, StoreReport, check_store, database, sessions
from alcove.local.doctor.fsck.report import Patient
from alcove.local.removal import remove_tree
from alcove.local.snapshots.layers import OWNER
from alcove.local.snapshots.snapshot_table import passing_name
from alcove.local.snapshots.upkeep import Upkeep
from alcove.local.store import Row, Store
from tests.local import outside
from tests.local.cell import Cell

SPEC = SandboxSpec(network_policy=Limited())


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Another process has a directory for itself."""
    program = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), fcntl.LOCK_EX); print(flush=True); input()"
    argv = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield holder.pid
        holder.communicate(b"\n")


class World:
    """A store with two sessions, one over a snapshot of the other, that is open only inside `backend`."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.config = LocalSandboxConfig(root_dir=str(store))

    async def use(self, work: Callable[[LocalSandbox], Awaitable[object]]) -> None:
        backend = LocalSandbox(self.config)
        try:
            await work(backend)
        finally:
            await backend.aclose()

    async def fill(self, backend: LocalSandbox) -> None:
        first = Cell(backend, await backend.provision(SPEC))
        await first.out("echo mine >file; mkdir d; echo deep >d/f")
        self.snapshot = (await backend.snapshot(first.id, name="kept")).snapshot_id
        await first.out("true")
        second = await backend.provision(SandboxSpec(network_policy=Limited(), rootfs="snapshot:kept"))
        self.first, self.second = first.id, second.id
        self.key, self.other = (str(self.row(name, "key")) for name in (self.first, self.second))
        (self.layer,) = (path.name for path in (self.store / "layers").iterdir())

    async def end(self, backend: LocalSandbox) -> None:
        for session in backend.sessions():
            await backend.terminate(session.id)

    def sql(self, statement: str, *parameters: object) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.store / "store.db", isolation_level=None)) as database:
            return database.execute(statement, parameters).fetchall()

    def row(self, session: str, column: str) -> object:
        return self.sql(f"SELECT {column} FROM sessions WHERE id = ?", session)[0][0]

    def change_record(self, session: str, **fields: object) -> None:
        record = json.loads(str(bytes(self.row(session, "record")), "utf-8")) | fields  # type: ignore[call-overload]
        self.sql("UPDATE sessions SET record = ? WHERE id = ?", json.dumps(record).encode(), session)

    async def check(self, *, repair: bool = False, verify: bool = False) -> StoreReport:
        return await check_store(self.config, repair=repair, verify=verify)

    async def found(self) -> list[str]:
        return [damage.id for damage in (await self.check()).damages]

    async def repaired(self, *kinds: str) -> list[Damage]:
        """Require that these are found, that a repair does something about each, and that nothing is left to find."""
        assert await self.found() == list(kinds)
        assert await self.found() == list(kinds), "a check changes nothing"
        damages = (await self.check(repair=True)).damages
        assert [damage.id for damage in damages] == list(kinds)
        assert all(damage.done for damage in damages), damages
        assert await self.check() == StoreReport(str(self.store), True, False, ())
        return list(damages)

    async def both_work(self, backend: LocalSandbox) -> None:
        for name in (self.first, self.second):
            assert await Cell(backend, backend.session(name)).out("cat file d/f") == "mine\ndeep\n"


@pytest_asyncio.fixture
async def world(store: Path) -> AsyncIterator[World]:
    world = World(store)
    await world.use(world.fill)
    yield world
    await world.use(world.end)
    assert outside.called("alcove-warden", world.key) == outside.called("alcove-warden", world.other) == []


def lost(world: World) -> list[str]:
    place = world.store / "lost"
    return sorted(path.name for path in place.iterdir()) if place.exists() else []


@pytest.mark.user
async def test_a_store_in_use_has_no_damage(world: World) -> None:
    assert (await world.check()).ok
    assert (await world.check(repair=True)).ok
    assert (await world.check(repair=True, verify=True)).ok
    await world.use(world.both_work)


@pytest.mark.user
async def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(SandboxIoError, match="there is no store at"):
        await check_store(LocalSandboxConfig(root_dir=str(tmp_path / "new")))
    assert os.listdir(tmp_path) == []


@pytest.mark.user
class TestExclusive:
    async def test_a_repair_is_refused_while_others_use_the_store_and_names_them(self, world: World) -> None:
        async def work(_: LocalSandbox) -> None:
            assert (await world.check()).ok
            with pytest.raises(SandboxIoError, match=rf"in use by pid {os.getpid()} \(.*python"):
                await world.check(repair=True)

        await world.use(work)
        assert (await world.check(repair=True)).ok

    async def test_nobody_uses_it_during_a_repair(self, world: World) -> None:
        with locked(world.store) as pid:
            for repair in (False, True):
                with pytest.raises(SandboxIoError, match=rf"by pid {pid} \("):
                    await world.check(repair=repair)
            with pytest.raises(SandboxIoError, match=rf"is being repaired by pid {pid} \("):
                LocalSandbox(world.config)
        assert (await world.check(repair=True)).ok


@pytest.mark.user
class TestDatabase:
    async def test_damaged_pages_are_left_behind_and_the_rest_is_kept(self, world: World) -> None:
        def spoil(_: object = None) -> None:
            path = world.store / "store.db"
            (root,) = world.sql("SELECT rootpage FROM sqlite_master WHERE name = 'sessions_by_end'")[0]
            world.sql("PRAGMA wal_checkpoint(TRUNCATE)")
            with path.open("r+b") as file:
                file.seek((int(str(root)) - 1) * 4096)
                file.write(b"\xff" * 4096)

        spoil()
        (damage,) = await world.repaired("database")
        assert "2 sessions, 1 layers, 1 snapshots" in damage.done
        assert [name for name in lost(world) if name.startswith("store.db-")] == lost(world) != []
        await world.use(world.both_work)

    async def test_there_is_a_database_at_any_moment_of_a_repair(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = world.store / "store.db"
        rename = os.rename

        def stop(source: str, target: str) -> None:
            if target == str(path):
                raise OSError(5, "killed")
            rename(source, target)

        monkeypatch.setattr(database, "_fault", lambda _: "damage")
        monkeypatch.setattr(os, "rename", stop)
        with pytest.raises(SandboxIoError, match="killed"):
            await world.check(repair=True)
        monkeypatch.undo()
        kept = lost(world)[0]
        assert path.samefile(world.store / "lost" / kept)
        assert (await world.check()).ok
        await world.use(world.both_work)

    @pytest.mark.parametrize("late", [False, True], ids=["looked at", "copied"])
    async def test_what_the_disk_or_a_lock_refuses_is_no_damage(
        self, world: World, monkeypatch: pytest.MonkeyPatch, late: bool
    ) -> None:
        path = world.store / "store.db"
        path.rename(world.store / "aside")
        path.mkdir()  # what can be opened, and not be read
        if late:
            monkeypatch.setattr(database, "_fault", lambda _: "damage")
        with pytest.raises(SandboxIoError, match=r"store\.db cannot be read: .*; try again"):
            await world.check(repair=True)
        assert lost(world) == []
        path.rmdir()
        (world.store / "aside").rename(path)
        monkeypatch.undo()
        assert (await world.check()).ok

    async def test_what_is_no_database_at_all_leaves_the_files(self, world: World) -> None:
        await world.use(world.end)
        directory = world.store / "sessions" / ("0" * 16)
        (directory / "workspace").mkdir(parents=True)
        (directory / "workspace" / "file").write_text("kept")
        (world.store / "store.db").write_bytes(b"this is no database" * 1000)
        assert await world.found() == ["database"]
        damages = (await world.check(repair=True)).damages
        assert [damage.id for damage in damages] == ["database", "directory", "layer"]
        assert (world.store / "lost" / f"session-{'0' * 16}" / "workspace" / "file").read_text() == "kept"
        assert (world.store / "lost" / f"layer-{world.layer}" / "workspace" / "file").read_text() == "mine\n"
        assert (await world.check()).ok


@pytest.mark.user
class TestPlaces:
    async def test_modes(self, world: World) -> None:
        for name in ("sessions", "layers"):
            (world.store / name).chmod(0o755)
        await world.repaired("modes", "modes")
        assert (world.store / "layers").stat().st_mode & 0o777 == 0o700

    async def test_the_mode_of_the_store_itself(self, world: World) -> None:
        world.store.chmod(0o750)
        (damage,) = (await world.check()).damages
        assert (damage.id, damage.done) == ("modes", "mode 0700")
        assert (await world.check()).ok

    async def test_leftovers(self, world: World) -> None:
        (world.store / f"host-{'0' * 8}-0000-0000-0000-{'0' * 12}").write_text("of an earlier boot")
        (world.store / "disks" / "64.ext4.0123abcd").write_text("half made")
        (world.store / "doctor-0123456789ab" / "sessions").mkdir(parents=True)
        (world.store / "somebodys-notes").write_text("no business of ours")
        await world.repaired("leftover", "leftover", "leftover")
        assert (world.store / "somebodys-notes").read_text() == "no business of ours"
        await world.use(world.both_work)


@pytest.mark.user
class TestSessions:
    async def test_a_row_that_cannot_be_read_goes_with_its_files_to_lost(self, world: World) -> None:
        await world.use(lambda backend: backend.terminate(world.second))
        world.sql(
            "INSERT INTO sessions SELECT 'broken', ?, NULL, spec, ?, created, NULL FROM sessions LIMIT 1",
            "k" * 16,
            b"{{",
        )
        (world.store / "sessions" / ("k" * 16)).mkdir()
        (world.store / "sessions" / ("k" * 16) / "file").write_text("kept")
        assert await world.found() == ["row"]
        await world.repaired("row")
        kept = json.loads((world.store / "lost" / f"session-{'k' * 16}.row").read_text())
        assert kept["id"] == "broken"
        assert (world.store / "lost" / f"session-{'k' * 16}" / "file").read_text() == "kept"

    async def test_a_row_that_cannot_be_read_of_one_that_runs_stays(self, world: World) -> None:
        record = world.row(world.first, "record")
        world.sql("UPDATE sessions SET record = ? WHERE id = ?", b"{{", world.first)
        (warden,) = outside.called("alcove-warden", world.key)
        for repair in (False, True):
            (damage,) = (await world.check(repair=repair)).damages
            assert (damage.id, damage.done, damage.remedy) == ("row", "", f"kill {warden}, then check again")
            assert f"processes of it run: {warden}" in damage.fact
        assert lost(world) == []
        world.sql("UPDATE sessions SET record = ? WHERE id = ?", record, world.first)
        await world.use(world.both_work)

    async def test_a_row_is_put_aside_again_after_a_kill(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        world.sql(
            "INSERT INTO sessions SELECT 'broken', ?, NULL, spec, ?, created, NULL FROM sessions LIMIT 1",
            "k" * 16,
            b"{{",
        )
        (world.store / "sessions" / ("k" * 16)).mkdir()

        def stop(*_: object) -> None:
            raise OSError(5, "killed")

        monkeypatch.setattr(os, "rename", stop)
        with pytest.raises(SandboxIoError, match="killed"):
            await world.check(repair=True)
        monkeypatch.undo()
        await world.repaired("row")
        assert lost(world) == [f"session-{'k' * 16}", f"session-{'k' * 16}.row", f"session-{'k' * 16}.row.1"]

    async def test_files_in_the_place_of_directories_are_kept(self, world: World) -> None:
        names = [f"{place}/{name}" for place in ("sessions", "layers") for name in ("note", "note.ending")]
        for name in names:
            (world.store / name).write_text(name)
        await world.repaired("directory", "directory", "layer", "layer")
        assert sorted((world.store / "lost" / name).read_text() for name in lost(world)) == sorted(names)
        await world.use(world.both_work)

    async def test_one_that_is_just_being_made_is_no_damage(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Made in between, whichever is read first; what was ended in between is not there any more."""
        store = Store(str(world.store))
        patient = Patient(store, fsck._sessions(world.config, store), repair=False)
        columns = "'made', 'made', NULL, spec, record, created, NULL"
        read, listdir = store.sessions, os.listdir
        done: list[str] = []

        def make(now: str) -> None:
            if done:
                return
            done.append(now)
            world.sql(f"INSERT INTO sessions SELECT {columns} FROM sessions LIMIT 1")
            (world.store / "sessions" / "made").mkdir()

        def sessions_then_made() -> list[Row]:
            rows = read()
            make("rows")
            return rows

        def listed_then_made(path: str) -> list[str]:
            names = listdir(path)
            if path.endswith("/sessions"):
                make("directories")
            return names

        for name, place, function in (("sessions", store, sessions_then_made), ("listdir", os, listed_then_made)):
            with monkeypatch.context() as patch:
                patch.setattr(place, name, function)
                assert list(sessions.check_directories(patient)) == []
            assert done.pop()
            world.sql("DELETE FROM sessions WHERE id = 'made'")
            (world.store / "sessions" / "made").rmdir()
        store.close()

    async def test_a_directory_without_a_row_is_kept(self, world: World) -> None:
        directory = world.store / "sessions" / ("a" * 16)
        (directory / "workspace").mkdir(parents=True)
        (directory / "workspace" / "file").write_text("kept")
        await world.repaired("directory")
        assert (world.store / "lost" / f"session-{'a' * 16}" / "workspace" / "file").read_text() == "kept"

    async def test_what_lies_below_it_is_kept_with_it(self, world: World) -> None:
        async def stop(backend: LocalSandbox) -> None:
            await Cell(backend, backend.session(world.second)).out("echo mine >more")
            await backend._sessions.suspension.rest(backend._sessions.live(world.second))
            await backend.terminate(world.first)

        await world.use(stop)
        world.sql("DELETE FROM sessions WHERE id = ?", world.second)
        world.sql("DELETE FROM uses WHERE owner LIKE 'snapshot %'")
        world.sql("DELETE FROM snapshots")
        await world.repaired("directory")
        assert (world.store / "lost" / f"session-{world.other}" / "workspace" / "more").read_text() == "mine\n"
        assert (world.store / "layers" / world.layer / "workspace" / "file").read_text() == "mine\n"
        remove_tree(str(world.store / "lost"))
        assert [damage.id for damage in (await world.check(repair=True)).damages] == ["uses", "unused"]
        assert list((world.store / "layers").iterdir()) == []

    async def test_one_whose_processes_run_is_left_where_it_is(self, world: World) -> None:
        row = world.sql("SELECT * FROM sessions WHERE id = ?", world.first)[0]
        world.sql("DELETE FROM sessions WHERE id = ?", world.first)
        (damage,) = (damage for damage in (await world.check(repair=True)).damages if damage.id == "directory")
        (warden,) = outside.called("alcove-warden", world.key)
        assert (damage.done, damage.remedy) == ("", f"kill {warden}, then check again")
        assert (world.store / "sessions" / world.key).is_dir()
        world.sql(f"INSERT INTO sessions VALUES ({', '.join('?' * len(row))})", *row)
        assert await world.found() == []

    async def test_a_session_without_its_directory_and_one_half_made(self, world: World) -> None:
        async def stop(backend: LocalSandbox) -> None:
            await backend._sessions.suspension.rest(backend._sessions.live(world.second))

        await world.use(stop)
        remove_tree(str(world.store / "sessions" / world.other))
        world.sql(
            "INSERT INTO sessions SELECT 'half', ?, NULL, spec, ?, created, NULL FROM sessions LIMIT 1",
            "b" * 16,
            json.dumps({"maker": {"pid": 1, "started": 1}}).encode(),
        )
        await world.repaired("unmade", "unmade")

        async def ended(backend: LocalSandbox) -> None:
            states = {str(session.id): session.state for session in backend.sessions(ended=True)}
            assert states[world.second] is states["half"] is SandboxState.TERMINATED
            assert states[world.first] is SandboxState.RUNNING

        await world.use(ended)

    async def test_what_is_left_of_ended_ones(self, world: World) -> None:
        for place in (f"sessions/{'c' * 16}.ending", "layers/0123456789.ending"):
            (world.store / place / "deep").mkdir(parents=True)
        await world.repaired("ending", "ending")
        await world.use(world.both_work)

    async def test_a_snapshot_that_was_not_finished(self, world: World) -> None:
        async def stop(backend: LocalSandbox) -> None:
            cell = Cell(backend, backend.session(world.first))
            await cell.out("echo new >new")
            await backend._sessions.suspension.rest(backend._sessions.live(world.first))

        await world.use(stop)
        layer = world.store / "layers" / "feedfeed00"
        layer.mkdir()
        (world.store / "sessions" / world.key / "workspace").rename(layer / "workspace")
        world.change_record(world.first, sealing="feedfeed00")
        await world.repaired("sealing")

        async def whole(backend: LocalSandbox) -> None:
            assert await Cell(backend, backend.session(world.first)).out("cat new file") == "new\nmine\n"

        await world.use(whole)

    async def test_what_was_on_its_way_into_one_is_kept_where_there_is_something_else(self, world: World) -> None:
        def stop(backend: LocalSandbox) -> Awaitable[object]:
            return backend._sessions.suspension.rest(backend._sessions.live(world.first))

        await world.use(stop)
        (world.store / "layers" / "feedfeed00" / "workspace").mkdir(parents=True)
        (world.store / "layers" / "feedfeed00" / "workspace" / "file").write_text("the only one")
        (world.store / "sessions" / world.key / "workspace" / "later").write_text("x")
        world.change_record(world.first, sealing="feedfeed00")
        (damage,) = await world.repaired("sealing")
        assert damage.done.endswith("moved to lost/layer-feedfeed00")
        assert (world.store / "lost" / "layer-feedfeed00" / "workspace" / "file").read_text() == "the only one"

    async def test_a_range_of_ids_of_an_ended_session(self, world: World) -> None:
        await world.use(lambda backend: backend.terminate(world.second))
        world.sql("UPDATE sessions SET slot = 77 WHERE id = ?", world.second)
        await world.repaired("slot")
        assert world.row(world.second, "slot") is None


@pytest.mark.user
class TestLayers:
    async def test_a_directory_without_a_row_is_kept(self, world: World) -> None:
        (world.store / "layers" / "abcdef0123" / "workspace").mkdir(parents=True)
        (world.store / "layers" / "abcdef0123" / "workspace" / "file").write_text("kept")
        await world.repaired("layer")
        assert (world.store / "lost" / "layer-abcdef0123" / "workspace" / "file").read_text() == "kept"

    async def strays(self, world: World) -> Path:
        """Leave what a power cut leaves of a snapshot: the renames, and nothing in the database."""

        async def stop(backend: LocalSandbox) -> None:
            await Cell(backend, backend.session(world.first)).out("echo new >new")
            await backend._sessions.suspension.rest(backend._sessions.live(world.first))

        await world.use(stop)
        layer = world.store / "layers" / "feedfeed00"
        layer.mkdir()
        os.setxattr(layer, OWNER, world.key.encode())
        (world.store / "sessions" / world.key / "workspace").rename(layer / "workspace")
        return layer

    async def test_a_sessions_only_copy_of_its_files_goes_back_to_it(self, world: World) -> None:
        layer = await self.strays(world)
        (damage,) = await world.repaired("layer")
        assert (damage.done, world.first in damage.fact) == ("given back to it", True)
        assert not layer.exists()

        async def whole(backend: LocalSandbox) -> None:
            assert await Cell(backend, backend.session(world.first)).out("cat new file") == "new\nmine\n"

        await world.use(whole)

    async def test_where_it_cannot_go_back_it_is_kept(self, world: World) -> None:
        await self.strays(world)
        (world.store / "sessions" / world.key / "workspace").mkdir()
        (world.store / "sessions" / world.key / "workspace" / "later").write_text("x")
        (damage,) = await world.repaired("layer")
        assert damage.done.startswith("moved to lost/layer-feedfeed00")
        assert (world.store / "lost" / "layer-feedfeed00" / "workspace" / "new").read_text() == "new\n"
        assert (world.store / "sessions" / world.key / "workspace" / "later").read_text() == "x"

    async def test_a_fork_that_goes_on_is_no_damage(self, world: World) -> None:
        me = os.getpid()
        name = passing_name(me, processes.start_time(me) or 0)
        columns = "'passing', ?, session, parent, root, set_id, layers, created"
        world.sql(f"INSERT INTO snapshots SELECT {columns} FROM snapshots", name)
        world.sql("INSERT INTO uses VALUES ('snapshot passing', ?)", world.layer)
        assert await world.found() == []
        world.sql("DELETE FROM uses WHERE owner = 'snapshot passing'")
        assert await world.found() == ["uses"], "it counts as a user"
        world.sql("DELETE FROM snapshots WHERE id = 'passing'")

    async def test_one_that_is_being_made_is_let_be(self, world: World) -> None:
        directory = world.store / "layers" / "abcdef0123"
        directory.mkdir()
        with locked(directory):
            assert await world.found() == []
            assert (await world.check(repair=True)).ok
        assert await world.found() == ["layer"]
        directory.rmdir()

    async def test_a_lost_layer_is_told_and_nothing_else_is_lost(self, world: World) -> None:
        aside = world.store.parent / "aside"
        (world.store / "layers" / world.layer).rename(aside)
        for repair in (False, True):
            (damage,) = (await world.check(repair=repair)).damages
            assert (damage.id, damage.done) == ("lost", "")
            assert damage.remedy == f"alcove snapshots rm {world.snapshot}"
        aside.rename(world.store / "layers" / world.layer)
        await world.use(world.both_work)

    async def test_the_row_of_a_lost_layer_that_nobody_uses(self, world: World) -> None:
        world.sql("INSERT INTO layers (key, parts) VALUES ('0000000000', 'workspace')")
        assert await world.found() == ["lost", "unused"]
        assert [damage.done for damage in (await world.check(repair=True)).damages] == ["forgotten: nobody uses it"]
        assert (await world.check()).ok

    async def test_uses_that_are_not_written_down_keep_a_layer_from_being_collected(self, world: World) -> None:
        world.sql("DELETE FROM uses")
        assert await world.found() == ["uses", "uses", "uses", "unused"]
        damages = (await world.check(repair=True)).damages
        assert [damage.done for damage in damages] == ["written down"] * 3
        assert (await world.check()).ok
        await world.use(world.both_work)

    async def test_a_user_that_is_gone_but_not_an_export_that_goes_on(self, world: World) -> None:
        me = os.getpid()
        world.sql("INSERT INTO uses VALUES (?, ?)", f"export {me}-{processes.start_time(me)}-0", world.layer)
        assert await world.found() == []
        world.sql("DELETE FROM uses WHERE owner LIKE 'export %'")
        world.sql("INSERT INTO uses VALUES (?, ?)", f"export {me}-1-0", world.layer)
        await world.repaired("uses")
        await world.use(world.both_work)

    async def test_a_layer_that_only_a_gone_snapshot_used_is_collected(self, world: World) -> None:
        directory = world.store / "layers" / "1111111111"
        (directory / "workspace").mkdir(parents=True)
        world.sql("INSERT INTO layers (key, parts) VALUES ('1111111111', 'workspace')")
        world.sql("INSERT INTO uses VALUES ('snapshot gone', '1111111111')")
        assert await world.found() == ["uses"]
        assert [damage.id for damage in (await world.check(repair=True)).damages] == ["uses", "unused"]
        assert not directory.exists()
        assert (await world.check()).ok

    async def test_a_changed_layer_is_found_by_its_digest(self, world: World) -> None:
        store = Store(str(world.store))
        await Upkeep(store).run()
        store.close()
        file = world.store / "layers" / world.layer / "workspace" / "file"
        assert (await world.check(verify=True)).ok
        content = file.read_text()
        file.write_text("evil\n")
        assert (await world.check()).ok, "only reading it tells"
        for repair in (False, True):
            (damage,) = (await world.check(verify=True, repair=repair)).damages
            assert (damage.id, damage.what, damage.done) == ("changed", f"layer {world.layer}", "")
            assert damage.remedy == f"alcove snapshots rm {world.snapshot}"
        file.write_text(content)
        assert (await world.check(verify=True)).ok


@pytest.mark.root
async def test_a_group_of_an_ended_session_goes_with_its_processes(world: World) -> None:
    await world.use(lambda backend: backend.terminate(world.second))
    group = groups(world.key)[0].parent / f"alcove-{world.other}"
    group.mkdir()
    await world.repaired("group")
    assert not group.exists()


def groups(key: str) -> list[Path]:
    return [Path(where) for where, _, _ in os.walk("/sys/fs/cgroup") if where.endswith(f"/alcove-{key}")]


def test_a_damaged_database_is_told_with_the_next_step(tmp_path: Path) -> None:
    Store(str(tmp_path)).close()
    with open(tmp_path / "store.db", "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (os.path.getsize(tmp_path / "store.db") - 4096))
    store = Store(str(tmp_path))
    with pytest.raises(SandboxIoError, match="`alcove doctor --store` tells"):
        store.sessions()
    store.close()
