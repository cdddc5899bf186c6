"""ClientHellos: OpenSSL's own, with extensions taken out, put in or changed, cut into records in any way."""

import ssl
from dataclasses import dataclass, replace

SNI, ALPN, PADDING, ECH, OLD_ESNI = 0, 16, 21, 0xFE0D, 0xFFCE
RECORD_LIMIT = 1 << 14

Extension = tuple[int, bytes]


def vector(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size) + data


def server_names(*names: bytes) -> Extension:
    return SNI, vector(2, b"".join(b"\0" + vector(2, name) for name in names))


@dataclass(frozen=True)
class Hello:
    """A ClientHello in parts: what comes before its extensions, and these."""

    head: bytes
    extensions: tuple[Extension, ...]

    def without(self, kind: int) -> "Hello":
        return replace(self, extensions=tuple(each for each in self.extensions if each[0] != kind))

    def having(self, *extensions: Extension) -> "Hello":
        return replace(self, extensions=(*extensions, *self.extensions))

    def named(self, *names: bytes) -> "Hello":
        return self.without(SNI).having(server_names(*names))

    def padded(self, size: int) -> "Hello":
        return self.without(PADDING).having((PADDING, bytes(size)))

    def message(self) -> bytes:
        body = self.head + vector(2, b"".join(kind.to_bytes(2) + vector(2, data) for kind, data in self.extensions))
        return b"\x01" + vector(3, body)

    def wire(self, record: int = RECORD_LIMIT) -> bytes:
        """Return it in records of at most so many bytes."""
        return records(self.message(), record)


def records(message: bytes, size: int = RECORD_LIMIT) -> bytes:
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + vector(2, piece) for piece in pieces)


def hello(name: str | None) -> Hello:
    """Return what a client of this machine's OpenSSL says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return read(outgoing.read()[9:])
    raise AssertionError("a handshake without a server")


def read(body: bytes) -> Hello:
    at = 34
    for size in (1, 2, 1):  # the session id, the cipher suites, the compression methods
        at += size + int.from_bytes(body[at : at + size])
    extensions = []
    place = at + 2
    while place < len(body):
        kind, length = int.from_bytes(body[place : place + 2]), int.from_bytes(body[place + 2 : place + 4])
        extensions.append((kind, body[place + 4 : place + 4 + length]))
        place += 4 + length
    return Hello(body[:at], tuple(extensions))
