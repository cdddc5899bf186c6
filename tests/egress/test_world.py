"""The servers that the tests of egress talk to, asked by real clients on the host: what they claim to be, they are."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from base64 import b64encode
from contextlib import suppress
from pathlib import Path

import pytest

from tests.egress.world import World, may_bind_low_ports, ssh, stream, websocket
from tests.egress.world.index import DEB, PACKAGE, SAYS
from tests.egress.world.listener import Place
from tests.egress.world.web import Web, pattern_digest

pytestmark = pytest.mark.user

LARGE = 5_000_000
#: Of a client: its own mount namespace, where the world's names are in /etc/hosts
KNOWING_NAMES = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'


class Visitor:
    """Runs clients that know the world's names and trust its authority, with nobody's configuration."""

    def __init__(self, world: World, home: Path) -> None:
        self.world = world
        self.home = home

    def argv(self, *command: str) -> list[str]:
        hosts = self.home / "hosts"
        hosts.write_text("".join(f"{address} {name}\n" for name, address in self.world.hosts.items()))
        mapped = [] if os.geteuid() == 0 else ["--map-root-user"]
        return ["unshare", "--mount", *mapped, "sh", "-c", KNOWING_NAMES, "sh", str(hosts), *command]

    def environment(self) -> dict[str, str]:
        plain = {"PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C.UTF-8", "PIP_CONFIG_FILE": os.devnull}
        return {**plain, **self.world.ca.environment}

    def run(
        self, *command: str, told: bytes = b"", env: dict[str, str] | None = None
    ) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            self.argv(*command),
            input=told,
            capture_output=True,
            check=False,
            cwd=self.home,
            env=self.environment() | (env or {}),
            timeout=40,
        )

    def out(self, *command: str, told: bytes = b"", env: dict[str, str] | None = None) -> str:
        done = self.run(*command, told=told, env=env)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout.decode()

    def curl(self, *words: str, told: bytes = b"") -> str:
        return self.out("curl", "--silent", "--show-error", "--max-time", "30", *words, told=told)


@pytest.fixture
def visitor(world: World, tmp_path: Path) -> Visitor:
    return Visitor(world, tmp_path)


def dial(place: Place | None) -> socket.socket:
    assert place is not None
    return socket.create_connection((place.address, place.port), timeout=20)


def all_of(connection: socket.socket) -> bytes:
    pieces = []
    while piece := connection.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


@pytest.mark.parametrize(("option", "version"), [("--http1.1", "HTTP/1.1"), ("--http2", "HTTP/2")])
def test_curl_speaks_each_version_and_is_seen(world: World, visitor: Visitor, option: str, version: str) -> None:
    web = world.web("a.test", "b.test")
    seen = json.loads(visitor.curl(option, web.url("/request?x=1", name="b.test")))
    assert (seen["version"], seen["sni"], seen["target"]) == (version, "b.test", "/request?x=1")
    assert [host.split(":")[0] for host in seen["hosts"]] == ["b.test"]
    assert list(web.hellos) == ["b.test"]
    assert len(web.accepts) == len(web.requests) == 1


def test_every_host_has_its_own_address_and_the_ports_of_its_protocols(world: World) -> None:
    one, two = world.web("one.test"), world.web("two.test")
    assert one.address != two.address
    assert world.hosts == {"one.test": one.address, "two.test": two.address}
    ports = {place.port for place in world.places}
    assert ports == {80, 443} if may_bind_low_ports() else not {80, 443} & ports


def test_a_world_without_low_ports_tells_the_ones_it_has(tmp_path: Path) -> None:
    with World(low_ports=False) as world:
        web = world.web("a.test")
        assert all(place.port >= 1024 for place in web.places)
        assert f":{web.places[0].port}/" in web.url(scheme="http")
        assert Visitor(world, tmp_path).curl(web.url()).startswith("this is a.test:")


PYTHON = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=20).read().decode())"
NODE = "fetch(process.argv[1]).then(r => r.text()).then(t => console.log(t))"


@pytest.mark.parametrize(
    "client",
    [["wget", "-q", "-O", "-"], [sys.executable, "-c", PYTHON], ["node", "-e", NODE]],
    ids=["wget", "python", "node"],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_other_clients(world: World, visitor: Visitor, client: list[str], scheme: str) -> None:
    web = world.web("a.test")
    trust = [f"--ca-certificate={world.ca.bundle}"] if client[0] == "wget" else []
    assert "this is a.test" in visitor.out(*client, *trust, web.url(scheme=scheme))
    assert list(web.hellos) == (["a.test"] if scheme == "https" else [])


def test_nobody_else_trusts_the_authority(world: World, visitor: Visitor) -> None:
    web = world.web("a.test")
    assert visitor.run("curl", "--silent", web.url(), env=dict.fromkeys(world.ca.environment, "")).returncode == 60
    assert len(web.requests) == 0
    assert visitor.run("curl", "--silent", web.url()).returncode == 0
    assert len(web.requests) == 1


@pytest.mark.parametrize("option", ["--http1.1", "--http2"])
def test_large_bodies_travel_whole_both_ways(world: World, visitor: Visitor, option: str) -> None:
    web = world.web("a.test")
    body = visitor.home / "body"
    for page in ("bytes", "stream", "until-close"):
        visitor.curl(option, "--output", str(body), web.url(f"/{page}?size={LARGE}"))
        assert body.stat().st_size == LARGE
    told = json.loads(visitor.curl(option, "--data-binary", f"@{body}", web.url("/upload")))
    assert told == {"length": LARGE, "sha256": pattern_digest(LARGE)}
    chunked = ["--header", "transfer-encoding: chunked"] if option == "--http1.1" else []
    told = json.loads(visitor.curl(option, *chunked, "--upload-file", str(body), web.url("/upload")))
    assert told == {"length": LARGE, "sha256": pattern_digest(LARGE)}


@pytest.mark.parametrize("option", ["--http1.1", "--http2"])
def test_a_streamed_answer_comes_as_the_test_allows(world: World, visitor: Visitor, option: str) -> None:
    web = world.web("a.test")
    command = visitor.argv("curl", "--silent", "--no-buffer", option, web.url("/steps?count=2"))
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=visitor.environment()) as curl:
        assert curl.stdout
        web.requests.wait(1)
        for number in range(2):
            web.steps.grant()
            assert curl.stdout.readline() == b"step %d\n" % number
        assert curl.wait(20) == 0


def test_half_close_before_the_answer(world: World) -> None:
    web = world.web("a.test")
    with dial(web.http) as connection:
        connection.sendall(b"POST /upload HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello")
        connection.shutdown(socket.SHUT_WR)
        assert b'"length": 5' in all_of(connection)


def test_what_a_proxy_must_refuse_is_served_and_seen(world: World) -> None:
    web = world.web("a.test")
    with dial(web.http) as connection:
        connection.sendall(
            b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\nGET / HTTP/1.1\r\nHost: evil.test\r\nHost: b\r\n\r\n"
        )
        connection.shutdown(socket.SHUT_WR)
        assert b"this is evil.test" in all_of(connection)
    assert [request.hosts for request in web.requests] == [["a.test"], ["evil.test", "b"]]


def test_connections_count_before_they_say_a_word(world: World) -> None:
    web = world.web("a.test")
    with dial(web.https), dial(web.http):
        assert len(web.accepts.wait(2)) == 2
    context = world.ca.client()
    context.check_hostname = False
    with dial(web.https) as connection, context.wrap_socket(connection):
        assert list(web.hellos.wait(1)) == [None]
    assert len(web.requests) == 0


def test_a_redirect_names_an_internal_host_that_nobody_asks(world: World, visitor: Visitor) -> None:
    internal = world.web("internal.test")
    web = world.web("a.test")
    place = internal.url("/secret", scheme="http")
    assert place in visitor.curl("--include", web.url(f"/redirect?to={place}"))
    assert len(internal.accepts) == 0
    visitor.curl("--location", web.url(f"/redirect?to={place}"))
    assert internal.requests[0].path == "/secret"


def frame(opcode: int, payload: bytes) -> bytes:
    """Return a client's frame, masked as RFC 6455 has it."""
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return bytes([0x80 | opcode, 0x80 | 126]) + len(payload).to_bytes(2) + mask + masked


