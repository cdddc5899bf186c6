"""One entry of an allow-list: what each spelling means, and for every other one what to write instead."""

import re
from functools import cache
from ipaddress import AddressValueError, IPv6Address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from msgspec import Struct

from alcove.contract import InvalidRequest
from alcove.egress import literals, names
from alcove.egress.addresses import IPNetwork
from alcove.egress.names import HOST_LOOPBACK

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList

#: The ports of an entry that names none: HTTP's and TLS's.
WEB_PORTS = (80, 443)
MAX_PORT = 65_535

_LONGEST = 2 * names.MAX_NAME
_OURS = HOST_LOOPBACK.rpartition(".")[2]
LOOPBACK_NAMES = {"localhost", "localhost.localdomain", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback"}
_SCHEME_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443, "ssh": 22, "git+ssh": 22}
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_BRACKETED = re.compile(r"\[([^\[\]]+)\](?::(.*))?")
_CIDR_WITH_PORT = re.compile(r"([0-9a-fA-F:.]+/[0-9]+):([0-9]+)")
_USER = re.compile(r"^([A-Za-z0-9+.-]*://)?.*@", re.DOTALL)


class NameEntry(Struct, frozen=True):
    """A name, or with `below` every name below it but not itself; `port` None: the web's two, and checked."""

    name: str
    below: bool
    port: int | None


class AddressEntry(Struct, frozen=True):
    """A network of addresses, often of one; `port` None: any."""

    network: IPNetwork
    port: int | None


class _BadEntry(literals.BadLiteral):
    """What is wrong with an entry that is no address."""


def parse(text: str, fake: IPNetwork) -> NameEntry | AddressEntry:
    """Return what an entry means; `fake` is the range whose addresses stand for names.

    Raises:
        InvalidRequest: it means nothing, more than anybody needs, or one thing here and another elsewhere.
    """
    try:
        return _read(text, fake)
    except literals.BadLiteral as bad:
        raise InvalidRequest(f"allowed_hosts entry `{names.printable(_without_user(text))}` {bad}") from None


def _read(text: str, fake: IPNetwork) -> NameEntry | AddressEntry:
    _check_text(text, fake)
    host, port_text, bracketed = _split(text)
    port = None if port_text is None else _port(port_text)
    if bracketed or literals.is_literal(host):
        return AddressEntry(literals.network(host, port, fake, bracketed=bracketed), port)
    return _name_entry(host, port)


def _without_user(text: str) -> str:
    return _USER.sub(r"\1***@", text)  # with it goes a password, which errors must not show


def _check_text(text: str, fake: IPNetwork) -> None:
    if not text:
        raise _BadEntry("is empty: leave it out (a list without entries denies all)")
    if len(text) > _LONGEST:
        raise _BadEntry(f"is longer than any host: DNS takes {names.MAX_NAME} characters")
    if "\0" in text or any(char <= " " or char == "\x7f" for char in text):
        raise _BadEntry("has white space, NUL or another control character: write the host alone, one an entry")
    if not text.isascii():
        raise _BadEntry(_not_ascii(text))
    if "," in text or ";" in text:
        raise _BadEntry("has several hosts: write each as an entry of its own")
    if text[0] in "!~^":
        raise _BadEntry(f"begins with `{text[0]}`: the list only allows, and all else is denied; leave it out")
    if any(sign in text for sign in ("://", "@", "?", "#")) or (
        "/" in text and not literals.is_literal(text.removeprefix("["))
    ):
        raise _BadEntry(_url(text, fake))


def _not_ascii(text: str) -> str:
    host, colon, port = text.rpartition(":") if text.rpartition(":")[2].isdecimal() else (text, "", "")
    star, bare = ("*.", host[2:]) if host.startswith("*.") else ("", host)
    char = next(char for char in text if not char.isascii())
    what = f"has {names.described(char)}, which is not ASCII"
    form = names.ascii_form(bare)
    if form is None or not port.isascii():
        return f"{what}: write the name in ASCII, other letters in punycode (`xn--...`)"
    return f"{what}: if that is the name meant, write `{star}{form}{colon}{port}`"


def _url(text: str, fake: IPNetwork) -> str:
    """Propose the host and port of a URL, of `user@host`, or of a host with a path."""
    what = "is more than a host, and schemes, users and paths are not told apart"
    proposed = _host_of_url(text)
    if proposed is None:
        return f"{what}: write `HOST` or `HOST:PORT`"
    try:
        _read(proposed.replace(":PORT", ""), fake)
    except literals.BadLiteral as bad:
        return f"{what}; its `{proposed}` {bad}"
    return f"{what}: write `{proposed}`"


def _host_of_url(text: str) -> str | None:
    scheme = text.partition("://")[0].lower() if "://" in text else ""
    try:
        url = urlsplit(text if scheme else f"//{text.lstrip('/')}")
        host = url.hostname
    except ValueError:
        return None
    if not host or "@" in url.path:
        return None
    try:
        return _proposed(host, url.port, scheme)
    except ValueError:  # git's user@host:path
        return _proposed(host, None, "ssh") if "@" in url.netloc else None


def _proposed(host: str, port: int | None, scheme: str) -> str:
    host = f"[{host}]" if ":" in host else host
    usual = _SCHEME_PORTS.get(scheme)
    if port is None and usual is None and scheme:
        return f"{host}:PORT"
    if port is None and usual not in WEB_PORTS:
        port = usual
    return host if port is None or (port == usual and port in WEB_PORTS) else f"{host}:{port}"


