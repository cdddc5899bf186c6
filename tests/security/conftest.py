"""Sessions for the attacks, the corpus in each of them, and the proof that each test leaves nothing of its own."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from alcove.contract import FilesystemAccess, FilesystemMount, Limited, SandboxSpec
from alcove.local import LocalSandbox, LocalSandboxConfig
from tests.egress.nameserver import NameServer
from tests.egress.world import World
from tests.security import corpus as hostile_corpus
from tests.security import egress_mutants, mutants
from tests.security.arena import Arena
from tests.security.cells import Cell
from tests.security.corpus import PLACE
from tests.security.supervisors import Supervisors

MakeCell = Callable[..., Awaitable[Cell]]

if mutant := os.environ.get("ALCOVE_TEST_MUTANT"):
    mutants.apply(mutant)
if mutant := os.environ.get("ALCOVE_TEST_EGRESS_MUTANT"):
    egress_mutants.infect(mutant)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of the hostile programs."""
    return hostile_corpus.build(tmp_path_factory.mktemp("hostile") / "corpus")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def configuration() -> dict[str, Any]:
    """Return what a test's backend is made with besides its store; a test module or class overrides it."""
    return {}


@pytest_asyncio.fixture
async def backend(store: Path, configuration: dict[str, Any]) -> AsyncIterator[LocalSandbox]:
    backend = LocalSandbox(LocalSandboxConfig(root_dir=str(store), **configuration))
    yield backend
    for session in backend.sessions():
        await backend.terminate(session.id)
    await backend.aclose()
    assert list((store / "sessions").iterdir()) == []


@pytest_asyncio.fixture
async def make_cell(backend: LocalSandbox, corpus: Path) -> AsyncIterator[MakeCell]:
    """Make sessions that have the corpus at /mnt/hostile, and no network unless `network_policy` says so."""
    made: list[Cell] = []

    async def make(*mounts: FilesystemMount, by: LocalSandbox | None = None, **fields: Any) -> Cell:
        fields.setdefault("network_policy", Limited(allowed_hosts=[]))
        programs = FilesystemMount(source=str(corpus), target=PLACE, access=FilesystemAccess.READ_ONLY)
        owner = by or backend
        session = await owner.provision(SandboxSpec(mounts=[programs, *mounts], **fields))
        made.append(Cell(owner, session, corpus))
        return made[-1]

    yield make
    for cell in made:
        if cell.backend is backend:
            await cell.close()


@pytest_asyncio.fixture(params=["first", "later"])
async def cell(make_cell: MakeCell, request: pytest.FixtureRequest) -> Cell:
    """Return a session whose next command is its first, or one of many."""
    made = await make_cell()
    if request.param == "later":
        for _ in range(5):
            assert (await made.run("true")).success
    return made


@pytest.fixture(scope="session")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """Yield servers that count, and a store whose egress service lives as long as the tests need it."""
    with NameServer() as nameserver, World() as world:
        made = Arena(world, nameserver, tmp_path_factory.mktemp("arena") / "store")
        try:
            yield made
        finally:
            made.end_keeper()
            made.close()


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """Return a directory of the harness's that lets everybody do everything to it."""
    return make_canary(tmp_path / "canary")


def make_canary(directory: Path) -> Path:
    directory.mkdir()
    (directory / "data").write_bytes(b"canary\n" * 1000)
    (directory / "sub").mkdir()
    for path in (directory / "data", directory / "sub", directory):
        path.chmod(0o777)
    return directory


@pytest.fixture
def supervisors(store: Path) -> Iterator[Supervisors]:
    made = Supervisors(store)
    yield made
    made.close()
