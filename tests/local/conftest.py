"""A backend over a store of the test's own, a live cell, and the check that the test leaves nothing."""

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from alcove.contract import Limited, SandboxSpec, Unrestricted
from alcove.local.backend import LocalSandbox
from alcove.local.config import LocalSandboxConfig
from alcove.testing import no_leaks
from tests.conftest import PlainUser
from tests.local import projects, transfers
from tests.local.cell import Cell, live


@pytest.fixture
def as_root() -> bool:
    return os.geteuid() == 0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "store"
    # where a session could not be removed: not by pytest, whose removal is as deep in calls as the tree in directories
    places = [str(tmp_path / "store"), str(transfers.there_of(tmp_path / "store"))]
    subprocess.run(["rm", "-rf", "--one-file-system", *places], check=False)


@pytest.fixture
def config(store: Path) -> LocalSandboxConfig:
    """Return the configuration of `backend`; a class of tests overrides it."""
    return LocalSandboxConfig(root_dir=str(store))


@pytest_asyncio.fixture
async def backend(config: LocalSandboxConfig, store: Path) -> AsyncIterator[LocalSandbox]:
    backend = LocalSandbox(config)
    try:
        await _make_what_the_store_keeps(backend)
        async with no_leaks(store):
            yield backend
            for snapshot in backend.snapshots():
                await backend.delete_snapshot(snapshot.snapshot_id)
    finally:
        try:
            for session in backend.sessions():
                await backend.terminate(session.id)
        finally:
            await backend.aclose()


async def _make_what_the_store_keeps(backend: LocalSandbox) -> None:
    """Provision once for each set of generated files, which later sessions share; open the store a second time.

    SQLite keeps the descriptor of a closed connection for the next one, as long as another is open (POSIX locks).
    """
    for policy in (Limited(), Unrestricted()):
        await backend.terminate((await backend.provision(SandboxSpec(network_policy=policy))).id)
    await LocalSandbox(backend.config).aclose()


@pytest_asyncio.fixture
async def cell(backend: LocalSandbox) -> AsyncIterator[Cell]:
    async with live(backend) as cell:
        yield cell


@pytest.fixture
def make_project(tmp_path: Path, plain_user: PlainUser) -> projects.Make:
    """Make directories with files that belong to a person."""

    def make(name: str = "project", owner: int = plain_user.uid, group: int = plain_user.gid) -> Path:
        return projects.make(tmp_path / name, owner, group)

    return make


@pytest.fixture
def project(make_project: projects.Make) -> Path:
    return make_project()


@pytest_asyncio.fixture
async def box(backend: LocalSandbox, project: Path) -> AsyncIterator[Cell]:
    """Yield a session that has `project` at /project by copy-on-write."""
    async with live(backend, projects.spec(projects.mounted(project))) as cell:
        yield cell


@pytest_asyncio.fixture
async def elsewhere(store: Path) -> AsyncIterator[LocalSandbox]:
    """Yield a backend over another store: as good as another machine."""
    backend = LocalSandbox(LocalSandboxConfig(root_dir=str(transfers.there_of(store))))
    try:
        await backend.terminate((await backend.provision(SandboxSpec(network_policy=Limited()))).id)
        yield backend
    finally:
        for session in backend.sessions():
            await backend.terminate(session.id)
        await backend.aclose()
