"""Addresses and networks as an allow-list may spell them: one way each, so that nobody reads another than is meant."""

import re
import socket
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from alcove.egress.addresses import IPAddress, IPNetwork, Opens, block_of, carried
from alcove.egress.names import HOST_LOOPBACK, ends_in_number

_LENGTH = re.compile(r"0|[1-9][0-9]{0,2}")
_DIGITS_ONLY = re.compile(r"[0-9.*-]*[0-9][0-9.*-]*")
_STARRED = re.compile(r"((?:[0-9]{1,3}\.){1,3})\*(?:\.\*)*")
_UNIQUE_LOCAL = IPv6Network("fc00::/7")
# What clouds publish of their own ends about here; the private ranges are as wide themselves
_WIDEST = {4: 8, 6: 24}


class BadLiteral(ValueError):  # noqa: N818
    """What is wrong with an address, and what to write instead; reads on from the entry's text."""


def is_literal(text: str) -> bool:
    """Tell whether `text` is meant as an address or network, or would be taken for one."""
    base = text.partition("/")[0]
    digits_only = _DIGITS_ONLY.fullmatch(base) is not None and "." in base
    return base.count(":") > 1 or digits_only or ends_in_number(base.rstrip("."))


def network(text: str, port: int | None, fake: IPNetwork, *, bracketed: bool) -> IPNetwork:
    """Return the network that `text`, an address or CIDR without its brackets and port, stands for.

    Raises:
        BadLiteral: it is none, is read differently by different programs, is too wide, or is never dialled.
    """
    base, slash, length = text.partition("/")
    if bracketed and ":" not in base:
        raise BadLiteral(f"has brackets, which are for IPv6: write `{text if port is None else f'{text}:{port}'}`")
    address = _v6(base) if ":" in base else _v4(base, port)
    bits = _length(address, length, port) if slash else address.max_prefixlen
    found = _network(address, bits)
    _check_reach(found, port)
    if found.network_address != address:
        raise BadLiteral(
            f"has bits set beyond /{bits}: write `{spelled(found, port)}` for the network, or "
            f"`{spelled(address, port)}` for the one address"
        )
    if fake.overlaps(found):
        raise BadLiteral(f"overlaps {fake}, whose addresses stand for names in a session: write the parts outside it")
    return found


def spelled(address: IPNetwork | IPAddress, port: int | None) -> str:
    """Return the entry for an address or network and a port; for an address of a session's own, the host's loopback."""
    if isinstance(address, IPv4Network | IPv6Network) and address.prefixlen == address.max_prefixlen:
        address = address.network_address
    if isinstance(address, IPv4Address | IPv6Address) and (address.is_loopback or address.is_unspecified):
        return _loopback(port)
    host = str(address) if address.version == 4 else f"[{address}]"
    return host if port is None else f"{host}:{port}"


def _loopback(port: int | None) -> str:
    return f"{HOST_LOOPBACK}:{port or 'PORT'}"


def _v4(base: str, port: int | None) -> IPv4Address:
    try:
        return IPv4Address(base)
    except AddressValueError:
        pass
    if starred := _STARRED.fullmatch(base):
        raise BadLiteral(f"has `*` in an address: write the network, {_starred_network(starred[1], port)}")
    if "-" in base and _DIGITS_ONLY.fullmatch(base):
        raise BadLiteral("is a range of addresses: write networks, such as `10.0.0.0/28`")
    raise BadLiteral(_misspelled(base, port))


def _starred_network(given: str, port: int | None) -> str:
    octets = given.rstrip(".").split(".")
    try:
        start = IPv4Address(".".join(octets + ["0"] * (4 - len(octets))))
    except AddressValueError:
        return "such as `10.0.0.0/24`"
    return f"`{spelled(IPv4Network((int(start), 8 * len(octets))), port)}`"


def _misspelled(base: str, port: int | None) -> str:
    """Name the address that programs read in `base` (inet_aton(3), which looks nothing up), and what people read."""
    bare = base.rstrip(".")
    meant = [address for address in (_decimal(bare), _inet_aton(bare)) if address is not None]
    if not meant:
        return "is neither an address nor a name (it ends in a number): write four numbers from 0 to 255, or the name"
    for address in meant:
        if not (address.is_loopback or address.is_unspecified):
            _check_reach(IPv4Network(address), port)
    forms = " or ".join(dict.fromkeys(f"`{spelled(address, port)}`" for address in meant))
    return f"is an address in a form that programs read differently: write {forms}"


def _decimal(text: str) -> IPv4Address | None:
    """Read zero-padded octets as people do."""
    try:
        return IPv4Address(".".join(octet.lstrip("0") or octet[:1] for octet in text.split(".")))
    except AddressValueError:
        return None


def _inet_aton(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(socket.inet_aton(text))
    except OSError:
        return None


def _v6(base: str) -> IPv6Address:
    if "%" in base:
        raise BadLiteral("has a zone (`%`), which means something on one machine only: write a global address")
    try:
        return IPv6Address(base)
    except AddressValueError:
        raise BadLiteral("is no IPv6 address: write one such as `[2001:db8::1]:443`") from None


def _length(address: IPAddress, text: str, port: int | None) -> int:
    if _LENGTH.fullmatch(text) and int(text) <= address.max_prefixlen:
        return int(text)
    try:
        masked = ip_network(f"{address}/{text}", strict=False)  # it reads netmasks, and zero-padded lengths
    except ValueError:
        most = address.max_prefixlen
        raise BadLiteral(
            f"has no prefix length, 1 to {most}, after its slash: write such as `{address}/{most}`"
        ) from None
    _check_reach(masked, port)
    raise BadLiteral(f"has no plain prefix length after its slash: write `{spelled(masked, port)}`")


def _network(address: IPAddress, bits: int) -> IPNetwork:
    if isinstance(address, IPv4Address):
        return IPv4Network((int(address), bits), strict=False)
    return IPv6Network((int(address), bits), strict=False)


def _check_reach(found: IPNetwork, port: int | None) -> None:
    """Refuse what is never dialled, and what is wider than anybody means."""
    if found.prefixlen == 0:
        raise BadLiteral("is every address there is: where that is meant, ask for the network policy `unrestricted`")
    _check_carried(found, port)
    block = block_of(found)
    if block is None or block.opens is Opens.WRITTEN:
        _check_width(found)
    elif found.network_address.is_loopback or found.network_address.is_unspecified:
        raise BadLiteral(f"is {block.what}, a session's own there: for this host's loopback write `{_loopback(port)}`")
    else:
        raise BadLiteral(f"is {block.what}, and no entry opens that: leave it out, or write the name of what is meant")


def _check_carried(found: IPNetwork, port: int | None) -> None:
    if inner := carried(found.network_address) or carried(found.broadcast_address):
        alone = found.prefixlen == found.max_prefixlen
        instead = f"write that one, `{spelled(inner[-1], port)}`" if alone else "write the IPv4 network itself"
        raise BadLiteral(f"carries an IPv4 address: {instead}")


def _check_width(found: IPNetwork) -> None:
    widest = _WIDEST[found.version]
    if isinstance(found, IPv6Network) and found.subnet_of(_UNIQUE_LOCAL):
        widest = _UNIQUE_LOCAL.prefixlen
    if found.prefixlen < widest:
        raise BadLiteral(f"is too wide: write networks of /{widest} or narrower, or better the names that are needed")
