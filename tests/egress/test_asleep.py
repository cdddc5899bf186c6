"""Sessions with an allow-list that sleep and wake."""

import pytest

from alcove.contract import SandboxState
from tests.egress.live import Net
from tests.local import outside
from tests.local.cell import mark


@pytest.mark.user
async def test_a_list_holds_after_sleep(net: Net) -> None:
    listed, other = net.world.stream("web.test"), net.world.stream("other.test")
    async with net.session(listed.place.authority) as guest:
        address = await guest.address_of("web.test")
        assert await guest.reaches(listed, other) == [True, False]
        assert (await net.backend.suspend(guest.id)).state is SandboxState.SUSPENDED
        assert await guest.reaches(listed, other) == [True, False]
        assert await guest.address_of("web.test") == address


@pytest.mark.root
async def test_a_list_holds_for_processes_that_were_frozen(net: Net) -> None:
    listed, other = net.world.stream("web.test"), net.world.stream("other.test")
    number = mark()
    async with net.session(listed.place.authority) as guest:
        await guest.out(f"sleep {number} >/dev/null 2>&1 &")
        await outside.one(number)
        await net.backend.suspend(guest.id)
        await net.end_keeper()  # what serves the session may go while it sleeps
        assert await guest.reaches(listed, other) == [True, False]
        assert len(outside.bearing(number)) == 1
