"""The first message of a TLS connection, read for the name it asks for and never answered (RFC 8446 section 4.1.2).

Strict where servers differ, since a hello that two programs read differently could name one host here and another
there. What follows the hello, and what a server lets a client say inside the encryption, is not seen.
"""

from msgspec import Struct

#: The bytes on the wire within which a ClientHello must end, record headers and all.
LIMIT = 65_536

_RECORD_HEADER = 5
_RECORD_LIMIT = 1 << 14  # RFC 8446, 5.1: a plaintext record is no longer
_MESSAGE_HEADER = 4
_HANDSHAKE = 0x16
_CLIENT_HELLO = 0x01
_SERVER_NAME = 0
_ALPN = 16
_ECH = frozenset({0xFE0D, 0xFFCE})  # RFC 9849, and the encrypted_server_name of the drafts before it


class NotTls(Exception):  # noqa: N818 - a finding, which an opaque rule lets pass
    """The first byte is not the one that every TLS handshake starts with: another protocol."""


class BadHello(Exception):  # noqa: N818
    """TLS is spoken, but not with a ClientHello that can be read in one way only."""


class Hello(Struct, frozen=True):
    """What a ClientHello asks for.

    `sni` is as sent, neither decoded nor canonical; None: no name was sent. `ech`: an encrypted hello comes along, real
    or grease, which nobody but the server can tell apart.
    """

    sni: bytes | None
    alpn: tuple[bytes, ...]
    ech: bool


class HelloStream:
    """A ClientHello as it arrives, split over records and segments in any way; each byte is looked at once.

    The caller keeps what it feeds, for the server.
    """

    def __init__(self) -> None:
        self._header = bytearray()
        self._message = bytearray()
        self._record_left = 0
        self._used = 0
        self._hello: Hello | None = None

    def feed(self, data: bytes) -> Hello | None:
        """Take the next bytes; None while the hello is not whole. What lies behind the hello is not looked at.

        A stream that raised is of no more use.

        Raises:
            NotTls: the first bytes are another protocol's.
            BadHello: a hello that is malformed, ambiguous, or longer than `LIMIT`.
        """
        at = 0
        while self._hello is None and at < len(data):
            if self._used == LIMIT:
                raise BadHello(f"the ClientHello is longer than {LIMIT} bytes")
            at += self._take(memoryview(data)[at : at + LIMIT - self._used])
        return self._hello

    def _take(self, data: memoryview) -> int:
        """Use what belongs to one record header, or to one record, and return how much that was."""
        if self._record_left:
            taken = min(self._record_left, len(data))
            self._record_left -= taken
            self._message += data[:taken]
            self._read_message()
        else:
            taken = 1
            self._header += data[:1]
            self._read_header()
        self._used += taken
        return taken

    def _read_header(self) -> None:
        """Judge each byte as it comes: whoever waits for the server to speak must not be kept waiting here."""
        header = self._header
        if header[0] != _HANDSHAKE:
            if self._used == 0:
                raise NotTls(f"byte {header[0]:#04x} starts no TLS handshake")
            raise BadHello(f"a record of type {header[0]} within the ClientHello")
        # not left to pass as another protocol: there are servers that do not look at the version of the first record
        if len(header) == 2 and header[1] != 3:
            raise BadHello(f"record version {header[1]}.x, where 3.1 to 3.4 are TLS")
        if len(header) == 3 and not 1 <= header[2] <= 4:
            raise BadHello(f"record version 3.{header[2]}, where 3.1 to 3.4 are TLS")
        if len(header) == _RECORD_HEADER:
            self._record_left = int.from_bytes(header[3:])
            if not 0 < self._record_left <= _RECORD_LIMIT:
                raise BadHello(f"a record of {self._record_left} bytes, where 1 to {_RECORD_LIMIT} are allowed")
            header.clear()

    def _read_message(self) -> None:
        message = self._message
        if message[0] != _CLIENT_HELLO:
            raise BadHello(f"handshake message {message[0]} comes first, not a ClientHello")
        if len(message) < _MESSAGE_HEADER:
            return
        end = _MESSAGE_HEADER + int.from_bytes(message[1:_MESSAGE_HEADER])
        if end > LIMIT - _RECORD_HEADER:
            raise BadHello(f"a ClientHello of {end} bytes, where all of it must end within {LIMIT}")
        if len(message) + self._record_left < end:
            return
        # RFC 8446, 5.1: other messages may share its last record where no key changes behind it, but no client does so
        if len(message) + self._record_left > end:
            raise BadHello("bytes behind the ClientHello in its record")
        if not self._record_left:
            self._hello = _read_hello(bytes(message[_MESSAGE_HEADER:]))


