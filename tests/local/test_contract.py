"""The public suite over the local backend."""

import os
from pathlib import Path

import pytest

from alcove.testing import ContractCases, HostMountCases, RealExecCases
from tests.conftest import PlainUser


@pytest.mark.user
class TestLocalSandbox(ContractCases, RealExecCases, HostMountCases):
    """Everything that any backend on this machine must pass."""

    @pytest.fixture
    def host_directory(self, tmp_path: Path, plain_user: PlainUser) -> Path:
        """Return a directory that does not belong to root, so that a guest may write to it."""
        directory = tmp_path / "given directory"
        directory.mkdir()
        (directory / "given").write_text("by the host")
        for path in (directory, directory / "given"):
            os.chown(path, plain_user.uid, plain_user.gid)
        return directory
