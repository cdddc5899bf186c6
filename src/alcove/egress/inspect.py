"""What a rule asks to see of a connection before, and while, bytes of the guest go on."""

from alcove.egress.clienthello import BadHello, Hello, HelloStream, NotTls
from alcove.egress.http1 import Refused, RequestStream
from alcove.egress.names import BadName, canonical, printable
from alcove.egress.policy import Kind, Rule

_HTTP = 80
_HANDSHAKE = 0x16


class Inspector:
    """Passes on what was checked, exactly as it came; this one asks nothing.

    `waiting`: bytes are held back until more come. `opaque`: nothing is looked at any more. `upgrading`: what the other
    side answers must be shown to `response` first.
    """

    @property
    def waiting(self) -> bool:
        """See above."""
        return False

    @property
    def opaque(self) -> bool:
        """See above."""
        return True

    @property
    def upgrading(self) -> bool:
        """See above."""
        return False

    def feed(self, data: bytes) -> bytes:
        """Take what the guest sent, and return what may go on.

        Raises:
            Refused: the connection is over.
        """
        return data

    def response(self, _: bytes) -> bytes:
        """Take what was answered while `upgrading`, and return what of the guest's may go on then.

        Raises:
            Refused: the connection is over.
        """
        return b""


def inspector(rule: Rule, name: str, port: int) -> Inspector:
    """What `rule` asks of a connection to `name` at `port`."""
    if rule.kind is Kind.WEB:
        return Web(name, port) if port == _HTTP else Tls(name)
    return TlsIfAny(name) if rule.kind is Kind.ORIGIN else Inspector()


class Tls(Inspector):
    """A ClientHello whose server name is the one that was resolved."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._held = bytearray()
        self._hello = HelloStream()
        self._settled = False

    @property
    def waiting(self) -> bool:
        """Whether a hello has begun and is not whole."""
        return bool(self._held)

    @property
    def opaque(self) -> bool:
        """Whether the hello was good: what comes now is for the server alone."""
        return self._settled

    def feed(self, data: bytes) -> bytes:
        """Hold the bytes until the hello is whole, then let all of them go."""
        if self._settled:
            return data
        self._held += data
        try:
            hello = self._hello.feed(data)
        except NotTls:
            raise Refused("no TLS on this port; write `host:port` for other protocols") from None
        except BadHello as bad:
            raise Refused(str(bad)) from None
        if hello is None:
            return b""
        self._check(hello)
        self._settled = True
        held, self._held = bytes(self._held), bytearray()
        return held

    def _check(self, hello: Hello) -> None:
        if hello.sni is None:
            raise Refused("a ClientHello without a server name (SNI)")
        try:
            asked = canonical(hello.sni)
        except BadName:
            raise Refused(f"a server name (SNI) that is none: {printable(hello.sni)}") from None
        if asked != self._name:
            raise Refused(f"the server name (SNI) is {asked}")


class TlsIfAny(Tls):
    """An opaque stream; but if it begins as TLS, its server name must match."""

    def feed(self, data: bytes) -> bytes:
        """The first byte decides."""
        if not self._settled and not self._held and data and data[0] != _HANDSHAKE:
            self._settled = True
        return super().feed(data)

    def _check(self, hello: Hello) -> None:
        if hello.sni is not None:  # an address and a port are all that an opaque origin has to be
            super()._check(hello)


class Web(Inspector):
    """HTTP/1 to one name, each request of it."""

    def __init__(self, name: str, port: int) -> None:
        self._requests = RequestStream(name, port)

    @property
    def opaque(self) -> bool:
        """Never: each request is looked at."""
        return False

    @property
    def waiting(self) -> bool:
        """Whether the first head is not whole; later ones wait as long as the server lets them."""
        return not self._requests.head_complete

    @property
    def upgrading(self) -> bool:
        """Whether a WebSocket was asked for."""
        return self._requests.upgrading

    def feed(self, data: bytes) -> bytes:
        """Pass what was checked."""
        return self._requests.feed(data)

    def response(self, data: bytes) -> bytes:
        """Let the held bytes go if the server agreed."""
        return self._requests.response(data)
