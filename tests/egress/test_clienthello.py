"""ClientHellos of OpenSSL's and by hand: what is read of them, what is refused, and that a server reads the same."""

import ssl
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alcove.egress.clienthello import LIMIT, BadHello, Hello, HelloStream, NotTls, parse
from alcove.egress.names import BadName, canonical

NAME = b"api.example.org"
SERVER_NAME, ALPN, ECH, PADDING = 0, 16, 0xFE0D, 21
RECORD_LIMIT = 1 << 14

Extensions = list[tuple[int, bytes]]


def openssl(
    name: str | None = NAME.decode(), *, alpn: tuple[str, ...] = (), most: ssl.TLSVersion | None = None
) -> bytes:
    """Return what a client of this machine's OpenSSL sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if most:
        context.maximum_version = most
    if alpn:
        context.set_alpn_protocols(list(alpn))
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def vector(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size) + data


def sni(*names: bytes, kind: int = 0) -> bytes:
    return vector(2, b"".join(bytes([kind]) + vector(2, name) for name in names))


def message(
    extensions: Extensions | bytes | None = None,
    *,
    version: bytes = b"\x03\x03",
    session_id: bytes = bytes(32),
    ciphers: bytes = b"\x13\x01\xc0\x2f",
    compression: bytes = b"\0",
    behind: bytes = b"",
    kind: int = 1,
) -> bytes:
    """Build a handshake message; without extensions for None, as of TLS 1.0; bytes stand for the extensions as sent."""
    body = version + bytes(32) + vector(1, session_id) + vector(2, ciphers) + vector(1, compression)
    if isinstance(extensions, bytes):
        body += extensions
    elif extensions is not None:
        body += vector(2, b"".join(number.to_bytes(2) + vector(2, data) for number, data in extensions))
    return bytes([kind]) + vector(3, body + behind)


def record(data: bytes, *, version: bytes = b"\x03\x01", kind: int = 0x16) -> bytes:
    return bytes([kind]) + version + vector(2, data)


def records(data: bytes, size: int = RECORD_LIMIT) -> bytes:
    return b"".join(record(data[at : at + size]) for at in range(0, len(data), size))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def verdict(pieces: list[bytes]) -> Hello | str | None:
    stream = HelloStream()
    found = None
    try:
        for piece in pieces:
            found = stream.feed(piece)
    except (NotTls, BadHello) as error:
        return repr(error)
    return found


def seen_by_server(data: bytes) -> list[bytes | None]:
    """Return the names for which OpenSSL's server looked for a certificate: one at most, none if it refused before."""
    seen: list[bytes | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda _socket, name, _context: seen.append(name.encode() if name else None)
    incoming = ssl.MemoryBIO()
    incoming.write(data)
    server = context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
    with pytest.raises(ssl.SSLError):  # it has no certificate, or wants more
        server.do_handshake()
    return seen


GOOD = message([(SERVER_NAME, sni(NAME)), (ALPN, vector(2, b"\2h2\x08http/1.1"))])
READ = Hello(sni=NAME, alpn=(b"h2", b"http/1.1"), ech=False)


@pytest.mark.parametrize("most", [None, ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2])
def test_openssl(most: ssl.TLSVersion | None) -> None:
    assert parse(openssl(most=most)) == Hello(sni=NAME, alpn=(), ech=False)
    assert parse(openssl(alpn=("h2", "http/1.1"), most=most)) == READ
    assert parse(openssl(None, most=most)) == Hello(sni=None, alpn=(), ech=False)


def test_openssl_sends_no_name_for_an_address() -> None:
    assert parse(openssl("192.0.2.7")) == Hello(sni=None, alpn=(), ech=False)


def test_openssl_with_a_hello_of_many_records() -> None:
    protocols = tuple(f"{number:0>250}" for number in range(240))
    data = openssl(alpn=protocols)
    assert len(data) > 60_000
    hello = parse(data)
    assert hello is not None
    assert (hello.sni, hello.alpn) == (NAME, tuple(name.encode() for name in protocols))


def test_a_hello_without_extensions_asks_for_no_name() -> None:
    assert parse(records(message())) == Hello(sni=None, alpn=(), ech=False)


@pytest.mark.parametrize("minor", [1, 2, 3, 4])
def test_versions(minor: int) -> None:
    version = bytes([3, minor])
    assert parse(record(message([(SERVER_NAME, sni(NAME))], version=version), version=version)) is not None


@pytest.mark.parametrize("kind", [ECH, 0xFFCE])
def test_an_encrypted_hello_is_told_and_the_outer_name_is_read(kind: int) -> None:
    data = records(message([(SERVER_NAME, sni(NAME)), (kind, bytes(200))]))
    assert parse(data) == Hello(sni=NAME, alpn=(), ech=True)


def test_every_beginning_needs_more() -> None:
    data = records(GOOD, 40)
    assert [parse(data[:size]) for size in range(len(data))] == [None] * len(data)
    assert parse(data) == READ


def test_what_lies_behind_the_hello_is_not_looked_at() -> None:
    early = record(b"\1", kind=0x14) + record(bytes(10_000), kind=0x17) + b"anything" * 10_000
    assert parse(records(GOOD) + early) == READ
    stream = HelloStream()
    assert stream.feed(records(GOOD)) == READ
    assert stream.feed(early) == READ


@given(st.integers(1, len(GOOD)), st.lists(st.integers(0, 4096), max_size=12))
def test_any_split_over_records_and_segments(size: int, places: list[int]) -> None:
    assert verdict(cut(records(GOOD, size), places)) == READ


def padded(wire: int, record_size: int) -> bytes:
    """Return a hello that has exactly so many bytes on the wire."""
    size = len(message([(SERVER_NAME, sni(NAME)), (PADDING, b"")]))
    while size + 5 * -(-size // record_size) < wire:
        size += 1
    unpadded = len(message([(SERVER_NAME, sni(NAME)), (PADDING, b"")]))
    data = records(message([(SERVER_NAME, sni(NAME)), (PADDING, bytes(size - unpadded))]), record_size)
    assert len(data) == wire
    return data


@pytest.mark.security
@pytest.mark.parametrize("record_size", [1000, RECORD_LIMIT])
@pytest.mark.parametrize("segment", [1, 1448, LIMIT])
def test_the_largest_hello_and_one_byte_more(record_size: int, segment: int) -> None:
    places = list(range(0, LIMIT, segment))
    hello = verdict(cut(padded(LIMIT, record_size), places))
    assert isinstance(hello, Hello)
    assert hello.sni == NAME
    assert "65536" in str(verdict(cut(padded(LIMIT + 1, record_size), places)))


@pytest.mark.security
def test_a_hello_in_records_of_one_byte_is_bounded_on_the_wire() -> None:
    stream = HelloStream()
    data = records(message([(SERVER_NAME, sni(NAME)), (PADDING, bytes(20_000))]), 1)
    assert stream.feed(data[:LIMIT]) is None
    with pytest.raises(BadHello, match="longer than 65536"):
        stream.feed(data[LIMIT : LIMIT + 1])


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"SSH-2.0-x\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"\0",
        b"\x80\x2e\x01\x03\x01",
        b"\x17\x03\x03",
        b"\xff",
    ],
)
def test_another_protocol_is_known_by_its_first_byte(data: bytes) -> None:
    for piece in (data, data[:1]):
        with pytest.raises(NotTls):
            parse(piece)


