"""What guests with an allow-list may reach and what not, and, from the host's side, what of it was reached."""

import itertools
import json
import os
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from alcove.contract import Limited
from alcove.egress.audit import Record, read
from alcove.egress.config import EgressConfig
from alcove.egress.settings import own_addresses
from alcove.local import keeper
from tests.egress.nameserver import NameServer, Replies, reply
from tests.egress.world import World
from tests.egress.world.child import kill
from tests.egress.world.stream import Stream, banner, silent
from tests.egress.world.web import Web
from tests.local import outside
from tests.security.cells import Cell

#: The addresses that the operator opens: those of the world's servers.
OPEN = "127.77.0.0/16"
#: An address of this machine's that nobody opens, and the ports of the listener there; another for each run.
INTERNAL = f"127.88.{secrets.randbelow(200) + 10}.{secrets.randbelow(200) + 10}"
PORTS = (80, 443)
#: Where every origin of the arena listens, so that an address alone decides what is reached.
PORT = 10_000 + secrets.randbelow(10_000)
#: From here the harness itself connects, to know that what came before was counted.
_MARKS = "127.89.77.66"


@dataclass(frozen=True)
class Outcome:
    """How a conversation of a guest's went, by the guest's own word."""

    error: str | None
    got: bytes
    connected: bool
    addresses: tuple[str, ...]
    took: float

    @property
    def refused(self) -> bool:
        return self.error is not None and not self.got


Say = Sequence[tuple[bytes, bytes | None]]


def talk(host: str, port: int, *say: bytes | tuple[bytes, bytes | None], **fields: Any) -> dict[str, Any]:
    """Return a conversation for `dial`: what is sent, and what is waited for before the next."""
    steps = [step if isinstance(step, tuple) else (step, None) for step in say]
    told = [(sent.hex(), None if until is None else until.hex()) for sent, until in steps]
    return {"host": host, "port": port, "say": told, **fields}


def get(host: str, path: str = "/", *fields: str, last: bool = True) -> bytes:
    """Return a request."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", *fields, *(["Connection: close"] if last else []), "", ""]
    return "\r\n".join(lines).encode()


def page(host: str, port: int = 80, **fields: Any) -> dict[str, Any]:
    """Return a conversation that gets the front page, as anybody would."""
    return talk(host, port, get(host), **fields)


class Counter:
    """A listener on one of this machine's addresses that nobody may reach: it counts, and answers at once."""

    def __init__(self, address: str, port: int) -> None:
        self.place = (address, port)
        self.peers: list[tuple[str, int]] = []
        self._marks = 0
        self._socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(self.place)
        self._socket.listen(1024)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, peer = self._socket.accept()
            except OSError:
                return
            self.peers.append((peer[0], peer[1]))
            with connection, suppress(OSError):
                connection.sendall(b"220 nobody may be here\r\n")

    def count(self) -> int:
        """Return how often it was reached, what waits in its queue included: a mark of ours comes behind that."""
        # counted, not remembered by port: the kernel gives the port of an earlier mark to somebody else
        before = len(self.peers)
        with socket.create_connection(self.place, timeout=10) as connection:
            mark = (connection.getsockname()[0], connection.getsockname()[1])
        until(lambda: mark in self.peers[before:])
        self._marks += 1
        return len(self.peers) - self._marks

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)


def accepts(server: Web | Stream) -> int:
    """Return how often a server was reached, what waits in its queues included."""
    before = _marked(server)
    places = {(place.address, place.port) for place in server.places}
    for place in places:
        socket.create_connection(place, timeout=10, source_address=(_MARKS, 0)).close()
    until(lambda: _marked(server) == before + len(places))
    return len(server.accepts) - before - len(places)


def _marked(server: Web | Stream) -> int:
    return sum(accept.peer == _MARKS for accept in server.accepts)


