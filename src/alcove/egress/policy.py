"""A session's allow-list: which rule lets it reach a name or address at a port, and why none does."""

from collections.abc import Iterable, Iterator
from enum import Enum
from ipaddress import IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_address

from msgspec import Struct

from alcove.contract import InvalidRequest
from alcove.egress import entries as grammar
from alcove.egress.addresses import FAKE_RANGE, IPAddress, IPNetwork
from alcove.egress.entries import WEB_PORTS, AddressEntry, NameEntry
from alcove.egress.literals import spelled
from alcove.egress.names import HOST_LOOPBACK


class Kind(Enum):
    """What a rule asks of a connection."""

    WEB = "web"  #: HTTP/1 on 80 with that Host in every request, TLS on 443 with that SNI
    ORIGIN = "origin"  #: opaque, to exactly that name and port; a ClientHello's SNI must match
    ADDRESS = "address"  #: opaque, to exactly that address
    HOST_LOOPBACK = "host_loopback"  #: opaque, to that port on the host's loopback


class Rule(Struct, frozen=True):
    """What allowed a connection: the entry as it was written, and what it asks."""

    entry: str
    kind: Kind


class _Ports(dict[int | None, Rule]):
    """The rules of one name by port; None is the web's two."""

    __slots__ = ()

    def rule(self, port: int) -> Rule | None:
        return self.get(port) or (self.get(None) if port in WEB_PORTS else None)

    def numbers(self) -> set[int]:
        return {number for port in self for number in (WEB_PORTS if port is None else (port,))}


class Policy:
    """An allow-list, parsed; it never changes. Names that are asked for are canonical (`names.canonical`).

    The nearest rule decides: that of the name itself, else of the longest wildcard above it, and of two of one name
    the one that has the port. So a name that is written out is checked as written, whatever a wildcard would allow.
    """

    __slots__ = ("_addresses", "_below", "_names", "entries", "networks")

    #: The entries, as written and in their order.
    entries: tuple[str, ...]
    #: The addresses that are dialled as such, and so need a local route in the session; none overlaps another.
    networks: tuple[IPNetwork, ...]

    def __init__(self, parsed: Iterable[tuple[str, NameEntry | AddressEntry]]) -> None:
        self._names: dict[str, _Ports] = {}
        self._below: dict[str, _Ports] = {}
        self._addresses: dict[tuple[IPNetwork, int | None], Rule] = {}
        written = []
        for text, entry in parsed:
            written.append(text)
            if isinstance(entry, AddressEntry):
                self._addresses.setdefault((entry.network, entry.port), Rule(text, Kind.ADDRESS))
            else:
                ports = (self._below if entry.below else self._names).setdefault(entry.name, _Ports())
                ports.setdefault(entry.port, Rule(text, _kind(entry)))
        self.entries = tuple(written)
        self.networks = tuple(_collapsed(network for network, _ in self._addresses))

    @classmethod
    def parse(cls, entries: Iterable[str], *, fake: IPNetwork = FAKE_RANGE) -> "Policy":
        """Read an allow-list; `fake` is the range whose addresses stand for names, which no entry may overlap.

        Raises:
            InvalidRequest: an entry is malformed or allows too much; it names the entry and what to write instead.
        """
        if isinstance(entries, str):
            raise InvalidRequest("allowed_hosts must be a list of entries, not one text: write [`example.org`]")
        return cls([(text, grammar.parse(text, fake)) for text in map(_text, entries)])

    def resolves(self, name: str) -> bool:
        """Tell whether a connection to `name` could be allowed at some port."""
        return next(self._nearest(name), None) is not None

    def rule(self, name: str, port: int) -> Rule | None:
        """Return the rule that lets the session reach `name` at `port`."""
        return next((rule for ports in self._nearest(name) if (rule := ports.rule(port))), None)

    def ports(self, name: str) -> tuple[int, ...]:
        """Return the ports at which `name` may be reached, in order."""
        return tuple(sorted({number for ports in self._nearest(name) for number in ports.numbers()}))

    def address_rule(self, ip: IPAddress, port: int) -> Rule | None:
        """Return the rule that lets the session reach an address that its policy has written out."""
        plain = (ip.ipv4_mapped or ip) if isinstance(ip, IPv6Address) else ip
        return next(
            (
                rule
                for (network, number), rule in self._addresses.items()
                if number in {None, port} and plain in network
            ),
            None,
        )

    def why_not(self, name: str, port: int | None = None) -> str:
        """Return why no rule allows `name`, or an address, at `port`, and what to add; without a port, for the web.

        The text stands for itself where `resolves` or `rule` said no; it does not ask them again.
        """
        advice = _advice(_entry_for(name, port))
        if _address(name):
            return f"no entry has {name}{advice}"
        if reached := self.ports(name):
            return f"{name} is allowed at {', '.join(map(str, reached))} only{advice}"
        if ports := self._below.get(name):
            return f"`{next(iter(ports.values())).entry}` allows the names below {name}, not {name} itself{advice}"
        return f"no entry has {name}{advice}"

    def missing(self, name: str, port: int | None = None) -> str | None:
        """Return the entry by which `name`, or an address, would be allowed at `port`; without a port, for the web.

        None where a rule allows it already, so that it was denied for another reason, and where no policy can.
        """
        if self._allows(name, port):
            return None
        entry = _entry_for(name, port)
        try:
            grammar.parse(entry, FAKE_RANGE)
        except InvalidRequest:
            return None
        return entry

    def _allows(self, name: str, port: int | None) -> bool:
        if address := _address(name):
            return port is not None and self.address_rule(address, port) is not None
        return self.resolves(name) if port is None else self.rule(name, port) is not None

    def _nearest(self, name: str) -> Iterator[_Ports]:
        if ports := self._names.get(name):
            yield ports
        while name := name.partition(".")[2]:
            if ports := self._below.get(name):
                yield ports


def _text(entry: object) -> str:
    if not isinstance(entry, str):
        raise InvalidRequest(f"allowed_hosts entry must be a text, got one of type {type(entry).__name__}")
    return entry


def _entry_for(name: str, port: int | None) -> str:
    if address := _address(name):
        return spelled(address, port)
    of_the_web = port is None or (port in WEB_PORTS and name != HOST_LOOPBACK)
    return name if of_the_web else f"{name}:{port}"


def _advice(entry: str) -> str:
    """Say what to add, where that is an entry; where no policy could have it, say that."""
    try:
        grammar.parse(entry.replace(":PORT", ":1"), FAKE_RANGE)
    except InvalidRequest as bad:
        return f", and none can: {bad.detail}"
    return f"; to allow it: --allow {entry}"


def _kind(entry: NameEntry) -> Kind:
    if entry.name == HOST_LOOPBACK:
        return Kind.HOST_LOOPBACK
    return Kind.WEB if entry.port is None else Kind.ORIGIN


def _collapsed(networks: Iterable[IPNetwork]) -> Iterator[IPNetwork]:
    given = set(networks)
    yield from collapse_addresses(network for network in given if isinstance(network, IPv4Network))
    yield from collapse_addresses(network for network in given if isinstance(network, IPv6Network))


def _address(text: str) -> IPAddress | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
