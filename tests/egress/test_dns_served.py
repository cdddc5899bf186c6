"""The session's resolver on real sockets: answered in order, in turn with others, and never for longer than is fair."""

import asyncio
import errno
import random
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

import dns.message
import pytest
import pytest_asyncio

from alcove.egress import dns as served
from alcove.egress.dns import serve
from tests.egress.guest import Guest, query_wire, values

pytestmark = pytest.mark.user


@dataclass
class Served:
    """A guest's resolver on real sockets."""

    guest: Guest
    udp: tuple[str, int]
    tcp: tuple[str, int]


@pytest_asyncio.fixture
async def at() -> AsyncIterator[Served]:
    guest = Guest(limit=4096)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.create_server(("127.0.0.1", 0)) as tcp:
        udp.bind(("127.0.0.1", 0))
        serving = asyncio.create_task(serve(udp, tcp, guest.answerer))
        try:
            yield Served(guest, udp.getsockname(), tcp.getsockname())
            assert not serving.done(), "the resolver ended by itself"
        finally:
            serving.cancel()
            await asyncio.wait([serving])
        assert udp.fileno() >= 0
        assert len(asyncio.all_tasks()) == 1, "the resolver left a task"


def framed(wire: bytes) -> bytes:
    return struct.pack("!H", len(wire)) + wire


async def receive(reader: asyncio.StreamReader) -> dns.message.Message:
    (length,) = struct.unpack("!H", await reader.readexactly(2))
    return dns.message.from_wire(await reader.readexactly(length))


async def over_udp(at: Served, *wires: bytes) -> list[dns.message.Message]:
    """Send them all, and receive the answer to the last and to what came before it."""
    loop = asyncio.get_running_loop()
    answers: list[dns.message.Message] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect(at.udp)
        for wire in wires:
            await loop.sock_sendall(client, wire)
        async with asyncio.timeout(20):
            while not answers or answers[-1].id != int.from_bytes(wires[-1][:2], "big"):
                answers.append(dns.message.from_wire(await loop.sock_recv(client, 65_535)))
    return answers


async def test_datagrams_are_answered(at: Served) -> None:
    (answer,) = await over_udp(at, query_wire())
    assert values(answer) == [str(at.guest.pool.address("api.example.org"))]


@pytest.mark.security
async def test_scraps_and_floods_do_not_end_the_service(at: Served) -> None:
    scraps = [b"", b"\0", bytes(11), bytes(65_000), random.Random(5).randbytes(400)]
    answers = await over_udp(at, *scraps, query_wire())
    assert values(answers[-1])


@pytest.mark.security
async def test_who_is_gone_before_the_answer_does_not_end_the_service(at: Served) -> None:
    for _ in range(3):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(query_wire(), at.udp)
    assert values((await over_udp(at, query_wire()))[-1])


async def test_questions_on_a_connection_are_answered_in_order(at: Served) -> None:
    reader, writer = await asyncio.open_connection(*at.tcp)
    names = [f"{number}.wild.example" for number in range(200)]
    writer.write(b"".join(framed(dns.message.make_query(name, "A").to_wire()) for name in names))
    answers = [await receive(reader) for _ in names]
    assert [values(answer) for answer in answers] == [[str(at.guest.pool.address(name))] for name in names]
    writer.close()
    await writer.wait_closed()


async def test_a_question_may_come_byte_by_byte_and_the_client_may_be_done_sending(at: Served) -> None:
    reader, writer = await asyncio.open_connection(*at.tcp)
    for byte in framed(query_wire()):
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    writer.write_eof()
    assert values(await receive(reader))
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


@pytest.mark.security
async def test_a_guest_that_asks_without_end_leaves_others_their_turn(at: Served) -> None:
    """While one connection has thousands of questions waiting, a datagram needs only a few turns."""
    query = framed(dns.message.make_query("evil.example", "A", use_edns=False).to_wire())
    reader, writer = await asyncio.open_connection(*at.tcp)
    writer.write(query * 3000)
    await receive(reader)
    assert values((await over_udp(at, query_wire()))[-1])
    assert len(at.guest.denied) < 1500
    writer.transport.abort()


@pytest.mark.security
@pytest.mark.parametrize("sent", [b"", b"\0", b"\0\0", b"\0\x0b", b"\xff\xff", b"\0\x20abc"])
async def test_who_sends_nothing_or_nonsense_is_hung_up_on(
    at: Served, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(served, "_DEADLINE_S", 0.2)
    reader, writer = await asyncio.open_connection(*at.tcp)
    writer.write(sent)
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    writer.close()


@pytest.mark.security
async def test_who_does_not_read_is_hung_up_on(at: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "_DEADLINE_S", 0.5)
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, at.tcp)
        query = framed(dns.message.make_query("evil.example", "A").to_wire())

        async def ask_on() -> None:
            while True:
                await loop.sock_sendall(client, query * 100)

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(ask_on(), 30)


@pytest.mark.security
async def test_connections_beyond_the_most_wait_until_one_ends(at: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    idle = [await asyncio.open_connection(*at.tcp) for _ in range(served._CONNECTIONS)]
    for reader, writer in idle:
        writer.write(framed(query_wire()))
        await receive(reader)
    reader, writer = await asyncio.open_connection(*at.tcp)
    writer.write(framed(query_wire()))
    waiting = asyncio.create_task(receive(reader))
    assert values((await over_udp(at, query_wire()))[-1])  # a full round of the server
    assert not waiting.done()
    idle.pop()[1].close()
    async with asyncio.timeout(10):
        assert values(await waiting)
    for _, other in [*idle, (reader, writer)]:
        other.close()


async def test_a_process_out_of_descriptors_goes_on_when_it_has_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "_BREATH_S", 0.01)
    refusals = [
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ECONNABORTED, "gone"),
        BlockingIOError(11, ""),
    ]

    class Listener(socket.socket):
        def accept(self) -> tuple[socket.socket, object]:
            if refusals:
                raise refusals.pop()
            return super().accept()

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, Listener() as tcp:
        udp.bind(("127.0.0.1", 0))
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        serving = asyncio.create_task(serve(udp, tcp, Guest().answerer))
        reader, writer = await asyncio.open_connection(*tcp.getsockname())
        writer.write(framed(query_wire()))
        async with asyncio.timeout(10):
            assert values(await receive(reader))
        assert refusals == []
        writer.close()
        serving.cancel()
        await asyncio.wait([serving])


async def test_cancelled_it_leaves_no_connection(at: Served) -> None:
    """The fixture looks for tasks, and the warnings, which are errors, for sockets."""
    connections = [await asyncio.open_connection(*at.tcp) for _ in range(4)]
    for reader, writer in connections[:2]:
        writer.write(framed(query_wire()))
        await receive(reader)
    for _, writer in connections:
        writer.close()
