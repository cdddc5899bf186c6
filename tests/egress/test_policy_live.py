"""A session's policy changes while it lives: at once, for what is open too, or not at all; and everybody sees it."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from alcove.contract import InvalidRequest, Limited, NetworkPolicyError, SandboxSpec, SessionNotFound, Unrestricted
from alcove.local import native
from alcove.local.backend import LocalSandbox
from tests.egress.live import Guest, Net, holding
from tests.local import outside
from tests.local.cell import mark

pytestmark = pytest.mark.user


async def test_another_list_holds_at_once_and_breaks_off_what_it_does_not_allow(net: Net) -> None:
    kept, gone, later = (net.world.stream(f"{name}.test") for name in ("kept", "gone", "later"))
    async with net.session(kept.place.authority, gone.place.authority) as guest, holding(guest, kept, gone) as held:
        session = await net.backend.apply_network_policy(
            guest.id, Limited(allowed_hosts=[kept.place.authority, later.place.authority])
        )
        assert session.metadata["allowed_hosts"] == f"{kept.place.authority} {later.place.authority}"
        await held.are(kept="up", gone="over")
        assert await guest.reaches(kept, gone, later) == [True, False, True]
        assert (len(kept.accepts), len(gone.accepts), len(later.accepts)) == (2, 1, 1)
        (broken,) = [record for record in await guest.connects(1, "gone.test") if record.allowed]
        assert broken.reason == "the policy changed, or the session ended"
        (told,) = guest.records("policy")
        assert told.name == session.metadata["allowed_hosts"]


async def test_a_connection_lives_on_under_a_list_that_still_has_its_entry(net: Net) -> None:
    server = net.world.stream("kept.test")
    listed = server.place.authority
    async with net.session(listed) as guest, holding(guest, server) as held:
        for hosts in ([listed, "more.test"], ["*.other.test", listed], [listed]):
            await net.backend.apply_network_policy(guest.id, Limited(allowed_hosts=hosts))
        await held.are(kept="up")
        assert [record.kind for record in guest.records()] == ["policy"] * 3


async def test_from_nothing_to_a_list_and_back(net: Net) -> None:
    server = net.world.stream("web.test")
    listed = server.place.authority
    async with net.session(policy=Limited()) as guest:
        assert guest.session.metadata["network"] == "none"
        assert await guest.reaches(server) == [False]
        for _ in range(2):
            warden = guest.native("warden")  # a kill on a busy machine may have cost the one before its life
            session = await net.backend.apply_network_policy(guest.id, Limited(allowed_hosts=[listed]))
            assert (session.metadata["network"], session.metadata["allowed_hosts"]) == ("limited", listed)
            async with holding(guest, server) as held:
                session = await net.backend.apply_network_policy(guest.id, Limited())
                assert session.metadata["network"] == "none"
                assert "allowed_hosts" not in session.metadata
                await held.are(web="over")
                assert guest.native("warden") == warden
            assert await guest.reaches(server) == [False]
        assert len(server.accepts) == 2


BAD = ["*", "*.com", "*.co.uk", "a..b", "nul\0.test", "web.test:0", "web.test:65536", "w\u0435b.test", "10.0.0.1/8"]


@pytest.mark.parametrize("bad", BAD)
async def test_a_bad_entry_leaves_the_old_policy(net: Net, bad: str) -> None:
    server, other = net.world.stream("web.test"), net.world.stream("other.test")
    listed = server.place.authority
    async with net.session(listed) as guest, holding(guest, server) as held:
        with pytest.raises(InvalidRequest, match="allowed_hosts"):
            await net.backend.apply_network_policy(guest.id, Limited(allowed_hosts=[other.place.authority, bad]))
        assert net.backend.session(guest.id).metadata["allowed_hosts"] == listed
        assert await guest.reaches(server, other) == [True, False]
        await held.are(web="up")
        assert guest.records("policy") == []
        with pytest.raises(InvalidRequest, match="allowed_hosts"):
            await net.backend.provision(SandboxSpec(network_policy=Limited(allowed_hosts=[bad])))
        assert [session.id for session in net.backend.sessions()] == [guest.id]


async def test_from_the_hosts_network_to_a_list_and_back(net: Net) -> None:
    server, other = net.world.stream("web.test"), net.world.stream("other.test")
    limited = Limited(allowed_hosts=[server.place.authority])
    async with net.session(policy=Unrestricted()) as guest:
        await guest.out("echo kept > note")
        for _ in range(2):
            assert await guest.dial(other.place, host=other.place.address) == "hello"
            session = await net.backend.apply_network_policy(guest.id, limited)
            assert (session.metadata["network"], "netns" in session.metadata["isolation"]) == ("limited", True)
            assert await guest.reaches(server, other) == [True, False]
            assert (
                await guest.dial(other.place, host=other.place.address) == "ConnectionRefusedError"
            )  # its own loopback
            session = await net.backend.apply_network_policy(guest.id, Unrestricted())
            assert (session.metadata["network"], "netns" in session.metadata["isolation"]) == ("host", False)
        assert await guest.out("cat note") == "kept\n"
        assert (len(server.accepts), len(other.accepts)) == (2, 2)


async def test_processes_keep_the_network_they_were_born_with_so_a_switch_is_refused(net: Net) -> None:
    server = net.world.stream("web.test")
    listed = server.place.authority
    limited = Limited(allowed_hosts=[listed])
    async with net.session(listed) as guest, holding(guest, server) as held:
        with pytest.raises(NetworkPolicyError, match="processes run in session"):
            await net.backend.apply_network_policy(guest.id, Unrestricted())
        assert net.backend.session(guest.id).metadata["allowed_hosts"] == listed
        await held.are(web="up")
        assert await guest.reaches(server) == [True]
    async with net.session(policy=Unrestricted()) as guest:
        number = mark()
        await guest.sh('sleep "$1" >/dev/null 2>&1 &', number)
        pid = await outside.one(number)
        with pytest.raises(NetworkPolicyError, match="1 processes run in session"):
            await net.backend.apply_network_policy(guest.id, limited)
        assert net.backend.session(guest.id).metadata["network"] == "host"
        os.kill(pid, signal.SIGKILL)
        await outside.gone(number)
        await net.backend.apply_network_policy(guest.id, limited)
        assert await guest.reaches(server) == [True]


async def test_the_policy_in_force_outlives_a_backend_and_a_kill(net: Net) -> None:
    server, other = net.world.stream("web.test"), net.world.stream("other.test")
    async with net.session("elsewhere.test") as guest:
        await net.backend.apply_network_policy(guest.id, Limited(allowed_hosts=[server.place.authority]))
        os.kill(guest.native("warden"), signal.SIGKILL)
        await outside.until(lambda: not outside.called("alcove-spawner", guest.directory.name))
        again = LocalSandbox(net.config)
        try:
            assert again.session(guest.id).metadata["allowed_hosts"] == server.place.authority
            guest.backend = again
            assert await guest.reaches(server, other) == [True, False]
        finally:
            await again.aclose()


async def test_two_sessions_have_each_their_own(net: Net) -> None:
    server, other = net.world.stream("web.test"), net.world.stream("other.test")
    async with net.session(server.place.authority) as one, net.session(other.place.authority) as two:
        assert await one.reaches(server, other) == [True, False]
        assert await two.reaches(server, other) == [False, True]
        await net.backend.apply_network_policy(one.id, Limited())
        assert await two.reaches(server, other) == [False, True]
        assert {record.session for record in one.records()} == {one.id}
        assert {record.session for record in two.records()} == {two.id}


async def test_what_this_host_can_is_told(net: Net) -> None:
    assert net.backend.capabilities().network_policy is True
    async with net.session("web.test", "*.example.org", "other.test:22") as guest:
        assert guest.session.metadata["network"] == "limited"
        assert guest.session.metadata["allowed_hosts"] == "web.test *.example.org other.test:22"


async def test_no_policy_for_a_session_that_is_gone(net: Net) -> None:
    async with net.session("web.test") as guest:
        pass
    with pytest.raises(SessionNotFound):
        await net.backend.apply_network_policy(guest.id, Limited(allowed_hosts=["web.test"]))


OTHER_PROCESS = """
import asyncio, sys
from alcove.contract import ExecRequest, Limited
from alcove.local import native
from alcove.local.backend import LocalSandbox
from alcove.local.config import LocalSandboxConfig
async def main(root, native, session, *hosts):
    backend = LocalSandbox(LocalSandboxConfig(root_dir=root, native=native))
    session = await backend.apply_network_policy(session, Limited(allowed_hosts=hosts))
    print(session.metadata.get("allowed_hosts"))
    await backend.aclose()
