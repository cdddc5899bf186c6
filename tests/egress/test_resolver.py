"""Look-ups of the host's, at a real nameserver: what is asked, how often, and what comes of every kind of answer."""

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alcove.contract import InvalidRequest
from alcove.egress import resolver as module
from alcove.egress.resolver import LONGEST_TTL, SHORTEST_TTL, Addresses, ResolveError, Resolver
from alcove.egress.upstream import MOST_RECORDS, PORT
from tests.egress.nameserver import NameServer, Query, Reply, alias, in_turn, reply

pytestmark = pytest.mark.user


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def server() -> Iterator[NameServer]:
    with NameServer() as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def resolver(server: NameServer, clock: Clock) -> Resolver:
    return Resolver([server.spelled], hosts_file="/nonexistent", now=clock)


def told(addresses: Addresses) -> list[str]:
    return [str(address) for address in addresses]


async def reason(resolver: Resolver, name: str) -> str:
    with pytest.raises(ResolveError) as caught:
        await resolver.resolve(name)
    return str(caught.value)


# What is found


async def test_both_families_are_asked_and_found(server: NameServer, resolver: Resolver) -> None:
    server.zones["api.example.org"] = reply("2001:db8::1", "192.0.2.1", "192.0.2.2")
    found = await resolver.resolve("api.example.org")
    assert sorted(told(found)) == ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
    assert told(found)[2] == "2001:db8::1"
    assert sorted(server.queries, key=str) == [
        Query("api.example.org", "A", tcp=False),
        Query("api.example.org", "AAAA", tcp=False),
    ]


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
async def test_one_family_is_enough(server: NameServer, resolver: Resolver, address: str) -> None:
    server.zones["api.example.org"] = reply(address)
    assert told(await resolver.resolve("api.example.org")) == [address]


async def test_both_families_are_asked_at_once(server: NameServer, resolver: Resolver) -> None:
    server.zones["api.example.org"] = reply("192.0.2.1")
    server.hold("api.example.org")
    flight = asyncio.create_task(resolver.resolve("api.example.org"))
    for kind in ("A", "AAAA"):
        await asyncio.to_thread(server.wait, "api.example.org", kind)
    server.release("api.example.org")
    assert told(await flight) == ["192.0.2.1"]


async def test_aliases_are_followed(server: NameServer, resolver: Resolver) -> None:
    server.zones |= {
        "www.example.org": alias("a.cdn.example"),
        "a.cdn.example": alias("b.cdn.example"),
        "b.cdn.example": reply("192.0.2.7", "2001:db8::7"),
    }
    assert told(await resolver.resolve("www.example.org")) == ["192.0.2.7", "2001:db8::7"]
    assert server.count("a.cdn.example") == 0


@pytest.mark.security
async def test_an_alias_into_the_hosts_network_is_shown_for_what_it_is(server: NameServer, resolver: Resolver) -> None:
    server.zones |= {
        "www.example.org": alias("inside.example"),
        "inside.example": reply("127.0.0.1", "192.0.2.1", "::1"),
    }
    assert set(told(await resolver.resolve("www.example.org"))) == {"127.0.0.1", "192.0.2.1", "::1"}


async def test_an_address_beside_the_alias_is_not_the_names(server: NameServer, resolver: Resolver) -> None:
    server.zones |= {
        "www.example.org": Reply(("192.0.2.66",), cname="real.example.org"),
        "real.example.org": reply("192.0.2.1"),
    }
    assert told(await resolver.resolve("www.example.org")) == ["192.0.2.1"]


async def test_a_truncated_answer_is_asked_for_again_over_tcp(server: NameServer, resolver: Resolver) -> None:
    server.zones["big.example.org"] = reply("192.0.2.1", truncate=True)
    assert told(await resolver.resolve("big.example.org")) == ["192.0.2.1"]
    assert server.count("big.example.org", "A", tcp=True) == 1


