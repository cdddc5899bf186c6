"""A store of the test's own, and the check that the test leaves nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from alcove import Limited, LocalSandboxConfig, Sandbox, Unrestricted
from alcove.testing import no_leaks


@pytest.fixture
def store(short_tmp: Path) -> Path:
    return short_tmp / "store"


@pytest.fixture
def config(store: Path) -> Iterator[LocalSandboxConfig]:
    """Yield the configuration of the test's sandboxes, which must all have ended when the test has."""
    config = LocalSandboxConfig(root_dir=str(store))
    for network in (Limited(), Unrestricted()):
        with Sandbox(config=config, network=network):  # makes what the store keeps for later sessions, and the portal
            pass
    with no_leaks(store):
        yield config
