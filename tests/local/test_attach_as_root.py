"""Mounts of what belongs to others, which only root can make."""

import os
from pathlib import Path

import pytest

from alcove.contract import FilesystemAccess, FilesystemMount, SandboxIoError
from tests.conftest import PlainUser
from tests.local.cell import Cell

pytestmark = [pytest.mark.root, pytest.mark.security]


async def test_a_source_that_is_somebody_elses_now_is_not_mounted_again(
    cell: Cell, tmp_path: Path, plain_user: PlainUser
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "given").write_text("by its owner")
    os.chown(source, plain_user.uid, plain_user.gid)
    mount = FilesystemMount(source, "/data", FilesystemAccess.READ_WRITE)
    await cell.backend.attach_filesystem(cell.id, mount)
    await cell.backend.suspend(cell.id)
    os.chown(source, 0, 0)
    with pytest.raises(SandboxIoError, match=f"of uid 0 now, and was of uid {plain_user.uid}"):
        await cell.out("true")
    os.chown(source, plain_user.uid, plain_user.gid)
    assert await cell.out("cat /data/given") == "by its owner"
