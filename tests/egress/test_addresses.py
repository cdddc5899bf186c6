"""What may be dialled: judged against the standard library's registry, and by what an address carries."""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from alcove.egress.addresses import FAKE_RANGE, AddressFilter, IPAddress, IPNetwork, carried

pytestmark = [pytest.mark.user, pytest.mark.security]

PUBLIC = IPv4Address("93.184.215.14")
PLAIN = AddressFilter()
EVERYTHING = AddressFilter([IPv4Network("0.0.0.0/0"), IPv6Network("::/0")])

#: Where releases of Python differ, or where we refuse more than they do.
UNEVEN: list[IPNetwork] = [
    *map(IPv4Network, ["192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32"]),
    *map(IPv6Network, ["64:ff9b:1::/48", "2001::/23", "2002::/16", "3fff::/20", "::/8"]),
]

special = st.sampled_from(
    "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.2.0/24 192.168.0.0/16 "
    "198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 ::/64 64:ff9b::/96 100::/64 2001:db8::/32 "
    "2001:2::/48 fc00::/7 fd00:ec2::/32 fe80::/10 fec0::/10 ff00::/8 5f00::/16".split()
).flatmap(lambda text: st.ip_addresses(network=text))
address = st.one_of(special, st.ip_addresses(v=4), st.ip_addresses(v=6, network="2000::/3"), st.ip_addresses(v=6))
v4 = st.one_of(special.filter(lambda ip: ip.version == 4), st.ip_addresses(v=4))

CARRIERS: dict[str, Callable[[int], int]] = {
    "mapped": lambda v4: 0xFFFF << 32 | v4,
    "compatible": lambda v4: v4,
    "NAT64": lambda v4: 0x64_FF9B << 96 | v4,
    "NAT64 of a site": lambda v4: 0x64_FF9B_0001 << 80 | v4,
    "6to4": lambda v4: 0x2002 << 112 | v4 << 80 | 1,
    "Teredo client": lambda v4: 0x2001_0000 << 96 | int(PUBLIC) << 64 | v4 ^ 0xFFFF_FFFF,
    "Teredo server": lambda v4: 0x2001_0000 << 96 | v4 << 64 | int(PUBLIC) ^ 0xFFFF_FFFF,
}
#: Which of these lead to a public address as well as that address would.
OPEN = sorted(CARRIERS.keys() - {"compatible"})


def ip(text: str) -> IPAddress:
    return ip_address(text)


def networks(*texts: str) -> list[IPNetwork]:
    return [ip_network(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("0.0.0.0", "unspecified (RFC 6890)"),
        ("0.1.2.3", "unspecified (RFC 6890)"),
        ("::", "unspecified (RFC 6890)"),
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("::1", "loopback"),
        ("10.1.2.3", "private (RFC 1918)"),
        ("172.31.255.255", "private (RFC 1918)"),
        ("192.168.0.1", "private (RFC 1918)"),
        ("100.64.0.1", "of a carrier's NAT (RFC 6598)"),
        ("169.254.1.1", "link-local (RFC 3927)"),
        ("fe80::1", "link-local (RFC 4291)"),
        ("169.254.169.254", "the metadata service of a cloud"),
        ("169.254.170.2", "the metadata service of a cloud"),
        ("100.100.100.200", "the metadata service of a cloud"),
        ("168.63.129.16", "the metadata service of a cloud"),
        ("192.0.0.192", "the metadata service of a cloud"),
        ("fd00:ec2::254", "the metadata service of a cloud"),
        ("fd20:ce::254", "the metadata service of a cloud"),
        ("fd12:3456::1", "unique local (RFC 4193)"),
        ("fec0::1", "site-local (RFC 3879)"),
        ("224.0.0.251", "multicast (RFC 5771)"),
        ("ff02::1", "multicast (RFC 4291)"),
        ("255.255.255.255", "broadcast (RFC 919)"),
        ("192.0.2.1", "documentation (RFC 5737)"),
        ("2001:db8::1", "documentation (RFC 3849, RFC 9637)"),
        ("3fff::1", "documentation (RFC 3849, RFC 9637)"),
        ("2001:2::1", "benchmarking (RFC 2544, RFC 5180)"),
        ("198.19.0.1", "in 198.18.0.0/15, where addresses stand for names"),
        ("192.0.0.1", "for protocols (RFC 6890)"),
        ("192.88.99.1", "a 6to4 relay (RFC 7526)"),
        ("240.0.0.1", "reserved (RFC 1112)"),
        ("64:ff9b:1:7f00:0:100::", "reserved (RFC 4291)"),
        ("100::1", "reserved (RFC 4291)"),
        ("4000::1", "reserved (RFC 4291)"),
    ],
)
def test_what_is_not_public_is_refused_with_its_kind(text: str, what: str) -> None:
    assert PLAIN.refusal(ip(text)) == f"{ip(text)} is {what}"


@pytest.mark.parametrize("text", ["93.184.215.14", "1.1.1.1", "100.63.255.255", "172.32.0.1", "2606:4700::1111"])
def test_what_is_public_may_be_dialled(text: str) -> None:
    assert PLAIN.refusal(ip(text)) is None
    assert PLAIN.refusal(ip(text), written=True) is None


@given(address)
def test_as_strict_as_the_registry_of_the_standard_library(where: IPAddress) -> None:
    refusal = PLAIN.refusal(where)
    if any(where in network for network in UNEVEN):
        return
    given_out = where.version == 4 or where in IPv6Network("2000::/3")
    assert (refusal is None) == (given_out and where.is_global and not where.is_multicast), refusal


