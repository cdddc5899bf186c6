"""HTTP/1 as a session may speak it to one name: every request's head is checked before any byte of it goes on.

A request could hide in what is taken for a body here and not by a server. So whatever servers are known to read in two
ways (RFC 9112 section 11.2) is refused, also where the grammar allows it, and what passes goes on byte by byte as it
came.
"""

import re
from collections.abc import Callable

from alcove.egress.heads import TOKEN_BYTE, Fields, Head, Refused

__all__ = ["CHUNK_LIMIT", "HEAD_LIMIT", "Refused", "RequestStream"]

#: The bytes within which a head, the trailers of a body, or what is held back for an upgrade must end.
HEAD_LIMIT = 65_536
#: The longest chunk: some servers count with 32 bits.
CHUNK_LIMIT = 0x7FFF_FFFF

_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]+")
_CHUNK_LINE_LIMIT = 10  # the digits of 32 bits and a line's end
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9][0-9])[ \r\n]")
_STATUS_SIZE = 13
_SWITCHING_PROTOCOLS = 101


class RequestStream:
    """What a client sends on one connection to `name`, a canonical name, at `port`.

    What passes, and why something does not, depends on the bytes alone and never on how they were cut.

    `upgrading`: a WebSocket was asked for; what the client sends is held until `response` has seen the answer.
    """

    def __init__(self, name: str, port: int) -> None:
        self.upgrading = False
        self._name = name
        self._port = port
        self._step: Callable[[RequestStream], bool] = RequestStream._head_line
        self._refusal: str | None = None
        self._requests = 0
        self._buffer = bytearray()
        self._passed = 0  # so much of the buffer may go
        self._at = 0  # so much of it is read
        self._searched = 0  # before this there is no end of the line at `_at`
        self._head: Head | None = None
        self._trailers = Fields()
        self._body_left = 0
        self._answer = bytearray()
        self._answer_searched = 0

    @property
    def head_complete(self) -> bool:
        """Whether the first request's head has come whole, and was good."""
        return self._requests > 0

    def feed(self, data: bytes) -> bytes:
        """Take what the client sent, and return what may go upstream now.

        Raises:
            Refused: and again, whatever is fed from then on.
        """
        if self._refusal is not None:
            raise Refused(self._refusal)
        if not self._buffer and self._is_content(len(data)):
            return data
        self._buffer += data
        try:
            while self._step(self):
                pass
        except Refused as refusal:
            self._refusal = refusal.reason
            refusal.passed = self._take()
            self._buffer.clear()
            raise
        return self._take()

    def response(self, data: bytes) -> bytes:
        """Take what upstream answered while `upgrading`, and return what may go upstream now.

        With 101 everything may, from then on; any other answer leaves a connection for more requests.

        Raises:
            Refused: the answer is not HTTP/1's, or what was held is no good request.
        """
        if not self.upgrading:
            return b""
        self._answer += data
        status = self._final_status()
        if status is None:
            return b""
        self.upgrading = False
        self._answer.clear()
        self._step = RequestStream._opaque if status == _SWITCHING_PROTOCOLS else RequestStream._head_line
        return self.feed(b"")

    def _is_content(self, size: int) -> bool:
        """Count a piece that is all content: a long upload is not copied."""
        if self._step in {RequestStream._body, RequestStream._chunk} and size <= self._body_left:
            self._body_left -= size
            return True
        return self._step is RequestStream._opaque

    def _take(self) -> bytes:
        with memoryview(self._buffer) as view:
            passed = bytes(view[: self._passed])
        del self._buffer[: self._passed]
        self._at -= self._passed
        self._searched -= self._passed
        self._passed = 0
        return passed

    def _pass(self, size: int = 0) -> None:
        """Let go what was read, and `size` bytes more."""
        self._at += size
        self._passed = self._searched = self._at

    def _line(self) -> bytes | None:
        """The next line of a head or of trailers, without its end; None while it is not whole."""
        end = self._buffer.find(b"\n", self._searched)
        if (len(self._buffer) if end < 0 else end) - self._passed >= HEAD_LIMIT:
            raise Refused(f"a head of more than {HEAD_LIMIT} bytes")
        if end < 0:
            self._searched = len(self._buffer)
            return None
        line = bytes(self._buffer[self._at : end])
        self._at = self._searched = end + 1
        if not line.endswith(b"\r"):
            raise Refused("a line that ends in LF without CR")
        return line[:-1]

    def _head_line(self) -> bool:
        if self._head is None and not self._is_begun():
            return False
        line = self._line()
        if line is None:
            return False
        if self._head is None:
            self._head = Head(line, self._way_out())
        elif line:
            self._head.fields.add(line)
        else:
            self._end_head(self._head)
        return True

    def _is_begun(self) -> bool:
        """Judge the first byte at once: who speaks another protocol may wait for an answer before it ends a line."""
        if self._at == len(self._buffer):
            return False
        if not TOKEN_BYTE.match(self._buffer, self._at):
            raise Refused(f"byte {self._buffer[self._at]:#04x} starts no HTTP/1 request; {self._way_out()}")
        return True

    def _way_out(self) -> str:
        return f"allow {self._name}:{self._port} for other protocols"

    def _end_head(self, head: Head) -> None:
        head.check_origin(self._name, self._port)
        length = head.body_length()
        if head.wants_websocket():
            if self._requests or length != 0:
                raise Refused("an Upgrade with a body, or behind another request of its connection")
            self.upgrading = True
            self._step = RequestStream._held
        elif length is None:
            self._step = RequestStream._chunk_size
        elif length:
            self._body_left = length
            self._step = RequestStream._body
        self._head = None
        self._requests += 1
        self._pass()

    def _body(self) -> bool:
        more = self._content()
        if not self._body_left:
            self._step = RequestStream._head_line
        return more

    def _content(self) -> bool:
        """Let go what there is of a body or chunk; whether more than that is there."""
        available = len(self._buffer) - self._at
        taken = min(self._body_left, available)
        self._body_left -= taken
        self._pass(taken)
        return taken < available

    def _chunk_size(self) -> bool:
        end = self._buffer.find(b"\r\n", self._at, self._at + _CHUNK_LINE_LIMIT)
        if end < 0 and len(self._buffer) - self._at < _CHUNK_LINE_LIMIT:
            return False
        size = bytes(self._buffer[self._at : max(self._at, end)])
        if not _CHUNK_SIZE.fullmatch(size):
            raise Refused("a chunk that does not start with its size and nothing else")
        self._body_left = int(size, 16)
        if self._body_left > CHUNK_LIMIT:
            raise Refused(f"a chunk of more than {CHUNK_LIMIT} bytes")
        self._pass(len(size) + 2)
        self._step = RequestStream._chunk if self._body_left else RequestStream._trailer_line
        return True

    def _chunk(self) -> bool:
        if not self._content():
            return False
        end = bytes(self._buffer[self._at : self._at + 2])
        if not b"\r\n".startswith(end):
            raise Refused("a chunk that does not end where its size says")
        if len(end) < 2:
            return False
        self._pass(2)
        self._step = RequestStream._chunk_size
        return True

    def _trailer_line(self) -> bool:
        line = self._line()
        if line is None:
            return False
        if line:
            self._trailers.add(line)
            if self._trailers.read:
                raise Refused("a trailer that belongs into the head")
        else:
            self._trailers = Fields()
            self._pass()
            self._step = RequestStream._head_line
        return True

    def _held(self) -> bool:
        if len(self._buffer) > HEAD_LIMIT + self._at:
            raise Refused(f"more than {HEAD_LIMIT} bytes before the answer to an upgrade")
        return False

    def _opaque(self) -> bool:
        self._pass(len(self._buffer) - self._at)
        return False

    def _final_status(self) -> int | None:
        """The status of the first answer that is not an interim one; None while it has not come."""
        while status := self._status():
            if status == _SWITCHING_PROTOCOLS or status >= 200:
                return status
            end = self._answer.find(b"\r\n\r\n", self._answer_searched)
            if end < 0:
                self._answer_searched = max(0, len(self._answer) - 3)
                break
            del self._answer[: end + 4]
            self._answer_searched = 0
        if len(self._answer) >= HEAD_LIMIT:
            raise Refused(f"an interim answer of more than {HEAD_LIMIT} bytes to an upgrade")
        return None

    def _status(self) -> int | None:
        line = _STATUS_LINE.match(self._answer)
        if line:
            return int(line[1])
        if len(self._answer) >= _STATUS_SIZE:
            raise Refused("an upgrade was answered with something else than HTTP/1")
        return None