def test_a_websocket_says_back_what_it_is_told(world: World) -> None:
    web = world.web("a.test")
    assert web.https is not None
    # The example of RFC 6455, section 1.3
    assert websocket.accepted("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    key = b64encode(os.urandom(16)).decode()
    with dial(web.https) as raw, world.ca.client().wrap_socket(raw, server_hostname="a.test") as connection:
        head = "GET /websocket HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        connection.sendall(f"{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
        incoming = connection.makefile("rb")
        answer = b"".join(iter(incoming.readline, b"\r\n")).decode()
        assert answer.startswith("HTTP/1.1 101 ")
        assert f"sec-websocket-accept: {websocket.accepted(key)}" in answer
        payload = b"pebble" * 100
        connection.sendall(frame(websocket.TEXT, payload))
        assert incoming.read(4 + len(payload)) == b"\x81\x7e" + len(payload).to_bytes(2) + payload
        connection.sendall(frame(websocket.CLOSE, b""))
        assert incoming.read() == b"\x88\x00"


def test_a_server_that_speaks_first_then_echoes(world: World) -> None:
    server = world.stream("s.test", stream.banner)
    with dial(server.place) as connection:
        assert connection.recv(100) == stream.BANNER
        connection.sendall(b"hello")
        assert connection.recv(100) == b"hello"
        connection.shutdown(socket.SHUT_WR)
        assert all_of(connection) == b""
    assert (len(server.accepts), list(server.ended)) == (1, [5])


def test_each_side_may_end_first(world: World) -> None:
    asking, telling = world.stream("a.test", stream.digest), world.stream("t.test", stream.finished)
    with dial(asking.place) as connection:
        connection.sendall(b"x" * 100_000)
        connection.shutdown(socket.SHUT_WR)
        assert json.loads(all_of(connection))["length"] == 100_000
    with dial(telling.place) as connection:
        assert all_of(connection) == stream.BANNER
        connection.sendall(b"still heard")
        connection.shutdown(socket.SHUT_WR)
        assert telling.ended.wait(1) == (11,)


def test_a_slow_reader_takes_what_it_is_allowed(world: World) -> None:
    server = world.stream("s.test", stream.slow)
    with dial(server.place) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 12)
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.sendall(b"x" * 4_000_000)
        assert len(server.received) == 0
        server.allowance.grant(100)
        server.received.wait(1)
        assert sum(map(len, server.received)) <= 100


def test_silence_and_resets(world: World) -> None:
    silent, rude = world.stream("q.test", stream.silent), world.stream("r.test", stream.reset)
    with dial(silent.place) as connection:
        connection.sendall(b"anybody?")
        assert silent.received.wait(1) == (b"anybody?",)
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)
    with dial(rude.place) as connection:
        connection.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


