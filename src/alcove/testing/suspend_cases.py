# ruff: noqa: S101 - a suite of tests, though it is installed
"""Cases: sleep and waking, for backends that can."""

import pytest

from alcove.contract.errors import InvalidRequest, SessionNotFound, Unsupported
from alcove.contract.protocol import SandboxBackend, Suspends
from alcove.contract.types import ExecRequest, FilesystemMount, SandboxSpec, SandboxState
from alcove.testing.cases import Cases
from alcove.testing.lifecycle_cases import LIVE


class SuspendCases(Cases):
    """What holds of a session that sleeps; a backend without `suspend` passes them by having none."""

    async def test_suspend_comes_with_resume(self, backend: SandboxBackend) -> None:
        promised = backend.capabilities()
        assert promised.resume or not promised.suspend_on_idle
        if isinstance(backend, Suspends) and not promised.resume:
            async with self.live(backend) as session:
                with pytest.raises(Unsupported):
                    await backend.suspend(session.id)

    async def test_a_suspended_session_keeps_its_files_and_is_woken_by_the_next_exec(
        self, backend: SandboxBackend
    ) -> None:
        if not (isinstance(backend, Suspends) and backend.capabilities().resume):
            return
        async with self.live(backend) as session:
            await backend.exec(session.id, ExecRequest("tee", ["note"], stdin="kept"))
            told = await backend.suspend(session.id)
            assert (told.id, told.state) == (session.id, SandboxState.SUSPENDED)
            assert (await self.run(backend, session, "cat", "note")).stdout == "kept"
            assert (await backend.resume(session.id)).state in LIVE

    async def test_suspend_and_resume_again_change_nothing(self, backend: SandboxBackend) -> None:
        if not (isinstance(backend, Suspends) and backend.capabilities().resume):
            return
        async with self.live(backend) as session:
            asleep = [(await backend.suspend(session.id)).state for _ in range(2)]
            awake = [(await backend.resume(session.id)).state for _ in range(2)]
            assert asleep == [SandboxState.SUSPENDED] * 2
            assert LIVE.issuperset(awake)

    async def test_a_mount_wakes_a_suspended_session(self, backend: SandboxBackend) -> None:
        if not (isinstance(backend, Suspends) and backend.capabilities().resume):
            return
        async with self.live(backend) as session:
            await backend.suspend(session.id)
            assert (await backend.attach_filesystem(session.id, FilesystemMount("", "/data"))).state in LIVE
            await backend.suspend(session.id)
            assert "/data" in [mount.target for mount in (await backend.resume(session.id)).mounts]

    async def test_a_suspended_session_can_be_ended(self, backend: SandboxBackend) -> None:
        if not (isinstance(backend, Suspends) and backend.capabilities().resume):
            return
        session = await backend.provision(SandboxSpec())
        await backend.suspend(session.id)
        await backend.terminate(session.id)
        for call in (backend.suspend, backend.resume):
            with pytest.raises(SessionNotFound):
                await call(session.id)

    async def test_nobody_cannot_be_suspended(self, backend: SandboxBackend) -> None:
        if not (isinstance(backend, Suspends) and backend.capabilities().resume):
            return
        with pytest.raises(SessionNotFound):
            await backend.suspend("contract-nobody")
        with pytest.raises(InvalidRequest):
            await backend.suspend(" ")
