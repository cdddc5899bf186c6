"""The session's resolver: an allowed name is a fake address, any other does not exist, and nobody upstream is asked.

Every byte that comes here is the guest's: whatever it is, the outcome is an answer, an error in DNS's own terms, or
silence, at a cost that hardly depends on it. Names that are refused get NXDOMAIN: musl waits out REFUSED.
"""

import asyncio
import errno
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from ipaddress import AddressValueError, IPv4Address, IPv6Address

import dns.exception
import dns.flags
import dns.name
import dns.opcode
import dns.reversename
from dns.edns import EDECode
from dns.rcode import Rcode
from dns.rdataclass import RdataClass
from dns.rdatatype import RdataType

from alcove.egress.dns_messages import HEADER, LONGEST_QUERY, Query, Told, header, name_bytes, read, written
from alcove.egress.names import BadName, canonical
from alcove.egress.pool import FakePool, PoolFull

_LENGTH = struct.Struct("!H")
_CONNECTIONS = 32
_DEADLINE_S = 10.0
_BREATH_S = 0.5
_SEND_BUFFER = 1 << 15
_LOCALHOST = (RdataType.A, IPv4Address("127.0.0.1").packed), (RdataType.AAAA, IPv6Address("::1").packed)
_LOOPBACK = {"127.0.0.1", "::1"}


_NO_DATA = Told()
_NO_SUCH_NAME = Told(Rcode.NXDOMAIN)


class Answerer:
    """What one session's guest is told.

    `resolves` says of a canonical name whether some rule could serve it; `on_denied` is told of every name that is
    refused (canonical where it has such a form, else in DNS's escapes, at most 1,024 characters), and why.
    """

    def __init__(
        self, resolves: Callable[[str], bool], pool: FakePool, on_denied: Callable[[str, str], object]
    ) -> None:
        self._resolves = resolves
        self._pool = pool
        self._on_denied = on_denied

    def answer(self, wire: bytes) -> bytes | None:
        """The answer to one message, or None where there should be none (RFC 1035, 6891, 8914, 9619).

        It has at most 512 bytes, so there is one for UDP and TCP alike, and none is ever truncated.
        """
        if len(wire) < HEADER.size:
            return None
        ident, flags, *_ = HEADER.unpack_from(wire)
        if flags & dns.flags.QR:  # two servers would answer each other for ever
            return None
        if dns.opcode.from_flags(flags) != dns.opcode.QUERY:
            return header(ident, flags, Rcode.NOTIMP)
        try:
            query = read(wire)
        except dns.exception.DNSException:
            return header(ident, flags, Rcode.FORMERR)
        return written(query, self._tell(query))

    def _tell(self, query: Query) -> Told:
        if query.edns:
            return Told(Rcode.BADVERS)
        if query.rdclass != RdataClass.IN or query.kind in {RdataType.AXFR, RdataType.IXFR}:
            return Told(Rcode.REFUSED)
        if query.kind == RdataType.OPT or 128 <= query.kind < RdataType.ANY:
            return Told(Rcode.NOTIMP)  # meta types (RFC 6895, 3.1)
        if query.name == dns.name.root:
            return _NO_DATA  # it exists: from NXDOMAIN a client may conclude that nothing below does (RFC 8020)
        return self._look_up(query)

    def _look_up(self, query: Query) -> Told:
        asked = query.name.to_text(omit_final_dot=True)  # a dot within a label has a backslash before it
        try:
            name = canonical(asked)
        except BadName as bad:
            return self._denied(asked, f"no host name: {bad}", "not a host name")
        if name == "localhost" or name.endswith(".localhost"):
            return _of_these(query.kind, *_LOCALHOST)
        if address := _reversed(query.name):
            return self._name_of(address, query.kind)
        if not self._resolves(name):
            return self._denied(name, "no rule allows it", "not on this session's allow-list")
        return self._address_of(name) if query.kind in {RdataType.A, RdataType.ANY} else _NO_DATA

    def _address_of(self, name: str) -> Told:
        try:
            return Told(record=(RdataType.A, self._pool.address(name).packed))
        except PoolFull as full:
            self._on_denied(name, str(full))
            return Told(Rcode.SERVFAIL, code=EDECode.OTHER, why=str(full))

    def _name_of(self, address: str, kind: int) -> Told:
        try:
            name = "localhost" if address in _LOOPBACK else self._pool.name(IPv4Address(address))
        except AddressValueError:
            name = None
        return _of_these(kind, (RdataType.PTR, name_bytes(name))) if name else _NO_SUCH_NAME

    def _denied(self, name: str, reason: str, told: str) -> Told:
        self._on_denied(name, reason)
        return Told(Rcode.NXDOMAIN, code=EDECode.BLOCKED, why=told)