@pytest.fixture(params=["sshd", "asyncssh"])
def kind_of_sshd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "asyncssh":
        monkeypatch.setattr(ssh, "sshd", lambda: None)
    elif ssh.sshd() is None:
        pytest.skip("openssh-server is not installed")
    return str(request.param)


def test_ssh_runs_commands(world: World, visitor: Visitor, kind_of_sshd: str) -> None:
    server = world.ssh("ssh.test")
    done = visitor.run(*server.command("id -un; cat; exit 7"), told=b"through it\n")
    assert (done.returncode, done.stdout.decode()) == (7, f"{server.user}\nthrough it\n"), done.stderr
    assert len(server.accepts) == 1
    other = ssh.make_key(visitor.home / "other")
    assert other
    stranger = ["ssh", *server.options(str(visitor.home / "other")), f"{server.user}@ssh.test", "true"]
    assert b"Permission denied" in visitor.run(*stranger).stderr


def test_ssh_is_not_root(world: World, kind_of_sshd: str) -> None:
    assert world.children.account.uid != 0


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_pip_installs_from_the_index(world: World, visitor: Visitor, scheme: str) -> None:
    index = world.python_index("index.test")
    told = ["--index-url", index.url("/simple/", scheme=scheme), "--trusted-host", "index.test", "--no-cache-dir"]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    visitor.out(*pip, *(told if scheme == "http" else [*told[:2], told[4]]), "--target", "site", PACKAGE)
    shown = visitor.out(sys.executable, "-c", f"import {PACKAGE} as p; print(p.SAYS)", env={"PYTHONPATH": "site"})
    assert shown.strip() == SAYS
    assert [request.secure for request in index.requests] == [scheme == "https"] * len(index.requests) != []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_npm_installs_from_the_registry(world: World, visitor: Visitor, scheme: str) -> None:
    registry = world.npm_registry("registry.test")
    quiet = ["--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error", "--prefix", str(visitor.home)]
    visitor.out("npm", "install", *quiet, "--registry", registry.url("/", scheme=scheme), PACKAGE)
    assert visitor.out("node", "-p", f"require('{PACKAGE}')").strip() == SAYS
    assert registry.requests.wait(2)[1].path.endswith(".tgz")


def test_apt_downloads_from_the_repository(world: World, visitor: Visitor) -> None:
    repository = world.apt_repository("apt.test")
    home = visitor.home
    for directory in ("state/lists/partial", "cache/archives/partial", "etc"):
        (home / directory).mkdir(parents=True)
    (home / "etc" / "sources").write_text(f"deb [trusted=yes] {repository.url('/', scheme='http')} ./\n")
    (home / "status").touch()
    (home / "apt.conf").write_text(
        f'Dir::State "{home}/state"; Dir::State::status "{home}/status"; Dir::Cache "{home}/cache";\n'
        f'Dir::Etc::SourceList "{home}/etc/sources"; Dir::Etc::SourceParts "-"; APT::Sandbox::User "root";\n'
        'Acquire::Languages "none"; Acquire::http::Proxy "false"; Acquire::Retries "0";\n'
    )
    told = {"APT_CONFIG": str(home / "apt.conf")}
    visitor.out("apt-get", "--error-on=any", "update", env=told)
    visitor.out("apt-get", "download", PACKAGE, env=told)
    assert f"Description: {SAYS}" in visitor.out("dpkg-deb", "--info", DEB)
    visitor.out("dpkg-deb", "--extract", DEB, "unpacked")
    assert (home / "unpacked/usr/share" / PACKAGE / "says").read_text() == f"{SAYS}\n"


