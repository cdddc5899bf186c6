"""Sessions with an allow-list that sleep and wake."""

import pytest
from msgspec.structs import replace

from alcove.contract import ExecRequest, SandboxState
from alcove.egress.config import EgressConfig
from alcove.local.backend import LocalSandbox
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


@pytest.mark.user
async def test_a_session_keeps_its_resolver_whoever_wakes_it(net: Net) -> None:
    async with net.session(net.world.stream("web.test").place.authority) as guest:
        before = await guest.out("cat /etc/resolv.conf")
        await net.backend.suspend(guest.id)
        other = LocalSandbox(replace(net.backend.config, egress=EgressConfig(fake_range="100.100.0.0/16")))
        try:
            await other.resume(guest.id)
            assert (await other.exec(guest.id, ExecRequest("cat", ["/etc/resolv.conf"]))).stdout == before
        finally:
            await other.aclose()
