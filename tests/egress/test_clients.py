"""Real clients in a session reach what its policy lists, without any configuration, and nothing else of the world."""

import json
import sys

import pytest

from alcove.egress.connection import HEAD_WITHIN_S
from tests.egress.live import BUNDLE, ENVIRONMENT, Guest, Net, entries, entry, needs, or_any, quoted
from tests.egress.world import stream
from tests.egress.world.git import CONTENT
from tests.egress.world.index import PACKAGE, SAYS
from tests.egress.world.ssh import Ssh
from tests.egress.world.web import pattern_digest

pytestmark = pytest.mark.user

LARGE = 24_000_000
#: Asks for a name as each kind of program does: any family, those that are configured, IPv4 of those.
LOOK_UP = """
import socket
flags = (0, socket.AI_ADDRCONFIG, socket.AI_ADDRCONFIG | socket.AI_V4MAPPED)
found = {socket.gethostbyname("listed.test")}
for family in (socket.AF_UNSPEC, socket.AF_INET):
    for flag in flags:
        found |= {entry[4][0] for entry in socket.getaddrinfo("listed.test", 80, family, 0, 0, flag)}
assert len(found) == 1, found
try:
    socket.getaddrinfo("listed.test", 80, socket.AF_INET6)
except socket.gaierror:
    print(socket.gethostbyaddr(*found)[0])
"""
URLLIB = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=20).read().decode())"
REQUESTS = "import sys, requests; print(requests.get(sys.argv[1], timeout=20).text)"
HTTPX = "import sys, httpx; print(httpx.get(sys.argv[1], timeout=20).text)"
AIOHTTP = """
import aiohttp, asyncio, sys
async def main():
    async with aiohttp.ClientSession() as session, session.get(sys.argv[1]) as response:
        print(await response.text())
asyncio.run(main())
"""
FETCH = "fetch(process.argv[1]).then(r => r.text()).then(t => console.log(t))"
CLIENTS = {
    "curl": ["curl", "--silent", "--show-error", "--max-time", "20"],
    "wget": ["wget", "-q", "-O", "-", "--tries=1", "--timeout=20", f"--ca-certificate={BUNDLE}"],
    "urllib": [sys.executable, "-c", URLLIB],
    "requests": [sys.executable, "-c", REQUESTS],
    "httpx": [sys.executable, "-c", HTTPX],
    "aiohttp": [sys.executable, "-c", AIOHTTP],
    "fetch": ["node", "-e", FETCH],
}


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_client_reaches_what_is_listed_and_no_other_name_of_the_same_server(net: Net, client: str) -> None:
    needs(CLIENTS[client][0])
    web = net.world.web("listed.test", "other.test")
    async with net.session(*{entry(place) for place in web.places if place.name == "listed.test"}) as guest:
        for scheme in ("http", "https"):
            said = await guest.said(*CLIENTS[client], web.url(scheme=scheme, name="listed.test"))
            assert "this is listed.test" in said
        assert [request.secure for request in web.requests] == [False, True]
        assert set(web.hellos) == {"listed.test"}
        counted = len(web.accepts)
        for scheme in ("http", "https"):
            await guest.refused(*CLIENTS[client], web.url(scheme=scheme, name="other.test"))
        assert len(web.accepts) == counted
        assert {record.allowed for record in await guest.connects(2, "listed.test")} == {True}
        assert {record.kind for record in guest.records(name="other.test")} == {"dns"}


async def test_a_name_is_found_however_it_is_asked_for(net: Net) -> None:
    async with net.session("listed.test") as guest:
        assert await guest.script(LOOK_UP) == "listed.test\n"
        assert net.nameserver.queries == []


async def test_there_is_no_word_about_a_proxy(net: Net) -> None:
    async with net.session("listed.test") as guest:
        names = (await guest.out("env | cut -d = -f 1")).lower().split()
        assert [name for name in names if "proxy" in name] == []


