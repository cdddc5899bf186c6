"""Servers for the tests of egress, and sessions that may reach some of them."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.egress.live import Net
from tests.egress.nameserver import NameServer
from tests.egress.world import World


@pytest.fixture
def world() -> Iterator[World]:
    """Yield a world without servers: a test asks for those it needs."""
    with World() as made:
        yield made


@pytest_asyncio.fixture
async def net(tmp_path: Path, world: World) -> AsyncIterator[Net]:
    """Yield the world with a store of the test's own, of which nothing is left afterwards."""
    with NameServer() as nameserver:
        made = Net(world, nameserver, tmp_path / "store")
        try:
            yield made
        finally:
            await made.close()
