"""Bytes between two connected sockets, both ways, until both ways have ended."""

import asyncio
import socket
from collections.abc import Callable

#: Read at once, before others have their turn: the larger, the less a long download costs, up to what a socket holds.
CHUNK = 1 << 20
# What is looked into costs time, and what a slow peer does not take stays with us: then less is read at once
_LITTLE = 64 << 10
_MUCH_WAITING = 32 << 20

# One for all: what a read brought is sent on, or copied, before the next read
_buffer = memoryview(bytearray(CHUNK))


class _Waiting:
    """Bytes of all ways that wait for a slow peer."""

    size = 0


class Way:
    """One direction. `through` sees each piece before it goes on, and says what goes on of it."""

    def __init__(
        self, source: socket.socket, target: socket.socket, through: Callable[[bytes], bytes] | None, relay: "Relay"
    ) -> None:
        self.count = 0
        self.through = through
        self._source = source
        self._target = target
        # asyncio spells a socket that it does not watch yet out for an error that nobody sees: numbers are cheaper
        self._from = source.fileno()
        self._to = target.fileno()
        self._relay = relay
        self._loop = asyncio.get_running_loop()
        self._left = memoryview(b"")
        self._waiting = 0
        self._ended = False
        self.done = False

    def start(self) -> None:
        """Begin to read, once what was pushed is gone."""
        if not self._left:
            self._loop.add_reader(self._from, self._read)

    def push(self, data: bytes) -> None:
        """Send bytes that come from no read of ours, ahead of what will be read."""
        if data:
            self._send(memoryview(data))

    def stop(self) -> None:
        """Let go of both sockets."""
        self._loop.remove_reader(self._from)
        if self._left:
            self._loop.remove_writer(self._to)
        self._keep(b"")
        self.done = True

    def _read(self) -> None:
        try:
            plain = self.through is None and _Waiting.size < _MUCH_WAITING
            got = self._source.recv_into(_buffer, CHUNK if plain else _LITTLE)
            if got == 0:
                self._end()
            elif self.through is None:
                self._send(_buffer[:got])
            elif piece := self.through(bytes(_buffer[:got])):
                self._send(memoryview(piece))
        except (BlockingIOError, InterruptedError):
            pass
        except Exception as error:  # noqa: BLE001 - in a callback nobody else would end the connection
            self._relay.fail(error)

    def _keep(self, left: bytes) -> None:
        """Until the other side takes it; no more is read meanwhile."""
        self._left = memoryview(left)
        _Waiting.size += len(left) - self._waiting
        self._waiting = len(left)

    def _send(self, piece: memoryview) -> None:
        if self._left:
            self._keep(bytes(self._left) + bytes(piece))
            return
        try:
            sent = self._target.send(piece)
        except (BlockingIOError, InterruptedError):
            sent = 0
        self.count += sent
        if sent < len(piece):
            self._keep(bytes(piece[sent:]))
            self._loop.remove_reader(self._from)
            self._loop.add_writer(self._to, self._flush)

    def _flush(self) -> None:
        try:
            sent = self._target.send(self._left)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._relay.fail(error)
            return
        self.count += sent
        self._left = self._left[sent:]
        if self._left:
            return
        self._keep(b"")
        self._loop.remove_writer(self._to)
        if self._ended:
            self._end()
        else:
            self._loop.add_reader(self._from, self._read)

    def _end(self) -> None:
        """The source has said all; so says the target's end too, once all of it is there."""
        self._loop.remove_reader(self._from)
        self._ended = True
        if self._left:
            return
        self.done = True
        try:
            self._target.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._relay.fail(error)
            return
        self._relay.ended()


class Relay:
    """Both directions between a guest's connection and one of ours. The sockets stay the caller's.

    `sent` and `received` count as the guest sees them.
    """

    def __init__(self, guest: socket.socket, upstream: socket.socket) -> None:
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.out = Way(guest, upstream, None, self)
        self.back = Way(upstream, guest, None, self)

    @property
    def sent(self) -> int:
        """Bytes that went out."""
        return self.out.count

    @property
    def received(self) -> int:
        """Bytes that came back."""
        return self.back.count

    async def run(self) -> None:
        """Relay until both ways have ended.

        Raises:
            OSError: one of the two broke off.
            Exception: whatever a `through` raised.
        """
        try:
            self.out.start()
            self.back.start()
            await self._over
        finally:
            self.out.stop()
            self.back.stop()

    def ended(self) -> None:
        """One way is at its end."""
        if self.out.done and self.back.done and not self._over.done():
            self._over.set_result(None)

    def fail(self, error: Exception) -> None:
        """Break off."""
        if not self._over.done():
            self._over.set_exception(error)