async def test_a_raw_socket_with_an_empty_environment(net: Net) -> None:
    listed, elsewhere = net.world.stream("listed.test"), net.world.stream("listed.test")
    async with net.session(listed.place.authority) as guest:
        assert await guest.dial(listed.place) == "hello"
        assert await guest.dial(elsewhere.place) == "ConnectionResetError"
        assert await guest.dial(listed.place, host=listed.place.address) == "ConnectionRefusedError"  # its own loopback
        assert (len(listed.accepts), len(elsewhere.accepts)) == (1, 0)
        allowed, denied = await guest.connects(2)
        assert (allowed.allowed, allowed.sent, allowed.received) == (True, 5, 5)
        assert (denied.allowed, denied.port) == (False, elsewhere.place.port)
        assert f"--allow listed.test:{elsewhere.place.port}" in denied.reason


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_another_name_at_the_address_of_a_listed_one(net: Net, scheme: str) -> None:
    web = net.world.web("listed.test", "other.test")
    place = web.https if scheme == "https" else web.http
    assert place
    if scheme == "http" and place.port != 80:
        pytest.skip("a plain user cannot serve port 80, and at any other nothing but TLS is looked at")
    async with net.session(entry(place)) as guest:
        through = ["--connect-to", f"other.test:{place.port}:{place.authority}"]
        assert "this is listed.test" in await guest.curl(web.url(scheme=scheme))
        await guest.refused("curl", "--silent", *through, web.url(scheme=scheme, name="other.test"))
        denied = [record for record in await guest.connects(2) if not record.allowed]
        assert [(record.name, record.port) for record in denied] == [("listed.test", place.port)]
        assert "other.test" in denied[0].reason
        assert len(web.requests) == 1


HTTPX_2 = "import sys, httpx; print(httpx.Client(http2=True, http1=False).get(sys.argv[1]).text)"
NODE_2 = """
const http2 = require("http2"), url = new URL(process.argv[1]), session = http2.connect(url.origin);
const request = session.request({":path": url.pathname});
request.on("data", data => process.stdout.write(data)).on("end", () => session.close());
"""


@pytest.mark.parametrize(
    ("client", "version"),
    [
        (["curl", "--silent", "--http1.1"], "HTTP/1.1"),
        (["curl", "--silent", "--http2"], "HTTP/2"),
        ([sys.executable, "-c", HTTPX_2], "HTTP/2"),
        (["node", "-e", NODE_2], "HTTP/2"),
    ],
    ids=["curl-1.1", "curl-2", "httpx-2", "node-2"],
)
async def test_each_version_of_http(net: Net, client: list[str], version: str) -> None:
    needs(client[0])
    web = net.world.web("web.test")
    async with net.session(*entries(web)) as guest:
        seen = json.loads(await guest.said(*client, web.url("/request")))
        assert (seen["version"], seen["sni"]) == (version, "web.test")


@pytest.mark.parametrize(
    ("scheme", "option"),
    [("http", "--http1.1"), ("https", "--http1.1"), ("https", "--http2")],
    ids=["http", "https", "http2"],
)
async def test_large_bodies_travel_whole_both_ways(net: Net, scheme: str, option: str) -> None:
    web = net.world.web("web.test")
    digest = pattern_digest(LARGE)
    async with net.session(*entries(web)) as guest:
        for page in ("bytes", "stream", "until-close"):
            await guest.curl(option, "--output", "body", web.url(f"/{page}?size={LARGE}", scheme=scheme))
            assert (await guest.out("sha256sum < body")).split()[0] == digest
        upload = web.url("/upload", scheme=scheme)
        for words in (["--data-binary", "@body"], ["--upload-file", "-"]):
            command = quoted(["curl", "--silent", "--show-error", option, *words, upload])
            assert json.loads(await guest.out(f"{command} < body")) == {"length": LARGE, "sha256": digest}
        at_once = ["--header", "Expect:", "--data-binary", "@body"]  # the server answers before it has read
        await guest.curl(option, *at_once, "--output", "back", web.url("/echo", scheme=scheme))
        assert (await guest.out("sha256sum < back")).split()[0] == digest
        records = await guest.connects(6)
        least = [(0, LARGE)] * 3 + [(LARGE, 0)] * 2 + [(LARGE, LARGE)]
        for record, (sent, received) in zip(records, least, strict=True):
            assert sent <= record.sent < sent * 1.1 + 50_000
            assert received <= record.received < received * 1.1 + 50_000


