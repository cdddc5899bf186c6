"""TCP listeners that count what they accept, before a byte is read."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

from tests.egress.world.journal import Journal

#: Of a head or a line
READ_LIMIT = 1 << 20


@dataclass(frozen=True)
class Place:
    """Where a server answers, and by which name it is meant to be asked for."""

    name: str
    address: str
    port: int

    @property
    def authority(self) -> str:
        return f"{self.name}:{self.port}"


@dataclass(frozen=True)
class Accept:
    """A connection that the kernel completed: who dialled, and which port of ours."""

    peer: str
    port: int


def report(task: asyncio.Task[None]) -> None:
    """Hand what broke a task to the loop, whose thread raises it in the test."""
    if not task.cancelled() and (fault := task.exception()):
        task.get_loop().call_exception_handler({"message": "serving", "exception": fault})


class Listener:
    """Accepts on one socket and gives each connection to `serve`, which owns it."""

    def __init__(
        self, bound: socket.socket, serve: Callable[[socket.socket], Awaitable[None]], accepts: Journal[Accept]
    ) -> None:
        self._socket = bound
        self._serve = serve
        self._accepts = accepts
        self._connections: set[asyncio.Task[None]] = set()
        self._acceptor: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._acceptor = asyncio.create_task(self._accept())
        self._acceptor.add_done_callback(report)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        port = self._socket.getsockname()[1]
        while True:
            try:
                connection, peer = await loop.sock_accept(self._socket)
            except OSError as fault:
                raise RuntimeError(f"no longer accepting: {fault}") from fault
            self._accepts.add(Accept(peer[0], port))
            task = asyncio.create_task(self._guard(connection))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
            task.add_done_callback(report)

    async def _guard(self, connection: socket.socket) -> None:
        with connection:
            try:
                await self._serve(connection)
            except (OSError, EOFError):
                return  # the peer went away, or spoke something else

    async def stop(self) -> None:
        """Stop accepting, end every connection; bounded."""
        tasks = [*self._connections, *([self._acceptor] if self._acceptor else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            _, still = await asyncio.wait(tasks, timeout=10)
            if still:
                raise TimeoutError(f"{len(still)} connections of a test server did not end within 10 s")
        self._socket.close()


class Link:
    """The two streams of a connection, closed by leaving the block; a connection that is cancelled is cut."""

    def __init__(
        self, connection: socket.socket, context: ssl.SSLContext | None = None, limit: int = READ_LIMIT
    ) -> None:
        self._connection = connection
        self._context = context
        self.reader = asyncio.StreamReader(limit=limit)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        protocol = asyncio.StreamReaderProtocol(self.reader)
        bounds = {"ssl_handshake_timeout": 20.0, "ssl_shutdown_timeout": 2.0} if self._context else {}
        # The transport's alone from here: whoever accepted may close theirs at any time
        connection = socket.socket(fileno=self._connection.detach())
        connection.setblocking(False)
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, connection, ssl=self._context, **bounds)
        self.writer = asyncio.StreamWriter(transport, protocol, self.reader, loop)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.writer.close()
            try:
                await asyncio.wait_for(self.writer.wait_closed(), 5)
            except (OSError, TimeoutError):
                pass
            else:
                return
        self.writer.transport.abort()


def listening(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((address, port))
        bound.listen(1024)
    except OSError:
        bound.close()
        raise
    bound.setblocking(False)
    return bound