@pytest.mark.security
@pytest.mark.parametrize("addresses", [200, 3840])
async def test_of_many_addresses_some_are_taken(server: NameServer, resolver: Resolver, addresses: int) -> None:
    many = [f"192.0.{number >> 8}.{number & 255}" for number in range(addresses)]
    server.zones |= {"www.example.org": alias("many.example.org"), "many.example.org": reply(*many)}
    started = time.thread_time()  # the server has a thread of its own
    found = told(await resolver.resolve("www.example.org"))
    assert time.thread_time() - started < 0.3
    assert len(found) == MOST_RECORDS - 1
    assert set(found) <= set(many)
    assert server.count("www.example.org", "A", tcp=True) == 1


async def test_names_are_absolute(server: NameServer, tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("search example.org\nnameserver 192.0.2.53\noptions ndots:5\n")
    server.zones |= {"api.example.org": reply("192.0.2.1")}
    resolver = Resolver([server.spelled], hosts_file="/nonexistent", resolv_conf=str(tmp_path / "resolv.conf"))
    assert await reason(resolver, "api") == "api does not exist"
    assert {query.name for query in server.queries} == {"api"}


async def test_every_spelling_is_the_one_name(server: NameServer, resolver: Resolver) -> None:
    server.zones["api.example.org"] = reply("192.0.2.1")
    for name in ("API.example.ORG", "api.example.org.", "api.example.org"):
        assert told(await resolver.resolve(name)) == ["192.0.2.1"]
    assert server.count("api.example.org", "A") == 1


@pytest.mark.security
@pytest.mark.parametrize("name", ["", ".", "127.1", "127.0.0.1", "0x7f.1", "a..b", "a b", "\0", "bücher.example"])
async def test_what_is_no_name_is_not_asked(server: NameServer, resolver: Resolver, name: str) -> None:
    assert "no host name" in await reason(resolver, name)
    assert server.queries == []


# What is not


async def test_no_such_name(server: NameServer, resolver: Resolver) -> None:
    assert await reason(resolver, "gone.example.org") == "gone.example.org does not exist"


async def test_no_address(server: NameServer, resolver: Resolver) -> None:
    server.zones["mail.example.org"] = Reply()
    assert await reason(resolver, "mail.example.org") == "mail.example.org has no address"


async def test_an_alias_that_leads_nowhere_or_round(server: NameServer, resolver: Resolver) -> None:
    server.zones |= {
        "a.example": alias("gone.example"),
        "b.example": alias("c.example"),
        "c.example": alias("b.example"),
    }
    assert await reason(resolver, "a.example") == "a.example has no address"
    assert "no nameserver could tell the addresses of b.example" in await reason(resolver, "b.example")


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "NOTIMP"])
async def test_a_nameserver_that_fails_is_quoted(server: NameServer, resolver: Resolver, rcode: str) -> None:
    server.zones["ill.example.org"] = Reply(rcode=rcode)
    why = await reason(resolver, "ill.example.org")
    assert why.endswith(f"of ill.example.org: 127.0.0.1 (port {server.port}) said: {rcode}")


async def test_the_next_nameserver_is_asked_when_one_fails(server: NameServer) -> None:
    server.zones["api.example.org"] = Reply(rcode="SERVFAIL")
    with NameServer({"api.example.org": reply("192.0.2.2")}) as second:
        resolver = Resolver([server.spelled, second.spelled], hosts_file="/nonexistent")
        assert told(await resolver.resolve("api.example.org")) == ["192.0.2.2"]
    assert server.count("api.example.org", "A") == 1


async def test_no_nameserver_at_all() -> None:
    resolver = Resolver([], {"known.example": ["192.0.2.1"]}, hosts_file="/nonexistent")
    assert told(await resolver.resolve("known.example")) == ["192.0.2.1"]
    assert "there is none" in await reason(resolver, "api.example.org")


async def test_silence_ends_with_the_timeout(server: NameServer) -> None:
    server.zones["dead.example.org"] = Reply(drop=("A", "AAAA"))
    resolver = Resolver([server.spelled], hosts_file="/nonexistent", timeout=0.3)
    async with asyncio.timeout(10):
        assert await reason(resolver, "dead.example.org") == (
            "no nameserver told the addresses of dead.example.org within 0.3 s"
        )


async def test_nobody_at_the_nameservers_address_is_told_at_once() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    resolver = Resolver([f"127.0.0.1:{port}"], hosts_file="/nonexistent", timeout=30)
    async with asyncio.timeout(10):
        assert "refused" in await reason(resolver, "api.example.org")


