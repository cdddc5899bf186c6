"""HTTP/1.1 as a trusting server speaks it: what a proxy must refuse passes here, so that a test would see it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus

from tests.egress.world.exchange import Request, Response, Site
from tests.egress.world.listener import Link

PIECE = 1 << 16


class MalformedError(EOFError):
    """What came is not HTTP."""


Continue = Callable[[], Awaitable[None]]


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int((await reader.readline()).split(b";")[0], 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)
    while (await reader.readline()).strip():
        pass


async def counted(reader: asyncio.StreamReader, length: str) -> AsyncIterator[bytes]:
    left = int(length)
    while left:
        piece = await reader.read(min(left, PIECE))
        if not piece:
            raise EOFError(f"{left} bytes of a body did not come")
        left -= len(piece)
        yield piece


async def body(link: Link, headers: tuple[tuple[str, str], ...]) -> AsyncIterator[bytes]:
    found = dict(headers)
    if found.get("expect", "").lower() == "100-continue":
        link.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if "chunked" in found.get("transfer-encoding", "").lower():
        pieces = chunks(link.reader)
    else:
        pieces = counted(link.reader, found.get("content-length", "0"))
    try:
        async for piece in pieces:
            yield piece
    except ValueError as fault:
        raise MalformedError(str(fault)) from None


def parse(head: bytes, link: Link) -> Request:
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    words = first.split(" ")
    if len(words) != 3:
        raise MalformedError(first)
    pairs = (line.partition(":") for line in lines)
    headers = tuple((name.strip().lower(), value.strip()) for name, _, value in pairs)
    connection = link.writer.get_extra_info("ssl_object")
    asked = connection.asked if connection else None
    return Request(words[0], words[1], words[2], headers, connection is not None, asked, body(link, headers))


async def read_request(link: Link) -> Request | None:
    try:
        head = await link.reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as ended:
        if ended.partial:
            raise MalformedError(repr(ended.partial[:200])) from None
        return None
    except asyncio.LimitOverrunError as large:
        raise MalformedError(str(large)) from None
    return parse(head, link)


def framing(response: Response, keep: bool) -> list[tuple[str, str]]:
    if response.upgraded:
        return []
    connection = [] if keep else [("connection", "close")]
    if response.until_close or response.status in {204, 304}:
        return connection
    if response.size is None:
        return [("transfer-encoding", "chunked"), *connection]
    return [("content-length", str(response.size)), *connection]


async def write(link: Link, request: Request, response: Response, *, keep: bool) -> None:
    frame = framing(response, keep)
    head = [f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}"]
    head += [f"{name}: {value}" for name, value in (*response.headers, *frame)]
    link.writer.write("\r\n".join([*head, "", ""]).encode("latin-1"))
    if request.method == "HEAD":
        return
    chunked = ("transfer-encoding", "chunked") in frame
    async for piece in response.pieces():
        link.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        await link.writer.drain()
    if chunked:
        link.writer.write(b"0\r\n\r\n")
    await link.writer.drain()


def keeps(request: Request, response: Response) -> bool:
    asked = (request.header("connection") or "").lower()
    persistent = "close" not in asked if request.version == "HTTP/1.1" else "keep-alive" in asked
    return persistent and not response.until_close


async def serve(link: Link, site: Site) -> None:
    """Answer the requests of a connection, one after the other, until either side has enough."""
    try:
        while (request := await read_request(link)) is not None:
            response = await site(request)
            keep = keeps(request, response)
            await write(link, request, response, keep=keep)
            if response.upgraded:
                await response.upgraded(link)
            if response.upgraded or not keep:
                return
            async for _ in request.body:
                pass
    except MalformedError as fault:
        said = f"{fault}\n".encode()
        link.writer.write(
            b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(said) + said
        )
