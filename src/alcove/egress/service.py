"""All sessions of a user: they are attached, given policies, and dropped when their process ends."""

import asyncio
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv4Network

from alcove.contract import InvalidRequest, NetworkPolicyError, SandboxError
from alcove.egress import wire
from alcove.egress.addresses import AddressFilter
from alcove.egress.audit import AuditLog
from alcove.egress.config import EgressConfig
from alcove.egress.dial import Dialler
from alcove.egress.policy import Policy
from alcove.egress.resolver import Resolver
from alcove.egress.session import Session, Sockets
from alcove.egress.settings import allowed, fake, own_addresses
from alcove.egress.wire import Apply, Attach, Detach, Reply, Request

_SETTLE_S = 1.0
_BREATH_S = 0.1


class Service:
    """Serves sessions. `idle` is set while there is none."""

    def __init__(self) -> None:
        self.idle = asyncio.Event()
        self.idle.set()
        self._sessions: dict[str, Session] = {}
        self._pidfds: dict[str, int] = {}
        self._diallers: dict[EgressConfig, Dialler] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._settling = self._loop.create_task(self._settle())

    def knows(self, session_id: str) -> bool:
        """Tell whether a session is served."""
        return session_id in self._sessions

    async def attach(self, request: Attach, fds: list[int]) -> None:
        """Serve a session; one of the same id is replaced. The descriptors are ours from then on.

        Raises:
            InvalidRequest: an entry of the policy cannot be.
            NetworkPolicyError: the descriptors are not what they should be.
        """
        try:
            _check_count(fds, request.listeners + 3)
            network = fake(request.settings)
            policy = _policy(request.allowed_hosts, network)
            dialler = self._dialler(request.settings)
            log = AuditLog(request.log, early=False)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        await self.detach(request.id)
        *served, pidfd = fds
        sockets = [socket.socket(fileno=fd) for fd in served]
        parts = Sockets(sockets[: request.listeners], *sockets[request.listeners :])
        self._sessions[request.id] = Session(request.id, policy, parts, log, dialler, network)
        self._pidfds[request.id] = pidfd
        self._loop.add_reader(pidfd, self._ended, request.id)
        self.idle.clear()

    async def apply(self, request: Apply, fds: Iterable[int] = ()) -> bool:
        """Put another policy in force, what it forbids having ended; False for a session that is not served.

        The descriptors, further listeners, are ours from then on.

        Raises:
            InvalidRequest: an entry of it cannot be; the old one stays.
        """
        session = self._sessions.get(request.id)
        listeners = [socket.socket(fileno=fd) for fd in fds]
        if session is None:
            for listener in listeners:
                listener.close()
            return False
        session.listen_to(listeners)
        await session.apply(_policy(request.allowed_hosts, session.fake))
        return True

    async def detach(self, session_id: str) -> None:
        """Serve a session no more."""
        session = self._sessions.pop(session_id, None)
        if session is None:
            return
        pidfd = self._pidfds.pop(session_id)
        self._loop.remove_reader(pidfd)
        os.close(pidfd)
        await session.close()
        if not self._sessions:
            self.idle.set()

    async def close(self) -> None:
        """Let go of everything."""
        self._settling.cancel()
        for session_id in list(self._sessions):
            await self.detach(session_id)
        if self._closing:
            await asyncio.wait(self._closing)

    def _dialler(self, settings: EgressConfig) -> Dialler:
        dialler = self._diallers.get(settings)
        if dialler is None:
            resolver = Resolver(settings.resolvers, dict(settings.hosts))
            addresses = AddressFilter(allowed(settings), own=own_addresses, fake=fake(settings))
            dialler = self._diallers[settings] = Dialler(resolver, addresses)
        return dialler

    def _ended(self, session_id: str) -> None:
        task = self._loop.create_task(self.detach(session_id))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _settle(self) -> None:
        """Equal denials are counted for a second: somebody has to look at the clock."""
        while True:
            await asyncio.sleep(_SETTLE_S)
            for session in self._sessions.values():
                session.log.settle()


@lru_cache(maxsize=8)  # a policy is never changed, and sessions come with few of them
def _policy(entries: tuple[str, ...], network: IPv4Network) -> Policy:
    return Policy.parse(entries, fake=network)


def _check_count(fds: list[int], expected: int) -> None:
    if len(fds) != expected:
        raise NetworkPolicyError("a session was attached without its sockets")


def _hung_up(connection: socket.socket) -> bool:
    """Tell whether nobody waits for the answer any more: a policy that was given up must not come into force later."""
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False


class Door:
    """The service's socket: who may ask, and what is answered."""

    def __init__(self, service: Service, listener: socket.socket) -> None:
        self._service = service
        self._listener = listener
        self._asking: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Answer until cancelled."""
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        try:
            while True:
                task = loop.create_task(self._answer(await self._accepted()))
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)
        finally:
            for task in self._asking:
                task.cancel()

    async def _accepted(self) -> socket.socket:
        """Whoever asks while there are no descriptors waits in the queue until there are."""
        while True:
            try:
                return (await asyncio.get_running_loop().sock_accept(self._listener))[0]
            except OSError:
                await asyncio.sleep(_BREATH_S)

    @property
    def busy(self) -> bool:
        """Whether somebody is being answered."""
        return bool(self._asking)

    async def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError, TimeoutError):
            if wire.peer_uid(connection) not in {os.geteuid(), 0}:
                return
            async with asyncio.timeout(10):
                data, fds = await wire.received(connection)
                if data and not _hung_up(connection):
                    wire.send(connection, wire.encode(await self._reply(wire.decode_request(data), fds)))
                else:
                    for fd in fds:
                        os.close(fd)

    async def _reply(self, request: Request, fds: list[int]) -> Reply:
        try:
            match request:
                case Attach():
                    await self._service.attach(request, fds)
                case Apply():
                    return Reply(served=await self._service.apply(request, fds))
                case Detach():
                    await self._service.detach(request.id)
        except SandboxError as error:
            return Reply(error=getattr(error, "detail", str(error)), invalid=isinstance(error, InvalidRequest))
        except OSError as error:
            return Reply(error=f"the egress service: {error}")
        return Reply()
