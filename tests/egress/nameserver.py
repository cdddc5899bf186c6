"""A real authoritative nameserver on loopback, in a thread of its own: what it was asked is there to be counted.

    zones = {
        "api.example.org": reply("192.0.2.1", "2001:db8::1"),
        "www.example.org": alias("api.example.org"),
        "flip.example.org": in_turn(reply("192.0.2.1", ttl=0), reply("127.0.0.1", ttl=0)),
        "slow.example.org": reply("192.0.2.1", delay=1.0),
        "dead.example.org": Reply(drop=("A", "AAAA")),
        "ill.example.org": Reply(rcode="SERVFAIL"),
        "big.example.org": reply("192.0.2.1", truncate=True),
    }
    with NameServer(zones) as server:
        Resolver([server.spelled])

Any other name gets NXDOMAIN. `zones` may be changed while the server runs.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import dns.exception
import dns.flags
import dns.inet
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

_LONGEST_CHAIN = 32
_DATAGRAM = 65_535


@dataclass(frozen=True)
class Reply:
    """What a name answers with.

    `cname` goes before the addresses, which then belong to no name unless the alias' target has some of its own.
    Types in `drop` are never answered. `truncate`: over UDP nothing but TC. `raw`: these bytes after the query's id,
    over UDP. `forged`: this address is offered in a datagram with another id, before the answer.
    """

    addresses: tuple[str, ...] = ()
    cname: str | None = None
    ttl: int = 60
    delay: float = 0.0
    drop: tuple[str, ...] = ()
    rcode: str = "NOERROR"
    truncate: bool = False
    raw: bytes | None = None
    forged: str | None = None


@dataclass(frozen=True)
class Query:
    """One question, as it came: the name in lower case without its last dot."""

    name: str
    kind: str
    tcp: bool


Replies = Reply | tuple[Reply, ...]


def reply(
    *addresses: str, ttl: int = 60, delay: float = 0.0, drop: tuple[str, ...] = (), truncate: bool = False
) -> Reply:
    return Reply(addresses, ttl=ttl, delay=delay, drop=drop, truncate=truncate)


def alias(target: str, *, ttl: int = 60) -> Reply:
    return Reply(cname=target, ttl=ttl)


def in_turn(*replies: Reply) -> tuple[Reply, ...]:
    """Give each to one question of each type, and then begin again: the rebinding of addresses."""
    return replies


class NameServer:
    """Serves `zones` over UDP and TCP on one port while it is entered."""

    def __init__(
        self, zones: Mapping[str, Replies] | None = None, *, address: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.zones: dict[str, Replies] = dict(zones or {})
        self.address = address
        self.port = port
        self.queries: list[Query] = []
        self._changed = threading.Condition()
        self._held: dict[str, asyncio.Event] = {}
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="nameserver", daemon=True)

    def __enter__(self) -> Self:
        self._udp, self._tcp = _same_port(self.address, self.port)
        self.port = self._udp.getsockname()[1]
        self._thread.start()
        assert self._ready.wait(10), "the nameserver did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._serving.cancel)
        self._thread.join(10)
        assert not self._thread.is_alive(), "the nameserver did not end"

    @property
    def spelled(self) -> str:
        """How a resolver's configuration names it."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    def count(self, name: str | None = None, kind: str | None = None, *, tcp: bool | None = None) -> int:
        """How many questions came, of those that are like this."""
        with self._changed:
            return sum(
                (name is None or query.name == name)
                and (kind is None or query.kind == kind)
                and (tcp is None or query.tcp == tcp)
                for query in self.queries
            )

    def wait(self, name: str, kind: str, times: int = 1) -> None:
        """Wait until that was asked so often; from a coroutine, in `asyncio.to_thread`."""
        with self._changed:
            asked = self._changed.wait_for(lambda: self.count(name, kind) >= times, timeout=20)
        assert asked, f"{name} {kind} was not asked {times} times"

    def hold(self, name: str) -> None:
        """Keep every answer about `name` back until it is released."""
        self._on_loop(lambda: self._held.setdefault(name, asyncio.Event()))

    def release(self, name: str) -> None:
        """Answer what was asked about `name` since it is held."""
        self._on_loop(lambda: self._held.pop(name).set())

    def _on_loop(self, call: Callable[[], object]) -> None:
        done = threading.Event()

        def run() -> None:
            call()
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(10), "the nameserver did not do what it was told"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._serving = self._loop.create_task(self._serve())
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._serving)
        self._loop.close()

    async def _serve(self) -> None:
        with self._udp, self._tcp:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._serve_datagrams(group))
                group.create_task(self._serve_streams(group))
                self._ready.set()

    async def _serve_datagrams(self, group: asyncio.TaskGroup) -> None:
        while True:
            wire, peer = await self._loop.sock_recvfrom(self._udp, _DATAGRAM)
            group.create_task(self._answer_datagram(wire, peer))

    async def _answer_datagram(self, wire: bytes, peer: tuple[str, int]) -> None:
        for answer in await self._answers(wire, tcp=False):
            with suppress(OSError):  # whoever asked is gone
                await self._loop.sock_sendto(self._udp, answer, peer)

    async def _serve_streams(self, group: asyncio.TaskGroup) -> None:
        while True:
            connection, _ = await self._loop.sock_accept(self._tcp)
            task = group.create_task(self._converse(connection))
            task.add_done_callback(lambda _, connection=connection: connection.close())  # type: ignore[misc]

    async def _converse(self, connection: socket.socket) -> None:
        with suppress(OSError, EOFError):
            while True:
                (length,) = struct.unpack("!H", await self._exactly(connection, 2))
                for answer in await self._answers(await self._exactly(connection, length), tcp=True):
                    await self._loop.sock_sendall(connection, struct.pack("!H", len(answer)) + answer)

    async def _exactly(self, connection: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = await self._loop.sock_recv(connection, size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    async def _answers(self, wire: bytes, *, tcp: bool) -> list[bytes]:
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return []
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        chosen = self._asked(name, kind, tcp=tcp)
        if chosen is not None:
            await asyncio.sleep(chosen.delay)
            if kind in chosen.drop:
                return []
        if held := self._held.get(name):
            await held.wait()
        return _encode(self, query, name, chosen, tcp=tcp)

    def _asked(self, name: str, kind: str, *, tcp: bool) -> Reply | None:
        with self._changed:
            before = self.count(name, kind)
            self.queries.append(Query(name, kind, tcp))
            self._changed.notify_all()
        replies = self.zones.get(name)
        return replies[before % len(replies)] if isinstance(replies, tuple) else replies


def _encode(
    server: NameServer, query: dns.message.Message, name: str, chosen: Reply | None, *, tcp: bool
) -> list[bytes]:
    if chosen is not None and chosen.raw is not None and not tcp:
        return [query.id.to_bytes(2, "big") + chosen.raw]
    response = dns.message.make_response(query, recursion_available=True)
    response.flags |= dns.flags.AA
    if chosen is None:
        response.set_rcode(dns.rcode.NXDOMAIN)
    elif chosen.truncate and not tcp:
        response.flags |= dns.flags.TC
    else:
        response.set_rcode(dns.rcode.from_text(chosen.rcode))
        _chain(server, response, name, chosen)
    if not response.answer:
        response.authority.append(dns.rrset.from_text(".", 1, "IN", "SOA", "ns.invalid. nobody.invalid. 1 60 60 60 1"))
    wire = response.to_wire(max_size=_DATAGRAM if tcp else 512, prefer_truncation=True)
    return [wire] if chosen is None or chosen.forged is None else [_forged(query, chosen.forged), wire]


def _chain(server: NameServer, response: dns.message.Message, name: str, first: Reply) -> None:
    """Append aliases and what is at their end, as a resolver that recurses would: at most so many, and so loops too."""
    kind = response.question[0].rdtype
    at: Reply | None = first
    for _ in range(_LONGEST_CHAIN):
        if at is None or at.cname is None:
            break
        target = dns.name.from_text(at.cname).to_text()
        response.answer.append(dns.rrset.from_text(f"{name}.", at.ttl, "IN", "CNAME", target))
        name = at.cname
        following = server.zones.get(name)
        at = following[0] if isinstance(following, tuple) else following
    family = {dns.rdatatype.A: socket.AF_INET, dns.rdatatype.AAAA: socket.AF_INET6}.get(kind)
    addresses = [text for text in at.addresses if dns.inet.af_for_address(text) == family] if at else []
    if at and addresses:
        response.answer.append(dns.rrset.from_text_list(f"{name}.", at.ttl, "IN", kind, addresses))


def _forged(query: dns.message.Message, address: str) -> bytes:
    response = dns.message.make_response(query)
    response.id ^= 0xFFFF
    response.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", address))
    return response.to_wire()


def _same_port(address: str, port: int) -> tuple[socket.socket, socket.socket]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for _ in range(32):
        udp = socket.socket(family, socket.SOCK_DGRAM)
        tcp = socket.socket(family, socket.SOCK_STREAM)
        try:
            udp.bind((address, port))
            tcp.bind((address, udp.getsockname()[1]))
        except OSError:  # somebody has that port of TCP
            udp.close()
            tcp.close()
            continue
        tcp.listen()
        udp.setblocking(False)
        tcp.setblocking(False)
        return udp, tcp
    raise AssertionError(f"no port is free in both UDP and TCP at {address} (0: any): {port}")
