"""The head of one HTTP/1 request: what it is for, and how much follows it, read so that nobody reads it otherwise."""

import re

from alcove.egress.names import BadName, canonical

#: How many fields a head may have, and how many trailers; widely used servers take no more.
FIELD_LIMIT = 100

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
#: What the first byte of a request is one of.
TOKEN_BYTE = re.compile(_TOKEN)
_REQUEST_LINE = re.compile(rb"(%b+) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])" % _TOKEN)
_FIELD_LINE = re.compile(rb"(%b+):([\t\x20-\x7e\x80-\xff]*)" % _TOKEN)
_ABSOLUTE = re.compile(rb"(?i:http)://([^/?#]*).*")
_AUTHORITY = re.compile(rb"([^:]{1,254})(?::([0-9]{1,5}))?")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,17}")

_FRAMING = frozenset({b"host", b"content-length", b"transfer-encoding"})
_ONCE = _FRAMING | {b"upgrade", b"expect"}
_READ = _ONCE | {b"connection"}
_WITHOUT_BODY = frozenset({b"GET", b"HEAD", b"TRACE"})


class Refused(Exception):  # noqa: N818
    """A request that may not go on; the connection is over.

    `passed`: what was fed with it, came before it and was found good. It may still go upstream.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.passed = b""


class Fields:
    """The fields of a head or of trailers: all are checked, and `read` keeps those that routing and framing hang on."""

    def __init__(self) -> None:
        self.read: dict[bytes, bytes] = {}
        self._count = 0

    def add(self, line: bytes) -> None:
        """Take one line, without its end.

        Raises:
            Refused: it is no field as RFC 9112 section 5 has it, or one too many.
        """
        if line[0] in b" \t":
            raise Refused("a folded field (obs-fold)")
        field = _FIELD_LINE.fullmatch(line)
        if not field:
            raise Refused("a field that is not `name: value`")
        self._count += 1
        if self._count > FIELD_LIMIT:
            raise Refused(f"more than {FIELD_LIMIT} fields")
        self._keep(field[1].lower(), field[2])

    def _keep(self, name: bytes, value: bytes) -> None:
        if name not in _READ:
            # to CGI and its heirs both spellings are one variable
            if name.replace(b"_", b"-") in _READ:
                raise Refused(f"a field {name.decode()}, which may be taken for the one with a hyphen")
            return
        if name not in self.read:
            self.read[name] = value
        elif name in _ONCE:
            raise Refused(f"more than one {name.decode()}")
        else:
            self.read[name] += b"," + value


class Head:
    """A request's head: its request line, then `fields` as they come in, then what they mean together."""

    def __init__(self, line: bytes, way_out: str) -> None:
        """Read the request line.

        Raises:
            Refused: another protocol, or CONNECT; `way_out` says what to do for that.
        """
        if line == b"PRI * HTTP/2.0":
            raise Refused(f"HTTP/2 without TLS; {way_out}")
        parts = _REQUEST_LINE.fullmatch(line)
        if not parts:
            raise Refused(f"no HTTP/1 request line; {way_out}")
        self.fields = Fields()
        self._way_out = way_out
        self._method, self._target, self._version = parts[1], parts[2], (int(parts[3]), int(parts[4]))
        if self._version not in {(1, 0), (1, 1)}:
            raise Refused(f"HTTP/{self._version[0]}.{self._version[1]}, where 1.0 and 1.1 are known; {way_out}")
        if self._method.upper() == b"CONNECT":
            raise Refused(f"CONNECT, where there is no proxy; {way_out}")

    def check_origin(self, name: str, port: int) -> None:
        """Check that the request is for `name` and `port`, by all it says of it.

        Raises:
            Refused: it is for another one, or does not say so in one way.
        """
        if not self._target.startswith(b"/") and (self._method, self._target) != (b"OPTIONS", b"*"):
            absolute = _ABSOLUTE.fullmatch(self._target)
            if not absolute:
                raise Refused("a target that is neither a path nor an http:// address")
            _check_authority("the target", absolute[1], name, port)
        if b"host" not in self.fields.read:
            raise Refused("no Host")
        _check_authority("Host", self._exact(b"host"), name, port)

    def body_length(self) -> int | None:
        """How many bytes follow; None: chunks do.

        Raises:
            Refused: there are servers that would see another length.
        """
        # a proxy takes the fields away that Connection names, and whoever is behind it reads another request
        if not self._connection().isdisjoint(_FRAMING):
            raise Refused("a Connection that names Host, Content-Length or Transfer-Encoding")
        if self.fields.read.get(b"expect", b"100-continue").removeprefix(b" ").lower() != b"100-continue":
            raise Refused("an Expect that is not `100-continue`")
        length = self._framing()
        # a server that looks for no body there reads it as the next request
        if length != 0 and self._method.upper() in _WITHOUT_BODY:
            raise Refused(f"a {self._method.upper().decode()} with a body")
        return length

    def wants_websocket(self) -> bool:
        """Whether the connection is to become a WebSocket's (RFC 6455 section 4.1).

        Raises:
            Refused: it is to become something else, or it is not said in one way.
        """
        if b"upgrade" not in self.fields.read:
            return False
        if self.fields.read[b"upgrade"].strip(b" \t").lower() != b"websocket":
            raise Refused(f"an Upgrade to something else than websocket; {self._way_out}")
        if self._method != b"GET" or self._version != (1, 1):
            raise Refused("an Upgrade that is not with GET of HTTP/1.1")
        if b"upgrade" not in self._connection():
            raise Refused("an Upgrade that Connection does not name")
        return True

    def _connection(self) -> set[bytes]:
        return {option.strip(b" \t").lower() for option in self.fields.read.get(b"connection", b"").split(b",")}

    def _framing(self) -> int | None:
        read = self.fields.read
        if b"transfer-encoding" not in read:
            length = self._exact(b"content-length") if b"content-length" in read else b"0"
            if not _LENGTH.fullmatch(length):
                raise Refused("a Content-Length that is not one plain number")
            return int(length)
        if b"content-length" in read:
            raise Refused("both Content-Length and Transfer-Encoding")
        if self._version != (1, 1):
            raise Refused("Transfer-Encoding in HTTP/1.0")
        if self._exact(b"transfer-encoding") != b"chunked":
            raise Refused("a Transfer-Encoding that is not exactly `chunked`")
        return None

    def _exact(self, name: bytes) -> bytes:
        """The value as everybody writes it: at more white space than one blank servers start to differ."""
        return self.fields.read[name].removeprefix(b" ")


def _check_authority(what: str, authority: bytes, name: str, port: int) -> None:
    parts = _AUTHORITY.fullmatch(authority)
    if not parts:
        raise Refused(f"{what} is not a name with or without a port")
    try:
        said = canonical(parts[1])
    except BadName as error:
        raise Refused(f"{what} is not a name: {error}") from None
    if said != name:
        raise Refused(f"{what} says {said}, the connection is to {name}")
    if parts[2] is not None and parts[2] != b"%d" % port:
        raise Refused(f"{what} says port {parts[2].decode()}, the connection is to port {port}")