def _split(text: str) -> tuple[str, str | None, bool]:
    """Return host, port if one is written, and whether the host was in brackets."""
    if text.startswith("["):
        if not (found := _BRACKETED.fullmatch(text)):
            raise _BadEntry("has brackets astray: write `[2001:db8::1]`, `[2001:db8::1]:443` or `[2001:db8::/32]:443`")
        return found[1], found[2], True
    if text.count(":") < 2:
        found_port = _CIDR_WITH_PORT.fullmatch(text)
        host, colon, port = (found_port[1], ":", found_port[2]) if found_port else text.partition(":")
        return host, port if colon else None, False
    if with_port := _CIDR_WITH_PORT.fullmatch(text):
        raise _BadEntry(f"has a port after an IPv6 network: write `[{with_port[1]}]:{with_port[2]}`")
    if "/" in text:
        return text, None, False
    try:
        IPv6Address(text)
    except AddressValueError:
        raise _BadEntry("has more than one colon: write `HOST:PORT`, and IPv6 as `[2001:db8::1]:443`") from None
    raise _BadEntry(f"may end in a port or not: write `[{text}]`, or `[ADDRESS]:PORT`")


def _port(text: str) -> int:
    if _PORT.fullmatch(text) and int(text) <= MAX_PORT:
        return int(text)
    if text in {"*", "0"}:
        raise _BadEntry("has no port that can be dialled: write a number from 1 to 65535, an entry for each port")
    if _PORT.fullmatch(text.lstrip("0")) and int(text) <= MAX_PORT:
        raise _BadEntry(f"has a zero before its port: write `{int(text)}` after the colon")
    raise _BadEntry("has no port from 1 to 65535 after its colon: write a number, an entry for each port")


def _name_entry(host: str, port: int | None) -> NameEntry:
    if not host:
        raise _BadEntry(f"names no host: write `host:{port}`")
    below = host.startswith("*.") and "*" not in host[2:] and host != "*."
    bare = host[2:] if below else host
    if "*" in bare:
        raise _BadEntry(_starred(bare, port))
    if not below and bare.startswith(".") and (dotless := bare.strip(".")):
        raise _BadEntry(_dotted(dotless, port))
    try:
        name = names.canonical(bare)
    except names.BadName as bad:
        raise _BadEntry(f"is no host name: {bad}") from None
    if false := next((label for label in name.split(".") if names.is_false_a_label(label)), None):
        raise _BadEntry(f"has the label `{false}`, which is no punycode: write the name that its owner registered")
    _check_reserved(name, below=below, port=port)
    if below and is_public_suffix(name):
        what = "a public suffix, below which anybody may register" if "." in name else "a whole top-level domain"
        owner = f"example.{name}" if not is_public_suffix(f"example.{name}") else f"example.city.{name}"
        form = _with_port(f"*.{owner}", port)
        raise _BadEntry(f"allows all of `{name}`, {what}: write each host, or a wildcard of one owner such as `{form}`")
    return NameEntry(name, below, port)


def _with_port(host: str, port: int | None) -> str:
    return host if port is None else f"{host}:{port}"


def _starred(host: str, port: int | None) -> str:
    if not host.strip("*."):
        return "allows every host: write those that are needed, or ask for the network policy `unrestricted`"
    tail = host.rpartition("*")[2].partition(".")[2].removesuffix(".")
    form = f"*.{tail}" if _may_have_wildcard(tail) else "*.example.org"
    return f"has `*` where none may stand: only as its whole first label, as in `{_with_port(form, port)}`"


def _dotted(bare: str, port: int | None) -> str:
    forms = [_with_port(bare, port)]
    if _may_have_wildcard(bare):
        forms.insert(0, _with_port(f"*.{bare}", port))
    return f"begins with a dot: write {' or '.join(f'`{form}`' for form in forms)}, or both: neither covers the other"


def _may_have_wildcard(tail: str) -> bool:
    try:
        return "." in tail and not is_public_suffix(names.canonical(tail))
    except names.BadName:
        return False


def _check_reserved(name: str, *, below: bool, port: int | None) -> None:
    if name in LOOPBACK_NAMES or name.endswith(".localhost"):
        raise _BadEntry(f"is a session's own loopback there: for this host's write `{HOST_LOOPBACK}:{port or 'PORT'}`")
    if name == HOST_LOOPBACK and port is None and not below:
        raise _BadEntry(f"needs a port, for not all of this host's are meant: write `{HOST_LOOPBACK}:PORT`")
    if name.rpartition(".")[2] == _OURS and (below or name != HOST_LOOPBACK):
        raise _BadEntry(f"names nothing: `{HOST_LOOPBACK}:{port or 'PORT'}` is all that there is below `.{_OURS}`")


def is_public_suffix(name: str) -> bool:
    """Tell whether the names below a canonical name belong to whoever registers them (ICANN's part of the list).

    A single label always is one: that is the list's default rule.
    """
    return "." not in name or _suffixes().is_public(name)


@cache
def _suffixes() -> "PublicSuffixList":
    from publicsuffixlist import PublicSuffixList  # 40 ms with its list: only for a wildcard

    return PublicSuffixList(only_icann=True)