def parse(data: bytes) -> Hello | None:
    """Read the ClientHello that `data` starts with; None: more bytes are needed.

    Raises:
        NotTls: the first bytes are another protocol's.
        BadHello: a hello that is malformed, ambiguous, or longer than `LIMIT`.
    """
    return HelloStream().feed(data)


class _Cursor:
    """A place in a message whose lengths must all add up."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._at = 0
        self._what = what

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise BadHello(f"{self._what} is cut short")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, length_size: int, least: int, what: str) -> bytes:
        value = self.take(self.number(length_size))
        if len(value) < least:
            raise BadHello(f"{what} has {len(value)} bytes, where {least} are the least")
        return value

    def end(self) -> None:
        if self.left:
            raise BadHello(f"{self.left} bytes too many in {self._what}")


def _read_hello(body: bytes) -> Hello:
    cursor = _Cursor(body, "the ClientHello")
    major, minor = cursor.take(2)
    if major != 3 or not 1 <= minor <= 4:
        raise BadHello(f"client version {major}.{minor}, where 3.1 to 3.4 are TLS")
    cursor.take(32)  # the random
    if len(cursor.vector(1, 0, "the session id")) > 32:
        raise BadHello("a session id of more than 32 bytes")
    if len(cursor.vector(2, 2, "the list of cipher suites")) % 2:
        raise BadHello("an odd number of bytes in the list of cipher suites")
    cursor.vector(1, 1, "the list of compression methods")
    extensions = _read_extensions(cursor.vector(2, 0, "extensions")) if cursor.left else {}
    cursor.end()
    return Hello(
        sni=_read_sni(extensions[_SERVER_NAME]) if _SERVER_NAME in extensions else None,
        alpn=_read_alpn(extensions[_ALPN]) if _ALPN in extensions else (),
        ech=not _ECH.isdisjoint(extensions),
    )


def _read_extensions(data: bytes) -> dict[int, bytes]:
    cursor = _Cursor(data, "the list of extensions")
    found: dict[int, bytes] = {}
    while cursor.left:
        kind = cursor.number(2)
        if kind in found:
            raise BadHello(f"extension {kind} comes twice")
        found[kind] = cursor.vector(2, 0, "an extension")
    return found


def _read_sni(data: bytes) -> bytes:
    """RFC 6066, section 3: one name of each type, and `host_name` is the only type there ever was."""
    outer = _Cursor(data, "server_name")
    cursor = _Cursor(outer.vector(2, 1, "the server name list"), "the server name list")
    outer.end()
    if (kind := cursor.number(1)) != 0:
        raise BadHello(f"server name type {kind}, where only host_name (0) exists")
    name = cursor.vector(2, 1, "the server name")
    if cursor.left:
        raise BadHello("more than one server name")
    return name


def _read_alpn(data: bytes) -> tuple[bytes, ...]:
    outer = _Cursor(data, "ALPN")
    cursor = _Cursor(outer.vector(2, 2, "the protocol list"), "the protocol list")
    outer.end()
    names = []
    while cursor.left:
        names.append(cursor.vector(1, 1, "a protocol name"))
    return tuple(names)