def until(condition: Callable[[], object], within: float = outside.SOON) -> None:
    """Wait for another thread."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not so within {within} s"
        time.sleep(0.001)


class Arena:
    """Servers that count, a nameserver that counts, and the store whose sessions are attacked."""

    def __init__(self, world: World, nameserver: NameServer, store: Path) -> None:
        self.world = world
        self.nameserver = nameserver
        self.store = store
        self.web = world.web("web.test", alpn=("http/1.1",))
        self.other = world.web("other.test", alpn=("http/1.1",))
        self.origin = world.stream("origin.test", banner, port=PORT)
        self.second = world.stream("second.test", banner, port=PORT)
        self.quiet = world.stream("quiet.test", silent, port=PORT)
        self.unlisted = world.stream("web.test", banner, port=PORT)
        self.forbidden = [Counter(INTERNAL, port) for port in (*PORTS, PORT)]
        self.forbidden += [Counter(address, PORT) for address in self.addresses]
        nameserver.zones.update({name: reply(address, ttl=0) for name, address in world.hosts.items()})
        self._numbers = itertools.count()

    @cached_property
    def addresses(self) -> list[str]:
        """Addresses of this machine's that no name may lead to: of its loopback, and what the network gave it."""
        own = sorted(str(address) for address in own_addresses() if not (address.is_loopback or address.is_link_local))
        return ["127.0.0.1", "::1", *own]

    @property
    def lan(self) -> list[str]:
        return self.addresses[2:]

    def config(self, *opened: str) -> EgressConfig:
        return EgressConfig(allow_addresses=(OPEN, *opened), resolvers=(self.nameserver.spelled,))

    def servers(self) -> dict[str, Web | Stream]:
        made = (self.web, self.other, self.origin, self.second, self.quiet)
        return {**{server.places[0].name: server for server in made}, "unlisted port": self.unlisted}

    def close(self) -> None:
        for counter in self.forbidden:
            counter.close()

    # What was reached

    def counts(self) -> dict[str, int]:
        """Return how often each listener was reached."""
        counted = {name: accepts(server) for name, server in self.servers().items()}
        return counted | {f"forbidden {counter.place}": counter.count() for counter in self.forbidden}

    @contextmanager
    def reached(self, **expected: int) -> Iterator[None]:
        """Require that within the block the servers, and no others, were reached so often (`_` for a dot)."""
        before = self.counts()
        yield
        after = self.counts()
        wanted = {name.replace("_", "."): count for name, count in expected.items()}
        assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == wanted

    @contextmanager
    def asked(self, **expected: int) -> Iterator[None]:
        """Require that the nameserver got questions about these names only, at least so many (0: it knows already)."""
        before = len(self.nameserver.queries)
        yield
        names = [query.name for query in self.nameserver.queries[before:]]
        wanted = {name.replace("_", "."): count for name, count in expected.items()}
        assert set(names) <= wanted.keys(), names
        assert all(names.count(name) >= count for name, count in wanted.items()), names

    def publish(self, *replies: Replies) -> list[str]:
        """Give each reply a name that nobody ever asked for, below `zone.test`."""
        names = [f"n{next(self._numbers)}.zone.test" for _ in replies]
        self.nameserver.zones.update(zip(names, replies, strict=True))
        return names

    # Who serves

    @property
    def keeper(self) -> int | None:
        with suppress(OSError), keeper.reach(str(self.store)) as connection:
            return int(struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])
        return None

    @property
    def service(self) -> int | None:
        pid = self.keeper
        return next((p for p in outside.pids() if outside.status(p).get("PPid") == str(pid)), None) if pid else None

    async def served(self) -> int:
        """The service that runs; one that was killed is still its keeper's child until that has looked."""
        found: list[int] = []

        def there() -> bool:
            pid = self.service
            if pid is not None and outside.is_there(pid):
                found.append(pid)
            return bool(found)

        await outside.until(there, "no egress service")
        return found[0]

    def end_keeper(self) -> None:
        pid, service = self.keeper, self.service
        if pid is not None:
            kill(pid)
            until(lambda: service is None or not outside.is_there(service))


# A guest's side


async def dial(cell: Cell, *conversations: dict[str, Any], **fields: Any) -> list[Outcome]:
    """Let a guest hold conversations, all at once."""
    result = await cell.hostile("dial", stdin=json.dumps(conversations), **fields)
    assert result.exit_code == 0, result
    said = json.loads(result.stdout)
    return [
        Outcome(one["error"], bytes.fromhex(one["got"]), one["connected"], tuple(one["addresses"]), one["took"])
        for one in said
    ]


async def dial_one(cell: Cell, conversation: dict[str, Any], **fields: Any) -> Outcome:
    return (await dial(cell, conversation, **fields))[0]


async def address_of(cell: Cell, name: str) -> IPv4Address:
    """Return the address that stands for a name in a session."""
    outcome = await dial_one(cell, {"kind": "resolve", "host": name, "port": 1, "family": "4"})
    assert len(outcome.addresses) == 1, outcome
    return IPv4Address(outcome.addresses[0])


def log(cell: Cell, name: str | None = None, kind: str = "connect") -> list[Record]:
    """Return what the log of a session says now."""
    found = read(os.path.join(cell.directory, "egress.log"))
    return [record for record in found if record.kind == kind and name in {None, record.name}]


async def told(cell: Cell, name: str, words: str, *, allowed: bool = False) -> Record:
    """Return the record about a name whose reason has these words, as soon as it is there."""

    def found() -> list[Record]:
        return [record for record in log(cell, name) if words in record.reason and record.allowed is allowed]

    await outside.until(found, f"no such record: {log(cell)}", 5)
    return found()[0]


def only(*entries: str) -> dict[str, Any]:
    """Return the policy of a cell."""
    return {"network_policy": Limited(allowed_hosts=list(entries))}
