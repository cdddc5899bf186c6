"""One look-up at the host's nameservers: both families, bounded whatever the answer is, and why there was none.

dnspython decides which nameserver is asked next. What it is given to read is cut down first: for the worst answer of
64 KiB its parser takes minutes, and the event loop serves every session.
"""

import asyncio
import errno
import re
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import dns.asyncresolver
import dns.exception
import dns.inet
import dns.message
import dns.name
import dns.nameserver
import dns.resolver
from dns.rdatatype import RdataType

from alcove.contract import InvalidRequest

Addresses = tuple[IPv4Address | IPv6Address, ...]
#: The address of a nameserver, and its port.
Server = tuple[str, int]

#: Where nameservers listen unless told otherwise.
PORT = 53
#: Records read of an answer, its aliases included; a zone may have thousands of addresses for a name.
MOST_RECORDS = 64

_TRY_S = 2.0
# For AAAA, once A has addresses: some nameservers never answer it (RFC 8305, section 3, waits less)
_GRACE_S = 0.25
_LENGTH = struct.Struct("!H")
_COUNTS = struct.Struct("!HHHH")
_RECORD = struct.Struct("!HHIH")
_HEADER_SIZE = 12
_LONGEST_MESSAGE = 65_535
_ALIASES = {RdataType.CNAME, RdataType.DNAME}
_MOST_ALIASES = 16
_READ = _ALIASES | {RdataType.A, RdataType.AAAA}
_WITH_PORT = re.compile(r"(?:\[(?P<v6>[^]]+)\]|(?P<v4>[^:]+)):(?P<port>[0-9]{1,5})")
_THERE_IS_NONE = (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer)


class ResolveError(Exception):
    """A name has no address to be had now; `str` is the reason."""


def server(spelled: str) -> Server:
    """Read a nameserver as a configuration spells it: `address`, `address:port` or `[v6]:port`.

    Raises:
        InvalidRequest: it is none of these.
    """
    with suppress(ValueError):
        return str(ip_address(spelled)), PORT
    written = _WITH_PORT.fullmatch(spelled)
    with suppress(ValueError):
        if written and 0 < int(written["port"]) < 65_536:
            address = IPv6Address(written["v6"]) if written["v6"] else IPv4Address(written["v4"])
            return str(address), int(written["port"])
    raise InvalidRequest(
        f"nameserver {spelled!r} is no address, with or without a port: write it like 192.0.2.53, 192.0.2.53:5353 or "
        "[2001:db8::53]:5353"
    )


async def addresses_of(name: str, servers: Iterable[Server], left: float) -> tuple[Addresses, float]:
    """The addresses of a canonical name, IPv4 first, and the seconds for which that may be kept.

    An answer about one family is enough if there is none about the other; it may be kept for no time then.

    Raises:
        ResolveError: there is none, or nobody could say within `left` seconds.
    """
    outcomes = await _both_families(name, servers, left)
    answers = [outcome for outcome in outcomes if isinstance(outcome, dns.resolver.Answer)]
    failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if not answers:
        raise ResolveError(_reason(name, failures, left))
    addresses = [ip_address(record.address) for answer in answers for record in answer]
    whole = all(isinstance(failure, _THERE_IS_NONE) for failure in failures)
    return tuple(addresses), min(answer.chaining_result.minimum_ttl for answer in answers) if whole else 0.0


async def _both_families(
    name: str, servers: Iterable[Server], left: float
) -> list[dns.resolver.Answer | BaseException]:
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = [_Nameserver(address, port) for address, port in servers]
    resolver.timeout = min(_TRY_S, left)
    absolute = dns.name.from_text(f"{name}.")
    a, aaaa = tasks = [
        asyncio.create_task(resolver.resolve(absolute, kind, search=False, lifetime=left))
        for kind in (RdataType.A, RdataType.AAAA)
    ]
    try:
        await asyncio.wait([a])
        await asyncio.wait([aaaa], timeout=None if a.exception() else _GRACE_S)
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    return outcomes