async def test_a_late_answer_is_in_time(server: NameServer, resolver: Resolver) -> None:
    server.zones["late.example.org"] = reply("192.0.2.1", delay=0.05)
    assert told(await resolver.resolve("late.example.org")) == ["192.0.2.1"]


async def test_a_family_that_is_never_answered_does_not_keep_the_other(
    server: NameServer, resolver: Resolver, clock: Clock
) -> None:
    server.zones["half.example.org"] = reply("192.0.2.1", ttl=60, drop=("AAAA",))
    async with asyncio.timeout(2):
        assert told(await resolver.resolve("half.example.org")) == ["192.0.2.1"]
    clock.time += SHORTEST_TTL
    await resolver.resolve("half.example.org")
    assert server.count("half.example.org", "A") == 2


async def test_without_an_answer_for_ipv4_the_one_for_ipv6_counts(server: NameServer) -> None:
    server.zones["half.example.org"] = reply("2001:db8::1", drop=("A",))
    resolver = Resolver([server.spelled], hosts_file="/nonexistent", timeout=0.5)
    assert told(await resolver.resolve("half.example.org")) == ["2001:db8::1"]


# Hostile answers


@pytest.mark.security
async def test_an_answer_with_another_id_is_nobodys(server: NameServer, resolver: Resolver) -> None:
    server.zones["api.example.org"] = Reply(("192.0.2.1",), forged="127.0.0.1")
    assert told(await resolver.resolve("api.example.org")) == ["192.0.2.1"]


@pytest.mark.security
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x81\x80",
        b"\x81\x80" + b"\xff" * 600,
        b"\x81\x80\0\1\0\1\0\0\0\0" + b"\xc0\x0c" * 20,
        b"\x81\x80\0\1\0\1\0\0\0\0\4evil\7example\0\0\1\0\1\xc0\x0c\0\1\0\1\0\0\0<\0\4\x7f\0\0\1",
        b"\xa8\x00\0\0\0\0\0\0\0\0",
    ],
)
async def test_garbage_is_no_answer(server: NameServer, raw: bytes) -> None:
    server.zones["bad.example.org"] = Reply(raw=raw)
    resolver = Resolver([server.spelled], hosts_file="/nonexistent", timeout=0.3)
    async with asyncio.timeout(10):
        assert "bad.example.org" in await reason(resolver, "bad.example.org")
    server.zones["bad.example.org"] = reply("192.0.2.1")
    assert told(await resolver.resolve("bad.example.org")) == ["192.0.2.1"]


@pytest.mark.security
async def test_rebinding_waits_for_the_ttl_and_is_then_seen(
    server: NameServer, resolver: Resolver, clock: Clock
) -> None:
    server.zones["flip.example.org"] = in_turn(reply("192.0.2.1", ttl=0), reply("127.0.0.1", ttl=0))
    for _ in range(3):
        assert told(await resolver.resolve("flip.example.org")) == ["192.0.2.1"]
    clock.time += SHORTEST_TTL
    assert told(await resolver.resolve("flip.example.org")) == ["127.0.0.1"]


# Kept


@pytest.mark.parametrize(("ttl", "kept"), [(0, SHORTEST_TTL), (30, 30), (86_400, LONGEST_TTL)])
async def test_an_answer_is_kept_for_its_ttl_within_bounds(
    server: NameServer, resolver: Resolver, clock: Clock, ttl: int, kept: float
) -> None:
    server.zones["api.example.org"] = reply("192.0.2.1", "2001:db8::1", ttl=ttl)
    await resolver.resolve("api.example.org")
    clock.time += kept - 0.01
    await resolver.resolve("api.example.org")
    assert server.count("api.example.org", "A") == 1
    clock.time += 0.01
    await resolver.resolve("api.example.org")
    assert server.count("api.example.org", "A") == 2


async def test_an_aliass_ttl_counts_too(server: NameServer, resolver: Resolver, clock: Clock) -> None:
    server.zones |= {"www.example.org": alias("cdn.example", ttl=2), "cdn.example": reply("192.0.2.1", "::2", ttl=60)}
    await resolver.resolve("www.example.org")
    clock.time += 2
    await resolver.resolve("www.example.org")
    assert server.count("www.example.org", "A") == 2


