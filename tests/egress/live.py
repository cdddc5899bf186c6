"""Real sessions with an allow-list, in a world of real servers, and the processes that serve them."""

import asyncio
import os
import shlex
import shutil
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from alcove.contract import ExecResult, Limited, SandboxSpec, Unrestricted
from alcove.egress.audit import Record, read
from alcove.egress.config import EgressConfig
from alcove.local import keeper
from alcove.local.backend import LocalSandbox
from alcove.local.config import LocalSandboxConfig
from tests.egress.nameserver import NameServer, reply
from tests.egress.world import Place, World
from tests.egress.world.ca import CertificateAuthority
from tests.egress.world.child import kill
from tests.egress.world.git import ALONE
from tests.egress.world.listener import listening
from tests.egress.world.stream import Stream
from tests.egress.world.web import Web
from tests.leftovers import links
from tests.local import outside
from tests.local.cell import Cell
from tests.local.cell import live as live_cell

#: Where a session finds the authority of the world.
BUNDLE = "/workspace/ca.pem"
#: Nobody's configuration, and the world's authority: no word about a proxy.
ENVIRONMENT = {
    **CertificateAuthority.trusting(BUNDLE),
    **ALONE,
    "PIP_CONFIG_FILE": os.devnull,
    "NPM_CONFIG_GLOBALCONFIG": os.devnull,
}
#: What a world's servers and names may resolve to.
ADDRESSES = ("127.77.0.0/16", "::1/128")
_WEB = (80, 443)
#: Says what an echo says back, or how it failed.
_DIAL = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3])) as connection:
        connection.sendall(b"hello")
        print(connection.recv(100).decode() or "closed")
except OSError as error:
    print(type(error).__name__)
"""
#: Holds a connection to each HOST:PORT, and says of each `HOST up`, then `HOST over` when it has ended.
_HOLD = """
import socket, sys, threading
def hold(name, port):
    connection = socket.create_connection((name, int(port)), timeout=30)
    connection.sendall(b"x")
    assert connection.recv(1) == b"x"
    print(name, "up", flush=True)
    try:
        while connection.recv(1):
            pass
    except OSError:
        pass
    print(name, "over", flush=True)
threads = [threading.Thread(target=hold, args=place.rsplit(":", 1)) for place in sys.argv[1:]]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def entry(place: Place) -> str:
    """Return how an allow-list has a server: by its name where it has the ports of the web."""
    return place.name if place.port in _WEB else place.authority


def entries(*servers: Web) -> list[str]:
    return sorted({entry(place) for server in servers for place in server.places})


class Guest(Cell):
    """A session that trusts the world's authority, and the log of what it tried."""

    async def out(self, script: str, *args: str, **fields: object) -> str:
        return await super().out(script, *args, **{"env": ENVIRONMENT, **fields})

    async def run(self, *command: str, **fields: object) -> ExecResult:
        return await self.exec(command[0], command[1:], **{"env": ENVIRONMENT, **fields})

    async def said(self, *command: str, **fields: object) -> str:
        """Return what a command wrote, which must have succeeded."""
        result = await self.run(*command, **fields)
        assert result.success, (command, result)
        return result.stdout

    async def script(self, program: str, *args: str, **fields: object) -> str:
        """Return what a program of this interpreter, with this environment's packages, wrote."""
        return await self.said(sys.executable, "-c", program, *args, **fields)

    async def curl(self, *words: str) -> str:
        return await self.said("curl", "--silent", "--show-error", "--max-time", "30", *words)

    async def dial(self, place: Place, *, host: str | None = None, within: float = 20.0) -> str:
        """Say hello to an echo, with nothing in the environment; return what it says back, or the error's name."""
        words = [host or place.name, str(place.port), str(within)]
        return (await self.said("env", "-i", sys.executable, "-c", _DIAL, *words)).strip()

    async def reaches(self, *servers: Stream) -> list[bool]:
        """Tell of each whether a new connection gets there and back."""
        said = [await self.dial(server.place) for server in servers]
        assert {"hello", "gaierror", "ConnectionResetError", "OSError"}.issuperset(said), said
        return [answer == "hello" for answer in said]

    async def address_of(self, name: str) -> str:
        return (await self.out('getent hosts "$1"', name)).split()[0]

    async def refused(self, *command: str) -> ExecResult:
        result = await self.run(*command)
        assert not result.success, (command, result)
        return result

    @property
    def log(self) -> Path:
        return self.directory / "egress.log"

    def records(self, kind: str | None = None, name: str | None = None) -> list[Record]:
        found = list(read(self.log))
        return [r for r in found if kind in {None, r.kind} and name in {None, r.name}]

    async def connects(self, count: int, name: str | None = None) -> list[Record]:
        """Return the records of connections once there are so many; each is written when its connection is over."""
        await outside.until(lambda: len(self.records("connect", name)) >= count, f"{list(read(self.log))}")
        return self.records("connect", name)


