"""Pytest fixtures: `pytest_plugins = ["alcove.testing.fixtures"]` in the root conftest, or import the names."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from alcove.testing.leaks import no_leaks


@pytest.fixture
def leak_store() -> Path | None:
    """Return the store that `leaks` watches; override it where there is one."""
    return None


@pytest.fixture
def leaks(leak_store: Path | None) -> Iterator[None]:
    """Fail the test unless it ends with what it began with: see `alcove.testing.no_leaks`."""
    with no_leaks(leak_store):
        yield