@pytest.mark.parametrize("scheme", ["http", "https", "ssh"])
def test_git_clones_and_pushes(world: World, visitor: Visitor, scheme: str) -> None:
    host = world.git("git.test")
    told = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_SSH_COMMAND": " ".join(["ssh", *host.ssh.options()])}
    visitor.out("git", "clone", "--quiet", host.url(scheme), "clone", env=told)
    clone = visitor.home / "clone"
    assert (clone / "README").read_text() == "what a clone must hold\n"
    (clone / "large").write_bytes(os.urandom(3_000_000))  # more than git sends with an announced length
    who = ["-C", "clone", "-c", "user.name=A", "-c", "user.email=a@world.test"]
    visitor.out("git", "-C", "clone", "add", "large", env=told)
    visitor.out("git", *who, "commit", "--quiet", "--message=second", env=told)
    visitor.out("git", "-C", "clone", "push", "--quiet", "origin", "main", env=told)
    assert host.repositories.head() == visitor.out("git", "-C", "clone", "rev-parse", "HEAD", env=told).strip()
    assert len(host.ssh.accepts) == (2 if scheme == "ssh" else 0)


def fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def hang(world: World, web: Web) -> list[socket.socket]:
    """Return connections in the middle of everything: no request, half a head, a handshake, an answer that waits."""
    talking = world.ca.client().wrap_socket(dial(web.https), server_hostname="a.test")
    talking.sendall(b"GET /steps?count=9 HTTP/1.1\r\nHost: a.test\r\n\r\n")
    half, idle, mute = dial(web.http), dial(web.http), dial(web.https)
    half.sendall(b"POST /upload HTTP/1.1\r\nHost: a.test\r\nContent-Length: 99\r\n\r\nx")
    web.requests.wait(2)
    web.accepts.wait(4)
    return [talking, half, idle, mute]


def end_of(connection: socket.socket) -> str:
    with connection, suppress(ConnectionResetError, ssl.SSLError):
        all_of(connection)
    return "closed"


def test_leaving_a_world_leaves_nothing(tmp_path: Path, kind_of_sshd: str) -> None:
    before, threads = fds(), set(threading.enumerate())
    with World() as world:
        web, server, host = world.web("a.test"), world.ssh("ssh.test"), world.git("git.test")
        open_ones = hang(world, web)
        visitor = Visitor(world, tmp_path)
        visitor.out("git", "ls-remote", host.url("https"))
        away = "trap '' HUP TERM; setsid -f sleep 1000; echo gone; exec sleep 1000"
        with subprocess.Popen(visitor.argv(*server.command(away)), stdout=subprocess.PIPE) as client:
            assert client.stdout
            assert client.stdout.readline() == b"gone\n"
            began = time.monotonic()
            assert world.children.marked()
            world.close()
            assert time.monotonic() - began < 10
            client.send_signal(signal.SIGKILL)
            assert [end_of(connection) for connection in open_ones] == ["closed"] * len(open_ones)
    assert world.children.marked() == []
    assert not world.directory.exists()
    assert set(threading.enumerate()) == threads
    assert fds() == before


@pytest.mark.parametrize("framing", ["Content-Length: ten", "Transfer-Encoding: chunked"])
def test_nor_is_a_body_that_is_not_http(world: World, framing: str) -> None:
    web = world.web("a.test")
    with dial(web.http) as connection:
        connection.sendall(f"POST /upload HTTP/1.1\r\nHost: a.test\r\n{framing}\r\n\r\nnonsense\r\n".encode())
        assert all_of(connection).startswith(b"HTTP/1.1 400 ")
    assert len(web.requests) == 1


def test_what_breaks_inside_a_server_fails_the_test() -> None:
    async def broken(server: stream.Stream, link: object) -> None:
        raise ZeroDivisionError

    world = World()
    with dial(world.stream("s.test", broken).place) as connection:
        assert all_of(connection) == b""
    with pytest.raises(ExceptionGroup) as told:
        world.close()
    assert isinstance(told.value.exceptions[0], ZeroDivisionError)


def test_a_hostile_handshake_is_not_a_fault_of_the_servers(world: World) -> None:
    web = world.web("a.test")
    with dial(web.https) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        all_of(connection)
    with pytest.raises(ssl.SSLCertVerificationError), dial(web.https) as connection:
        ssl.create_default_context().wrap_socket(connection, server_hostname="a.test")
    assert len(web.requests) == 0
