"""Addresses that stand for names: a session's guest dials one, and the egress service knows which name it meant."""

import secrets
from ipaddress import IPv4Address, IPv4Network

#: What a session may have named at once: a guest that looks up random names below a wildcard stops here.
DEFAULT_LIMIT = 16_384
#: At the start of the range, never issued; the second of them is the session's resolver.
RESERVED = 256


class PoolFull(Exception):  # noqa: N818
    """A session has named as many hosts as it may; `str` says how many, and what helps."""


class FakePool:
    """The addresses of one session, each of which stands for one name for as long as the session lives.

    An address is never given to another name, so a client that keeps one for longer than its TTL still means the name
    that it asked for. Names are taken as they come: the caller's are canonical.

    Raises:
        ValueError: `network` has no address to issue.
    """

    def __init__(self, network: IPv4Network, *, limit: int = DEFAULT_LIMIT) -> None:
        self._first = int(network.network_address) + RESERVED
        self._usable = network.num_addresses - RESERVED - 1  # nor the last one, which a kernel may take for broadcast
        if self._usable < 1:
            raise ValueError(f"{network} is too small for fake addresses: choose at least a /23")
        self._limit = min(limit, self._usable)
        # not a secret: it makes an address that another session was given most likely mean nothing here
        self._start = secrets.randbelow(self._usable)
        self._addresses: dict[str, IPv4Address] = {}
        self._names: dict[IPv4Address, str] = {}

    def __len__(self) -> int:
        return len(self._addresses)

    def address(self, name: str) -> IPv4Address:
        """The address that stands for `name`, issued if there is none yet.

        Raises:
            PoolFull: it would be one more than the limit.
        """
        known = self._addresses.get(name)
        if known is not None:
            return known
        issued = len(self._addresses)
        if issued >= self._limit:
            raise PoolFull(f"this session has named {issued} hosts, which is the most: make a new session")
        address = IPv4Address(self._first + (self._start + issued) % self._usable)
        self._addresses[name] = address
        self._names[address] = name
        return address

    def name(self, address: IPv4Address) -> str | None:
        """The name that `address` stands for, None where this session was not given it."""
        return self._names.get(address)
