"""Addresses that stand for names: a session's guest dials one, and the egress service knows which name it meant."""

import hashlib
from ipaddress import IPv4Address, IPv4Network

#: What a session may have named at once: a guest that looks up random names below a wildcard stops here.
DEFAULT_LIMIT = 16_384
#: At the start of the range, never issued; the second of them is the session's resolver.
RESERVED = 256

_OWN_PLACES = 8
_PLACES_BEHIND = 1024


class PoolFull(Exception):  # noqa: N818
    """A session has named as many hosts as it may; `str` says how many, and what helps."""


class FakePool:
    """The addresses of one session, each of which stands for one name for as long as the session lives.

    An address is never given to another name, so a client that keeps one for longer than its TTL still means the name
    that it asked for. Names are taken as they come: the caller's are canonical.

    `session` is what the session is known by. A name's address follows from both, but for what else has it already, so
    that a service that was started anew gives the same ones; and another session was most likely given others.

    Raises:
        ValueError: `network` has no address to issue.
    """

    def __init__(self, network: IPv4Network, session: str, *, limit: int = DEFAULT_LIMIT) -> None:
        self._first = int(network.network_address) + RESERVED
        self._usable = network.num_addresses - RESERVED - 1  # nor the last one, which a kernel may take for broadcast
        if self._usable < 1:
            raise ValueError(f"{network} is too small for fake addresses: choose at least a /23")
        self._limit = min(limit, self._usable)
        self._key = hashlib.blake2b(session.encode(), digest_size=16).digest()
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
        address = self._free(name)
        self._addresses[name] = address
        self._names[address] = name
        return address

    def _free(self, name: str) -> IPv4Address:
        """The first of the name's own places that is free, else one behind the last of those.

        Bounded, since a guest that knew the key could choose names that all want the same places.
        """
        start = 0
        for step in range(_OWN_PLACES + _PLACES_BEHIND):
            if step < _OWN_PLACES:
                salt = step.to_bytes(hashlib.blake2b.SALT_SIZE)
                start = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8, key=self._key, salt=salt).digest())
            else:
                start += 1
            address = IPv4Address(self._first + start % self._usable)
            if address not in self._names:
                return address
        raise PoolFull(f"no address of this session is free for {name}: make a new session")

    def name(self, address: IPv4Address) -> str | None:
        """The name that `address` stands for, None where this session was not given it."""
        return self._names.get(address)
