"""HTTP/2 over TLS, every stream a task."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, RequestReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError

from tests.egress.world.exchange import Request, Site
from tests.egress.world.listener import Link, report

PIECE = 1 << 16
#: HTTP/1's, which HTTP/2 forbids
HOP_BY_HOP = {"connection", "transfer-encoding"}


class Stream:
    """One stream of a connection: what the client still sends, and the task that answers."""

    def __init__(self, task: asyncio.Task[None] | None = None) -> None:
        #: Data with the window it took; None at the end
        self.incoming: asyncio.Queue[tuple[bytes, int] | None] = asyncio.Queue()
        self.task = task


class Http2:
    """A server's side of one connection."""

    def __init__(self, link: Link, site: Site) -> None:
        self._link = link
        self._site = site
        self._connection = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._streams: dict[int, Stream] = {}
        self._moved = asyncio.Condition()

    async def serve(self) -> None:
        self._connection.initiate_connection()
        await self._flush()
        try:
            while data := await self._link.reader.read(PIECE):
                try:
                    events = self._connection.receive_data(data)
                except ProtocolError as fault:
                    await self._flush()
                    raise EOFError(str(fault)) from None
                for event in events:
                    self._hear(event)
                await self._flush()
                async with self._moved:
                    self._moved.notify_all()
        finally:
            await self._end_streams()

    async def _end_streams(self) -> None:
        tasks = [stream.task for stream in self._streams.values() if stream.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _flush(self) -> None:
        self._link.writer.write(self._connection.data_to_send())
        await self._link.writer.drain()

    def _hear(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self._begin(event)
        elif isinstance(event, DataReceived):
            self._take(event)
        elif isinstance(event, StreamEnded) and event.stream_id in self._streams:
            self._streams[event.stream_id].incoming.put_nowait(None)
        elif isinstance(event, StreamReset) and (stream := self._streams.get(event.stream_id)) and stream.task:
            stream.task.cancel()

    def _take(self, event: DataReceived) -> None:
        number, window = event.stream_id or 0, event.flow_controlled_length or 0
        if number in self._streams:
            self._streams[number].incoming.put_nowait((event.data or b"", window))
        elif window:  # answered already: what nobody reads must not use up the connection's window
            with suppress(ProtocolError):
                self._connection.acknowledge_received_data(window, number)

    def _begin(self, event: RequestReceived) -> None:
        number = event.stream_id
        assert number is not None
        pairs = tuple((str(name), str(value)) for name, value in event.headers or ())
        found = dict(pairs)
        secure = self._link.writer.get_extra_info("ssl_object")
        stream = self._streams[number] = Stream()
        request = Request(
            found[":method"], found.get(":path", ""), "HTTP/2", pairs, True, secure.asked, self._body(number, stream)
        )
        stream.task = asyncio.create_task(self._answer(number, request))
        stream.task.add_done_callback(lambda task: self._ended(number, task))

    def _ended(self, number: int, task: asyncio.Task[None]) -> None:
        self._streams.pop(number, None)
        report(task)

    async def _body(self, number: int, stream: Stream) -> AsyncIterator[bytes]:
        while (arrived := await stream.incoming.get()) is not None:
            data, window = arrived
            yield data
            if window:
                with suppress(ProtocolError):
                    self._connection.acknowledge_received_data(window, number)
                await self._flush()

    async def _answer(self, number: int, request: Request) -> None:
        response = await self._site(request)
        headers = [(name, value) for name, value in response.headers if name not in HOP_BY_HOP]
        if response.size is not None:
            headers.append(("content-length", str(response.size)))
        with suppress(ProtocolError):
            self._connection.send_headers(number, [(":status", str(response.status)), *headers])
            await self._flush()
            if request.method != "HEAD":
                async for piece in response.pieces():
                    await self._send(number, piece)
            self._connection.end_stream(number)
            await self._flush()

    async def _send(self, number: int, piece: bytes) -> None:
        rest = memoryview(piece)
        while rest:
            async with self._moved:
                await self._moved.wait_for(lambda: self._connection.local_flow_control_window(number) > 0)
            window = self._connection.local_flow_control_window(number)
            size = min(window, self._connection.max_outbound_frame_size, len(rest))
            self._connection.send_data(number, bytes(rest[:size]))
            await self._flush()
            rest = rest[size:]
