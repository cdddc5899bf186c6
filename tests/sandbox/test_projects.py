"""A host directory by copy-on-write, through both sandbox classes."""

import os
from pathlib import Path

import pytest

from alcove import AsyncSandbox, Change, FilesystemMount, LocalSandboxConfig, Sandbox, Unsupported
from alcove.testing import FakeBackend

pytestmark = pytest.mark.user


@pytest.fixture
def project(tmp_path: Path) -> Path:
    top = tmp_path / "project"
    top.mkdir()
    (top / "file").write_text("one\n")
    return top


def test_with_sandbox(config: LocalSandboxConfig, project: Path) -> None:
    with Sandbox(config=config, mounts=[FilesystemMount(project, "/project", copy_on_write=True)]) as box:
        box.run("echo two >>file; echo n >new", cwd="/project", check=True)
        assert [(change.kind, change.path) for change in box.changes()] == [("modified", "file"), ("added", "new")]
        assert box.changes(["new"], patch=True)[0].patch == box.diff(["new"])
        assert box.diff(target="/project").count("diff --git") == 2
        assert (project / "file").read_text() == "one\n"
        outcome = box.apply(["file"])
        assert outcome.complete
        assert outcome.applied == (Change("/project", "modified", "file", "file", mode=0o644, old_mode=0o644),)
        assert (project / "file").read_text() == "one\ntwo\n"
        box.discard()
        assert box.changes() == []
        assert box.run("ls", cwd="/project").stdout == "file\n"
    assert os.listdir(project) == ["file"]


async def test_with_async_sandbox(config: LocalSandboxConfig, project: Path) -> None:
    async with AsyncSandbox(config=config) as box:
        await box.attach(project, "/project", copy_on_write=True)
        await box.run("rm file", cwd="/project", check=True)
        assert [change.kind for change in await box.changes()] == ["deleted"]
        assert "-one" in await box.diff()
        await box.discard()
        assert await box.changes() == []
        await box.run("rm file", cwd="/project", check=True)
        assert (await box.apply()).complete
    assert os.listdir(project) == []


def test_a_backend_without_them() -> None:
    with Sandbox(backend=FakeBackend()) as box:
        for call in (box.changes, box.diff, box.apply, box.discard):
            with pytest.raises(Unsupported, match="telling what a session changed"):
                call()