async def test_a_failure_is_not_kept(server: NameServer, resolver: Resolver) -> None:
    assert await reason(resolver, "new.example.org") == "new.example.org does not exist"
    server.zones["new.example.org"] = reply("192.0.2.1")
    assert told(await resolver.resolve("new.example.org")) == ["192.0.2.1"]


@pytest.mark.security
async def test_what_is_kept_is_bounded(server: NameServer, resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CACHED_NAMES", 3)
    server.zones |= {f"{number}.example": reply("192.0.2.1") for number in range(5)}
    for number in (0, 1, 2, 3, 4):
        await resolver.resolve(f"{number}.example")
    for number in (4, 3, 2):
        await resolver.resolve(f"{number}.example")
    assert server.count(kind="A") == 5
    await resolver.resolve("0.example")
    assert server.count(kind="A") == 6


# At once


async def test_one_look_up_serves_everybody_who_waits(server: NameServer, resolver: Resolver) -> None:
    server.zones["api.example.org"] = reply("192.0.2.1")
    server.hold("api.example.org")
    waiting = [asyncio.create_task(resolver.resolve("api.example.org")) for _ in range(20)]
    await asyncio.to_thread(server.wait, "api.example.org", "A")
    server.release("api.example.org")
    assert {tuple(told(found)) for found in await asyncio.gather(*waiting)} == {("192.0.2.1",)}
    assert server.count("api.example.org", "A") == 1


async def test_who_gives_up_takes_nothing_from_others(server: NameServer, resolver: Resolver) -> None:
    server.zones["api.example.org"] = reply("192.0.2.1")
    server.hold("api.example.org")
    first, second = (asyncio.create_task(resolver.resolve("api.example.org")) for _ in range(2))
    await asyncio.to_thread(server.wait, "api.example.org", "A")
    first.cancel()
    await asyncio.wait([first])
    server.release("api.example.org")
    assert told(await second) == ["192.0.2.1"]
    assert first.cancelled()


async def test_a_look_up_that_nobody_waits_for_leaves_nothing(server: NameServer, resolver: Resolver) -> None:
    server.zones["api.example.org"] = reply("192.0.2.1")
    server.hold("api.example.org")
    before = set(os.listdir("/proc/self/fd"))
    only = asyncio.create_task(resolver.resolve("api.example.org"))
    await asyncio.to_thread(server.wait, "api.example.org", "A")
    only.cancel()
    async with asyncio.timeout(2):  # sooner than the look-up would end by itself
        await asyncio.wait([only])
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await asyncio.sleep(0)  # transports close in the turn after they were told to
    assert set(os.listdir("/proc/self/fd")) <= before
    server.release("api.example.org")
    assert told(await resolver.resolve("api.example.org")) == ["192.0.2.1"]


async def test_who_comes_while_it_ends_gets_a_look_up_of_its_own(server: NameServer, resolver: Resolver) -> None:
    server.zones["api.example.org"] = reply("192.0.2.1")
    server.hold("api.example.org")
    first = asyncio.create_task(resolver.resolve("api.example.org"))
    await asyncio.to_thread(server.wait, "api.example.org", "A")
    first.cancel()
    second = asyncio.create_task(resolver.resolve("api.example.org"))
    await asyncio.to_thread(server.wait, "api.example.org", "A", 2)
    server.release("api.example.org")
    assert told(await second) == ["192.0.2.1"]


@pytest.mark.security
async def test_look_ups_at_once_are_bounded_and_those_in_excess_wait_no_longer_than_any(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    resolver = Resolver([server.spelled], hosts_file="/nonexistent", timeout=0.4)
    server.zones |= {f"{number}.example": Reply(drop=("A", "AAAA")) for number in range(4)}
    outcomes = await asyncio.gather(*(reason(resolver, f"{number}.example") for number in range(4)))
    assert [why.startswith("too many look-ups") for why in outcomes] == [False, False, True, True]
    assert {query.name for query in server.queries} == {"0.example", "1.example"}
    server.zones["5.example"] = reply("192.0.2.1")
    assert told(await resolver.resolve("5.example")) == ["192.0.2.1"]


# The host's files


async def test_the_hosts_file_goes_first_and_is_read_again_when_it_changes(server: NameServer, tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text(
        "# comment\n\n192.0.2.9\tApi.Example.ORG. other # 192.0.2.8 not-this\nnonsense api.example.org\n"
        "2001:db8::9 api.example.org\n192.0.2.10\n"
    )
    server.zones["api.example.org"] = reply("192.0.2.1")
    resolver = Resolver([server.spelled], hosts_file=str(file))
    assert told(await resolver.resolve("api.example.org")) == ["192.0.2.9", "2001:db8::9"]
    assert told(await resolver.resolve("other")) == ["192.0.2.9"]
    assert server.queries == []
    assert "does not exist" in await reason(resolver, "not-this")
    file.write_text("192.0.2.11 other\n")
    assert told(await resolver.resolve("other")) == ["192.0.2.11"]
    assert told(await resolver.resolve("api.example.org")) == ["192.0.2.1"]
    file.unlink()
    assert "does not exist" in await reason(resolver, "other")


async def test_given_hosts_go_before_the_file(server: NameServer, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("192.0.2.9 api.example.org\n")
    resolver = Resolver(
        [server.spelled], {"API.example.org": ["192.0.2.3", "2001:db8::3"]}, hosts_file=str(tmp_path / "hosts")
    )
    assert told(await resolver.resolve("api.example.org")) == ["192.0.2.3", "2001:db8::3"]


async def test_the_hosts_nameservers_are_asked_and_others_once_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "resolv.conf"
    with (
        NameServer({"api.example.org": reply("192.0.2.1")}) as first,
        NameServer({"api.example.org": reply("192.0.2.2")}, address="127.0.0.2", port=first.port) as second,
    ):
        monkeypatch.setattr(module, "PORT", first.port)  # the real one takes privileges
        file.write_text(f"# it\nnameserver {first.address} # ours\nnameserver\nnameserver nonsense\n")
        resolver = Resolver(hosts_file="/nonexistent", resolv_conf=str(file))
        assert told(await resolver.resolve("api.example.org")) == ["192.0.2.1"]
        file.write_text(f"nameserver {second.address}\n")
        assert told(await resolver.resolve("api.example.org")) == ["192.0.2.2"]


def test_a_resolv_conf_without_nameservers_means_this_machine() -> None:
    assert module._read_resolv_conf("search example.org\n") == (("127.0.0.1", PORT),)
    assert len(module._read_resolv_conf("nameserver 192.0.2.1\n" * 9)) == 3


@given(st.text(max_size=200))
@settings(max_examples=100)
def test_no_file_of_the_hosts_is_an_error(text: str) -> None:
    module._read_resolv_conf(text)
    module._read_hosts(text)


@given(st.lists(st.tuples(st.ip_addresses(), st.lists(st.from_regex(r"[a-z]{1,3}\.x", fullmatch=True), max_size=3))))
@settings(max_examples=50)
def test_a_hosts_file_says_what_was_written(lines: list[tuple[object, list[str]]]) -> None:
    found = module._read_hosts("".join(f"{address} {' '.join(names)}\n" for address, names in lines))
    expected: dict[str, list[object]] = {}
    for address, names in lines:
        for name in names:
            expected.setdefault(name, []).append(address)
    assert {name: list(addresses) for name, addresses in found.items()} == expected


# Configuration


@pytest.mark.parametrize("hosts", [{"a b": ["192.0.2.1"]}, {"127.1": ["192.0.2.1"]}, {"a.example": ["b.example"]}])
def test_hosts_that_are_none_are_refused(hosts: dict[str, list[str]]) -> None:
    with pytest.raises(InvalidRequest, match="hosts has"):
        Resolver([], hosts)


async def test_a_nameserver_on_ipv6(tmp_path: Path) -> None:
    with NameServer({"api.example.org": reply("192.0.2.1", truncate=True)}, address="::1") as server:
        resolver = Resolver([server.spelled], hosts_file="/nonexistent")
        assert await resolver.resolve("api.example.org") == (ip_address("192.0.2.1"),)