async def test_several_large_bodies_at_once(net: Net) -> None:
    web = net.world.web("web.test")
    async with net.session(*entries(web)) as guest:
        fetch = f"{quoted(['curl', '--silent', web.url(f'/bytes?size={LARGE}')])} | sha256sum"
        said = await guest.out(" & ".join([fetch] * 6) + " & wait")
        assert [line.split()[0] for line in said.splitlines()] == [pattern_digest(LARGE)] * 6


HALF_CLOSE = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as connection:
    connection.sendall(b"x" * 3_000_000)
    connection.shutdown(socket.SHUT_WR)
    sys.stdout.write(connection.makefile().read())
"""
HEARD_ALL = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as connection:
    heard = connection.makefile("rb").read()
    connection.sendall(b"x" * 3_000_000)
    sys.stdout.write(heard.decode())
"""


async def test_either_side_may_end_first(net: Net) -> None:
    asking, telling = net.world.stream("a.test", stream.digest), net.world.stream("t.test", stream.finished)
    async with net.session(asking.place.authority, telling.place.authority) as guest:
        said = await guest.script(HALF_CLOSE, "a.test", str(asking.place.port))
        assert json.loads(said)["length"] == 3_000_000
        assert await guest.script(HEARD_ALL, "t.test", str(telling.place.port)) == stream.BANNER.decode()
        assert telling.ended.wait(1) == (3_000_000,)
        first, second = await guest.connects(2)
        assert (first.sent, first.reason, second.sent, second.received) == (
            3_000_000,
            "",
            3_000_000,
            len(stream.BANNER),
        )


async def test_a_reset_is_one_on_both_sides(net: Net) -> None:
    rude = net.world.stream("r.test", stream.reset)
    async with net.session(rude.place.authority) as guest:
        assert await guest.dial(rude.place) == "ConnectionResetError"
        (record,) = await guest.connects(1)
        assert (record.allowed, record.sent, record.reason) == (True, 5, "connection reset by peer")


LONG = """
import http.client, socket, ssl, sys, time
web, port, tls, echo_port = sys.argv[1:5]
plain = http.client.HTTPConnection(web, int(port), timeout=20)
secure = http.client.HTTPSConnection(web, int(tls), timeout=20)
echo = socket.create_connection(("echo.test", int(echo_port)), timeout=20)
for turn in range(2):
    for connection in (plain, secure):
        connection.request("GET", "/")
        assert b"this is" in connection.getresponse().read()
    echo.sendall(b"still")
    assert echo.recv(10) == b"still"
    if not turn:
        time.sleep(float(sys.argv[5]))
print("lives")
"""


@pytest.mark.slow
async def test_connections_outlive_every_deadline_of_their_beginning(net: Net) -> None:
    web, echo = net.world.web("web.test"), net.world.stream("echo.test")
    assert web.http
    assert web.https
    async with net.session(*entries(web), echo.place.authority) as guest:
        ports = [str(place.port) for place in (web.http, web.https, echo.place)]
        assert await guest.script(LONG, "web.test", *ports, str(HEAD_WITHIN_S + 1)) == "lives\n"
        assert (len(web.accepts), len(echo.accepts)) == (2, 1)


LISTEN = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as connection:
    sys.stdout.write(connection.recv(100).decode())
