"""Snapshots and forks of the two sandbox classes, over real sessions."""

import asyncio
import gc
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from alcove import (
    AsyncSandbox,
    ExecRequest,
    FilesystemAccess,
    FilesystemMount,
    InvalidRequest,
    Limited,
    LocalSandbox,
    LocalSandboxConfig,
    Sandbox,
    SandboxSnapshot,
    SessionNotFound,
    Unrestricted,
    Unsupported,
)
from alcove.testing import FakeBackend
from tests.sandbox.store import ids

pytestmark = pytest.mark.user


@pytest.fixture
def config(config: LocalSandboxConfig, store: Path) -> LocalSandboxConfig:
    assert list((store / "layers").iterdir()) == []
    return config


def delete(config: LocalSandboxConfig, *snapshots: SandboxSnapshot) -> None:
    async def work() -> None:
        backend = LocalSandbox(config)
        for snapshot in snapshots:
            await backend.delete_snapshot(snapshot.snapshot_id)
        assert backend.snapshots() == []
        await backend.aclose()

    asyncio.run(work())


def test_a_snapshot_is_begun_with(config: LocalSandboxConfig) -> None:
    with Sandbox(config=config) as box:
        box.run("echo kept > note", check=True)
        base = box.snapshot("base")
        assert (base.session_id, base.metadata["name"]) == (box.session.id, "base")
        box.run("echo changed > note", check=True)
        unnamed = box.snapshot()
        with pytest.raises(InvalidRequest, match="has the name `base` already"):
            box.snapshot("base")
    for reference, note in (("base", "kept\n"), (base.snapshot_id, "kept\n"), (unnamed.snapshot_id, "changed\n")):
        with Sandbox(config=config, snapshot=reference) as box:
            assert box.run("cat note").stdout == note
    with pytest.raises(InvalidRequest, match="no snapshot `other`"), Sandbox(config=config, snapshot="other"):
        pass
    with pytest.raises(InvalidRequest, match="leave one out"):
        Sandbox(config=config, snapshot="base", rootfs="snapshot:base")
    delete(config, base, unnamed)


def test_a_fork_is_open_and_ends_with_its_own_context(config: LocalSandboxConfig) -> None:
    with Sandbox(config=config, labels={"a": "b"}, pids=70) as box:
        box.run("echo kept > note", check=True)
        with box.fork() as fork:
            assert isinstance(fork, Sandbox)
            assert repr(fork) == f"<Sandbox {fork.session.id}>"
            assert fork.session.labels == {"a": "b"}
            fork.run("echo changed > note", check=True)
            assert box.run("cat note").stdout == "kept\n"
            with fork.fork() as second:
                assert second.run("cat note").stdout == "changed\n"
            assert len(ids(config)) == 2
        assert ids(config) == [box.session.id]
        with pytest.raises(SessionNotFound):
            fork.run("true")
        with pytest.raises(SessionNotFound):
            fork.fork()


def test_a_fork_outlives_what_it_was_forked_from(config: LocalSandboxConfig) -> None:
    with Sandbox(config=config) as box:
        box.run("echo kept > note", check=True)
        fork = box.fork()
    assert ids(config) == [fork.session.id]
    assert fork.run("cat note").stdout == "kept\n"
    fork.terminate()
    assert ids(config) == []


def test_what_is_said_takes_the_place_of_what_the_session_has(config: LocalSandboxConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    with Sandbox(config=config, labels={"a": "b"}, pids=70, wall_time=20, network=Unrestricted()) as box:
        mounts = [FilesystemMount(tmp_path, "/data")]
        with box.fork(session_id="mine", labels={"c": "d"}, mounts=mounts, pids=60, network=Limited()) as fork:
            assert (fork.session.id, fork.session.labels) == ("mine", {"c": "d"})
            assert fork.run("cat /data/file").stdout == "from the host\n"
            limits = fork.session.metadata["limits"]
            assert ("pids=60" in limits, "wall_time=20s" in limits) == (True, True)
            assert fork.session.metadata["network"] == "none"
        with box.fork(wall_time=0.3) as fork:
            assert fork.run("sleep 60").timed_out
            assert fork.session.metadata["network"] == "host"
        with pytest.raises(InvalidRequest, match="is in use"):
            box.fork(session_id=box.session.id)
        with pytest.raises(InvalidRequest):
            box.fork(pids="many")  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match="`allow` is a network policy of its own"):
            box.fork(allow=["example.org"], network=Limited())
        with pytest.raises(TypeError, match="unexpected keyword argument 'rootfs'"):
            box.fork(rootfs="host")  # type: ignore[call-arg]
        assert ids(config) == [box.session.id]