def test_nothing_yet() -> None:
    assert parse(b"") is None


BAD = {
    "two names": (records(message([(SERVER_NAME, sni(NAME, b"evil.example"))])), "more than one server name"),
    "the same name twice": (records(message([(SERVER_NAME, sni(NAME, NAME))])), "more than one server name"),
    "two name extensions": (
        records(message([(SERVER_NAME, sni(NAME)), (SERVER_NAME, sni(b"evil.example"))])),
        "extension 0 ",
    ),
    "two of another": (records(message([(SERVER_NAME, sni(NAME)), (35, b""), (35, b"")])), "extension 35 comes twice"),
    "another type of name": (records(message([(SERVER_NAME, sni(NAME, kind=1))])), "server name type 1"),
    "another type first": (records(message([(SERVER_NAME, vector(2, b"\1\0\1x\0" + vector(2, NAME)))])), "name type 1"),
    "an empty name": (records(message([(SERVER_NAME, sni(b""))])), "the server name has 0 bytes"),
    "an empty list": (records(message([(SERVER_NAME, sni())])), "the server name list has 0 bytes"),
    "an empty extension": (records(message([(SERVER_NAME, b"")])), "server_name is cut short"),
    "a name cut short": (records(message([(SERVER_NAME, vector(2, b"\0\0\x20" + NAME))])), "name list is cut short"),
    "a list cut short": (records(message([(SERVER_NAME, b"\0\x40" + sni(NAME)[2:])])), "server_name is cut short"),
    "bytes behind the list": (records(message([(SERVER_NAME, sni(NAME) + b"\0")])), "1 bytes too many in server_name"),
    "a byte behind the name": (records(message([(SERVER_NAME, vector(2, sni(NAME)[2:] + b"\0"))])), "more than one"),
    "extensions cut short": (records(message(b"\0\xff" + b"\0\0")), "the ClientHello is cut short"),
    "an extension cut short": (records(message(vector(2, b"\0\x17\0\x05"))), "the list of extensions is cut short"),
    "half an extension": (records(message(vector(2, b"\0\x17\0"))), "the list of extensions is cut short"),
    "bytes behind the extensions": (records(message([], behind=b"x")), "1 bytes too many in the ClientHello"),
    "one byte for extensions": (records(message(b"\0")), "the ClientHello is cut short"),
    "an odd list of ciphers": (records(message([], ciphers=b"\x13\x01\x13")), "an odd number"),
    "no ciphers": (records(message([], ciphers=b"")), "cipher suites has 0 bytes"),
    "no compression": (records(message([], compression=b"")), "compression methods has 0 bytes"),
    "a long session id": (records(message([], session_id=bytes(33))), "a session id"),
    "an empty hello": (record(b"\1\0\0\0"), "the ClientHello is cut short"),
    "SSL 3 in the hello": (records(message([], version=b"\x03\0")), "client version 3.0"),
    "DTLS": (records(message([], version=b"\xfe\xfd")), "client version 254.253"),
    "TLS 1.4": (records(message([], version=b"\x03\x05")), "client version 3.5"),
    "SSL 3 in the record": (record(GOOD, version=b"\x03\0"), "record version 3.0"),
    "TLS 1.4 in the record": (record(GOOD, version=b"\x03\x05"), "record version 3.5"),
    "another major version": (record(GOOD, version=b"\x04\x01"), "record version 4.x"),
    "another version later": (record(GOOD[:50]) + record(GOOD[50:], version=b"\x02\x01"), "record version 2.x"),
    "an empty record": (record(b"") + record(GOOD), "a record of 0 bytes"),
    "an empty record between": (record(GOOD[:9]) + record(b"") + record(GOOD[9:]), "a record of 0 bytes"),
    "a long record": (record(bytes([1]) + bytes(RECORD_LIMIT)), "a record of 16385 bytes"),
    "an alert between": (record(GOOD[:9]) + record(b"\1\0", kind=0x15) + record(GOOD[9:]), "a record of type 21"),
    "HTTP behind the first record": (record(GOOD[:9]) + b"GET / HTTP/1.1", "a record of type 71"),
    "a ServerHello": (records(message([], kind=2)), "handshake message 2"),
    "a HelloRequest first": (record(bytes(4) + GOOD), "handshake message 0"),
    "two hellos in a record": (record(GOOD + GOOD), "bytes behind the ClientHello"),
    "a byte behind the hello": (record(GOOD + b"\0"), "bytes behind the ClientHello"),
    "a byte behind in the last record": (record(GOOD[:9]) + record(GOOD[9:] + b"\0"), "bytes behind the ClientHello"),
    "a long hello": (record(b"\1\1\0\0" + bytes(50)), "a ClientHello of 65540 bytes"),
    "the longest length": (record(b"\1\xff\xff\xff"), "a ClientHello of 16777219 bytes"),
    "ALPN without protocols": (records(message([(ALPN, vector(2, b""))])), "the protocol list has 0 bytes"),
    "an empty protocol": (records(message([(ALPN, vector(2, b"\0\2h2"))])), "a protocol name has 0 bytes"),
    "a protocol cut short": (records(message([(ALPN, vector(2, b"\3h2"))])), "the protocol list is cut short"),
    "bytes behind ALPN": (records(message([(ALPN, vector(2, b"\2h2") + b"\0")])), "1 bytes too many in ALPN"),
}


