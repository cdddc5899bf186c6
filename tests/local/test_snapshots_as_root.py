# ruff: noqa: ASYNC240 - small files of the host, read in between
"""Snapshots of sessions whose root file system the guest's root owns, and what only root can do to a store."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from alcove.local.backend import LocalSandbox
from alcove.local.config import LocalSandboxConfig
from tests.local.cell import Cell, begun

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("tmp_of_its_own")]


@pytest.fixture
def config(store: Path) -> LocalSandboxConfig:
    return LocalSandboxConfig(root_dir=str(store), rootfs="owned")


async def test_changes_of_the_root_are_captured(backend: LocalSandbox, cell: Cell, store: Path) -> None:
    await cell.out("echo guest > /etc/alcove-test; mkdir /usr/share/alcove-test; rm /usr/bin/env; rm -r /etc/init.d")
    snapshot = await backend.snapshot(cell.id)
    assert snapshot.metadata["root"] == "host:owned"
    show = "cat /etc/alcove-test; test -d /usr/share/alcove-test; test ! -e /usr/bin/env; test ! -e /etc/init.d"
    assert await cell.out(show) == "guest\n"
    await backend.terminate(cell.id)
    async with begun(backend, snapshot) as copy:
        assert copy.session.metadata["root"] == "host:owned"
        assert await copy.out(show) == "guest\n"
        await copy.out("rm /etc/alcove-test; mkdir /etc/init.d; touch /etc/init.d/own")
        async with begun(backend, await backend.snapshot(copy.id)) as grandchild:
            assert await grandchild.out("test ! -e /etc/alcove-test; ls /etc/init.d") == "own\n"
    assert Path("/usr/bin/env").exists()
    assert not Path("/etc/alcove-test").exists()


async def test_another_backend_makes_owned_sessions_of_it_too(backend: LocalSandbox, cell: Cell) -> None:
    await cell.out("echo guest > /etc/alcove-test")
    snapshot = await backend.snapshot(cell.id)
    shared = LocalSandbox(LocalSandboxConfig(root_dir=backend.config.root_dir))
    try:
        async with begun(shared, snapshot) as copy:
            assert copy.session.metadata["root"] == "host:owned"
            assert await copy.out("cat /etc/alcove-test") == "guest\n"
    finally:
        await shared.aclose()


async def test_a_whiteout_that_came_into_a_plain_directory_hides_nothing(backend: LocalSandbox, cell: Cell) -> None:
    await cell.out("mkdir sub; echo seen > sub/file")
    os.mknod(cell.directory / "workspace" / "sub" / "planted", stat.S_IFCHR, os.makedev(0, 0))
    snapshot = await backend.snapshot(cell.id)
    async with begun(backend, snapshot) as copy:
        assert await copy.out("ls sub") == "file\n"
        await copy.out("echo made > sub/planted")
        async with begun(backend, await backend.snapshot(copy.id)) as grandchild:
            assert await grandchild.out("cat sub/planted") == "made\n"


class TestWhereTheStoreLiesInTheRootItself:
    """As the usual store of root's does: its layers then lie within a directory of the host's that is a layer too."""

    @pytest.fixture
    def store(self) -> Iterator[Path]:
        with TemporaryDirectory(dir="/var/tmp", prefix="alcove-test-") as place:
            yield Path(place) / "store"

    async def test_changes_of_that_directory_are_captured_too(self, backend: LocalSandbox, cell: Cell) -> None:
        await cell.out("mkdir /var/lib/alcove-test; echo one > /var/lib/alcove-test/f; rm -r /var/log")
        snapshot = await backend.snapshot(cell.id)
        async with begun(backend, snapshot) as copy:
            await copy.out("echo two >> /var/lib/alcove-test/f; test ! -e /var/log; touch /var/cache/own; ls /var/lib")
            async with begun(backend, await backend.snapshot(copy.id)) as grandchild:
                assert await grandchild.out("cat /var/lib/alcove-test/f; test ! -e /var/log") == "one\ntwo\n"
                assert await grandchild.out("stat -c %U /var/lib /var/lib/dpkg; ls /var/tmp") == "root\nroot\n"
        assert not Path("/var/lib/alcove-test").exists()