class _Nameserver(dns.nameserver.Do53Nameserver):
    def __str__(self) -> str:
        return f"{self.address} (port {self.port})"

    async def async_query(  # the resolver names every argument but the first
        self, request: dns.message.Message, *_: Any, **how: Any
    ) -> dns.message.Message:
        exchange = self._over_tcp if how["max_size"] else self._over_udp
        try:
            async with asyncio.timeout(how["timeout"]):
                return await exchange(request)
        except TimeoutError:
            raise dns.exception.Timeout from None  # another than OSError: it may be asked once more

    async def _over_udp(self, request: dns.message.Message) -> dns.message.Message:
        loop = asyncio.get_running_loop()
        with self._socket(socket.SOCK_DGRAM) as sock:
            # connected: the kernel drops what others send, and tells when nobody listens there
            await loop.sock_connect(sock, self._place())
            await loop.sock_sendall(sock, request.to_wire())
            while True:
                wire = await loop.sock_recv(sock, _LONGEST_MESSAGE)
                response = _response(request, wire)
                if response is not None:
                    return response

    async def _over_tcp(self, request: dns.message.Message) -> dns.message.Message:
        loop = asyncio.get_running_loop()
        with self._socket(socket.SOCK_STREAM) as sock:
            await loop.sock_connect(sock, self._place())
            await loop.sock_sendall(sock, request.to_wire(prepend_length=True))
            (length,) = _LENGTH.unpack(await _exactly(sock, _LENGTH.size))
            response = _response(request, await _exactly(sock, length))
            if response is None:
                raise OSError(errno.EBADMSG, "no answer to the question")
            return response

    def _socket(self, kind: socket.SocketKind) -> socket.socket:
        sock = socket.socket(dns.inet.af_for_address(self.address), kind)
        sock.setblocking(False)
        return sock

    def _place(self) -> tuple[str | int, ...]:
        place: tuple[str | int, ...] = dns.inet.low_level_address_tuple((self.address, self.port))
        return place


def _response(request: dns.message.Message, wire: bytes) -> dns.message.Message | None:
    """The message, if it answers the request: of its records only the aliases and addresses that it begins with.

    Raises:
        dns.message.Truncated: it does, and is cut short.
    """
    try:
        response = dns.message.from_wire(_cut_down(wire), raise_on_truncation=True, ignore_trailing=True)
    except dns.message.Truncated as short:
        if request.is_response(short.message()):  # type: ignore[no-untyped-call]
            raise
        return None
    except (dns.exception.DNSException, IndexError, struct.error):
        return None
    return response if request.is_response(response) else None


def _cut_down(wire: bytes) -> bytes:
    """The message with less said to be in it; what follows that is not read.

    Raises:
        IndexError, struct.error, dns.exception.FormError: it is none.
    """
    questions, answers, _, _ = _COUNTS.unpack_from(wire, 4)
    if questions > 1:
        raise dns.exception.FormError
    at = _after_name(wire, _HEADER_SIZE) + 4 if questions else _HEADER_SIZE
    kept = aliases = 0
    while kept < min(answers, MOST_RECORDS):
        at = _after_name(wire, at)
        kind, _, _, length = _RECORD.unpack_from(wire, at)
        aliases += kind in _ALIASES
        if kind not in _READ or aliases > _MOST_ALIASES:
            break
        at += _RECORD.size + length
        kept += 1
    return wire[:4] + _COUNTS.pack(questions, kept, 0, 0) + wire[_HEADER_SIZE:]


def _after_name(wire: bytes, at: int) -> int:
    """Where a name that begins at `at` ends, right or wrong."""
    while 0 < wire[at] < 0xC0:
        at += 1 + wire[at]
    return at + (2 if wire[at] else 1)  # a pointer, else the root


async def _exactly(sock: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        piece = await loop.sock_recv(sock, size - len(data))
        if not piece:
            raise EOFError("end of file instead of an answer")
        data += piece
    return data


def _reason(name: str, failures: list[BaseException], waited: float) -> str:
    """Why there is no address: a look-up that failed says more than one that found nothing."""
    failure = next((failure for failure in failures if not isinstance(failure, _THERE_IS_NONE)), None)
    if isinstance(failure, dns.resolver.NoNameservers):
        return f"no nameserver could tell the addresses of {name}: {_last_error(failure)}"
    if isinstance(failure, dns.exception.Timeout):
        return f"no nameserver told the addresses of {name} within {waited:.2g} s"
    if failure is not None:
        return f"the look-up of {name} failed: {failure!r}"
    if any(isinstance(none, dns.resolver.NoAnswer) for none in failures):
        return f"{name} has no address"
    return f"{name} does not exist"


def _last_error(failure: dns.resolver.NoNameservers) -> str:
    errors = failure.kwargs["errors"]
    if not errors:
        return "there is none"
    asked, *_, error, _response = errors[-1]
    return f"{asked} said: {error}"