"""


async def test_a_server_speaks_first(net: Net) -> None:
    server = net.world.stream("first.test", stream.banner, port=or_any(22))
    async with net.session(server.place.authority) as guest:
        assert await guest.script(LISTEN, "first.test", str(server.place.port)) == stream.BANNER.decode()


async def test_ssh(net: Net) -> None:
    needs("ssh")
    server = net.world.ssh("ssh.test", port=or_any(22))
    async with net.session(server.place.authority) as guest:
        options = await with_keys(guest, server)
        command = quoted(["ssh", *options, f"{server.user}@ssh.test", "id -un; sha256sum; exit 7"])
        done = await guest.sh(f"head -c 5000000 /dev/zero | {command}", env=ENVIRONMENT)
        assert (done.exit_code, done.stdout.split()[0]) == (7, server.user), done
        assert len(server.accepts) == 1


async def with_keys(guest: Guest, server: Ssh) -> list[str]:
    """Give a session what it needs to log in, and return the options of ssh."""
    await guest.out("umask 077; cat > key", stdin=server.identity.read_text())
    await guest.out("cat > known_hosts", stdin=server.known_hosts.read_text())
    return server.options("/workspace/key", "/workspace/known_hosts")


async def test_an_upstream_of_ipv6(net: Net) -> None:
    web = net.world.web("six.test", address="::1")
    async with net.session(*entries(web)) as guest:
        for scheme in ("http", "https"):
            assert "this is six.test" in await guest.curl(web.url(scheme=scheme))
        assert {accept.peer for accept in web.accepts} == {"::1"}
        assert {record.address for record in await guest.connects(2)} == {"::1"}


WEBSOCKET = """
import aiohttp, asyncio, os, sys
async def main():
    async with aiohttp.ClientSession() as session, session.ws_connect(sys.argv[1]) as socket:
        for size in (1, 1000, 300_000):
            told = os.urandom(size)
            await socket.send_bytes(told)
            assert await socket.receive_bytes() == told
        print("said back")
asyncio.run(main())
"""


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_websocket(net: Net, scheme: str) -> None:
    web = net.world.web("web.test", alpn=("http/1.1",))
    async with net.session(*entries(web)) as guest:
        assert await guest.script(WEBSOCKET, web.url("/websocket", scheme=scheme)) == "said back\n"
        assert len(web.requests) == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_pip_installs(net: Net, scheme: str) -> None:
    index = net.world.python_index("index.test")
    told = ["--index-url", index.url("/simple/", scheme=scheme), "--no-cache-dir", "--target", "site"]
    told += ["--trusted-host", entry(index.http)] if scheme == "http" and index.http else []
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    async with net.session(*entries(index)) as guest:
        await guest.said(*pip, *told, PACKAGE)
        assert await guest.out(f"PYTHONPATH=site python3 -c 'import {PACKAGE} as p; print(p.SAYS)'") == f"{SAYS}\n"
        assert len(index.requests) > 0


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_npm_installs(net: Net, scheme: str) -> None:
    needs("npm")
    registry = net.world.npm_registry("registry.test")
    quiet = ["--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
    async with net.session(*entries(registry)) as guest:
        await guest.said("npm", "install", *quiet, "--registry", registry.url("/", scheme=scheme), PACKAGE)
        assert (await guest.said("node", "-p", f"require('{PACKAGE}')")).strip() == SAYS


@pytest.mark.parametrize("scheme", ["http", "https", "ssh"])
async def test_git_clones_and_pushes(net: Net, scheme: str) -> None:
    needs("git")
    host = net.world.git("git.test")
    listed = [host.ssh.place.authority] if scheme == "ssh" else entries(host.web)
    async with net.session(*listed) as guest:
        environment = ENVIRONMENT
        if scheme == "ssh":
            environment = {**ENVIRONMENT, "GIT_SSH_COMMAND": quoted(["ssh", *await with_keys(guest, host.ssh)])}
        await guest.out(f"git clone --quiet {host.url(scheme)} clone", env=environment)
        assert await guest.out("cat clone/README") == CONTENT
        who = "-c user.name=A -c user.email=a@world.test"
        await guest.out("head -c 3000000 /dev/urandom > clone/large && git -C clone add large", env=environment)
        await guest.out(f"git -C clone {who} commit --quiet --message=second", env=environment)
        await guest.out("git -C clone push --quiet origin main", env=environment)
        assert (await guest.out("git -C clone rev-parse HEAD", env=environment)).strip() == host.repositories.head()