asyncio.run(main(*sys.argv[1:]))
"""


async def test_two_processes_of_a_user_have_one_session(net: Net) -> None:
    server, other = net.world.stream("web.test"), net.world.stream("other.test")

    async def elsewhere(guest: Guest, *hosts: str) -> str:
        argv = [sys.executable, "-c", OTHER_PROCESS, str(net.store), str(native.find()), guest.id, *hosts]
        done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, check=True, text=True, timeout=30)
        return done.stdout.strip()

    async with net.session(server.place.authority) as guest, holding(guest, server) as held:
        service = await net.served()
        assert await elsewhere(guest, other.place.authority) == other.place.authority
        await held.are(web="over")
        assert await guest.reaches(server, other) == [False, True]
        assert net.backend.session(guest.id).metadata["allowed_hosts"] == other.place.authority
        both = [server.place.authority, other.place.authority]
        await net.backend.apply_network_policy(guest.id, Limited(allowed_hosts=both))
        assert await guest.reaches(server, other) == [True, True]
        lists = [[server.place.authority], both] * 3
        await asyncio.gather(
            *(net.backend.apply_network_policy(guest.id, Limited(allowed_hosts=hosts)) for hosts in lists),
            *(elsewhere(guest, *hosts) for hosts in lists[:2]),
        )
        in_force = net.backend.session(guest.id).metadata["allowed_hosts"].split()
        assert [record.name for record in guest.records("policy")][-1].split() == in_force
        assert await guest.reaches(server) == [True]
        assert await guest.reaches(other) == [other.place.authority in in_force]
        assert await net.served() == service
