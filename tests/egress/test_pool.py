"""An address stands for one name, for ever, in one session."""

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alcove.egress.pool import DEFAULT_LIMIT, RESERVED, FakePool, PoolFull

pytestmark = pytest.mark.user

RANGE = IPv4Network("198.18.0.0/15")


def test_a_name_keeps_its_address_and_an_address_its_name() -> None:
    pool = FakePool(RANGE, "s-1")
    first, second = pool.address("a.example.org"), pool.address("b.example.org")
    assert first != second
    assert pool.address("a.example.org") == first
    assert (pool.name(first), pool.name(second)) == ("a.example.org", "b.example.org")
    assert len(pool) == 2


def test_addresses_that_were_not_issued_stand_for_nothing() -> None:
    pool = FakePool(RANGE, "s-1")
    issued = pool.address("a.example.org")
    assert pool.name(issued + 1) is None
    assert pool.name(RANGE[1]) is None
    assert pool.name(IPv4Address("192.0.2.1")) is None


@given(st.lists(st.text(max_size=4), max_size=300), st.integers(22, 23))
@settings(max_examples=50)
def test_every_name_has_an_address_of_its_own_in_the_range(names: list[str], prefix: int) -> None:
    network = IPv4Network(f"198.18.0.0/{prefix}")
    pool = FakePool(network, "s-1")
    issued: dict[str, IPv4Address] = {}
    for name in names:
        try:
            issued.setdefault(name, address := pool.address(name))
        except PoolFull:
            assert len(issued) == network.num_addresses - RESERVED - 1
            continue
        assert issued[name] == address
    assert len(set(issued.values())) == len(issued) == len(pool)
    assert all(address in network and address != network.broadcast_address for address in issued.values())
    assert all(address >= network[RESERVED] for address in issued.values())
    assert all(pool.name(address) == name for name, address in issued.items())


def test_the_whole_of_a_small_range_is_issued_once_and_no_more() -> None:
    network = IPv4Network("198.18.0.0/23")
    pool = FakePool(network, "s-1")
    issued = {pool.address(f"{number}.example.org") for number in range(255)}
    assert issued == set(list(network)[RESERVED:-1])
    with pytest.raises(PoolFull, match="255 hosts"):
        pool.address("one-more.example.org")
    assert pool.name(network.broadcast_address) is None


@pytest.mark.security
def test_a_guest_that_names_more_and_more_is_stopped_and_loses_nothing_it_had() -> None:
    pool = FakePool(RANGE, "s-1", limit=3)
    kept = [pool.address(f"{number}.example.org") for number in range(3)]
    for number in range(3, 10):
        with pytest.raises(PoolFull, match="3 hosts"):
            pool.address(f"{number}.example.org")
    assert [pool.address(f"{number}.example.org") for number in range(3)] == kept
    assert len(pool) == 3
    assert RANGE.num_addresses > DEFAULT_LIMIT


@pytest.mark.security
def test_an_address_of_one_session_is_rarely_one_of_anothers() -> None:
    first = {pool.address("a.example.org") for pool in (FakePool(RANGE, f"s-{number}") for number in range(64))}
    assert len(first) > 56  # of 64 random ones of 130,815, more than a few alike has a chance below 1e-20


def test_a_pool_that_is_made_anew_gives_the_same_addresses_in_any_order() -> None:
    names = [f"{number}.example.org" for number in range(50)]
    first, again = FakePool(RANGE, "s-1"), FakePool(RANGE, "s-1")
    given = {name: first.address(name) for name in names}
    assert {name: again.address(name) for name in reversed(names)} == given


@pytest.mark.parametrize("network", ["198.18.0.0/24", "198.18.0.0/32"])
def test_a_range_without_room_is_refused(network: str) -> None:
    with pytest.raises(ValueError, match="/23"):
        FakePool(IPv4Network(network), "s-1")
