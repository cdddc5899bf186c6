# ruff: noqa: S101 - a suite of tests, though it is installed
"""Cases of a session's life: made, named, limited to a policy, ended."""

import secrets
from collections.abc import Awaitable, Callable

import pytest

from alcove.contract.codec import from_json, to_json
from alcove.contract.errors import InvalidRequest, SandboxError, SessionNotFound, Unsupported
from alcove.contract.protocol import SandboxBackend
from alcove.contract.types import (
    ExecRequest,
    FilesystemMount,
    Limited,
    ResourceLimits,
    SandboxCapabilities,
    SandboxSession,
    SandboxSpec,
    SandboxState,
    Unrestricted,
)
from alcove.testing.cases import Cases

LIVE = {SandboxState.PROVISIONED, SandboxState.RUNNING}


class LifecycleCases(Cases):
    """What holds of a session whatever is run in it."""

    async def test_is_a_backend(self, backend: SandboxBackend) -> None:
        assert isinstance(backend, SandboxBackend)
        assert backend.name
        assert isinstance(backend.capabilities(), SandboxCapabilities)

    async def test_provision_tells_the_session(self, backend: SandboxBackend) -> None:
        async with self.live(backend, SandboxSpec(labels={"team": "a", "run": "7"})) as session:
            assert session.id
            assert session.backend == backend.name
            assert session.state in LIVE
            assert session.labels == {"team": "a", "run": "7"}
            assert {"isolation", "network", "limits"} <= session.metadata.keys()

    async def test_a_session_survives_the_wire(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            assert from_json(to_json(session), SandboxSession, strict=True) == session

    async def test_ids_are_minted_apart(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as one, self.live(backend) as other:
            assert one.id != other.id

    async def test_a_given_id_is_kept(self, backend: SandboxBackend) -> None:
        session_id = _new_id()
        async with self.live(backend, SandboxSpec(session_id)) as session:
            assert session.id == session_id

    async def test_an_id_in_use_is_refused(self, backend: SandboxBackend) -> None:
        spec = SandboxSpec(_new_id())
        async with self.live(backend, spec):
            with pytest.raises(InvalidRequest):
                await backend.provision(spec)

    async def test_an_ended_id_is_not_given_again(self, backend: SandboxBackend) -> None:
        spec = SandboxSpec(_new_id())
        async with self.live(backend, spec):
            pass
        with pytest.raises(InvalidRequest):
            await backend.provision(spec)

    @pytest.mark.parametrize("session_id", ["../up", ".hidden", "-dash", "a/b", "a b", "é", "a\n", "a\0b", "a" * 129])
    async def test_an_id_out_of_pattern_is_refused(self, backend: SandboxBackend, session_id: str) -> None:
        with pytest.raises(InvalidRequest):
            await backend.provision(SandboxSpec(session_id))

    @pytest.mark.parametrize(
        "spec",
        [
            SandboxSpec(limits=ResourceLimits(cpu_count=0)),
            SandboxSpec(limits=ResourceLimits(memory_mb=0)),
            SandboxSpec(rootfs="elsewhere"),
            SandboxSpec(labels={" ": "x"}),
        ],
        ids=["no cpu", "no memory", "rootfs", "label"],
    )
    async def test_a_spec_that_breaks_a_rule_is_refused(self, backend: SandboxBackend, spec: SandboxSpec) -> None:
        with pytest.raises(InvalidRequest):
            await backend.provision(spec)

    async def test_an_unknown_id_is_not_found(self, backend: SandboxBackend) -> None:
        for call in _calls(backend, "contract-nobody"):
            with pytest.raises((SessionNotFound, *_refusals(backend, call))) as caught:
                await call()
            if isinstance(caught.value, SessionNotFound):
                assert str(caught.value) == "sandbox session `contract-nobody` was not found"

    @pytest.mark.parametrize("session_id", ["", " ", "\t\n"])
    async def test_a_blank_id_is_refused(self, backend: SandboxBackend, session_id: str) -> None:
        for call in _calls(backend, session_id):
            with pytest.raises((InvalidRequest, *_refusals(backend, call))) as caught:
                await call()
            if isinstance(caught.value, InvalidRequest):
                assert str(caught.value) == "sandbox request was invalid: session id cannot be empty"

    async def test_terminate_again_returns(self, backend: SandboxBackend) -> None:
        session = await backend.provision(SandboxSpec())
        await backend.terminate(session.id)
        await backend.terminate(session.id)
        await backend.terminate(str(session.id))

    async def test_an_ended_session_is_not_found(self, backend: SandboxBackend) -> None:
        session = await backend.provision(SandboxSpec())
        await backend.terminate(session.id)
        with pytest.raises(SessionNotFound):
            await backend.exec(session.id, ExecRequest("true"))
        with pytest.raises(SessionNotFound):
            await backend.attach_filesystem(session.id, FilesystemMount("", "/data"))

    async def test_deny_all_is_a_policy(self, backend: SandboxBackend) -> None:
        async with self.live(backend, SandboxSpec(network_policy=Limited())) as session:
            assert (await backend.apply_network_policy(session.id, Limited())).id == session.id
            assert (await self.run(backend, session, "true")).success

    async def test_a_policy_can_be_changed(self, backend: SandboxBackend) -> None:
        async with self.live(backend, SandboxSpec(network_policy=Unrestricted())) as session:
            for policy in (Limited(), Unrestricted()):
                told = await backend.apply_network_policy(session.id, policy)
                assert (told.id, told.backend) == (session.id, backend.name)
                assert told.state in LIVE
                assert (await self.run(backend, session, "true")).success

    async def test_an_allow_list_is_honoured_or_unsupported(self, backend: SandboxBackend) -> None:
        policy = Limited(["example.com"])
        async with self.live(backend, SandboxSpec(network_policy=Limited())) as session:
            if backend.capabilities().network_policy:
                assert (await backend.apply_network_policy(session.id, policy)).id == session.id
                return
            with pytest.raises(Unsupported) as live:
                await backend.apply_network_policy(session.id, policy)
            with pytest.raises(Unsupported) as at_start:
                await backend.provision(SandboxSpec(network_policy=policy))
            assert live.value.backend == at_start.value.backend == backend.name

    async def test_a_blank_host_is_refused(self, backend: SandboxBackend) -> None:
        with pytest.raises((InvalidRequest, Unsupported)):
            await backend.provision(SandboxSpec(network_policy=Limited([""])))

    async def test_resume_of_a_running_session_changes_nothing(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            if not backend.capabilities().resume:
                with pytest.raises(Unsupported):
                    await backend.resume(session.id)
                return
            told = await backend.resume(session.id)
            assert told.id == session.id
            assert told.state in LIVE


def _new_id() -> str:
    """Return an id that no earlier run of the suite took: a store outlives it, and remembers."""
    return f"Contract.case_{secrets.token_hex(6)}-a"


def _calls(backend: SandboxBackend, session_id: str) -> list[Callable[[], Awaitable[object]]]:
    def terminate() -> Awaitable[object]:
        return backend.terminate(session_id)

    def execute() -> Awaitable[object]:
        return backend.exec(session_id, ExecRequest("true"))

    def attach() -> Awaitable[object]:
        return backend.attach_filesystem(session_id, FilesystemMount("", "/data"))

    def apply() -> Awaitable[object]:
        return backend.apply_network_policy(session_id, Limited())

    def snapshot() -> Awaitable[object]:
        return backend.snapshot(session_id)

    def resume() -> Awaitable[object]:
        return backend.resume(session_id)

    return [terminate, execute, attach, apply, snapshot, resume]


def _refusals(backend: SandboxBackend, call: Callable[[], Awaitable[object]]) -> tuple[type[SandboxError], ...]:
    """Return what else a call may raise: one without the capability need not look at the id first."""
    promised = backend.capabilities()
    missing = {"snapshot": not promised.snapshot, "resume": not promised.resume}
    return (Unsupported,) if missing.get(call.__name__) else ()
