"""A WebSocket (RFC 6455) that says back what it is told."""

import asyncio
from base64 import b64encode
from hashlib import sha1

from tests.egress.world.exchange import Request, Response, text
from tests.egress.world.listener import Link

ACCEPTED = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


def accepted(key: str) -> str:
    return b64encode(sha1((key + ACCEPTED).encode(), usedforsecurity=False).digest()).decode()


def frame(first: int, payload: bytes) -> bytes:
    """Return a server's frame, which is never masked; `first` is the opcode with the bit that says it is the last."""
    size = len(payload)
    if size < 126:
        return bytes([first, size]) + payload
    if size < 1 << 16:
        return bytes([first, 126]) + size.to_bytes(2) + payload
    return bytes([first, 127]) + size.to_bytes(8) + payload


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first, second = await reader.readexactly(2)
    size = second & 0x7F
    if size >= 126:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8))
    mask = await reader.readexactly(4) if second & 0x80 else bytes(4)
    payload = await reader.readexactly(size)
    keys = (mask * (size // 4 + 1))[:size]
    return first, (int.from_bytes(payload) ^ int.from_bytes(keys)).to_bytes(size)


async def echo(link: Link) -> None:
    while True:
        first, payload = await read_frame(link.reader)
        opcode = first & 0xF
        if opcode == PING:
            link.writer.write(frame(0x80 | PONG, payload))
        elif opcode in {CONTINUATION, TEXT, BINARY, CLOSE}:
            link.writer.write(frame(first, payload))
        await link.writer.drain()
        if opcode == CLOSE:
            return


def upgrade(request: Request) -> Response:
    key = request.header("sec-websocket-key")
    if key is None or (request.header("upgrade") or "").lower() != "websocket":
        return text("this is a WebSocket\n", 426)
    headers = (("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-accept", accepted(key)))
    return Response(101, headers=headers, upgraded=echo)
