"""Which addresses may be dialled for a session, and why not the others.

The ranges are those of IANA's special-purpose registries (RFC 6890 and its updates) and the addresses at which clouds
tell a machine its own secrets. An address that carries another is judged by what it carries.
"""

from collections.abc import Callable, Collection, Iterable
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

from alcove.egress import config

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

#: Where the addresses that stand for names lie, unless configured otherwise.
FAKE_RANGE = IPv4Network(config.FAKE_RANGE)


class Opens(Enum):
    """What it takes to dial into a range all the same."""

    NOTHING = "nothing"
    EXACT = "an allowed range of exactly this address"
    ALLOWED = "an allowed range"
    WRITTEN = "an allowed range, or the address in the policy"


class Block(NamedTuple):
    """A range that is closed: `what` its addresses are."""

    network: IPNetwork
    what: str
    opens: Opens


def _blocks(opens: Opens, what: str, *networks: str) -> list[Block]:
    return [Block(IPv6Network(text) if ":" in text else IPv4Network(text), what, opens) for text in networks]


# The first that fits is told, so what opens least comes first, and a part before its whole
_METADATA = "the metadata service of a cloud"
_BLOCKS = [
    *_blocks(Opens.NOTHING, "unspecified (RFC 6890)", "0.0.0.0/8", "::/128"),
    *_blocks(Opens.NOTHING, "broadcast (RFC 919)", "255.255.255.255/32"),
    *_blocks(Opens.NOTHING, "multicast (RFC 5771)", "224.0.0.0/4"),
    *_blocks(Opens.NOTHING, "multicast (RFC 4291)", "ff00::/8"),
    *_blocks(Opens.EXACT, _METADATA, "169.254.169.254/32", "169.254.170.2/32", "169.254.170.23/32"),
    *_blocks(Opens.EXACT, _METADATA, "100.100.100.200/32", "192.0.0.192/32", "168.63.129.16/32"),
    *_blocks(Opens.EXACT, _METADATA, "fd00:ec2::/32", "fd20:ce::254/128", "fd00:42::42/128", "fe80::a9fe:a9fe/128"),
    *_blocks(Opens.ALLOWED, "loopback", "127.0.0.0/8", "::1/128"),
    *_blocks(Opens.ALLOWED, "link-local (RFC 3927)", "169.254.0.0/16"),
    *_blocks(Opens.ALLOWED, "link-local (RFC 4291)", "fe80::/10"),
    *_blocks(Opens.WRITTEN, "private (RFC 1918)", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
    *_blocks(Opens.WRITTEN, "unique local (RFC 4193)", "fc00::/7"),
    *_blocks(Opens.WRITTEN, "site-local (RFC 3879)", "fec0::/10"),
    *_blocks(Opens.WRITTEN, "of a carrier's NAT (RFC 6598)", "100.64.0.0/10"),
    *_blocks(Opens.WRITTEN, "documentation (RFC 5737)", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"),
    *_blocks(Opens.WRITTEN, "documentation (RFC 3849, RFC 9637)", "2001:db8::/32", "3fff::/20"),
    *_blocks(Opens.WRITTEN, "benchmarking (RFC 2544, RFC 5180)", "198.18.0.0/15", "2001:2::/48"),
    *_blocks(Opens.WRITTEN, "for protocols (RFC 6890)", "192.0.0.0/24", "2001::/23"),
    *_blocks(Opens.WRITTEN, "a 6to4 relay (RFC 7526)", "192.88.99.0/24"),
    *_blocks(Opens.WRITTEN, "an IPv4-compatible address (RFC 4291)", "::/96"),
    *_blocks(Opens.WRITTEN, "reserved (RFC 1112)", "240.0.0.0/4"),
    # all that IANA has not given out as global unicast
    *_blocks(Opens.WRITTEN, "reserved (RFC 4291)", "::/3", "4000::/2", "8000::/1"),
]


class _Carrier(NamedTuple):
    network: IPv6Network
    inside: Callable[[int], tuple[IPv4Address, ...]]


def _low(value: int) -> tuple[IPv4Address, ...]:
    return (IPv4Address(value & 0xFFFF_FFFF),)


def _six_to_four(value: int) -> tuple[IPv4Address, ...]:
    return (IPv4Address(value >> 80 & 0xFFFF_FFFF),)


def _teredo(value: int) -> tuple[IPv4Address, ...]:
    """The server, and the client, whose bits are inverted (RFC 4380, 4)."""
    return IPv4Address(value >> 64 & 0xFFFF_FFFF), IPv4Address(~value & 0xFFFF_FFFF)


# Of 64:ff9b:1::/48 only the part whose layout is certain: a translator may also cut at 48, 56 or 64 bits (RFC 6052)
_CARRIERS = (
    _Carrier(IPv6Network("::ffff:0:0/96"), _low),
    _Carrier(IPv6Network("64:ff9b::/96"), _low),
    _Carrier(IPv6Network("64:ff9b:1::/96"), _low),
    _Carrier(IPv6Network("2002::/16"), _six_to_four),
    _Carrier(IPv6Network("2001::/32"), _teredo),
)
_COMPATIBLE = IPv6Network("::/96")
_NOT_COMPATIBLE = (IPv6Address("::"), IPv6Address("::1"))


def carried(ip: IPAddress) -> tuple[IPv4Address, ...]:
    """Return the IPv4 addresses that an IPv6 address leads to: mapped, compatible, NAT64, 6to4 or Teredo."""
    if isinstance(ip, IPv4Address):
        return ()
    for carrier in _CARRIERS:
        if ip in carrier.network:
            return carrier.inside(int(ip))
    return _low(int(ip)) if ip in _COMPATIBLE and ip not in _NOT_COMPATIBLE else ()


@lru_cache(maxsize=4096)  # asked for each connection
def block_of(network: IPNetwork) -> Block | None:
    """Return the closed range that the whole of `network` lies in."""
    if isinstance(network, IPv6Network) and any(network.subnet_of(carrier.network) for carrier in _CARRIERS):
        return None
    return next((block for block in _BLOCKS if _within(network, block.network)), None)


def _within(network: IPNetwork, other: IPNetwork) -> bool:
    if isinstance(network, IPv4Network):
        return isinstance(other, IPv4Network) and network.subnet_of(other)
    return isinstance(other, IPv6Network) and network.subnet_of(other)


def _alone(ip: IPAddress) -> IPNetwork:
    return IPv4Network(int(ip)) if isinstance(ip, IPv4Address) else IPv6Network(int(ip))


class AddressFilter:
    """What a resolved address must pass before it is dialled.

    `allowed` opens ranges; metadata services and this host's `own` addresses only where it names exactly that address,
    since a wider range is meant for others. An address that carries an IPv4 address is opened by that one's range.
    `fake` is the range of the addresses that stand for names; nothing opens it.
    """

    def __init__(
        self,
        allowed: Iterable[IPNetwork] = (),
        *,
        own: Callable[[], Collection[IPAddress]] | Collection[IPAddress] = (),
        fake: IPNetwork = FAKE_RANGE,
    ) -> None:
        self._allowed = tuple(allowed)
        self._own = own
        self._fake = fake

    def refusal(self, ip: IPAddress, *, written: bool = False) -> str | None:
        """Return None if `ip` may be dialled, else the reason, such as "10.1.2.3 is private (RFC 1918)".

        `written`: the policy has the address itself, not a name that resolved to it. That opens private and reserved
        ranges, but not for what the address carries, which nobody wrote.
        """
        bare = IPv6Address(int(ip)) if isinstance(ip, IPv6Address) else ip  # a zone makes it unequal to its like
        for inner in carried(bare):
            if what := self._closed(inner, written=False):
                return f"{bare} leads to {inner}, which is {what}"
        what = self._closed(bare, written=written)
        return f"{bare} is {what}" if what else None

    def _closed(self, ip: IPAddress, *, written: bool) -> str | None:
        alone = _alone(ip)
        if _within(alone, self._fake):
            return f"in {self._fake}, where addresses stand for names"
        block = block_of(alone)
        if block is not None and not self._opened(alone, block.opens, written=written):
            return block.what
        if not ip.is_loopback and ip in self._own_now() and not self._opened(alone, Opens.EXACT, written=written):
            return "an address of this host"
        return None

    def _opened(self, alone: IPNetwork, opens: Opens, *, written: bool) -> bool:
        match opens:
            case Opens.NOTHING:
                return False
            case Opens.EXACT:
                return alone in self._allowed
            case Opens.ALLOWED:
                written = False
        return written or any(_within(alone, network) for network in self._allowed)

    def _own_now(self) -> Collection[IPAddress]:
        return self._own() if callable(self._own) else self._own
