"""An `EgressConfig` read, and what this host is."""

import os
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network

from alcove.contract import InvalidRequest
from alcove.egress.addresses import IPAddress, IPNetwork
from alcove.egress.config import EgressConfig

_LEAST_FAKE = 65_536  # a /16


@lru_cache(maxsize=8)  # it comes with every session
def check(config: EgressConfig) -> None:
    """Read everything that has a form.

    Raises:
        InvalidRequest: it is not of it.
    """
    from alcove.egress.resolver import Resolver  # loads the DNS library: only for those who name resolvers or hosts

    allowed(config)
    if fake(config).num_addresses < _LEAST_FAKE:
        raise InvalidRequest(f"egress.fake_range {config.fake_range} must have at least the addresses of a /16")
    if config.resolvers or config.hosts:
        Resolver(config.resolvers, dict(config.hosts))


@lru_cache(maxsize=8)
def fake(config: EgressConfig) -> IPv4Network:
    """The addresses that stand for names.

    Raises:
        InvalidRequest: it is no IPv4 network.
    """
    network = _network(config.fake_range, "fake_range")
    if not isinstance(network, IPv4Network):
        raise InvalidRequest(f"egress.fake_range {config.fake_range} must be an IPv4 network")
    return network


def resolver(config: EgressConfig) -> IPv4Address:
    """The address that a session's resolv.conf names: the first of the fake range that is a host's."""
    return fake(config)[1]


def allowed(config: EgressConfig) -> tuple[IPNetwork, ...]:
    """The ranges that the operator opens.

    Raises:
        InvalidRequest: one is no network.
    """
    return tuple(_network(text, "allow_addresses") for text in config.allow_addresses)


def _network(text: str, name: str) -> IPNetwork:
    try:
        return ip_network(text)
    except ValueError as error:
        raise InvalidRequest(f"egress.{name}: {error}") from None


def own_addresses() -> frozenset[IPAddress]:
    """The addresses of this host, as the kernel lists them now."""
    return frozenset([*_own_v4(), *_own_v6()])


def _own_v4() -> Iterator[IPAddress]:
    """Out of the local table: a line `|-- ADDRESS`, then those of its routes, one of which ends in `host LOCAL`."""
    last = ""
    for line in _lines("/proc/net/fib_trie"):
        text = line.strip()
        if text.startswith("|-- "):
            last = text[4:]
        elif text.endswith("host LOCAL"):
            yield ip_address(last)


def _own_v6() -> Iterator[IPAddress]:
    return (ip_address(bytes.fromhex(line.split()[0])) for line in _lines("/proc/net/if_inet6"))


def _lines(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.readlines()
    except FileNotFoundError:  # a kernel without that family
        return []


def has_ipv6() -> bool:
    """Tell whether this kernel has IPv6."""
    return os.path.exists("/proc/net/if_inet6")