@dataclass
class Held:
    """A program in a session that holds connections open, and what it says of them."""

    guest: Guest
    names: list[str]

    async def are(self, **states: str) -> None:
        """Wait until each connection is `up` or `over` as told, by the first label of its name."""
        assert sorted(f"{label}.test" for label in states) == sorted(self.names)
        over = [f"{label}.test over" for label, state in states.items() if state == "over"]
        expected = sorted([f"{name} up" for name in self.names] + over)
        deadline = time.monotonic() + outside.SOON
        while (said := sorted((await self.guest.out("cat held || :")).splitlines())) != expected:
            assert time.monotonic() < deadline, (said, expected)


@asynccontextmanager
async def holding(guest: Guest, *servers: Stream) -> AsyncIterator[Held]:
    """Yield a program that holds a connection to each server, until the end of the block."""
    program = ["sh", "-c", ': > held; exec "$@" > held', "sh", sys.executable, "-c", _HOLD]
    running = asyncio.ensure_future(guest.run(*program, *(server.place.authority for server in servers)))
    try:
        held = Held(guest, [server.place.name for server in servers])
        await held.are(**{name.removesuffix(".test"): "up" for name in held.names})
        yield held
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class Net:
    """A world whose names a real nameserver answers, and a store whose sessions ask that."""

    def __init__(self, world: World, nameserver: NameServer, store: Path) -> None:
        self.world = world
        self.nameserver = nameserver
        self.store = store
        egress = EgressConfig(allow_addresses=ADDRESSES, resolvers=(nameserver.spelled,))
        self.config = LocalSandboxConfig(root_dir=str(store), egress=egress)
        self.backend = LocalSandbox(self.config)

    def publish(self) -> None:
        """Let the nameserver know all names of the world."""
        self.nameserver.zones.update((name, reply(address, ttl=0)) for name, address in self.world.hosts.items())

    @asynccontextmanager
    async def session(self, *allowed: str, policy: Limited | Unrestricted | None = None) -> AsyncIterator[Guest]:
        """Yield a session that may reach what is `allowed`."""
        self.publish()
        spec = SandboxSpec(network_policy=policy or Limited(allowed_hosts=allowed))
        async with live_cell(self.backend, spec) as cell:
            guest = Guest(self.backend, cell.session)
            await guest.out(f"cat > {BUNDLE}", stdin=self.world.ca.bundle.read_text())
            yield guest

    # Who serves it

    @property
    def keeper(self) -> int | None:
        """The process that listens for what backends ask, as the kernel knows it."""
        with suppress(OSError), keeper.reach(str(self.store)) as connection:
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            return int(struct.unpack("3i", credentials)[0])
        return None

    @property
    def service(self) -> int | None:
        """The process that relays."""
        return next(children(self.keeper), None) if self.keeper else None

    async def served(self) -> int:
        """Return the service as soon as there is one."""
        await outside.until(lambda: self.service, "no egress service")
        service = self.service
        assert service is not None
        return service

    async def close(self) -> None:
        """End the store's sessions and what serves them."""
        try:
            for session in self.backend.sessions():
                await self.backend.terminate(session.id)
        finally:
            await self.backend.aclose()
            await self.end_keeper()

    async def end_keeper(self) -> None:
        if (pid := self.keeper) is not None:
            service = self.service
            kill(pid)
            await outside.until(lambda: service is None or not outside.is_there(service), "a service without keeper")


def children(pid: int) -> Iterator[int]:
    return (other for other in outside.pids() if outside.status(other).get("PPid") == str(pid))


def descriptors(pid: int) -> list[str]:
    """Return what a process has open, by kind."""
    return sorted(link.partition(":")[0] for link in links(pid) if not link.startswith("/"))


async def settled(pid: int, before: list[str]) -> None:
    """Wait until a process has nothing open that it had not; what it was about to close then may have gone."""

    def more() -> Counter[str]:
        return Counter(descriptors(pid)) - Counter(before)

    await outside.until(lambda: not more(), "more is open than before")


def needs(program: str) -> None:
    """Skip a test whose client this machine lacks (scripts/test-setup.sh installs them)."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def or_any(port: int) -> int:
    """Return the port, or 0 where somebody of this machine has it on all addresses, such as its own sshd."""
    try:
        listening("127.77.0.1", port).close()
    except OSError:
        return 0
    return port


def quoted(words: Sequence[str]) -> str:
    return " ".join(map(shlex.quote, words))