@pytest.mark.security
@pytest.mark.parametrize(("data", "reason"), BAD.values(), ids=BAD)
def test_refused_however_it_is_cut(data: bytes, reason: str) -> None:
    whole = verdict([data])
    assert str(whole).startswith("BadHello(")
    assert reason in str(whole)
    assert verdict([data[at : at + 1] for at in range(len(data))]) == whole


@pytest.mark.security
@pytest.mark.parametrize(
    "name", [b"127.0.0.1", b"2130706433", b"::1", b"a.b\0.c", b"*.example.org", b"\xff", b"a" * 300]
)
def test_what_is_no_name_is_handed_on_for_the_canonicaliser_to_refuse(name: bytes) -> None:
    hello = parse(records(message([(SERVER_NAME, sni(name))])))
    assert hello is not None
    assert hello.sni == name
    with pytest.raises(BadName):
        canonical(name)


@pytest.mark.security
@given(st.binary(max_size=80), st.sampled_from([b"", b"\x16", b"\x16\x03\x01", b"\x16\x03\x01\0\x20\x01"]), st.data())
def test_garbage_has_one_verdict(tail: bytes, start: bytes, data: st.DataObject) -> None:
    wire = start + tail
    places = data.draw(st.lists(st.integers(0, len(wire)), max_size=6))
    assert verdict(cut(wire, places)) == verdict([wire])


