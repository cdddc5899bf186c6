"""Bytes between two sockets: all of them, in order, whatever the pace, and nothing kept of what was taken."""

import asyncio
import hashlib
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from alcove.egress import relay
from alcove.egress.relay import Relay, _Waiting

pytestmark = pytest.mark.user

SIZE = 9 << 20  # more than both sockets' buffers and a read of the relay's hold
DATA = random.Random(SIZE).randbytes(SIZE)


@contextmanager
def sockets() -> Iterator[list[socket.socket]]:
    """The guest, our end of it, our end of the server's, the server."""
    pairs = (*socket.socketpair(), *socket.socketpair())
    try:
        for each in pairs:
            each.setblocking(False)
        yield list(pairs)
    finally:
        for each in pairs:
            each.close()


async def received(sock: socket.socket) -> bytes:
    loop, data = asyncio.get_running_loop(), bytearray()
    while piece := await loop.sock_recv(sock, 100_000):
        data += piece
    return bytes(data)


async def sent(sock: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, data)
    sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("much_waits", [False, True])
async def test_all_goes_both_ways_at_once_and_is_counted(much_waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if much_waits:
        monkeypatch.setattr(relay, "_MUCH_WAITING", 0)
    with sockets() as (guest, ours, outer, server):
        between = Relay(ours, outer)
        _, _, _, up, down = await asyncio.gather(
            between.run(), sent(guest, DATA), sent(server, DATA[::-1]), received(server), received(guest)
        )
    assert hashlib.sha256(up).digest() == hashlib.sha256(DATA).digest()
    assert down == DATA[::-1]
    assert (between.sent, between.received, _Waiting.size) == (SIZE, SIZE, 0)


async def test_what_a_slow_peer_keeps_waiting_is_bounded_and_forgotten_with_the_connection() -> None:
    loop = asyncio.get_running_loop()
    with sockets() as (_guest, ours, outer, server):
        running = loop.create_task(Relay(ours, outer).run())
        sending = loop.create_task(sent(server, DATA))
        async with asyncio.timeout(20):
            while _Waiting.size == 0:  # noqa: ASYNC110  nothing tells of it
                await asyncio.sleep(0)
        assert _Waiting.size <= relay.CHUNK
        assert not sending.done()  # nobody reads on for a guest that does not
        for task in (running, sending):
            task.cancel()
        await asyncio.gather(running, sending, return_exceptions=True)
    assert _Waiting.size == 0


async def test_what_is_looked_into_comes_in_small_pieces() -> None:
    seen: list[int] = []

    def through(data: bytes) -> bytes:
        seen.append(len(data))
        return data

    with sockets() as (guest, ours, outer, server):
        between = Relay(ours, outer)
        between.out.through = through
        server.shutdown(socket.SHUT_WR)
        _, _, up = await asyncio.gather(between.run(), sent(guest, DATA), received(server))
    assert up == DATA
    assert sum(seen) == SIZE
    assert max(seen) <= relay._LITTLE
