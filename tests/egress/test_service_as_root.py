"""What only root sees of a session's egress, or has: the warden's descriptors, and other users in a session."""

import pytest

from tests.egress.live import Net, descriptors, settled
from tests.egress.world.child import kill

pytestmark = pytest.mark.root


async def test_services_that_die_leave_nothing_in_the_session(net: Net) -> None:
    server = net.world.stream("web.test")
    async with net.session(server.place.authority) as guest:
        assert await guest.reaches(server) == [True]
        warden = guest.native("warden")
        before = descriptors(warden)
        for _ in range(3):
            kill(await net.served())
            assert await guest.reaches(server) == [True]
        await settled(warden, before)


async def test_every_user_of_a_session_has_its_egress(net: Net) -> None:
    web = net.world.web("web.test", "other.test")
    async with net.session("web.test") as guest:
        for user in ("agent", "4321"):
            page = await guest.said("curl", "--silent", web.url(), user=user)
            assert page == "this is web.test\n"
            assert not (await guest.run("curl", "--silent", web.url(name="other.test"), user=user)).success
        assert len(web.accepts) == 2
