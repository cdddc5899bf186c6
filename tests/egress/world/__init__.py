"""A world of servers for tests: names, addresses, and real protocols behind them, all on this machine's loopback.

A test asks a `World` for what it needs. Every server has an address of its own in a loopback network, so that many can
have the ports that clients expect; who may not bind those gets others, and `Place` tells which. Leaving the
world stops every server, thread and process of it, within bounds.
"""

import errno
import random
import shutil
import socket
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from ipaddress import ip_network
from pathlib import Path
from typing import Protocol, Self, TypeVar

from tests.egress.world import index
from tests.egress.world.ca import CertificateAuthority
from tests.egress.world.child import Children
from tests.egress.world.exchange import Site
from tests.egress.world.git import Repositories
from tests.egress.world.listener import Place, listening
from tests.egress.world.loop import LoopThread
from tests.egress.world.ssh import Ssh
from tests.egress.world.stream import Behaviour, Stream, echo
from tests.egress.world.web import Bound, Web

__all__ = ["GitHost", "Place", "World"]


class Server(Protocol):
    @property
    def places(self) -> list[Place]: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...


S = TypeVar("S", bound=Server)


def may_bind_low_ports() -> bool:
    try:
        listening("127.0.0.1", 1).close()
    except PermissionError:
        return False
    except OSError:
        return True  # taken, so it could have been had
    return True


class GitHost:
    """A host that serves one Git repository by HTTPS, by HTTP and by SSH."""

    def __init__(self, web: Web, ssh: Ssh, repositories: Repositories) -> None:
        self.web = web
        self.ssh = ssh
        self.repositories = repositories

    def url(self, scheme: str) -> str:
        if scheme != "ssh":
            return self.web.url(f"/{self.repositories.path.name}", scheme=scheme)
        return f"ssh://{self.ssh.user}@{self.ssh.place.authority}{self.repositories.path}"


class World:
    """Servers that are started when a test first asks for them, and stopped with the block.

    `low_ports` says whether the servers have the ports of their protocols (80, 443) or any that are free; unless
    told it is what this user may have. `network` is where their addresses are, which must be this machine's.
    """

    def __init__(self, network: str = "127.77.0.0/16", *, low_ports: bool | None = None) -> None:
        self._network = ip_network(network)
        self._low_ports = may_bind_low_ports() if low_ports is None else low_ports
        self._servers: list[Server] = []
        with ExitStack() as made:
            self.directory = Path(tempfile.mkdtemp(prefix="world-", dir="/tmp"))
            made.callback(shutil.rmtree, self.directory)
            self.directory.chmod(0o755)  # the servers' programs are not root's
            made.callback(self._end_children)
            self._thread = LoopThread()
            made.callback(self._thread.close)
            self._exit = made.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop everything; a second time does nothing."""
        self._exit.close()

    @cached_property
    def ca(self) -> CertificateAuthority:
        return CertificateAuthority(self.directory)

    @cached_property
    def children(self) -> Children:
        return Children(self.directory)

    def _end_children(self) -> None:
        if "children" in self.__dict__:
            self.children.end()

    @property
    def places(self) -> list[Place]:
        """Every (name, address, port) that answers now."""
        return [place for server in self._servers for place in server.places]

    @property
    def hosts(self) -> dict[str, str]:
        """The address of every name: what a resolver of this world answers."""
        return {place.name: place.address for place in self.places}

    def web(
        self,
        *names: str,
        site: Site | None = None,
        address: str | None = None,
        http: int | None = 80,
        https: int | None = 443,
        alpn: tuple[str, ...] = ("h2", "http/1.1"),
    ) -> Web:
        """Start a web server for all of `names`, plain and with TLS; None as a port leaves that one out."""
        ports = [port for port in (http, https) if port is not None]
        bound = self._bind(ports, address or self.hosts.get(names[0]))
        pair = Bound(bound.pop(0) if http is not None else None, bound.pop(0) if https is not None else None)
        return self._start(Web(self._thread, names, pair, self.ca, site, alpn))

    def stream(self, name: str, behaviour: Behaviour = echo, *, port: int = 0, address: str | None = None) -> Stream:
        """Start a TCP server that does with each connection what `behaviour` says (see the functions of stream.py)."""
        bound = self._bind([port], address or self.hosts.get(name))
        return self._start(Stream(self._thread, name, bound[0], behaviour))

    def ssh(self, name: str, *, port: int = 0, address: str | None = None) -> Ssh:
        bound = self._bind([port], address or self.hosts.get(name))
        return self._start(Ssh(self.children, name, bound[0]))

    def python_index(self, name: str, *, address: str | None = None) -> Web:
        """Start an index for pip: `--index-url` is `url("/simple/")`."""
        return self.web(name, site=index.python_index(), address=address)

    def npm_registry(self, name: str, *, address: str | None = None) -> Web:
        """Start a registry for npm: `registry` is `url("/")`."""
        return self.web(name, site=index.NpmRegistry(), address=address)

    def apt_repository(self, name: str, *, address: str | None = None) -> Web:
        """Start a flat repository for apt: `deb [trusted=yes] URL ./` with `url("/")`."""
        return self.web(name, site=index.apt_repository(), address=address)

    def git(self, name: str, *, address: str | None = None) -> GitHost:
        repositories = Repositories(self.children)
        web = self.web(name, site=repositories, address=address)
        return GitHost(web, self.ssh(name, address=address), repositories)

    def _start(self, server: S) -> S:
        self._exit.callback(self._stop, server)
        self._servers.append(server)
        self._thread.run(server.start())
        return server

    def _stop(self, server: Server) -> None:
        self._servers.remove(server)
        self._thread.run(server.stop())

    def _bind(self, ports: Sequence[int], address: str | None) -> list[socket.socket]:
        """Return listening sockets for all ports on one address: the one told, or one that nobody has."""
        wanted = [port if self._low_ports or port >= 1024 else 0 for port in ports]
        if address:
            return self._bind_all(wanted, address)
        for _ in range(20):
            chosen = self._network[random.randrange(1, self._network.num_addresses - 1)]
            if str(chosen) in self.hosts.values():
                continue
            try:
                return self._bind_all(wanted, str(chosen))
            except OSError as taken:
                if taken.errno != errno.EADDRINUSE:
                    raise
        raise RuntimeError(
            f"no address of {self._network} has {wanted} free: something listens on all addresses (ss -ltn)"
        )

    @staticmethod
    def _bind_all(ports: Sequence[int], address: str) -> list[socket.socket]:
        bound: list[socket.socket] = []
        try:
            bound.extend(listening(address, port) for port in ports)
        except OSError:
            for one in bound:
                one.close()
            raise
        return bound
