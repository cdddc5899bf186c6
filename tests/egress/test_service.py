"""The service behind sessions: what it holds, what becomes of it, and that a session is closed while it is gone."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import msgspec
import pytest

from alcove.contract import Limited
from alcove.egress import wire
from alcove.egress.audit import LIMIT_BYTES
from alcove.local import keeper, native
from alcove.local.keeper import EGRESS
from tests.egress.live import Guest, Net, descriptors, holding, or_any, settled
from tests.egress.world import Place, stream
from tests.egress.world.child import kill
from tests.egress.world.listener import Link
from tests.local import outside
from tests.local.cell import mark

pytestmark = pytest.mark.user


async def nobody_serves(guest: Guest, place: Place, address: str) -> None:
    """Neither a name nor a connection is answered; they wait in the kernel."""
    assert await guest.dial(place, host=address, within=0.3) == "TimeoutError"
    assert (await guest.run("timeout", "0.3", "getent", "hosts", place.name)).exit_code == 124


async def test_a_session_is_closed_while_the_service_is_gone_and_comes_back_by_itself(net: Net) -> None:
    server = net.world.stream("web.test")
    async with net.session(server.place.authority) as guest, holding(guest, server) as held:
        address = await guest.address_of("web.test")
        started, service = net.keeper, await net.served()
        assert started
        os.kill(started, signal.SIGSTOP)  # so that it starts no other
        try:
            kill(service)
            await held.are(web="over")
            await nobody_serves(guest, server.place, address)
            assert len(server.accepts) == 1
        finally:
            os.kill(started, signal.SIGCONT)
        assert await guest.reaches(server) == [True]
        assert await net.served() != service
        assert net.keeper == started
        assert guest.records()[-1].allowed


MAKE = """
import asyncio, msgspec, sys
from alcove.contract import Limited, SandboxSpec
from alcove.egress.config import EgressConfig
from alcove.local.backend import LocalSandbox
from alcove.local.config import LocalSandboxConfig
async def main(root, native, egress, *hosts):
    settings = msgspec.json.decode(egress, type=EgressConfig)
    backend = LocalSandbox(LocalSandboxConfig(root_dir=root, native=native, egress=settings))
    print((await backend.provision(SandboxSpec(network_policy=Limited(allowed_hosts=hosts)))).id)
asyncio.run(main(*sys.argv[1:]))
"""
#: Connections of every end, twenty-five at a time.
MANY = """
import socket, sys, threading
port, rude, count = map(int, sys.argv[1:])
told = dict.fromkeys(("reset", "refused", "unknown", "back"), 0)
def once(kind):
    host, to = {"reset": ("rude.test", rude), "refused": ("web.test", 9), "unknown": ("198.19.255.254", 80)}.get(
        kind, ("web.test", port))
    try:
        with socket.create_connection((host, to), timeout=20) as connection:
            connection.sendall(b"hello")
            back = connection.recv(5) == b"hello"
    except ConnectionResetError:
        back = False
    assert back == (kind == "back"), kind
    told[kind] += 1
