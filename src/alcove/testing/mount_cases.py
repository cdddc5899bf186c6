# ruff: noqa: S101 - a suite of tests, though it is installed
"""Cases of what a session sees mounted, from the start and later."""

import pytest

from alcove.contract.errors import InvalidRequest
from alcove.contract.protocol import SandboxBackend
from alcove.contract.types import (
    MEMORY_MOUNT,
    OUTPUTS_MOUNT,
    ExecRequest,
    FilesystemAccess,
    FilesystemMount,
    SandboxSession,
    SandboxSpec,
)
from alcove.testing.cases import Cases

READ_ONLY, READ_WRITE = FilesystemAccess.READ_ONLY, FilesystemAccess.READ_WRITE


class MountCases(Cases):
    """Canonical mounts, mounts of the spec, mounts attached to a live session; all of fresh directories."""

    async def writes(self, backend: SandboxBackend, session: SandboxSession, path: str) -> bool:
        """Tell whether the guest can make a file at `path`, and read it back."""
        written = await backend.exec(session.id, ExecRequest("tee", [path], stdin="mark", timeout=30))
        read = await self.run(backend, session, "cat", path)
        assert written.success == (read.stdout == "mark"), (written, read)
        return written.success

    async def test_canonical_mounts_come_first(self, backend: SandboxBackend) -> None:
        mount = FilesystemMount("", "/data", READ_WRITE)
        async with self.live(backend, SandboxSpec(mounts=[mount])) as session:
            assert [(entry.target, entry.access) for entry in session.mounts] == [
                (MEMORY_MOUNT, READ_ONLY),
                (OUTPUTS_MOUNT, READ_WRITE),
                ("/data", READ_WRITE),
            ]

    async def test_memory_is_read_only_and_outputs_are_writable(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            assert not await self.writes(backend, session, f"{MEMORY_MOUNT}/note")
            assert await self.writes(backend, session, f"{OUTPUTS_MOUNT}/note")

    async def test_the_environment_names_the_canonical_mounts(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            lines = (await self.run(backend, session, "env")).stdout.splitlines()
            env = dict(line.partition("=")[::2] for line in lines)
            assert env["HARN_MEMORY_DIR"] == env["ALCOVE_MEMORY_DIR"]
            assert env["HARN_OUTPUTS_DIR"] == env["ALCOVE_OUTPUTS_DIR"]
            assert await self.writes(backend, session, f"{env['HARN_OUTPUTS_DIR']}/by-env")
            assert not await self.writes(backend, session, f"{env['HARN_MEMORY_DIR']}/by-env")

    async def test_one_mount_may_replace_the_memory(self, backend: SandboxBackend) -> None:
        mount = FilesystemMount("", f"{MEMORY_MOUNT}/", READ_WRITE)
        async with self.live(backend, SandboxSpec(mounts=[mount])) as session:
            targets = [entry.target for entry in session.mounts]
            assert targets == [MEMORY_MOUNT, OUTPUTS_MOUNT]
            assert session.mounts[0].access is READ_WRITE
            assert await self.writes(backend, session, f"{MEMORY_MOUNT}/note")
            with pytest.raises(InvalidRequest):
                await backend.attach_filesystem(session.id, mount)

    @pytest.mark.parametrize(
        "targets",
        [[MEMORY_MOUNT, MEMORY_MOUNT], [OUTPUTS_MOUNT], ["/data", "/data/"], ["/a/b", "/a//b"]],
        ids=["memory twice", "outputs", "slash", "inner slashes"],
    )
    async def test_duplicate_targets_are_refused(self, backend: SandboxBackend, targets: list[str]) -> None:
        with pytest.raises(InvalidRequest):
            await backend.provision(SandboxSpec(mounts=[FilesystemMount("", target) for target in targets]))

    @pytest.mark.parametrize(
        ("target", "detail"),
        [
            ("data", "mount target `data` must be absolute"),
            (" / ", "mount target ` / ` must be absolute"),
            ("", "mount target `` must be absolute"),
            ("/a/../b", "mount target `/a/../b` must not contain a `..` component"),
        ],
    )
    async def test_malformed_targets_are_refused(self, backend: SandboxBackend, target: str, detail: str) -> None:
        mount = FilesystemMount("", target)
        with pytest.raises(InvalidRequest) as at_start:
            await backend.provision(SandboxSpec(mounts=[mount]))
        async with self.live(backend) as session:
            with pytest.raises(InvalidRequest) as later:
                await backend.attach_filesystem(session.id, mount)
        assert at_start.value.detail == later.value.detail == detail

    async def test_attach_adds_a_mount(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            attached = await backend.attach_filesystem(session.id, FilesystemMount("", " /data/in/ ", READ_WRITE))
            resolved = attached.mounts[-1]
            assert (resolved.target, resolved.access) == ("/data/in", READ_WRITE)
            assert await self.writes(backend, session, "/data/in/note")

    async def test_attach_read_only_refuses_writes(self, backend: SandboxBackend) -> None:
        async with self.live(backend) as session:
            attached = await backend.attach_filesystem(session.id, FilesystemMount("", "/data"))
            assert attached.mounts[-1].access is READ_ONLY
            assert not await self.writes(backend, session, "/data/note")

    async def test_attach_of_a_taken_target_is_refused(self, backend: SandboxBackend) -> None:
        async with self.live(backend, SandboxSpec(mounts=[FilesystemMount("", "/data")])) as session:
            for target in ("/data", "/data/", "//data", OUTPUTS_MOUNT):
                with pytest.raises(InvalidRequest):
                    await backend.attach_filesystem(session.id, FilesystemMount("", target))

    async def test_the_memory_is_replaced_live_once(self, backend: SandboxBackend) -> None:
        mount = FilesystemMount("", MEMORY_MOUNT, READ_WRITE)
        async with self.live(backend) as session:
            assert (await backend.attach_filesystem(session.id, mount)).mounts[0].access is READ_WRITE
            assert await self.writes(backend, session, f"{MEMORY_MOUNT}/note")
            with pytest.raises(InvalidRequest):
                await backend.attach_filesystem(session.id, mount)
