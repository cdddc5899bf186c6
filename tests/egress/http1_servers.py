"""How two servers read what a client sends: h11, which is strict, and Python's own, which is not."""

import io
from http.server import BaseHTTPRequestHandler
from typing import Any

import h11

from alcove.egress.http1 import HEAD_LIMIT

Request = tuple[bytes, bytes, bytes, bytes]  # method, target, Host, body


def read_by_h11(data: bytes) -> list[Request]:
    """Return the requests that h11 sees in `data`; whatever it refuses fails the test."""
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=2 * HEAD_LIMIT)
    server.receive_data(data)
    seen: list[Request] = []
    while True:
        event: Any = server.next_event()
        if isinstance(event, h11.Request):
            seen.append((event.method, event.target, dict(event.headers)[b"host"], b""))
        elif isinstance(event, h11.Data):
            seen[-1] = (*seen[-1][:3], seen[-1][3] + event.data)
        elif isinstance(event, h11.EndOfMessage):
            server.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            server.send(h11.EndOfMessage())
            if server.our_state is not h11.DONE:
                return seen
            server.start_next_cycle()
        else:
            return seen


class Loose(BaseHTTPRequestHandler):
    """Python's own server, which takes more than it should, with bodies read as its users write it."""

    def __init__(self, data: bytes) -> None:
        self.seen: list[Request] = []
        self.rfile = io.BytesIO(data)
        self.wfile = io.BytesIO()
        self.close_connection = False
        self.protocol_version = "HTTP/1.1"
        while not self.close_connection and self.rfile.tell() < len(data):
            self.raw_requestline = self.rfile.readline()
            assert self.parse_request(), self.wfile.getvalue()
            host = self.headers["Host"].encode("latin-1")
            self.seen.append((self.command.encode(), self.requestline.split()[1].encode(), host, self.body()))

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").strip().lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def log_message(self, *_arguments: object) -> None:
        pass