@given(v4)
def test_every_private_v4_address_is_refused_also_where_releases_differ(where: IPv4Address) -> None:
    assume(where.is_private or where.is_multicast or where.is_reserved)
    assert PLAIN.refusal(where) is not None


@given(st.sampled_from(sorted(CARRIERS)), v4)
@example("mapped", IPv4Address("127.0.0.1"))
@example("NAT64", IPv4Address("169.254.169.254"))
def test_an_address_is_judged_by_what_it_carries(kind: str, inner: IPv4Address) -> None:
    outer = IPv6Address(CARRIERS[kind](int(inner)))
    assume(outer not in {IPv6Address("::"), IPv6Address("::1")})
    assert inner in carried(outer)
    for written in (False, True):
        refusal = PLAIN.refusal(outer, written=written)
        if (why := PLAIN.refusal(inner)) is not None:
            assert refusal == f"{outer} leads to {inner}, which is {why.removeprefix(f'{inner} is ')}"
        else:
            assert (refusal is None) == (kind in OPEN or written)


@given(address)
def test_the_carried_address_is_that_of_the_standard_library(where: IPAddress) -> None:
    if isinstance(where, IPv4Address):
        assert carried(where) == ()
        return
    known = where.ipv4_mapped or where.sixtofour
    if known is not None:
        assert carried(where) == (known,)
    elif where.teredo is not None:
        assert carried(where) == where.teredo


def test_the_loopback_and_the_unspecified_address_carry_nothing() -> None:
    assert carried(IPv6Address("::1")) == carried(IPv6Address("::")) == ()


@given(address)
def test_nothing_opens_what_is_no_single_host(where: IPAddress) -> None:
    if where.is_multicast or where.is_unspecified or where in FAKE_RANGE or where == ip("255.255.255.255"):
        assert AddressFilter([*networks("0.0.0.0/0", "::/0"), ip_network(where)]).refusal(where, written=True)


@given(address)
def test_a_written_address_opens_no_more_than_private_and_reserved_ranges(where: IPAddress) -> None:
    if PLAIN.refusal(where) is None:
        assert PLAIN.refusal(where, written=True) is None
    if where.is_loopback or where.is_link_local or where.is_multicast or where.is_unspecified:
        assert PLAIN.refusal(where, written=True) is not None


@pytest.mark.parametrize("text", ["10.1.2.3", "fd12::1", "100.64.0.1", "192.0.2.1", "2001:db8::1", "240.0.0.1"])
def test_a_written_address_may_be_private(text: str) -> None:
    assert PLAIN.refusal(ip(text)) is not None
    assert PLAIN.refusal(ip(text), written=True) is None


def test_an_operator_opens_ranges_and_nothing_beside_them() -> None:
    opened = AddressFilter(networks("10.1.0.0/16", "127.0.0.0/8", "fe80::/10"))
    for text in ("10.1.2.3", "127.0.0.1", "fe80::1", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "2002:a01:203::1"):
        assert opened.refusal(ip(text)) is None
    for text in ("10.2.0.1", "::1", "169.254.1.1", "::ffff:10.2.0.1"):
        assert opened.refusal(ip(text)) is not None


def test_a_range_that_holds_the_outer_form_opens_nothing_inside_it() -> None:
    assert AddressFilter(networks("64:ff9b::/96")).refusal(ip("64:ff9b::10.0.0.1")) is not None


@pytest.mark.parametrize("text", ["169.254.169.254", "100.100.100.200", "fd00:ec2::254", "168.63.129.16"])
def test_a_metadata_service_is_opened_by_its_own_address_alone(text: str) -> None:
    assert EVERYTHING.refusal(ip(text)) == f"{text} is the metadata service of a cloud"
    assert PLAIN.refusal(ip(text), written=True) is not None
    assert AddressFilter([ip_network(text)]).refusal(ip(text)) is None


def test_an_address_of_this_host_is_opened_by_its_own_address_alone() -> None:
    own = {ip("10.1.2.3"), PUBLIC, ip("2606:4700::1111"), ip("127.0.0.1")}
    for where in own - {ip("127.0.0.1")}:
        assert (
            AddressFilter(networks("0.0.0.0/0", "::/0"), own=own).refusal(where)
            == f"{where} is an address of this host"
        )
        assert AddressFilter(own=own).refusal(where, written=True) is not None
        assert AddressFilter([ip_network(where)], own=own).refusal(where) is None
    assert AddressFilter(networks("127.0.0.0/8"), own=own).refusal(ip("127.0.0.1")) is None
    assert AddressFilter(own=own).refusal(ip("1.1.1.1")) is None
    assert AddressFilter(own=own).refusal(ip(f"::ffff:{PUBLIC}")) is not None


def test_the_addresses_of_this_host_are_asked_each_time() -> None:
    own: set[IPAddress] = set()
    judged = AddressFilter(own=lambda: own)
    assert judged.refusal(PUBLIC) is None
    own.add(PUBLIC)
    assert judged.refusal(PUBLIC) == f"{PUBLIC} is an address of this host"


def test_another_fake_range_is_closed_instead() -> None:
    judged = AddressFilter(networks("10.0.0.0/8", "198.18.0.0/15"), fake=IPv4Network("10.200.0.0/16"))
    assert judged.refusal(ip("10.200.1.1")) == "10.200.1.1 is in 10.200.0.0/16, where addresses stand for names"
    assert judged.refusal(ip("10.201.1.1")) is None
    assert judged.refusal(ip("198.18.0.1")) is None


def test_a_zone_changes_nothing() -> None:
    assert PLAIN.refusal(ip("fe80::1%lo")) == "fe80::1 is link-local (RFC 4291)"
    assert AddressFilter(own={ip("2606:4700::1")}).refusal(ip("2606:4700::1%lo")) is not None
