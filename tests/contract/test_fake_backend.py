"""The fake passes the suite, as it is and with less promised; it is scripted; and it never claims to isolate."""

import asyncio

import pytest

from alcove.contract import (
    ExecRequest,
    ExecResult,
    FilesystemAccess,
    FilesystemMount,
    InvalidRequest,
    Limited,
    SandboxCapabilities,
    SandboxSpec,
    Unrestricted,
    Unsupported,
)
from alcove.testing import ContractCases, FakeBackend


class TestFakeBackend(ContractCases):
    @pytest.fixture
    def backend(self) -> FakeBackend:
        return FakeBackend()


class TestFakeBackendOfNoCapability(ContractCases):
    @pytest.fixture
    def backend(self) -> FakeBackend:
        return FakeBackend(capabilities=SandboxCapabilities())


async def test_it_says_that_it_isolates_nothing() -> None:
    backend = FakeBackend()
    assert backend.capabilities().local_process_sandbox is False
    session = await backend.provision(SandboxSpec())
    assert session.metadata["isolation"] == "none"


@pytest.mark.parametrize("promise", ["local_process_sandbox", "network_policy", "suspend_on_idle"])
def test_it_cannot_be_made_to_promise_enforcement(promise: str) -> None:
    with pytest.raises(InvalidRequest, match="a fake enforces nothing"):
        FakeBackend(capabilities=SandboxCapabilities(**{promise: True}))


async def test_a_handler_answers_for_its_command() -> None:
    async def slow(request: ExecRequest) -> ExecResult:
        await asyncio.sleep(0)
        return ExecResult(stdout=request.args[0], exit_code=3)

    backend = FakeBackend({"git": slow, "echo": lambda _: ExecResult("mine"), "*": lambda _: ExecResult("any")})
    session = await backend.provision(SandboxSpec())
    request = ExecRequest("git", ["status"])
    assert await backend.exec(session.id, request) == ExecResult("status", exit_code=3)
    assert (await backend.exec(session.id, ExecRequest("echo"))).stdout == "mine"
    assert (await backend.exec(session.id, ExecRequest("make"))).stdout == "any"
    assert (await backend.exec(session.id, ExecRequest("false"))).exit_code == 1
    assert backend.execs[0] == (session.id, request)
    assert len(backend.execs) == 4


async def test_a_timeout_stops_a_handler() -> None:
    async def endless(_: ExecRequest) -> ExecResult:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    backend = FakeBackend({"make": endless})
    session = await backend.provision(SandboxSpec())
    result = await backend.exec(session.id, ExecRequest("make", timeout=0.01))
    assert (result.timed_out, result.exit_code) == (True, -1)


async def test_contents_are_seen_and_given() -> None:
    backend = FakeBackend()
    session = await backend.provision(SandboxSpec())
    backend.contents(session.id)["/workspace/in"] = b"given"
    assert (await backend.exec(session.id, ExecRequest("cat", ["in"]))).stdout == "given"
    await backend.exec(session.id, ExecRequest("tee", ["out"], stdin="made"))
    assert backend.contents(session.id)["/workspace/out"] == b"made"


async def test_an_image_is_unsupported_and_an_unknown_snapshot_invalid() -> None:
    backend = FakeBackend()
    with pytest.raises(Unsupported):
        await backend.provision(SandboxSpec(rootfs="image:debian"))
    with pytest.raises(InvalidRequest, match="no snapshot `none`"):
        await backend.provision(SandboxSpec(rootfs="snapshot:none"))


async def test_snapshots_have_names_and_parents() -> None:
    backend = FakeBackend()
    session = await backend.provision(SandboxSpec())
    backend.contents(session.id)["/workspace/note"] = b"kept"
    base = await backend.snapshot(session.id, name="base")
    assert (base.metadata["name"], base.metadata["bytes"], base.metadata["files"]) == ("base", "4", "1")
    with pytest.raises(InvalidRequest, match="has the name `base` already"):
        await backend.snapshot(session.id, name="base")
    with pytest.raises(InvalidRequest, match="snapshot name"):
        await backend.snapshot(session.id, name="a b")
    copy = await backend.provision(SandboxSpec(rootfs="snapshot:base"))
    assert backend.contents(copy.id) == {"/workspace/note": b"kept"}
    assert (await backend.snapshot(copy.id)).metadata["parent"] == base.snapshot_id
    fork = await backend.fork(copy.id)
    assert (await backend.snapshot(fork.id)).metadata["parent"] == copy.id
    assert "name" not in backend.name_snapshot("base", None).metadata
    assert backend.name_snapshot(base.snapshot_id, "better").metadata["name"] == "better"
    with pytest.raises(InvalidRequest, match="no snapshot `base`"):
        backend.name_snapshot("base", "x")


async def test_a_snapshot_has_nothing_of_mounts() -> None:
    backend = FakeBackend()
    mounts = [FilesystemMount("", "/data", FilesystemAccess.READ_WRITE)]
    session = await backend.provision(SandboxSpec(mounts=mounts))
    for path in ("/data/mounted", "/mnt/memory/remembered", "/mnt/session/outputs/out", "/tmp/own"):
        backend.contents(session.id)[path] = b"x"
    snapshot = await backend.snapshot(session.id)
    copy = await backend.provision(SandboxSpec(rootfs=f"snapshot:{snapshot.snapshot_id}"))
    assert set(backend.contents(copy.id)) == {"/mnt/session/outputs/out", "/tmp/own"}
    fork = await backend.fork(session.id)
    assert (fork.mounts, set(backend.contents(fork.id))) == (session.mounts, set(backend.contents(copy.id)))


async def test_a_fork_has_the_policy_of_now() -> None:
    backend = FakeBackend()
    session = await backend.provision(SandboxSpec(network_policy=Unrestricted()))
    await backend.apply_network_policy(session.id, Limited())
    assert backend.fork_spec(session.id).network_policy == Limited()


async def test_programs_complain_as_programs_do() -> None:
    backend = FakeBackend()
    session = await backend.provision(SandboxSpec(mounts=[FilesystemMount("", "/ro", FilesystemAccess.READ_ONLY)]))

    async def complaint(command: str, *args: str) -> str:
        result = await backend.exec(session.id, ExecRequest(command, args))
        assert result.exit_code == 1
        return result.stderr

    assert await complaint("cat", "/tmp") == "cat: /tmp: Is a directory\n"
    assert await complaint("tee", "/tmp") == "tee: /tmp: Is a directory\n"
    assert await complaint("tee", "/ro/a") == "tee: /ro/a: Read-only file system\n"
    assert await complaint("tee", "/none/a") == "tee: /none/a: No such file or directory\n"
    assert await complaint("mkdir", "/tmp") == "mkdir: /tmp: File exists\n"
    assert await complaint("mkdir", "/ro/a") == "mkdir: /ro/a: Read-only file system\n"
    assert await complaint("sleep", "soon") != ""
    await backend.exec(session.id, ExecRequest("tee", ["file"]))
    assert await complaint("tee", "file/under") == "tee: file/under: Not a directory\n"
