"""SR01 and SR08 for a session with a disk of its own: killed or failed anywhere, no loop device stays."""

from pathlib import Path

import pytest

from tests.local import outside
from tests.security.supervisors import Supervisors
from tests.security.test_robustness import usable_or_absent

pytestmark = pytest.mark.root
DEED = "create with a disk"


async def nothing_is_left(supervisors: Supervisors, keys: set[str]) -> None:
    await supervisors.nothing_is_left(keys)
    await outside.until(lambda: not loop_devices(supervisors.store), "a loop device is left", 5)


def loop_devices(store: Path) -> list[str]:
    found = [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    return [image for image in found if image.startswith(str(store))]


async def made_once(supervisors: Supervisors) -> int:
    """Make one whole, with the empty image that the store keeps, and another; return how many events that takes."""
    events = 0
    for _ in range(2):
        total = supervisors.struck(DEED, 0, "kill")
        assert total["error"] is None
        assert loop_devices(supervisors.store) != []
        assert await usable_or_absent(supervisors.store) == "usable"
        await nothing_is_left(supervisors, set())
        events = total["events"]
    return events


async def test_sr01_killed_at_any_point_of_create(supervisors: Supervisors) -> None:
    for at in range(1, await made_once(supervisors) + 1):
        supervisors.struck(DEED, at, "kill")
        keys = supervisors.keys()
        await usable_or_absent(supervisors.store)
        await nothing_is_left(supervisors, keys)


async def test_sr01_killed_at_any_time_of_create(supervisors: Supervisors) -> None:
    await made_once(supervisors)
    for step in range(1, 31):
        supervisors.struck(DEED, 0, f"after:{step * 0.0015}")
        keys = supervisors.keys()
        await usable_or_absent(supervisors.store)
        await nothing_is_left(supervisors, keys)


@pytest.mark.parametrize("kind", ["ENOSPC", "EMFILE"])
async def test_sr08_an_error_anywhere_is_ours_and_leaves_nothing(supervisors: Supervisors, kind: str) -> None:
    foreign = {}
    for at in range(1, await made_once(supervisors) + 1, 2):
        keys = supervisors.keys()
        said = supervisors.struck(DEED, at, kind)
        keys |= supervisors.keys()
        if said.get("error") and said["error"].startswith("!"):
            foreign[at] = said["error"]
        await usable_or_absent(supervisors.store)
        await nothing_is_left(supervisors, keys)
    assert foreign == {}