def _of_these(kind: int, *records: tuple[int, bytes]) -> Told:
    """Tell the record of that type, if there is one; ANY gets the first (RFC 8482, 4.1)."""
    return next((Told(record=record) for record in records if kind in {record[0], RdataType.ANY}), _NO_DATA)


def _reversed(name: dns.name.Name) -> str | None:
    """The address whose reverse name this is, in either family."""
    try:
        return dns.reversename.to_address(name)
    except dns.exception.DNSException:
        return None


async def serve(udp: socket.socket, tcp: socket.socket, answerer: Answerer) -> None:
    """Answer what comes on both sockets until cancelled; they stay the caller's, and are made non-blocking.

    `tcp` listens. Between any two messages of a guest, whatever else waits in the event loop has its turn.
    """
    udp.setblocking(False)
    tcp.setblocking(False)
    # connections inherit it: what a guest does not read, the host's memory keeps
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    async with asyncio.TaskGroup() as group:
        group.create_task(_serve_datagrams(udp, answerer))
        group.create_task(_serve_streams(tcp, answerer))


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    fd = sock.fileno()  # a socket that is not registered yet would be spelled out for an error that nobody sees
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)


async def _serve_datagrams(udp: socket.socket, answerer: Answerer) -> None:
    while True:
        await _readable(udp)
        # No room for the answer, or nobody there any more: UDP loses datagrams, and clients ask again
        with suppress(OSError):
            wire, peer = udp.recvfrom(LONGEST_QUERY + 1)
            answer = answerer.answer(wire)
            if answer is not None:
                udp.sendto(answer, peer)


async def _serve_streams(tcp: socket.socket, answerer: Answerer) -> None:
    room = asyncio.Semaphore(_CONNECTIONS)
    async with asyncio.TaskGroup() as group:
        while True:
            await room.acquire()  # whoever comes beyond it waits in the listener's queue, and costs us nothing
            connection = await _accepted(tcp)
            task = group.create_task(_converse(connection, answerer))
            task.add_done_callback(_after(connection, room))


async def _accepted(listener: socket.socket) -> socket.socket:
    """Accept one connection; loop.sock_accept would leave it open if it were cancelled just after accepting it."""
    while True:
        await _readable(listener)
        try:
            return listener.accept()[0]
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.ECONNABORTED}:
                await asyncio.sleep(_BREATH_S)  # out of descriptors: it stays readable, and would be tried on and on


def _after(connection: socket.socket, room: asyncio.Semaphore) -> Callable[[asyncio.Task[None]], None]:
    """Close at the task's end, not in it: a task that is cancelled before its first step runs no `finally`."""

    def ended(_: asyncio.Task[None]) -> None:
        connection.close()
        room.release()

    return ended


async def _converse(connection: socket.socket, answerer: Answerer) -> None:
    """Answer one message after the other; who sends or reads one too slowly is hung up on."""
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    with suppress(OSError):  # TimeoutError is one
        while True:
            async with asyncio.timeout(_DEADLINE_S):
                length = _LENGTH.unpack(await _exactly(connection, _LENGTH.size))[0]
                if not HEADER.size <= length <= LONGEST_QUERY:
                    return
                answer = answerer.answer(await _exactly(connection, length))
                if answer is None:
                    return
                await loop.sock_sendall(connection, _LENGTH.pack(len(answer)) + answer)
            await asyncio.sleep(0)  # neither receiving nor sending yields while it need not wait


async def _exactly(connection: socket.socket, size: int) -> bytes:
    """Receive `size` bytes.

    Raises:
        ConnectionError: the other end was closed before that.
    """
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        piece = await loop.sock_recv(connection, size - len(data))
        if not piece:
            raise ConnectionError("closed")
        data += piece
    return data
