# ruff: noqa: S101 - a suite of tests, though it is installed
"""Cases of snapshots and forks, for a backend that promises them; one that does not has to say so."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from alcove.contract.codec import from_json, to_json
from alcove.contract.errors import InvalidRequest, SessionNotFound, Unsupported
from alcove.contract.protocol import Forks, KeepsSnapshots, SandboxBackend
from alcove.contract.types import (
    OUTPUTS_MOUNT,
    ExecRequest,
    ResourceLimits,
    SandboxSession,
    SandboxSnapshot,
    SandboxSpec,
)
from alcove.testing.cases import Cases

_AT_ONCE = 12
_TMP_NOTE = "/tmp/note"


class StateCases(Cases):
    """What a snapshot keeps, whatever becomes of the session; what a fork begins with, and that it is its own.

    Where `capabilities().snapshot` is false, the cases that take one snapshot ask for the refusal instead, and the
    others have nothing to look at. The guest needs tee, cat and rm.
    """

    async def test_a_snapshot_is_told(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session, self._snapshot(backend, session) as snapshot:
            if snapshot is None:
                return
            assert (snapshot.session_id, snapshot.backend) == (session.id, backend.name)
            assert snapshot.snapshot_id
            assert {"durable", "parent"} <= snapshot.metadata.keys()
            assert from_json(to_json(snapshot), SandboxSnapshot, strict=True) == snapshot

    async def test_a_snapshot_keeps_what_was(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            await self._write(backend, session, "kept", "note", _TMP_NOTE, f"{OUTPUTS_MOUNT}/note")
            async with self._snapshot(backend, session) as snapshot:
                if snapshot is None:
                    return
                await self._write(backend, session, "changed", "note", "new")
                assert (await self.run(backend, session, "rm", _TMP_NOTE)).success
                async with self._begun(backend, snapshot) as copy:
                    for path in ("note", _TMP_NOTE, f"{OUTPUTS_MOUNT}/note"):
                        assert await self._read(backend, copy, path) == "kept"
                    assert await self._read(backend, copy, "new") is None
                assert await self._read(backend, session, "note") == "changed"

    async def test_the_source_goes_on_as_before(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            await self._write(backend, session, "one", "note", "other")
            async with self._snapshot(backend, session) as snapshot:
                if snapshot is None:
                    return
                assert await self._read(backend, session, "note") == "one"
                async with self._begun(backend, snapshot) as copy:
                    await self._write(backend, copy, "two", "note")
                    assert (await self.run(backend, copy, "rm", "other")).success
                assert await self._read(backend, session, "note") == "one"
                assert await self._read(backend, session, "other") == "one"

    async def test_a_snapshot_outlives_its_session(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            await self._write(backend, session, "kept", "note")
            async with self._snapshot(backend, session) as snapshot:
                if snapshot is None:
                    return
                await backend.terminate(session.id)
                async with self._begun(backend, snapshot) as copy:
                    assert await self._read(backend, copy, "note") == "kept"

    async def test_each_session_of_a_snapshot_is_its_own(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            await self._write(backend, session, "kept", "note")
            async with self._snapshot(backend, session) as snapshot:
                if snapshot is None:
                    return
                spec = SandboxSpec(rootfs=f"snapshot:{snapshot.snapshot_id}")
                made = await asyncio.gather(*(backend.provision(spec) for _ in range(_AT_ONCE)))
                try:
                    await self._differ(backend, made)
                finally:
                    await asyncio.gather(*(backend.terminate(one.id) for one in made))

    async def test_a_chain_of_snapshots(self, backend: SandboxBackend) -> None:
        """What each one deleted stays deleted in all that follow."""
        async with self.live(backend) as session:
            names = [f"file-{number}" for number in range(4)]
            await self._write(backend, session, "first", *names)
            taken: list[SandboxSnapshot] = []
            for number, name in enumerate(names):
                assert (await self.run(backend, session, "rm", name)).success
                await self._write(backend, session, f"in {number}", "last")
                if not backend.capabilities().snapshot:
                    return
                taken.append(await backend.snapshot(session.id))
            try:
                for number, snapshot in enumerate(taken):
                    async with self._begun(backend, snapshot) as copy:
                        found = [await self._read(backend, copy, name) for name in names]
                        assert found == [None] * (number + 1) + ["first"] * (3 - number)
                        assert await self._read(backend, copy, "last") == f"in {number}"
                assert [one.metadata["parent"] for one in taken] == ["", *(one.snapshot_id for one in taken[:-1])]
            finally:
                for snapshot in taken:
                    await _delete(backend, snapshot)

    async def test_snapshots_are_listed_and_deleted(self, backend: SandboxBackend) -> None:
        if not isinstance(backend, KeepsSnapshots) or not backend.capabilities().snapshot:
            return
        async with self.live(backend) as session:
            await self._write(backend, session, "kept", "note")
            before = backend.snapshots()
            one, other = await backend.snapshot(session.id), await backend.snapshot(session.id)
            assert [found.snapshot_id for found in backend.snapshots()[len(before) :]] == [
                one.snapshot_id,
                other.snapshot_id,
            ]
            async with self._begun(backend, one) as copy:
                await backend.delete_snapshot(one.snapshot_id)
                # what lives on it lives on
                assert await self._read(backend, copy, "note") == "kept"
                with pytest.raises(InvalidRequest):
                    await backend.provision(SandboxSpec(rootfs=f"snapshot:{one.snapshot_id}"))
                with pytest.raises(InvalidRequest):
                    await backend.delete_snapshot(one.snapshot_id)
            async with self._begun(backend, other) as copy:
                assert await self._read(backend, copy, "note") == "kept"
            await backend.delete_snapshot(other.snapshot_id)
            assert backend.snapshots() == before

    async def test_a_snapshot_that_is_not_there(self, backend: SandboxBackend) -> None:
        for reference in ("snap-nobody", "../snapshot", "a'b", "%"):
            with pytest.raises((InvalidRequest, Unsupported)):
                await backend.provision(SandboxSpec(rootfs=f"snapshot:{reference}"))
            if isinstance(backend, KeepsSnapshots):
                with pytest.raises((InvalidRequest, Unsupported)):
                    await backend.delete_snapshot(reference)

    async def test_an_ended_session_has_no_snapshot(self, backend: SandboxBackend) -> None:
        session = await backend.provision(SandboxSpec())
        await backend.terminate(session.id)
        refusals = (SessionNotFound,) if backend.capabilities().snapshot else (SessionNotFound, Unsupported)
        with pytest.raises(refusals):
            await backend.snapshot(session.id)
        if isinstance(backend, Forks):
            with pytest.raises(refusals):
                await backend.fork(session.id)

    # Forks

    async def test_a_fork_begins_with_its_sessions_files(self, backend: SandboxBackend) -> None:
        spec = SandboxSpec(labels={"team": "a"}, limits=ResourceLimits(wall_time=30))
        async with self.live(backend, spec) as session:
            await self._write(backend, session, "kept", "note", "gone")
            assert (await self.run(backend, session, "rm", "gone")).success
            async with self._forked(backend, session) as fork:
                if fork is None:
                    return
                assert fork.id != session.id
                assert fork.labels == {"team": "a"}
                assert await self._read(backend, fork, "note") == "kept"
                assert await self._read(backend, fork, "gone") is None
                await self._write(backend, fork, "changed", "note", "gone")
                assert await self._read(backend, session, "note") == "kept"
                assert await self._read(backend, session, "gone") is None

    async def test_a_fork_is_as_its_spec_says(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            if not isinstance(backend, Forks) or not backend.capabilities().snapshot:
                return
            await self._write(backend, session, "kept", "note")
            spec = backend.fork_spec(session.id)
            assert (spec.session_id, spec.rootfs) == (None, "host")
            wanted = f"Contract.fork_{secrets.token_hex(6)}"
            fork = await backend.fork(session.id, SandboxSpec(wanted, {"why": "mine"}))
            try:
                assert (fork.id, fork.labels) == (wanted, {"why": "mine"})
                assert await self._read(backend, fork, "note") == "kept"
                with pytest.raises(InvalidRequest):
                    await backend.fork(session.id, SandboxSpec(wanted))
                with pytest.raises(InvalidRequest):
                    await backend.fork(session.id, SandboxSpec(rootfs="snapshot:other"))
            finally:
                await backend.terminate(fork.id)
            assert await self._read(backend, session, "note") == "kept"

    async def test_a_fork_of_a_fork(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            await self._write(backend, session, "kept", "note", "second", "third")
            async with self._forked(backend, session) as fork:
                if fork is None:
                    return
                assert (await self.run(backend, fork, "rm", "second")).success
                async with self._forked(backend, fork) as second:
                    assert second is not None
                    assert (await self.run(backend, second, "rm", "third")).success
                    await backend.terminate(session.id)
                    await backend.terminate(fork.id)
                    async with self._forked(backend, second) as third:
                        assert third is not None
                        found = [await self._read(backend, third, name) for name in ("note", "second", "third")]
                        assert found == ["kept", None, None]

    async def test_forks_at_once_are_each_their_own(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            if not isinstance(backend, Forks) or not backend.capabilities().snapshot:
                return
            await self._write(backend, session, "kept", "note")
            made = await asyncio.gather(*(backend.fork(session.id) for _ in range(_AT_ONCE)))
            try:
                await self._differ(backend, made)
            finally:
                await asyncio.gather(*(backend.terminate(one.id) for one in made))
            assert await self._read(backend, session, "note") == "kept"

    async def test_a_fork_leaves_no_snapshot(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            if not isinstance(backend, KeepsSnapshots):
                return
            before = backend.snapshots()
            async with self._forked(backend, session):
                assert backend.snapshots() == before

    async def _differ(self, backend: SandboxBackend, made: list[SandboxSession]) -> None:
        """Each begins with the same note, and what one writes no other sees."""
        assert len({one.id for one in made}) == len(made)
        found = await asyncio.gather(*(self._read(backend, one, "note") for one in made))
        assert found == ["kept"] * len(made)
        await asyncio.gather(*(self._write(backend, one, str(one.id), "note") for one in made))
        found = await asyncio.gather(*(self._read(backend, one, "note") for one in made))
        assert found == [str(one.id) for one in made]

    async def _write(self, backend: SandboxBackend, session: SandboxSession, text: str, *paths: str) -> None:
        assert (await backend.exec(session.id, ExecRequest("tee", paths, stdin=text, timeout=30))).success

    async def _read(self, backend: SandboxBackend, session: SandboxSession, path: str) -> str | None:
        result = await self.run(backend, session, "cat", path)
        return result.stdout if result.success else None

    @asynccontextmanager
    async def _snapshot(
        self, backend: SandboxBackend, session: SandboxSession
    ) -> AsyncIterator[SandboxSnapshot | None]:
        """Yield a snapshot, deleted at the end; or None where the backend refuses, as it has to then."""
        if not backend.capabilities().snapshot:
            with pytest.raises(Unsupported):
                await backend.snapshot(session.id)
            yield None
            return
        snapshot = await backend.snapshot(session.id)
        try:
            yield snapshot
        finally:
            await _delete(backend, snapshot)

    @asynccontextmanager
    async def _forked(self, backend: SandboxBackend, session: SandboxSession) -> AsyncIterator[SandboxSession | None]:
        """Yield a fork that ends with the block; or None where the backend has none."""
        if not isinstance(backend, Forks):
            yield None
            return
        if not backend.capabilities().snapshot:
            with pytest.raises(Unsupported):
                await backend.fork(session.id)
            yield None
            return
        fork = await backend.fork(session.id)
        try:
            yield fork
        finally:
            await backend.terminate(fork.id)

    def _begun(self, backend: SandboxBackend, snapshot: SandboxSnapshot) -> AbstractAsyncContextManager[SandboxSession]:
        return self.live(backend, SandboxSpec(rootfs=f"snapshot:{snapshot.snapshot_id}"))


async def _delete(backend: SandboxBackend, snapshot: SandboxSnapshot) -> None:
    if isinstance(backend, KeepsSnapshots):
        await backend.delete_snapshot(snapshot.snapshot_id)
