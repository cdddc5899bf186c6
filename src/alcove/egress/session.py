"""One session as the egress service sees it: its sockets, its policy, its names, its connections, its log."""

import asyncio
import errno
import socket
from collections.abc import Callable
from ipaddress import IPv4Network

from alcove.egress import descriptors, dns
from alcove.egress.audit import AuditLog, Record
from alcove.egress.connection import Connection
from alcove.egress.dial import Dialler
from alcove.egress.policy import Policy
from alcove.egress.pool import FakePool

#: Connections of one session at a time; the next wait in the kernel's queue.
MOST_CONNECTIONS = 1024
# So that a session whose names resolve slowly leaves the resolver's turns to others
_DIALLING = 16
_AT_ONCE = 64  # accepted before others have their turn
_BREATH_S = 0.1
_OUT_OF = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Session:
    """Serves a session's sockets until it is closed. The sockets are its own from then on."""

    def __init__(
        self,
        session_id: str,
        policy: Policy,
        sockets: "Sockets",
        log: AuditLog,
        dialler: Dialler,
        fake: IPv4Network,
    ) -> None:
        self.id = session_id
        self.policy = policy
        self.dialler = dialler
        self.fake = fake
        self.pool = FakePool(fake, session_id)
        self.log = log
        self.dialling = asyncio.Semaphore(_DIALLING)
        self._sockets = sockets
        self._loop = asyncio.get_running_loop()
        self._connections: dict[Connection, asyncio.Task[None]] = {}
        self._paused = self._closing = False
        answerer = dns.Answerer(self._resolves, self.pool, self._deny_name)
        self._dns = asyncio.create_task(dns.serve(sockets.dns_udp, sockets.dns_tcp, answerer))
        for listener in sockets.listeners:
            listener.setblocking(False)
        self._listen()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    async def apply(self, policy: Policy) -> int:
        """Put another policy in force, and break off what it does not allow; returns how many those were."""
        self.policy = policy
        ended = {task for connection, task in self._connections.items() if not connection.stands(policy)}
        for task in ended:
            task.cancel()
        self.tell(Record(session=self.id, kind="policy", name=" ".join(policy.entries), allowed=True))
        if ended:  # what was only told to end could pass on one more piece
            await asyncio.wait(ended)
        return len(ended)

    def listen_to(self, listeners: list[socket.socket]) -> None:
        """Serve further listeners, which are its own from then on."""
        for listener in listeners:
            listener.setblocking(False)
            self._sockets.listeners.append(listener)
            if not self._paused:
                self._loop.add_reader(listener.fileno(), self._accept, listener)

    def tell(self, record: Record) -> None:
        """Write a record."""
        self.log.add(record)

    async def close(self) -> None:
        """Break everything off."""
        self._closing = True
        self._unlisten()
        tasks = [self._dns, *self._connections.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._sockets.close()
        self.log.close()

    def _resolves(self, name: str) -> bool:
        return self.policy.resolves(name)

    def _deny_name(self, name: str, reason: str) -> None:
        if self.policy.missing(name):  # else the reason is another: the name is none, or there is no address left
            reason = self.policy.why_not(name)
        self.tell(Record(session=self.id, kind="dns", name=name, allowed=False, reason=reason))

    # Accepting

    def _listen(self) -> None:
        for listener in self._sockets.listeners:
            self._loop.add_reader(listener.fileno(), self._accept, listener)
        self._paused = False

    def _unlisten(self) -> None:
        for listener in self._sockets.listeners:
            self._loop.remove_reader(listener.fileno())
        self._paused = True

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            if len(self._connections) >= MOST_CONNECTIONS:
                self._unlisten()
                return
            try:
                guest = _accepted(listener)
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in _OUT_OF:  # nobody is let through for want of descriptors: they wait
                    self._unlisten()
                    self._loop.call_later(_BREATH_S, self._listen_again)
                return
            guest.setblocking(False)
            self._begin(guest)

    def _begin(self, guest: socket.socket) -> None:
        connection = Connection(self, guest)
        task = self._loop.create_task(connection.serve())
        self._connections[connection] = task
        task.add_done_callback(lambda done: self._ended(connection, guest, done))

    def _ended(self, connection: Connection, guest: socket.socket, task: asyncio.Task[None]) -> None:
        guest.close()  # a task that is cancelled before its first step runs no `finally`
        del self._connections[connection]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "a connection failed", "exception": error})
        if self._paused:
            self._listen_again()

    def _listen_again(self) -> None:
        if self._paused and not self._closing:  # a reader of a closed descriptor would hinder the next of its number
            self._listen()


def _accepted(listener: socket.socket) -> socket.socket:
    guest, _ = listener.accept()
    try:
        descriptors.check(guest.fileno())
    except OSError:
        guest.close()
        raise
    return guest


class Sockets:
    """What a session's net namespace hands out; see `Service.attach`."""

    def __init__(self, listeners: list[socket.socket], dns_udp: socket.socket, dns_tcp: socket.socket) -> None:
        self.listeners = listeners
        self.dns_udp = dns_udp
        self.dns_tcp = dns_tcp

    def close(self) -> None:
        """Let go; whoever made them has copies."""
        for each in (*self.listeners, self.dns_udp, self.dns_tcp):
            each.close()


#: Makes the log of a session.
OpenLog = Callable[[str], AuditLog]
