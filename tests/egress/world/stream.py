"""TCP servers of no protocol in particular."""

import json
import socket
import struct
from collections.abc import Awaitable, Callable
from hashlib import sha256

from tests.egress.world.journal import Journal
from tests.egress.world.listener import READ_LIMIT, Accept, Link, Listener, Place
from tests.egress.world.loop import Allowance, LoopThread

PIECE = 1 << 16
BANNER = b"220 the server speaks first\r\n"


class Stream:
    """A TCP server that does one thing with every connection: a function of this module, or a test's own.

    `accepts` counts connections, `received` holds each one's bytes as they come, `ended` what each one had sent
    in all when it ended its side.
    """

    def __init__(self, thread: LoopThread, name: str, bound: socket.socket, behaviour: "Behaviour") -> None:
        address, port = bound.getsockname()[:2]
        self.place = Place(name, address, port)
        self.accepts: Journal[Accept] = Journal()
        self.received: Journal[bytes] = Journal()
        self.ended: Journal[int] = Journal()
        self.allowance = Allowance(thread)
        self._behaviour = behaviour
        # What is not read is to stay with the peer: neither the kernel nor the reader takes it beforehand
        self._limit = 1 if behaviour is slow else READ_LIMIT
        if behaviour is slow:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        self._listener = Listener(bound, self._serve, self.accepts)

    @property
    def places(self) -> list[Place]:
        return [self.place]

    async def start(self) -> None:
        await self._listener.start()

    async def stop(self) -> None:
        await self._listener.stop()

    async def _serve(self, connection: socket.socket) -> None:
        async with Link(connection, limit=self._limit) as link:
            await self._behaviour(self, link)

    async def heard(self, link: Link, most: int = PIECE) -> bytes:
        """Return what a peer sends next, b"" at its end."""
        data = await link.reader.read(most)
        if data:
            self.received.add(data)
        return data


Behaviour = Callable[[Stream, Link], Awaitable[None]]


async def echo(server: Stream, link: Link) -> None:
    """Say back what comes; ends its side after the peer has ended theirs, and not before."""
    total = 0
    while data := await server.heard(link):
        total += len(data)
        link.writer.write(data)
        await link.writer.drain()
    server.ended.add(total)
    link.writer.write_eof()


async def banner(server: Stream, link: Link) -> None:
    """Speak first, then be an echo."""
    link.writer.write(BANNER)
    await echo(server, link)


async def digest(server: Stream, link: Link) -> None:
    """Answer once the peer has ended its side: the length and digest of all it sent, as JSON."""
    seen, total = sha256(), 0
    while data := await server.heard(link):
        seen.update(data)
        total += len(data)
    server.ended.add(total)
    link.writer.write(json.dumps({"length": total, "sha256": seen.hexdigest()}).encode())


async def finished(server: Stream, link: Link) -> None:
    """Say all there is to say, end that side at once, and go on listening."""
    link.writer.write(BANNER)
    link.writer.write_eof()
    total = 0
    while data := await server.heard(link):
        total += len(data)
    server.ended.add(total)


async def slow(server: Stream, link: Link) -> None:
    """Read as many bytes as `allowance` grants, from a receive buffer that holds next to nothing."""
    total = left = 0
    while True:
        left = left or await server.allowance.take(PIECE)
        data = await server.heard(link, left)
        if not data:
            break
        left -= len(data)
        total += len(data)
    server.ended.add(total)


async def silent(server: Stream, link: Link) -> None:
    """Take the connection and never say a word; ends with the peer."""
    while await server.heard(link):
        pass
    server.ended.add(0)


async def reset(server: Stream, link: Link) -> None:
    """Wait for the first bytes and answer with RST."""
    await server.heard(link)
    connection = link.writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.writer.transport.abort()
