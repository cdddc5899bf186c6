"""Requests: of programs, of attackers, and drawn; those of programs as recorded from them, but for the name."""

from hypothesis import strategies as st

from alcove.egress.heads import FIELD_LIMIT
from alcove.egress.http1 import CHUNK_LIMIT, HEAD_LIMIT

NAME = "mirror.example.org"
PORT = 80
HOST = b"Host: mirror.example.org"
GET = b"GET /a HTTP/1.1\r\nHost: mirror.example.org\r\n\r\n"
EVIL = b"GET /evil HTTP/1.1\r\nHost: evil.example\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nHost: mirror.example.org\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST /c HTTP/1.1\r\nHost: mirror.example.org\r\nTransfer-Encoding: chunked\r\n\r\n"
WEBSOCKET = (
    b"GET /chat HTTP/1.1\r\nHost: mirror.example.org\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


def head(*fields: bytes, line: bytes = b"GET /a HTTP/1.1") -> bytes:
    return b"\r\n".join([line, *fields, b"", b""])


def post(*fields: bytes, line: bytes = b"POST /a HTTP/1.1") -> bytes:
    return head(HOST, *fields, line=line)


def get(target: bytes, *fields: bytes) -> bytes:
    return head(HOST, *fields, line=b"GET %b HTTP/1.1" % target)


NORMAL = {
    "curl": b"GET /a HTTP/1.1\r\nHost: mirror.example.org\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n",
    "curl uploads": b"PUT /up HTTP/1.1\r\nHost: mirror.example.org\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n"
    b"Content-Length: 2000000\r\nExpect: 100-continue\r\n\r\n" + bytes(2_000_000),
    "curl uploads from a pipe": b"PUT /up HTTP/1.1\r\nHost: mirror.example.org\r\nUser-Agent: curl/7.88.1\r\n"
    b"Accept: */*\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n6\r\nhello\n\r\n0\r\n\r\n",
    "git": b"GET /r.git/info/refs?service=git-upload-pack HTTP/1.1\r\nHost: mirror.example.org\r\n"
    b"User-Agent: git/2.39.5\r\nAccept: */*\r\nAccept-Encoding: deflate, gzip, br, zstd\r\n"
    b"Accept-Language: C, *;q=0.9\r\nPragma: no-cache\r\nGit-Protocol: version=2\r\n\r\n",
    "git pushes": b"POST /r.git/git-receive-pack HTTP/1.1\r\nHost: mirror.example.org\r\nUser-Agent: git/2.39.5\r\n"
    b"Accept-Encoding: deflate, gzip, br, zstd\r\nContent-Type: application/x-git-receive-pack-request\r\n"
    b"Accept: application/x-git-receive-pack-result\r\nContent-Length: 4\r\n\r\n0000"
    b"POST /r.git/git-receive-pack HTTP/1.1\r\nHost: mirror.example.org\r\nUser-Agent: git/2.39.5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n00a\r\n0123456789\r\nFFf0\r\n" + bytes(0xFFF0) + b"\r\n0\r\n\r\n",
    "npm": b"GET /foo HTTP/1.1\r\nuser-agent: npm/11.19.1 node/v20.20.2 linux x64 workspaces/false\r\n"
    b"pacote-req-type: packument\r\npacote-pkg-id: registry:foo\r\naccept: application/json\r\n"
    b"npm-auth-type: web\r\nnpm-command: view\r\nAccept-Encoding: gzip,deflate\r\nHost: mirror.example.org\r\n"
    b"connection: keep-alive\r\n\r\n",
    "pip": b"GET /simple/x/ HTTP/1.1\r\nHost: mirror.example.org\r\n"
    b'User-Agent: pip/23.2.1 {"ci":null,"cpu":"x86_64","python":"3.11.7","system":{"name":"Linux"}}\r\n'
    b"Accept-Encoding: gzip, deflate\r\nAccept: text/html; q=0.01\r\nConnection: keep-alive\r\n"
    b"Cache-Control: max-age=0\r\n\r\n",
    "apt pipelines": b"".join(
        b"GET /debian/dists/stable/main/binary-%s/Packages.xz HTTP/1.1\r\nHost: mirror.example.org\r\n"
        b"Cache-Control: max-age=0\r\nAccept: text/*\r\nUser-Agent: Debian APT-HTTP/1.3 (2.6.1)\r\n\r\n" % architecture
        for architecture in (b"amd64", b"all", b"i386", b"arm64", b"riscv64", b"s390x")
    ),
    "apt resumes": b"GET /debian/pool/x.deb HTTP/1.1\r\nHost: mirror.example.org\r\nRange: bytes=100-\r\n"
    b"If-Range: Thu, 01 Jan 2026 00:00:00 GMT\r\nUser-Agent: Debian APT-HTTP/1.3 (2.6.1)\r\n\r\n",
    "Java": b"GET /j HTTP/1.1\r\nUser-Agent: Java/17.0.15\r\nHost: mirror.example.org\r\n"
    b"Accept: text/html, image/gif, image/jpeg, */*; q=0.2\r\nConnection: keep-alive\r\n\r\n"
    b"POST /j HTTP/1.1\r\nUser-Agent: Java/17.0.15\r\nHost: mirror.example.org\r\nConnection: keep-alive\r\n"
    b"Content-type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "Java's newer client": b"GET /j1 HTTP/1.1\r\nContent-Length: 0\r\nHost: mirror.example.org\r\n"
    b"User-Agent: Java-http-client/17.0.15\r\n\r\n",
    "Go": b"GET / HTTP/1.1\r\nHost: mirror.example.org\r\nUser-Agent: Go-http-client/1.1\r\n"
    b"Accept-Encoding: gzip\r\n\r\n"
    b"POST / HTTP/1.1\r\nHost: mirror.example.org\r\nUser-Agent: Go-http-client/1.1\r\nTransfer-Encoding: chunked\r\n"
    b"Trailer: X-Digest\r\nAccept-Encoding: gzip\r\n\r\n3\r\nabc\r\n0\r\nX-Digest: 900150983cd24fb0\r\n\r\n",
    "HTTP/1.0": b"GET /old HTTP/1.0\r\nHost: mirror.example.org\r\nConnection: keep-alive\r\n\r\n",
    "a name in capitals, with a dot, with its port": head(b"Host: MIRROR.Example.org.:80"),
    "no blank behind the colon": head(b"host:mirror.example.org"),
    "an empty field": head(HOST, b"Accept:", b"X-Empty: "),
    "UTF-8 in a value": head(HOST, "Content-Disposition: attachment; filename=fü.txt".encode()),
    "absolute": head(HOST, line=b"GET http://mirror.example.org/a?b HTTP/1.1"),
    "absolute without a path": head(HOST, line=b"GET HTTP://Mirror.example.org:80 HTTP/1.1"),
    "absolute with a query at once": head(HOST, line=b"GET http://mirror.example.org?http://evil.example/ HTTP/1.1"),
    "another address in the query": head(HOST, line=b"GET /go?to=http://evil.example/ HTTP/1.1"),
    "options for all": head(HOST, line=b"OPTIONS * HTTP/1.1"),
    "methods of others": head(HOST, b"Depth: 1", line=b"PROPFIND //a/%2e%2e HTTP/1.1"),
    "a delete with a body": head(HOST, b"Content-Length: 2", line=b"DELETE /a HTTP/1.1") + b"{}",
    "two Connection fields": head(HOST, b"Connection: TE", b"TE: trailers", b"Connection: close"),
    "trailers every time": (CHUNKED + b"0\r\nX: y\r\n\r\n") * (FIELD_LIMIT + 1),
    "a long head": head(HOST, b"Cookie: " + b"x" * 60_000),
}

BAD_HEADS = {
    "another Host": (EVIL, "Host says evil.example, the connection is to mirror.example.org"),
    "a name below": (head(b"Host: a.mirror.example.org"), "Host says a.mirror.example.org"),
    "the name above": (head(b"Host: example.org"), "Host says example.org"),
    "another port": (head(b"Host: mirror.example.org:8080"), "Host says port 8080"),
    "a port with a zero": (head(b"Host: mirror.example.org:080"), "Host says port 080"),
    "an empty port": (head(b"Host: mirror.example.org:"), "Host is not a name with or without a port"),
    "two ports": (head(b"Host: mirror.example.org:80:80"), "Host is not a name with or without a port"),
    "an address": (head(b"Host: 127.0.0.1"), "Host is not a name"),
    "an address as one number": (head(b"Host: 2130706433"), "Host is not a name"),
    "an IPv6 address": (head(b"Host: [::1]"), "Host is not a name"),
    "two dots": (head(b"Host: mirror.example.org.."), "Host is not a name"),
    "an account": (head(b"Host: mirror.example.org@evil.example"), "Host is not a name"),
    "a path in Host": (head(b"Host: mirror.example.org/evil.example"), "Host is not a name"),
    "two names in Host": (head(b"Host: mirror.example.org, evil.example"), "Host is not a name"),
    "two names by a blank": (head(b"Host: mirror.example.org evil.example"), "Host is not a name"),
    "a name escaped": (head(b"Host: mirror%2eexample.org"), "Host is not a name"),
    "an empty Host": (head(b"Host:"), "Host is not a name"),
    "a blank behind": (head(b"Host: mirror.example.org "), "Host is not a name"),
    "a tab before": (head(b"Host:\tmirror.example.org"), "Host is not a name"),
    "blanks before": (head(b"Host:  mirror.example.org"), "Host is not a name"),
    "a very long Host": (head(b"Host: " + b"a." * 500), "Host is not a name with or without a port"),
    "no Host": (head(b"Accept: */*"), "no Host"),
    "no Host in 1.0": (head(line=b"GET / HTTP/1.0"), "no Host"),
    "two Hosts": (head(HOST, b"Host: evil.example"), "more than one host"),
    "the same Host twice": (head(HOST, b"hOST: mirror.example.org"), "more than one host"),
    "Host folded": (head(b"Host: evil.example", b"\tmirror.example.org"), "obs-fold"),
    "a field folded": (head(HOST, b"X-A: b", b" Host: evil.example"), "obs-fold"),
    "a fold first": (head(b" Host: evil.example", HOST), "obs-fold"),
    "blank before the colon": (head(b"Host : evil.example", HOST), "not `name: value`"),
    "a field without a colon": (head(HOST, b"Host evil.example"), "not `name: value`"),
    "a field without a name": (head(HOST, b": evil.example"), "not `name: value`"),
    "NUL in a name": (head(b"Ho\0st: evil.example", HOST), "not `name: value`"),
    "NUL in a value": (head(HOST, b"X: a\0b"), "not `name: value`"),
    "CR in a value": (head(HOST, b"X: a\rHost: evil.example"), "not `name: value`"),
    "CR at the end of a value": (head(HOST, b"X: a\r"), "not `name: value`"),
    "a vertical tab": (head(HOST, b"Transfer-Encoding:\x0bchunked"), "not `name: value`"),
    "DEL in a value": (head(HOST, b"X: \x7f"), "not `name: value`"),
    "UTF-8 in a name": (head("Höst: evil.example".encode(), HOST), "not `name: value`"),
    "bare LF": (GET.replace(b"\r\n", b"\n"), "LF without CR"),
    "one bare LF": (head(HOST, b"X: a\nHost: evil.example"), "LF without CR"),
    "LF LF for an end": (b"GET /a HTTP/1.1\r\nHost: mirror.example.org\r\n\n" + EVIL, "LF without CR"),
    "LF CR": (b"GET /a HTTP/1.1\n\rHost: mirror.example.org\n\r\n\r", "LF without CR"),
    "underscore for hyphen": (head(HOST, b"Content_Length: 5"), "a field content_length"),
    "underscore in coding": (head(HOST, b"Transfer_Encoding: chunked"), "a field transfer_encoding"),
    "HTTP/0.9": (b"GET /\r\n", "no HTTP/1 request line"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2 without TLS; allow mirror.example.org:80 for"),
    "HTTP/1.2": (head(HOST, line=b"GET / HTTP/1.2"), "HTTP/1.2, where 1.0 and 1.1 are known"),
    "http/1.1": (head(HOST, line=b"GET / http/1.1"), "no HTTP/1 request line"),
    "a longer version": (head(HOST, line=b"GET / HTTP/1.11"), "no HTTP/1 request line"),
    "two blanks": (get(b" /"), "no HTTP/1 request line"),
    "a tab in the line": (head(HOST, line=b"GET\t/ HTTP/1.1"), "no HTTP/1 request line"),
    "a blank behind the version": (head(HOST, line=b"GET / HTTP/1.1 "), "no HTTP/1 request line"),
    "a blank in the target": (get(b"/a HTTP/1.1 /b"), "no HTTP/1 request line"),
    "NUL in the target": (get(b"/\0"), "no HTTP/1 request line"),
    "UTF-8 in the target": (head(HOST, line="GET /ü HTTP/1.1".encode()), "no HTTP/1 request line"),
    "CR in the line": (head(HOST, line=b"GET / HTTP/1.1\rHost: evil.example"), "no HTTP/1 request line"),
    "SSH": (b"SSH-2.0-OpenSSH_9.2\r\n", "no HTTP/1 request line; allow mirror.example.org:80 for other protocols"),
    "CONNECT": (head(HOST, line=b"CONNECT evil.example:443 HTTP/1.1"), "CONNECT"),
    "CONNECT to itself": (head(HOST, line=b"CONNECT mirror.example.org:80 HTTP/1.1"), "CONNECT"),
    "connect": (head(HOST, line=b"connect evil.example:443 HTTP/1.1"), "CONNECT"),
    "absolute for another": (get(b"http://evil.example/"), "target says evil.example"),
    "absolute, Host for another": (
        head(b"Host: evil.example", line=b"GET http://mirror.example.org/ HTTP/1.1"),
        "Host says evil.example",
    ),
    "absolute without Host": (head(line=b"GET http://mirror.example.org/ HTTP/1.1"), "no Host"),
    "absolute to a port": (get(b"http://mirror.example.org:81/"), "the target says port 81"),
    "absolute, account": (get(b"http://mirror.example.org@evil.example/"), "the target is not a name"),
    "absolute, account and port": (get(b"http://mirror.example.org:80@evil.example/"), "the target is not a name"),
    "absolute, backslash": (get(b"http://mirror.example.org\\@evil.example/"), "the target is not a name"),
    "absolute without authority": (get(b"http:///evil.example/"), "the target is not a name"),
    "absolute by another scheme": (get(b"https://mirror.example.org/"), "neither a path nor"),
    "a file": (get(b"file:///etc/passwd"), "neither a path nor"),
    "an authority for a target": (get(b"evil.example:80"), "neither a path nor"),
    "a relative target": (get(b"a"), "neither a path nor"),
    "a query for a target": (get(b"?a"), "neither a path nor"),
    "a star with GET": (get(b"*"), "neither a path nor"),
    "length and coding": (post(b"Content-Length: 5", b"Transfer-Encoding: chunked"), "both"),
    "coding and length": (post(b"Transfer-Encoding: chunked", b"Content-Length: 5"), "both"),
    "two lengths": (head(HOST, b"Content-Length: 0", b"Content-Length: 50"), "more than one content-length"),
    "the same length twice": (head(HOST, b"Content-Length: 5", b"Content-length: 5"), "more than one content-length"),
    "a coding twice": (
        post(b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked"),
        "more than one transfer-encoding",
    ),
    "coding in 1.0": (post(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0"), "Transfer-Encoding in HTTP/1.0"),
    "a GET with a body": (head(HOST, b"Content-Length: 43"), "a GET with a body"),
    "a HEAD with chunks": (head(HOST, b"Transfer-Encoding: chunked", line=b"HEAD / HTTP/1.1"), "a HEAD with a body"),
    "a get with a body": (head(HOST, b"Content-Length: 43", line=b"get / HTTP/1.1"), "a GET with a body"),
    "Expect another": (post(b"Expect: 101-continue"), "an Expect that is not"),
    "Expect in disguise": (post(b"Expect: y 100-continue"), "an Expect that is not"),
    "two Expects": (head(HOST, b"Expect: 100-continue", b"Expect: 100-continue"), "more than one expect"),
    "h2c": (
        get(b"/", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQC"),
        "an Upgrade to something else than websocket; allow mirror.example.org:80 for",
    ),
    "h2c and websocket": (WEBSOCKET.replace(b": websocket", b": websocket, h2c"), "something else than websocket"),
    "two Upgrades": (WEBSOCKET.replace(b"Upgrade: ", b"Upgrade: h2c\r\nUpgrade: "), "more than one upgrade"),
    "TLS on 80": (b"\x16\x03\x01\x02\x00\x01", "byte 0x16 starts no HTTP/1 request"),
    "an empty line first": (b"\r\n" + GET, "byte 0x0d starts no HTTP/1 request"),
    "a blank first": (b" " + GET, "byte 0x20 starts no HTTP/1 request"),
    "WebSocket by POST": (WEBSOCKET.replace(b"GET", b"POST"), "an Upgrade that is not with GET"),
    "WebSocket in 1.0": (WEBSOCKET.replace(b"HTTP/1.1", b"HTTP/1.0"), "an Upgrade that is not with GET of HTTP/1.1"),
    "WebSocket in silence": (WEBSOCKET.replace(b": Upgrade", b": close"), "an Upgrade that Connection does not name"),
    "WebSocket for another": (WEBSOCKET.replace(b"mirror", b"evil"), "Host says evil.example.org"),
    "too many fields": (head(HOST, *[b"X: y"] * FIELD_LIMIT), f"more than {FIELD_LIMIT} fields"),
    **{
        f"length {value!r}": (post(b"Content-Length:" + value), "not one plain number")
        for value in (
            b"", b" +5", b" -1", b" 5, 5", b" 0x5", b" 05", b" 5 ", b"\t5", b" 5a", b" 1_0", b" 5;a", b" 5\xa0",
            b" \xd9\xa5", b" 9999999999999999999", b" 1e3", b' "5"',
        )
    },
    **{
        f"coding {value!r}": (post(b"Transfer-Encoding:" + value), "not exactly `chunked`")
        for value in (
            b"", b" identity", b" Chunked", b" xchunked", b" chunked ", b"\tchunked", b"  chunked", b" chunked,",
            b" gzip, chunked", b" chunked, identity", b' "chunked"', b" chunked;a=b", b" chu nked", b" \xa0chunked",
        )
    },
    **{
        f"Connection: {value.decode()}": (head(HOST, b"Connection: " + value), "a Connection that names Host")
        for value in (b"close, Host", b"content-length", b"a,\tTransfer-Encoding ,b")
    },
}  # fmt: skip

BEFORE = {
    "a request": GET,
    "many": GET * 20,
    "a body": POST,
    "a body that looks like a request": head(HOST, b"Content-Length: %d" % len(EVIL), line=b"POST / HTTP/1.1") + EVIL,
    "chunks": CHUNKED + b"5\r\nhello\r\n%x\r\n" % len(EVIL) + EVIL + b"\r\n0\r\n\r\n",
    "trailers": CHUNKED + b"0\r\nX-Sum: 1\r\nX-Other: 2\r\n\r\n",
    "a close": head(HOST, b"Connection: close"),
}

BAD_CHUNKS = {
    **{
        f"size {line!r}": (line + EVIL, "a chunk that does not start with its size and nothing else")
        for line in (
            b"\r\n", b"5;ext=1\r\n", b"5;\r\n", b"5 \r\n", b" 5\r\n", b"+5\r\n", b"-1\r\n", b"0x5\r\n", b"5\n",
            b"5\rX\r\n", b"5\r\r\n", b"g\r\n", b"5\0\r\n", b"000000005\r\n", b"100000000\r\n", b"5;\nX\r\n",
            b"1_0\r\n", b"5\t\r\n", b"\xd9\xa5\r\n", b"0;a\r\n", b"ffffffffffffffff1\r\n",
        )
    },
    "more than 31 bits": (b"80000000\r\n", f"a chunk of more than {CHUNK_LIMIT} bytes"),
}  # fmt: skip

BAD_TRAILERS = {
    "Host": (b"Host: evil.example", "a trailer that belongs into the head"),
    "a good Host": (HOST, "a trailer that belongs into the head"),
    "a length": (b"Content-Length: 50", "a trailer that belongs into the head"),
    "a coding": (b"Transfer-Encoding: chunked", "a trailer that belongs into the head"),
    "Connection": (b"connection: upgrade", "a trailer that belongs into the head"),
    "underscore": (b"Content_Length: 50", "a field content_length"),
    "folded": (b"X: y\r\n z", "obs-fold"),
    "bare LF": (b"X: y\nZ: a", "LF without CR"),
    "a request": (EVIL.rstrip(), "not `name: value`"),
    "too many": (b"\r\n".join([b"X: y"] * (FIELD_LIMIT + 1)), f"more than {FIELD_LIMIT} fields"),
    "too long": (b"X: " + b"y" * HEAD_LIMIT, f"a head of more than {HEAD_LIMIT} bytes"),
}

# Pieces that add up to requests, to attacks, and to neither
FIELDS = [
    b"Connection: close",
    b"Connection: keep-alive",
    b"X-A: b",
    b"X-B: \xa0\x85",
    b"Expect: 100-continue",
    b"X-Empty:",
]
EDITS = [
    b"", b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b":", b";a=b", b"5", b"\x0b", b"\x85", b"_", b",", b"X: y\r\n",
    b"Host: evil.example\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", EVIL, GET,
]  # fmt: skip
BITS = [
    *EDITS, *[field + b"\r\n" for field in (HOST, *FIELDS)], POST, CHUNKED, WEBSOCKET, b"GET / HTTP/1.1\r\n",
    b"POST /x HTTP/1.1\r\n", b"POST / HTTP/1.0\r\n", b"Content-Length: 0\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n",
    b"0\r\n", b"hello",
]  # fmt: skip
bits = st.lists(st.sampled_from(BITS), max_size=14).map(b"".join)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Draw some requests that are good but for an edit or two."""
    data = b""
    for _ in range(draw(st.integers(1, 4))):
        extra = draw(st.lists(st.sampled_from(FIELDS), max_size=2, unique_by=lambda field: field.split(b":")[0]))
        chunked, body = draw(st.booleans()), draw(st.sampled_from([b"", b"hello", EVIL]))
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
        version = 1 if chunked else draw(st.integers(0, 1))
        data += head(*draw(st.permutations([HOST, framing, *extra])), line=b"POST /p HTTP/1.%d" % version)
        data += (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n" if chunked else body
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.sampled_from(EDITS)) + data[at + draw(st.integers(0, 2)) :]
    return data
