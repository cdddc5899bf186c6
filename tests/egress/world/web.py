"""Web servers: HTTP/1.1, and over TLS also HTTP/2 where the client's ALPN asks for it."""

import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import sha256

from tests.egress.world import http1, websocket
from tests.egress.world.ca import CertificateAuthority
from tests.egress.world.exchange import Request, Response, Site, as_json, redirect, text
from tests.egress.world.http2 import Http2
from tests.egress.world.journal import Journal
from tests.egress.world.listener import Accept, Link, Listener, Place
from tests.egress.world.loop import Allowance, LoopThread

PATTERN = bytes(range(256)) * 256


async def pattern(size: int) -> AsyncIterator[bytes]:
    """Yield `size` bytes that are worth comparing."""
    for _ in range(size // len(PATTERN)):
        yield PATTERN
    if rest := size % len(PATTERN):
        yield PATTERN[:rest]


def pattern_digest(size: int) -> str:
    whole, rest = divmod(size, len(PATTERN))
    digest = sha256()
    for _ in range(whole):
        digest.update(PATTERN)
    digest.update(PATTERN[:rest])
    return digest.hexdigest()


class Showroom:
    """A site with one page for each way in which bodies travel."""

    def __init__(self, steps: Allowance) -> None:
        self._steps = steps

    async def __call__(self, request: Request) -> Response:
        page = getattr(self, f"page_{request.path.strip('/').replace('-', '_') or 'front'}", None)
        return await page(request) if page else text("no such page\n", 404)

    async def page_front(self, request: Request) -> Response:
        return text(f"this is {request.host}\n")

    async def page_request(self, request: Request) -> Response:
        """/request: what came, as JSON."""
        seen = {"method": request.method, "target": request.target, "version": request.version, "sni": request.sni}
        return as_json(seen | {"hosts": request.hosts, "headers": request.headers})

    async def page_bytes(self, request: Request) -> Response:
        """/bytes?size=N: N bytes, announced."""
        size = int(request.query["size"])
        return Response(body=pattern(size), length=size)

    async def page_stream(self, request: Request) -> Response:
        """/stream?size=N: N bytes, chunked."""
        return Response(body=pattern(int(request.query["size"])))

    async def page_until_close(self, request: Request) -> Response:
        """/until-close?size=N: N bytes without any framing in HTTP/1."""
        return Response(body=pattern(int(request.query["size"])), until_close=True)

    async def page_steps(self, request: Request) -> Response:
        """/steps?count=N: N lines, each when the test lets it go."""

        async def lines() -> AsyncIterator[bytes]:
            for number in range(int(request.query["count"])):
                await self._steps.take()
                yield b"step %d\n" % number

        return Response(body=lines(), headers=(("content-type", "text/plain"),))

    async def page_upload(self, request: Request) -> Response:
        """/upload: the length and the digest of what was sent."""
        digest, length = sha256(), 0
        async for piece in request.body:
            digest.update(piece)
            length += len(piece)
        return as_json({"length": length, "sha256": digest.hexdigest()})

    async def page_echo(self, request: Request) -> Response:
        """/echo: what is sent, while it is sent."""
        return Response(body=request.body)

    async def page_redirect(self, request: Request) -> Response:
        """/redirect?to=URL."""
        return redirect(request.query["to"])

    async def page_websocket(self, request: Request) -> Response:
        return websocket.upgrade(request)


@dataclass(frozen=True)
class Bound:
    """The sockets of a web server that is about to run."""

    http: socket.socket | None
    https: socket.socket | None


class Web:
    """A web server under one or more names, on one address.

    `accepts` counts connections before a byte of them is read, `hellos` holds the SNI of every ClientHello (None
    where it had none), `requests` every request that had a head.
    """

    def __init__(
        self,
        thread: LoopThread,
        names: tuple[str, ...],
        bound: Bound,
        authority: CertificateAuthority,
        site: Site | None = None,
        alpn: tuple[str, ...] = ("h2", "http/1.1"),
    ) -> None:
        self.accepts: Journal[Accept] = Journal()
        self.hellos: Journal[str | None] = Journal()
        self.requests: Journal[Request] = Journal()
        self.steps = Allowance(thread)
        self.names = names
        self.http = self._place(bound.http)
        self.https = self._place(bound.https)
        self._site = site or Showroom(self.steps)
        self._listeners: list[Listener] = []
        if bound.http:
            self._listeners.append(Listener(bound.http, self._serve_plain, self.accepts))
        if bound.https:
            address = bound.https.getsockname()[0]
            self._context = authority.server((*names, address), alpn, self.hellos.add)
            self._listeners.append(Listener(bound.https, self._serve_tls, self.accepts))

    def _place(self, bound: socket.socket | None) -> Place | None:
        if bound is None:
            return None
        address, port = bound.getsockname()[:2]
        return Place(self.names[0], address, port)

    @property
    def address(self) -> str:
        return self.places[0].address

    @property
    def places(self) -> list[Place]:
        return [Place(name, at.address, at.port) for at in (self.http, self.https) if at for name in self.names]

    def url(self, path: str = "/", *, scheme: str = "https", name: str | None = None) -> str:
        """Return the URL of a page; the port is left out where it is the scheme's own."""
        at, usual = (self.https, 443) if scheme == "https" else (self.http, 80)
        assert at is not None, f"{self.names[0]} does not serve {scheme}"
        return f"{scheme}://{name or at.name}{'' if at.port == usual else f':{at.port}'}{path}"

    async def start(self) -> None:
        for listener in self._listeners:
            await listener.start()

    async def stop(self) -> None:
        for listener in self._listeners:
            await listener.stop()

    async def _answer(self, request: Request) -> Response:
        self.requests.add(request)
        return await self._site(request)

    async def _serve_plain(self, connection: socket.socket) -> None:
        async with Link(connection) as link:
            await http1.serve(link, self._answer)

    async def _serve_tls(self, connection: socket.socket) -> None:
        async with Link(connection, self._context) as link:
            if link.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2":
                await Http2(link, self._answer).serve()
            else:
                await http1.serve(link, self._answer)
