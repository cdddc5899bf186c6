"""Requests on one connection: what clients send passes as it is, and no byte of a request for another host does."""

import http.client
import io
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alcove.egress.heads import FIELD_LIMIT
from alcove.egress.http1 import HEAD_LIMIT, Refused, RequestStream
from tests.egress.http1_requests import (
    BAD_CHUNKS,
    BAD_HEADS,
    BAD_TRAILERS,
    BEFORE,
    CHUNKED,
    EVIL,
    GET,
    HOST,
    NAME,
    NORMAL,
    PORT,
    POST,
    SWITCHING,
    WEBSOCKET,
    bits,
    head,
    requests,
)
from tests.egress.http1_servers import Loose, read_by_h11

Verdict = tuple[bytes, str | None]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def single(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def run(stream: RequestStream, pieces: list[bytes]) -> Verdict:
    """Return all that went upstream, and why the rest did not."""
    passed = bytearray()
    try:
        for piece in pieces:
            passed += stream.feed(piece)
    except Refused as refusal:
        return bytes(passed + refusal.passed), str(refusal)
    return bytes(passed), None


def verdict(*pieces: bytes) -> Verdict:
    return run(RequestStream(NAME, PORT), list(pieces))


def refusal(data: bytes) -> str:
    """Return why `data` is refused as a whole: however it is cut, and none of it may have passed."""
    passed, reason = verdict(data)
    assert passed == b""
    assert reason is not None
    assert verdict(*single(data)) == (b"", reason)
    return reason


@pytest.mark.parametrize("data", NORMAL.values(), ids=NORMAL)
def test_normal_traffic_passes_as_it_is(data: bytes) -> None:
    assert verdict(data) == (data, None)
    assert verdict(GET, data, data, POST) == (GET + data + data + POST, None)
    assert verdict(*single(data[:3000]))[1] is None


def test_all_of_it_on_one_connection_in_any_pieces() -> None:
    data = b"".join(NORMAL.values())
    for size in (1448, 16_384, 262_144):
        assert verdict(*[data[at : at + size] for at in range(0, len(data), size)]) == (data, None)


class Wire(io.BytesIO):
    """A socket that keeps what is sent on it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""

    def sendall(self, data: bytes) -> None:
        self.sent += data


def test_what_pythons_client_sends() -> None:
    wire = Wire()
    for arguments in (
        {"method": "GET", "url": "/a", "headers": {"Accept": "*/*"}},
        {"method": "POST", "url": "/b", "body": b"hello"},
        {"method": "PUT", "url": "/c", "body": iter([b"one", b"two"]), "encode_chunked": True},
        {"method": "HEAD", "url": "/d"},
    ):
        client = http.client.HTTPConnection(NAME)
        client.sock = wire
        client.request(**arguments)
    assert wire.sent.count(b" HTTP/1.1\r\n") == 4
    assert verdict(wire.sent) == (wire.sent, None)


def test_a_head_goes_on_when_it_is_whole_and_a_body_at_once() -> None:
    stream = RequestStream(NAME, PORT)
    assert (stream.feed(b""), stream.head_complete) == (b"", False)
    assert (stream.feed(POST[:40]), stream.head_complete) == (b"", False)
    end = POST.index(b"\r\n\r\n") + 4
    assert stream.feed(POST[40 : end + 2]) == POST[: end + 2]
    assert stream.head_complete
    assert [stream.feed(byte) for byte in single(POST[end + 2 :] + GET)][:3] == [b"l", b"l", b"o"]


def test_a_chunk_goes_on_as_it_comes() -> None:
    stream = RequestStream(NAME, PORT)
    assert stream.feed(CHUNKED + b"A\r\nab") == CHUNKED + b"A\r\nab"
    assert [stream.feed(piece) for piece in (b"cdefg", b"hij", b"\r", b"\n", b"0\r\n")] == [
        b"cdefg", b"hij", b"", b"\r\n", b"0\r\n",
    ]  # fmt: skip
    assert [stream.feed(piece) for piece in (b"X-Sum: 1", b"\r\n", b"\r", b"\n" + GET)] == [
        b"", b"", b"", b"X-Sum: 1\r\n\r\n" + GET,
    ]  # fmt: skip


def test_another_port() -> None:
    own, other = head(b"Host: mirror.example.org:8080"), head(b"Host: mirror.example.org:80")
    assert run(RequestStream(NAME, 8080), [own + GET]) == (own + GET, None)
    assert run(RequestStream(NAME, 8080), [other]) == (
        b"",
        "Host says port 80, the connection is to port 8080",
    )


@pytest.mark.security
@pytest.mark.parametrize(("data", "reason"), BAD_HEADS.values(), ids=BAD_HEADS)
def test_refused_before_a_byte_of_it_goes_on(data: bytes, reason: str) -> None:
    assert reason in refusal(data)


@pytest.mark.security
@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
@pytest.mark.parametrize("name", BAD_HEADS)
def test_a_later_request_is_refused_as_the_first_is(before: bytes, name: str) -> None:
    data, reason = BAD_HEADS[name]
    whole = verdict(before + data)
    assert whole[0] == before
    assert whole[1] is not None
    if not name.startswith("WebSocket"):
        assert reason in whole[1]
    assert verdict(before, data) == whole
    assert verdict(*single(before + data)) == whole


@pytest.mark.security
@pytest.mark.parametrize(("data", "reason"), BAD_CHUNKS.values(), ids=BAD_CHUNKS)
@pytest.mark.parametrize("before", [b"", b"3\r\nabc\r\n"])
def test_chunks_are_read_in_one_way(before: bytes, data: bytes, reason: str) -> None:
    assert verdict(CHUNKED + before + data) == (CHUNKED + before, reason)
    assert verdict(*single(CHUNKED + before + data)) == (CHUNKED + before, reason)


@pytest.mark.security
@pytest.mark.parametrize("behind", [b"0\r\n\r\n", b"\n0\r\n\r\n", b"\r0\r\n\r\n", b"x\r\n0\r\n\r\n", b"\n\r"])
def test_a_chunk_ends_where_its_size_says(behind: bytes) -> None:
    passed = CHUNKED + b"5\r\nhello"
    for pieces in ([passed + behind], single(passed + behind)):
        assert verdict(*pieces) == (passed, "a chunk that does not end where its size says")


@pytest.mark.security
@pytest.mark.parametrize(("line", "reason"), BAD_TRAILERS.values(), ids=BAD_TRAILERS)
def test_trailers_are_read_as_strictly(line: bytes, reason: str) -> None:
    good = CHUNKED + b"1\r\nx\r\n0\r\nX-Good: 1\r\n\r\n" + CHUNKED + b"0\r\n"
    data = good + b"X-First: 1\r\n" + line + b"\r\n\r\n"
    whole = verdict(data)
    assert whole[0] == good
    assert reason in str(whole[1])
    assert verdict(*single(data)) == whole


@pytest.mark.security
@pytest.mark.parametrize("start", [b"", b"GET /", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\nX: y\r\n"])
def test_a_head_without_an_end_is_bounded(start: bytes) -> None:
    stream = RequestStream(NAME, PORT)
    data = start.ljust(HEAD_LIMIT, b"a")
    assert run(stream, [data[:-1]]) == (b"", None)
    assert not stream.head_complete
    assert run(stream, [data[-1:]]) == (b"", f"a head of more than {HEAD_LIMIT} bytes")
    assert verdict(data + b"\r\n\r\n") == (b"", f"a head of more than {HEAD_LIMIT} bytes")


@pytest.mark.parametrize("before", [b"", GET, POST])
def test_the_largest_head(before: bytes) -> None:
    room = HEAD_LIMIT - len(head(HOST, b"X: "))
    largest, larger = head(HOST, b"X: " + b"y" * room), head(HOST, b"X: " + b"y" * (room + 1))
    assert len(largest) == HEAD_LIMIT
    for pieces in ([before + largest], single(before + largest)):
        assert verdict(*pieces) == (before + largest, None)
    for pieces in ([before + larger], single(before + larger)):
        assert verdict(*pieces) == (before, f"a head of more than {HEAD_LIMIT} bytes")


def test_as_many_fields_as_may_be() -> None:
    data = head(HOST, *[b"X: y"] * (FIELD_LIMIT - 1))
    assert verdict(data, data) == (data + data, None)


@pytest.mark.security
def test_once_refused_nothing_passes_any_more() -> None:
    stream = RequestStream(NAME, PORT)
    with pytest.raises(Refused) as first:
        stream.feed(GET + EVIL + GET)
    assert first.value.passed == GET
    with pytest.raises(Refused) as second:
        stream.feed(GET)
    assert (second.value.passed, second.value.reason) == (b"", first.value.reason)


@pytest.mark.parametrize("pieces", [[WEBSOCKET], single(WEBSOCKET)], ids=["whole", "by byte"])
@pytest.mark.parametrize(
    "answers", [[SWITCHING], single(SWITCHING), [b"HTTP/1.1 103 Early\r\nA: b\r\n\r\n" + SWITCHING]]
)
def test_a_websocket(pieces: list[bytes], answers: list[bytes]) -> None:
    stream = RequestStream(NAME, PORT)
    assert run(stream, pieces) == (WEBSOCKET, None)
    assert (stream.upgrading, stream.head_complete) == (True, True)
    assert stream.feed(b"\x81\x05hel") == b""
    assert stream.feed(b"lo") == b""
    passed = b"".join(stream.response(piece) for piece in answers)
    assert not stream.upgrading
    assert passed == b"\x81\x05hello"
    assert stream.feed(EVIL) == EVIL


@pytest.mark.security
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 426 \r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.0 404\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: HTTP/1.1 101 \r\n\r\nHTTP/1.1 400 Bad\r\n\r\n",
        b"HTTP/1.1 400 Bad\r\n\r\n" + SWITCHING,
    ],
)
@pytest.mark.parametrize("by_byte", [False, True])
def test_a_websocket_that_is_declined_leaves_a_connection_that_is_checked(answer: bytes, by_byte: bool) -> None:
    stream = RequestStream(NAME, PORT)
    assert stream.feed(WEBSOCKET + GET) == WEBSOCKET
    passed = b"".join(stream.response(piece) for piece in (single(answer) if by_byte else [answer]))
    assert passed == GET
    assert not stream.upgrading
    assert stream.response(SWITCHING) == b""
    with pytest.raises(Refused, match="Host says evil"):
        stream.feed(EVIL)


@pytest.mark.security
def test_what_was_held_is_checked_when_a_websocket_is_declined() -> None:
    stream = RequestStream(NAME, PORT)
    assert stream.feed(WEBSOCKET + GET + EVIL) == WEBSOCKET
    with pytest.raises(Refused, match="Host says evil") as refused:
        stream.response(b"HTTP/1.1 404 Not Found\r\n")
    assert refused.value.passed == GET


@pytest.mark.security
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (GET + WEBSOCKET, "behind another request"),
        (WEBSOCKET.replace(b"Upgrade: ", b"Content-Length: 5\r\nUpgrade: "), "a GET with a body"),
    ],
)
def test_a_websocket_that_would_be_ambiguous(data: bytes, reason: str) -> None:
    stream = RequestStream(NAME, PORT)
    assert reason in str(run(stream, [data])[1])
    assert not stream.upgrading
    assert stream.response(SWITCHING) == b""


@pytest.mark.security
def test_a_second_websocket_after_the_first_was_declined() -> None:
    stream = RequestStream(NAME, PORT)
    stream.feed(WEBSOCKET)
    stream.response(b"HTTP/1.1 404 Not Found\r\n\r\n")
    assert "behind another request" in str(run(stream, [WEBSOCKET])[1])


@pytest.mark.security
@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/2.0 101 \r\n", b"HTTP/1.1 1010\r\n", b"HTTP/1.1  101\r\n"]
)
def test_an_answer_that_is_not_http(answer: bytes) -> None:
    def answered(pieces: list[bytes]) -> bytes:
        stream = RequestStream(NAME, PORT)
        stream.feed(WEBSOCKET)
        return b"".join(stream.response(piece) for piece in pieces)

    for pieces in ([answer], single(answer)):
        with pytest.raises(Refused, match="something else than HTTP/1"):
            answered(pieces)


@pytest.mark.security
def test_what_is_held_is_bounded() -> None:
    stream = RequestStream(NAME, PORT)
    assert stream.feed(WEBSOCKET + bytes(HEAD_LIMIT)) == WEBSOCKET
    with pytest.raises(Refused, match="before the answer"):
        stream.feed(b"x")
    stream = RequestStream(NAME, PORT)
    stream.feed(WEBSOCKET)
    assert stream.response(b"HTTP/1.1 100 ".ljust(HEAD_LIMIT - 1, b"a")) == b""
    with pytest.raises(Refused, match="an interim answer of more"):
        stream.response(b"a")


@pytest.mark.security
@given(st.one_of(bits, requests(), st.binary(max_size=60)), st.lists(st.integers(0, 4096), max_size=8))
def test_the_verdict_does_not_depend_on_the_pieces(data: bytes, places: list[int]) -> None:
    whole = verdict(data)
    assert data.startswith(whole[0])
    assert verdict(*cut(data, places)) == whole
    assert verdict(*single(data)) == whole


@pytest.mark.security
@given(st.lists(st.integers(0, 4096), max_size=6), st.lists(st.integers(0, 4096), max_size=4), st.booleans())
def test_nor_does_an_upgrade(places: list[int], answer_places: list[int], accepted: bool) -> None:
    frames = b"\x81\x85" + bytes(9) if accepted else GET + EVIL
    answer = b"HTTP/1.1 102 Processing\r\n\r\n" + (SWITCHING if accepted else b"HTTP/1.1 400 Bad\r\n\r\n")
    stream = RequestStream(NAME, PORT)
    passed, reason = run(stream, cut(WEBSOCKET + frames, places))
    assert (passed, reason) == (WEBSOCKET, None)
    try:
        passed = b"".join(stream.response(piece) for piece in cut(answer, answer_places))
        passed += stream.feed(b"more") if accepted else b""
    except Refused as refused:
        passed, reason = refused.passed, refused.reason
    assert passed == (frames + b"more" if accepted else GET)
    assert (reason is None) == accepted


@pytest.mark.security
@given(st.one_of(bits, requests()))
def test_strict_and_loose_servers_read_what_passes_alike(data: bytes) -> None:
    stream = RequestStream(NAME, PORT)
    passed, _ = run(stream, [data])
    seen = read_by_h11(passed)
    assert all(host == NAME.encode() for _, _, host, _ in seen)
    assert bool(seen) == stream.head_complete
    assert Loose(passed).seen[: len(seen)] == seen


def test_other_servers_see_the_requests_at_all() -> None:
    data = GET + POST + CHUNKED + b"5\r\nworld\r\n0\r\nX: y\r\n\r\n" + GET
    seen = [(b"GET", b"/a"), (b"POST", b"/p"), (b"POST", b"/c"), (b"GET", b"/a")]
    for found in (read_by_h11(data), Loose(data).seen):
        assert [request[:2] for request in found] == seen
        assert [request[3] for request in found] == [b"", b"hello", b"world", b""]
    assert Loose(EVIL).seen[0][2] == b"evil.example"


@pytest.mark.parametrize("data", NORMAL.values(), ids=NORMAL)
def test_other_servers_take_the_normal_traffic(data: bytes) -> None:
    assert read_by_h11(data) == Loose(data).seen != []