def edited(wire: bytes, data: st.DataObject) -> bytes:
    """Change, drop or add a few bytes, so that lengths stop adding up or add up to something else."""
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, min(len(wire), data.draw(st.sampled_from([40, len(wire)])))))
        drop = data.draw(st.integers(0, 2))
        wire = wire[:at] + data.draw(st.binary(max_size=2)) + wire[at + drop :]
    return wire


OF_OPENSSL = openssl(alpn=("h2",))


@pytest.mark.security
@given(st.data())
def test_an_edited_hello_has_one_verdict(data: st.DataObject) -> None:
    wire = edited(records(GOOD, data.draw(st.integers(30, 400))), data)
    places = data.draw(st.lists(st.integers(0, len(wire)), max_size=6))
    assert verdict(cut(wire, places)) == verdict([wire])


def test_the_server_that_is_asked_sees_names() -> None:
    assert seen_by_server(OF_OPENSSL) == [NAME]
    assert seen_by_server(openssl(None)) == [None]


@pytest.mark.security
@given(st.data())
def test_a_server_reads_the_same_name_or_none(data: st.DataObject) -> None:
    # edits near the name are the ones that matter; those before it keep the lengths in front
    start = data.draw(st.sampled_from([0, OF_OPENSSL.index(NAME) - 12]))
    wire = OF_OPENSSL[:start] + edited(OF_OPENSSL[start:], data)
    hello = verdict([wire])
    # Python's callback cannot be told of other names; the canonicaliser refuses them
    if isinstance(hello, Hello) and (hello.sni is None or hello.sni.isascii()):
        assert seen_by_server(wire) in ([], [hello.sni])
    if str(hello).startswith("NotTls"):
        assert seen_by_server(wire) == []
