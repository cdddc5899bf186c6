"""What tests of archives share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.state.arena import Arena


@pytest.fixture
def arena(tmp_path: Path) -> Arena:
    """Return where strangers' archives are brought in."""
    return Arena(tmp_path)


@pytest.fixture
def no_descriptor_stays() -> Iterator[None]:
    """Let a test fail that leaves a descriptor open."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before
