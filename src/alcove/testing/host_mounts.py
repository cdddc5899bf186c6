# ruff: noqa: S101 - a suite of tests, though it is installed
"""Cases for a backend on this machine: directories of the host, seen and written by the guest."""

from contextlib import suppress
from pathlib import Path

import pytest

from alcove.contract.errors import InvalidRequest, SandboxIoError, Unsupported
from alcove.contract.protocol import SandboxBackend
from alcove.contract.types import (
    OUTPUTS_MOUNT,
    ExecRequest,
    FilesystemAccess,
    FilesystemMount,
    SandboxSpec,
)
from alcove.testing.cases import Cases


class HostMountCases(Cases):
    """What the guest sees is what the host has; what it may not write stays as it was.

    The class's `host_directory` fixture is a directory of the test's own that a guest may write to; override it where
    pytest's `tmp_path` is not one.
    """

    @pytest.fixture
    def host_directory(self, tmp_path: Path) -> Path:
        """Return a directory with one file, `given`."""
        directory = tmp_path / "given directory"
        directory.mkdir()
        (directory / "given").write_text("by the host")
        return directory

    async def test_a_read_only_directory(self, backend: SandboxBackend, host_directory: Path) -> None:
        mount = FilesystemMount(host_directory, "/data")
        async with self.live(backend, SandboxSpec(mounts=[mount])) as session:
            assert session.mounts[2].host_path == str(host_directory)
            assert (await self.run(backend, session, "cat", "/data/given")).stdout == "by the host"
            written = await backend.exec(session.id, ExecRequest("tee", ["/data/made", "/data/given"], stdin="guest"))
            assert not written.success
        assert not (host_directory / "made").exists()
        assert (host_directory / "given").read_text() == "by the host"

    async def test_a_read_write_directory_attached_live(self, backend: SandboxBackend, host_directory: Path) -> None:
        async with self.live(backend) as session:
            mount = FilesystemMount(host_directory, "/data", FilesystemAccess.READ_WRITE)
            assert (await backend.attach_filesystem(session.id, mount)).mounts[-1].host_path == str(host_directory)
            written = await backend.exec(session.id, ExecRequest("tee", ["/data/made"], stdin="by the guest"))
            assert written.success
            assert (host_directory / "made").read_text() == "by the guest"
            (host_directory / "later").write_text("later")
            assert (await self.run(backend, session, "cat", "/data/later")).stdout == "later"
        assert (host_directory / "made").read_text() == "by the guest"

    async def test_copy_on_write_leaves_the_host_alone(self, backend: SandboxBackend, host_directory: Path) -> None:
        """Or the mount is refused: what a backend must not do is to take it and then let the guest write through."""
        mount = FilesystemMount(host_directory, "/data", copy_on_write=True)
        with suppress(Unsupported):
            async with self.live(backend, SandboxSpec(mounts=[mount])) as session:
                written = await backend.exec(session.id, ExecRequest("tee", ["/data/given"], stdin="by the guest"))
                assert written.success
                assert (await self.run(backend, session, "cat", "/data/given")).stdout == "by the guest"
        assert (host_directory / "given").read_text() == "by the host"

    async def test_outputs_are_read_at_their_host_path(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            outputs = session.mounts[1]
            assert outputs.target == OUTPUTS_MOUNT
            assert outputs.host_path is not None
            await backend.exec(session.id, ExecRequest("tee", [f"{OUTPUTS_MOUNT}/report"], stdin="done"))
            assert Path(outputs.host_path, "report").read_text() == "done"  # noqa: ASYNC240 - one small file

    async def test_the_host_fills_the_memory(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            memory = session.mounts[0].host_path
            assert memory is not None
            Path(memory, "fact").write_text("known")  # noqa: ASYNC240 - one small file
            assert (await self.run(backend, session, "cat", "/mnt/memory/fact")).stdout == "known"

    async def test_a_source_that_is_not_there(self, backend: SandboxBackend, host_directory: Path) -> None:
        mount = FilesystemMount(host_directory / "absent", "/data")
        with pytest.raises((InvalidRequest, SandboxIoError)):
            await backend.provision(SandboxSpec(mounts=[mount]))
        async with self.live(backend) as session:
            with pytest.raises((InvalidRequest, SandboxIoError)):
                await backend.attach_filesystem(session.id, mount)