kinds = list(told) * (count // 4)
while kinds:
    threads = [threading.Thread(target=once, args=[kinds.pop()]) for _ in range(25)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
print(", ".join(f"{kind} {number}" for kind, number in told.items()))
"""
#: Servers of the guest's own on every address, on the ports of what is redirected elsewhere; the world stays reachable.
SERVERS = """
import socket, sys, threading
def echo(server):
    while True:
        connection, _ = server.accept()
        connection.sendall(b"own " + connection.recv(100))
        connection.close()
def echo_datagrams(server):
    while True:
        data, peer = server.recvfrom(100)
        server.sendto(b"own " + data, peer)
def say(address, port):
    with socket.create_connection((address, port), timeout=20) as connection:
        connection.sendall(b"hi")
        return connection.recv(100)
PORTS = (80, 443, 53, 22, 8080)
families = [(socket.AF_INET, "0.0.0.0", "127.0.0.1"), (socket.AF_INET6, "::", "::1")]
for family, every, loopback in families:
    for port in PORTS:
        server = socket.socket(family)
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((every, port))
        server.listen()
        threading.Thread(target=echo, args=[server], daemon=True).start()
        assert say(loopback, port) == b"own hi", (loopback, port)
assert say("127.8.9.10", 80) == say("localhost", 443) == b"own hi"
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("0.0.0.0", 53))
threading.Thread(target=echo_datagrams, args=[datagrams], daemon=True).start()
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(20)
client.sendto(b"hi", ("127.0.0.1", 53))
assert client.recv(100) == b"own hi"
# what is outside is still outside: its name resolves, and its port 80 is its own
address = socket.gethostbyname("web.test")
assert address.startswith("198.1"), address
assert socket.gethostbyname("any.below.test") != address
with socket.create_connection(("web.test", int(sys.argv[1])), timeout=20) as connection:
    connection.sendall(b"GET / HTTP/1.1\\r\\nHost: web.test\\r\\n\\r\\n")
    assert connection.recv(100).startswith(b"GET /")
print("all served")
"""
#: Three that are allowed, then three that are not and a name that is not, one after the other.
DECISIONS = """
import socket, sys
port = int(sys.argv[1])
def exchange(host, port, size):
    with socket.create_connection((host, port), timeout=20) as connection:
        connection.sendall(b"x" * size)
        connection.shutdown(socket.SHUT_WR)
        return len(connection.makefile("rb").read())
for size in (1, 1000, 200_000):
    assert exchange("web.test", port, size) == size
for host, to in (("web.test", port + 1), ("198.18.0.9", 80), ("dead.test", 9)):
    try:
        exchange(host, to, 1)
    except OSError:
        continue
    raise AssertionError(host)
try:
    socket.gethostbyname("nobody.test")
except socket.gaierror:
    print("done")
"""
REASONS = ["web.test is allowed at", "an address that stands for no name", "not reached"]
#: Asks again and again for some seconds; says how long it was without an answer at most.
AGAIN = """
import socket, sys, time
host, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
began = last = time.monotonic()
longest = 0.0
while last - began < seconds:
    try:
        with socket.create_connection((host, port), timeout=8) as connection:
            connection.sendall(b"hello")
            if connection.recv(5) != b"hello":
                continue
    except OSError:
        continue
    longest = max(longest, time.monotonic() - last)
    last = time.monotonic()
print(longest)
"""


async def test_it_is_back_under_load(net: Net) -> None:
    server = net.world.stream("web.test")
    async with net.session(server.place.authority) as guest, net.session(server.place.authority) as other:
        service = await net.served()
        # a question that died with the service is asked again after so many seconds
        words = [
            "env",
            "RES_OPTIONS=timeout:1 attempts:5",
            sys.executable,
            "-c",
            AGAIN,
            "web.test",
            str(server.place.port),
            "3",
        ]
        load = [asyncio.ensure_future(each.said(*words)) for each in (guest, other, guest)]
        try:
            await asyncio.to_thread(server.accepts.wait, 100)
            kill(service)
            longest = [float(said) for said in await asyncio.gather(*load)]
        finally:
            for each in load:
                each.cancel()
            await asyncio.gather(*load, return_exceptions=True)
        assert max(longest) < outside.SOON, longest
        started = await net.served()
        assert started != service
        before = descriptors(started)
        assert await guest.reaches(server) == await other.reaches(server) == [True]
        await settled(started, before)


async def test_every_live_session_is_served_again_with_the_policy_it_had_last(net: Net) -> None:
    server, other = net.world.stream("web.test"), net.world.stream("other.test")
    async with (
        net.session(server.place.authority) as one,
        net.session(server.place.authority) as two,
        net.session(policy=Limited()) as three,
    ):
        async with net.session(other.place.authority) as ended:
            await net.backend.apply_network_policy(two.id, Limited(allowed_hosts=[other.place.authority]))
            await net.backend.apply_network_policy(three.id, Limited(allowed_hosts=[other.place.authority]))
            await net.backend.apply_network_policy(one.id, Limited())
        for _ in range(3):
            kill(await net.served())
            assert await one.reaches(server, other) == [False, False]
            assert await two.reaches(server, other) == [False, True]
            assert await three.reaches(server, other) == [False, True]
        assert len(server.accepts) == 0
        assert ended.id not in (net.store / "egress.err").read_text()


async def test_without_its_keeper_it_ends_and_the_next_call_brings_both_back(net: Net) -> None:
    server = net.world.stream("web.test")
    listed = Limited(allowed_hosts=[server.place.authority])
    async with net.session(server.place.authority) as guest, net.session(server.place.authority) as other:
        address = await guest.address_of("web.test")
        service, started = await net.served(), net.keeper
        assert started
        kill(started)
        await outside.until(lambda: not outside.is_there(service), "a service without its keeper")
        assert len(server.accepts) == 0
        assert await guest.reaches(server) == [True]  # an exec is such a call
        again, service = net.keeper, await net.served()
        assert again not in {None, started}
        kill(again or 0)
        await outside.until(lambda: not outside.is_there(service), "a service without its keeper")
        await net.backend.apply_network_policy(guest.id, listed)
        assert await guest.address_of("web.test") == address
        assert await guest.reaches(server) == [True]
        assert await other.reaches(server) == [True]  # of which nobody has spoken
        assert net.keeper not in {None, started, again}
        kill(net.keeper or 0)
        async with net.session(server.place.authority) as third:
            assert await third.reaches(server) == await guest.reaches(server) == [True]


async def test_both_end_a_while_after_the_last_session_and_the_next_one_starts_them(net: Net) -> None:
    server = net.world.stream("web.test")
    async with net.session(server.place.authority) as guest:
        assert await guest.reaches(server) == [True]
        started, service = net.keeper, await net.served()
        assert started
    began = time.monotonic()
    await outside.until(
        lambda: not outside.is_there(started), "a keeper of nothing", within=EGRESS.linger + outside.SOON
    )
    assert time.monotonic() - began > EGRESS.linger / 2
    assert not outside.is_there(service)
    assert net.keeper is None
    assert not (net.store / "egress.sock").exists()
    assert (net.store / "egress.err").read_text() == ""
    async with net.session(server.place.authority) as guest:
        assert await guest.reaches(server) == [True]


async def test_a_session_outlives_the_process_that_made_it_and_started_the_keeper(net: Net) -> None:
    server = net.world.stream("web.test")
    net.publish()
    egress = msgspec.json.encode(net.config.egress).decode()
    argv = [sys.executable, "-c", MAKE, str(net.store), str(native.find()), egress, server.place.authority]
    maker = await asyncio.to_thread(
        subprocess.run, argv, capture_output=True, check=True, text=True, timeout=30, start_new_session=True
    )
    session = net.backend.session(maker.stdout.strip())
    guest = Guest(net.backend, session)
    assert await guest.reaches(server) == [True]
    await net.backend.terminate(session.id)


async def test_what_connections_and_sessions_took_is_given_back(net: Net) -> None:
    server, rude = net.world.stream("web.test"), net.world.stream("rude.test", stream.reset)
    async with net.session(server.place.authority, rude.place.authority) as guest:
        assert await guest.reaches(server) == [True]
        service = await net.served()
        before = descriptors(service)
        words = [str(place) for place in (server.place.port, rude.place.port, 200)]
        assert await guest.script(MANY, *words) == "reset 50, refused 50, unknown 50, back 50\n"
        await settled(service, before)
        assert await net.served() == service


async def stubborn(server: stream.Stream, link: Link) -> None:
    """Say back the first bytes, and never look again."""
    link.writer.write(await server.heard(link))
    await asyncio.Event().wait()


async def test_a_session_that_ends_amid_connections_hinders_no_later_one(net: Net) -> None:
    server = net.world.stream("web.test", stubborn)
    async with net.session(server.place.authority) as guest:
        service = await net.served()
        before = descriptors(service)
        for count in range(1, 5):
            async with net.session(server.place.authority) as other, holding(other, server):
                assert descriptors(service) != before
            assert len(server.accepts) == count
            await settled(service, before)
        assert await guest.dial(server.place) == "hello"
        assert await net.served() == service


@pytest.mark.parametrize("end", ["terminated", "killed"])
async def test_a_session_that_ends_is_dropped(net: Net, end: str) -> None:
    server = net.world.stream("web.test")
    async with net.session(server.place.authority) as guest:
        service = await net.served()
        before = descriptors(service)
        async with net.session(server.place.authority) as other:
            running = asyncio.ensure_future(other.run("sh", "-c", f"exec sleep {mark()}"))
            assert await other.reaches(server) == [True]
            await outside.until(lambda: descriptors(service) != before)
            if end == "killed":
                os.kill(other.native("warden"), signal.SIGKILL)
                await settled(service, before)
        await asyncio.gather(running, return_exceptions=True)
        await settled(service, before)
        assert await guest.reaches(server) == [True]


async def test_a_guests_own_servers_keep_every_port(net: Net) -> None:
    server = net.world.stream("web.test", port=or_any(80))
    async with net.session("web.test" if server.place.port == 80 else server.place.authority, "*.below.test") as guest:
        assert await guest.script(SERVERS, str(server.place.port)) == "all served\n"
        assert len(server.accepts) == 1
        assert [record.name for record in await guest.connects(1) if record.allowed] == ["web.test"]


async def test_one_record_for_each_decision(net: Net) -> None:
    server = net.world.stream("web.test")
    async with net.session(server.place.authority, "dead.test:9") as guest:
        port = server.place.port
        await guest.script(DECISIONS, str(port))
        records = await guest.connects(6)
        allowed = [record for record in records if record.allowed]
        assert [(record.name, record.port, record.address, record.reason) for record in allowed] == [
            ("web.test", port, server.place.address, "")
        ] * 3
        assert [(record.sent, record.received) for record in allowed] == [(size, size) for size in (1, 1000, 200_000)]
        denied = [record for record in records if not record.allowed]
        assert [(record.name, record.address, record.port) for record in denied] == [
            ("web.test", denied[0].address, port + 1),
            ("", "198.18.0.9", 80),
            ("dead.test", denied[2].address, 9),
        ]
        assert [reason for record in denied for reason in REASONS if reason in record.reason] == REASONS
        (asked,) = guest.records("dns")
        assert (asked.name, asked.allowed, asked.count) == ("nobody.test", False, 1)
        assert {record.session for record in guest.records()} == {guest.id}
        assert {(record.count, record.lost) for record in guest.records()} == {(1, 0)}
        assert [record.time for record in records] == sorted(record.time for record in records)


def is_now(path: Path, file: os.stat_result) -> bool:
    return path.exists() and os.path.samestat(path.stat(), file)


async def test_the_log_is_bounded_on_disk(net: Net) -> None:
    server = net.world.stream("web.test")
    async with net.session(server.place.authority) as guest:
        assert await guest.reaches(server) == [True]
        await guest.connects(1)
        log, rotated = guest.log, guest.log.with_name(f"{guest.log.name}.1")
        for count in range(2, 5):
            full = log.stat()
            with log.open("ab") as file:
                file.write(b"x" * (LIMIT_BYTES - full.st_size - 100) + b"\n")
            assert await guest.reaches(server) == [True]
            await outside.until(partial(is_now, rotated, full), "it stays as it is")
            assert [record.sent for record in await guest.connects(2)] == [5, 5]
            assert len(server.accepts) == count
            assert LIMIT_BYTES - 200 < rotated.stat().st_size <= LIMIT_BYTES
            assert log.stat().st_size < 1000
            assert log.stat().st_mode & 0o777 == rotated.stat().st_mode & 0o777 == 0o600
            assert sorted(path.name for path in log.parent.glob("egress.log*")) == [log.name, rotated.name]


async def test_a_guest_cannot_reach_its_log_or_what_serves_it(net: Net) -> None:
    async with net.session("web.test") as guest:
        assert await guest.reaches(net.world.stream("other.test")) == [False]
        await outside.until(lambda: guest.records("dns"))
        found = await guest.out(
            f"ls {net.store} {guest.directory} 2>/dev/null; "
            "find / -name egress.log -o -name egress.sock 2>/dev/null || :"
        )
        assert found == ""


async def test_a_bad_day_of_the_disk_stops_no_connection(net: Net) -> None:
    server = net.world.stream("web.test")
    async with net.session(server.place.authority) as guest:
        guest.log.mkdir()
        assert await guest.reaches(server) == [True]
        guest.log.rmdir()
        assert await guest.reaches(server) == [True]
        # the first connection's record may come after the log can be written again: written or lost, it is counted
        await outside.until(lambda: sum(record.count + record.lost for record in guest.records("connect")) == 2)


async def test_strangers_are_not_answered(net: Net) -> None:
    async with net.session("web.test"):
        service = await net.served()
        before = descriptors(service)
        with keeper.reach(str(net.store)) as connection:
            wire.send(connection, b"nonsense")
            connection.settimeout(10)
            assert connection.recv(1) == b""
        with keeper.reach(str(net.store)) as connection:
            connection.setblocking(True)
            connection.send(b"no descriptor at all")
            assert connection.recv(1) == b""
        await settled(service, before)
        assert await net.served() == service