def test_many_forks_at_once(config: LocalSandboxConfig) -> None:
    with Sandbox(config=config) as box, ExitStack() as stack, ThreadPoolExecutor(8) as threads:
        box.run("echo 1 > number", check=True)
        forks = [stack.enter_context(fork) for fork in threads.map(lambda _: box.fork(), range(12))]
        script = "sum=$(($(cat number) + $1)); echo $sum > number; cat number"
        added = threads.map(lambda pair: pair[1].run(["sh", "-c", script, "sh", str(pair[0])]).stdout, enumerate(forks))
        assert list(added) == [f"{number + 1}\n" for number in range(12)]
        assert box.run("cat number").stdout == "1\n"
    assert ids(config) == []


def test_a_collected_fork_ends(config: LocalSandboxConfig) -> None:
    with Sandbox(config=config) as box:
        fork = box.fork()
        fork.run("true")
        directory = Path(str(fork.session.mounts[1].host_path)).parent
        assert directory.is_dir()
        del fork
        gc.collect()
        deadline = time.monotonic() + 20
        while directory.exists():
            assert time.monotonic() < deadline
            box.run("true")


async def test_the_async_class_does_the_same(config: LocalSandboxConfig) -> None:
    async with AsyncSandbox(config=config) as box:
        await box.run("echo kept > note", check=True)
        base = await box.snapshot("base")
        forks = await asyncio.gather(*(box.fork(labels={"number": str(number)}) for number in range(6)))
        assert [fork.session.labels["number"] for fork in forks] == [str(number) for number in range(6)]
        for fork in forks:
            async with fork:
                assert (await fork.run("cat note")).stdout == "kept\n"
        async with AsyncSandbox(config=config, snapshot="base") as begun, await begun.fork() as fork:
            assert (await fork.exec(ExecRequest("cat", ["note"]))).stdout == "kept\n"
    assert ids(config) == []
    await asyncio.to_thread(delete, config, base)


async def test_a_cancelled_fork_leaves_nothing(config: LocalSandboxConfig) -> None:
    async with AsyncSandbox(config=config) as box:
        await box.run("echo kept > note", check=True)
        for turns in range(0, 60, 6):
            forking = asyncio.ensure_future(box.fork())
            for _ in range(turns):
                await asyncio.sleep(0)
            forking.cancel()
            try:
                fork = await forking
            except asyncio.CancelledError:
                continue
            await fork.terminate()
        assert ids(config) == [box.session.id]
        assert (await box.run("cat note")).stdout == "kept\n"


def test_over_another_backend() -> None:
    backend = FakeBackend()
    with Sandbox(backend=backend) as box:
        box.attach("", "/data", access=FilesystemAccess.READ_WRITE)
        box.run(["tee", "note"], stdin="kept")
        box.snapshot("base")
        with Sandbox(backend=backend, snapshot="base") as begun, box.fork(labels={"a": "b"}) as fork:
            assert begun.run(["cat", "note"]).stdout == fork.run(["cat", "note"]).stdout == "kept"
            assert fork.session.labels == {"a": "b"}


class Bare:
    """A backend of the seven calls and nothing else."""

    def __init__(self) -> None:
        self._fake = FakeBackend()
        self.name = "bare"
        self.capabilities = self._fake.capabilities
        self.provision = self._fake.provision
        self.attach_filesystem = self._fake.attach_filesystem
        self.apply_network_policy = self._fake.apply_network_policy
        self.exec = self._fake.exec
        self.resume = self._fake.resume
        self.terminate = self._fake.terminate

    async def snapshot(self, session_id: str, /) -> SandboxSnapshot:
        return await self._fake.snapshot(session_id)


def test_a_backend_without_them_says_so() -> None:
    with Sandbox(backend=Bare()) as box:
        assert box.snapshot().snapshot_id
        with pytest.raises(Unsupported, match="`bare` does not support names of snapshots"):
            box.snapshot("base")
        with pytest.raises(Unsupported, match="`bare` does not support forking a session"):
            box.fork()
