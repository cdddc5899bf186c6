"""A server for the egress cases, in a process of its own: it greets, or answers GET with as many bytes as asked for.

``python -m bench.origin`` prints where it listens as JSON and serves until its standard input ends. Bodies go out by
sendfile(2) from memory, so that the server is no slower than what is measured.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.contender import WrongResultError

#: An address of the loopback network's that nothing else uses; a name stands for it inside sandboxes that have names.
ADDRESS = "127.77.66.1"
NAME = "bench.test"
WEB_PORT = 80

_LOOPBACK = "127.0.0.1"
# Threads that wait in accept(2), for each listener: more than the streams of any case
_WORKERS = 12
_BODY = 16 << 20
_BACKLOG = 1024

Handle = Callable[[socket.socket], None]


@dataclass(frozen=True)
class Place:
    """Where the server is, as somebody sees it; ``greeting`` 0: nothing there speaks first."""

    host: str
    greeting: int
    http: int


@dataclass(frozen=True)
class Origin:
    """The same server at an address of its own, and at the one loopback address that user-mode networks pass on."""

    own: Place
    loopback: Place


def web_port_is_free() -> bool:
    """Tell whether we may serve at port 80: a plain user may not, and somebody else may do so already."""
    try:
        socket.create_server((ADDRESS, WEB_PORT)).close()
    except OSError:
        return False
    return True


@contextmanager
def serving(http_port: int = 0) -> Iterator[Origin]:
    """Start the server, and end it afterwards."""
    argv = [sys.executable, "-m", "bench.origin", str(http_port)]
    tree = Path(__file__).parent.parent
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tree) as process:
        try:
            if process.stdout is None or not (line := process.stdout.readline()):
                raise WrongResultError("the benchmarks' server did not start")
            places = json.loads(line)
            yield Origin(own=Place(**places["own"]), loopback=Place(**places["loopback"]))
        finally:
            if process.stdin is not None:
                process.stdin.close()


def main(http_port: int) -> None:
    body = os.memfd_create("body")
    os.truncate(body, _BODY)
    answer = Answer(body)
    places = {"own": _place(ADDRESS, http_port, answer), "loopback": _place(_LOOPBACK, 0, answer)}
    print(json.dumps(places), flush=True)
    sys.stdin.buffer.read()


def _place(address: str, http_port: int, answer: Answer) -> dict[str, str | int]:
    return {"host": address, "greeting": _listen(address, 0, greet), "http": _listen(address, http_port, answer)}


def _listen(address: str, port: int, handle: Handle) -> int:
    listener = socket.create_server((address, port), backlog=_BACKLOG)
    for _ in range(_WORKERS):
        threading.Thread(target=_work, args=(listener, handle), daemon=True).start()
    chosen: int = listener.getsockname()[1]
    return chosen


def _work(listener: socket.socket, handle: Handle) -> None:
    while True:
        connection, _ = listener.accept()
        with connection, suppress(OSError, ValueError, IndexError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            handle(connection)


def greet(connection: socket.socket) -> None:
    """Speak first: a relay that accepts before it has connected cannot make this byte up."""
    connection.sendall(b"+")
    connection.recv(1)


class Answer:
    """``GET /SIZE`` is answered with that many bytes, and the connection's end."""

    def __init__(self, body: int) -> None:
        self._body = body

    def __call__(self, connection: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = connection.recv(4096)
            if not piece:
                return
            head += piece
        left = int(head.split()[1][1:])
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % left)
        while left:
            left -= os.sendfile(connection.fileno(), self._body, 0, min(left, _BODY))


if __name__ == "__main__":
    main(int(sys.argv[1]))
