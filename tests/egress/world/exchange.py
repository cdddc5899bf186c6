"""A request and its response, whichever HTTP carried them."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from tests.egress.world.listener import Link


async def nothing() -> AsyncIterator[bytes]:
    none: list[bytes] = []
    for piece in none:
        yield piece


@dataclass(frozen=True)
class Request:
    """A request as it came: nothing is checked that a server could live without, so that a test sees all of it."""

    method: str
    target: str
    version: str
    #: Names in lower case, in the order they came
    headers: tuple[tuple[str, str], ...]
    secure: bool
    #: What the ClientHello asked for
    sni: str | None
    body: AsyncIterator[bytes] = field(default_factory=nothing, repr=False, compare=False)

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def header(self, name: str) -> str | None:
        found = self.values(name)
        return found[0] if found else None

    @property
    def hosts(self) -> list[str]:
        """Every host that the request names, `:authority` first."""
        return self.values(":authority") + self.values("host")

    @property
    def host(self) -> str:
        return next(iter(self.hosts), "")

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query))

    @property
    def origin(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.host}"

    async def whole_body(self) -> bytes:
        return b"".join([piece async for piece in self.body])


@dataclass(frozen=True)
class Response:
    """What a site answers; a body that is an iterator is streamed, chunked where its length is not told."""

    status: int = 200
    body: bytes | AsyncIterator[bytes] = b""
    headers: tuple[tuple[str, str], ...] = ()
    length: int | None = None
    #: HTTP/1 only: no framing, the end of the connection ends the body
    until_close: bool = False
    #: HTTP/1 only: with 101, who has the connection from here on
    upgraded: Callable[[Link], Awaitable[None]] | None = None

    @property
    def size(self) -> int | None:
        return len(self.body) if isinstance(self.body, bytes) else self.length

    async def pieces(self) -> AsyncIterator[bytes]:
        if isinstance(self.body, bytes):
            if self.body:
                yield self.body
            return
        async for piece in self.body:
            yield piece


Site = Callable[[Request], Awaitable[Response]]


def text(words: str, status: int = 200) -> Response:
    return Response(status, words.encode(), (("content-type", "text/plain; charset=utf-8"),))


def as_json(value: object, status: int = 200) -> Response:
    return Response(status, json.dumps(value).encode(), (("content-type", "application/json"),))


def redirect(location: str) -> Response:
    return Response(302, b"", (("location", location),))
