"""The host side's look-ups: which addresses a name has right now, as the operator's own machine would find them.

Answers are what somebody else's zone says, so they are addresses to be judged, never yet to be dialled.
"""

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import Generic, TypeVar

from alcove.contract import InvalidRequest
from alcove.egress.names import BadName, canonical
from alcove.egress.upstream import PORT, Addresses, ResolveError, Server, addresses_of, server

__all__ = ["Addresses", "ResolveError", "Resolver"]

T = TypeVar("T")

#: Seconds for which an answer is kept, whatever its zone says; one that is not the whole answer, for the shortest.
SHORTEST_TTL, LONGEST_TTL = 1.0, 60.0

_CACHED_NAMES = 4096
_AT_ONCE = 64
_MOST_NAMESERVERS = 3  # resolv.conf(5), MAXNS


class Resolver:
    """Finds addresses, for every session alike.

    `hosts` goes before the host's hosts file, and that before `nameservers` (`address`, `address:port`, `[v6]:port`),
    which are those of the host's resolv.conf unless given. Both files are read again when they change. A look-up takes
    at most `timeout` seconds, its waiting for a turn included.

    Raises:
        InvalidRequest: a nameserver or an entry of `hosts` is none.
    """

    def __init__(
        self,
        nameservers: Iterable[str] | None = None,
        hosts: Mapping[str, Iterable[str]] | None = None,
        timeout: float = 5.0,
        *,
        hosts_file: str = "/etc/hosts",
        resolv_conf: str = "/etc/resolv.conf",
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._given = None if nameservers is None else tuple(map(server, nameservers))
        self._hosts = {_host_name(name): _host_addresses(name, spelled) for name, spelled in (hosts or {}).items()}
        self._hosts_file = _Watched(hosts_file, _read_hosts)
        self._resolv_conf = _Watched(resolv_conf, _read_resolv_conf)
        self._timeout = timeout
        self._now = now
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._cache: OrderedDict[str, tuple[float, Addresses]] = OrderedDict()
        self._flights: dict[str, _Flight] = {}
        self._asked: tuple[Server, ...] = ()

    async def resolve(self, name: str) -> Addresses:
        """The addresses of `name`, which is absolute: IPv4 first, each family as the answer had it.

        Raises:
            ResolveError: it has none, or nobody could say within the timeout.
        """
        try:
            name = canonical(name)
        except BadName as bad:
            raise ResolveError(f"{name!r} is no host name: {bad}") from None
        known = self._hosts.get(name) or self._hosts_file.read().get(name) or self._cached(name)
        return known or await self._joined(name)

    def _cached(self, name: str) -> Addresses | None:
        servers = self._servers()
        if servers != self._asked:  # what others said of a name is no longer what this host would find
            self._cache.clear()
            self._asked = servers
        expires, addresses = self._cache.get(name, (0.0, ()))
        return addresses if self._now() < expires else None

    def _servers(self) -> tuple[Server, ...]:
        return self._resolv_conf.read() if self._given is None else self._given

    async def _joined(self, name: str) -> Addresses:
        """Wait for the one look-up of `name`; it ends early when nobody waits for it any more."""
        flight = self._flights.get(name)
        if flight is None:
            flight = self._flights[name] = _Flight(asyncio.create_task(self._look_up(name)))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                # before cancelling it: who comes next must not join what is ending
                if self._flights.get(name) is flight:
                    del self._flights[name]
                flight.task.cancel()
                await asyncio.wait([flight.task])

    async def _look_up(self, name: str) -> Addresses:
        servers = self._servers()
        deadline = asyncio.get_running_loop().time() + self._timeout
        try:
            async with asyncio.timeout_at(deadline):
                await self._room.acquire()
        except TimeoutError:
            raise ResolveError(f"too many look-ups at once: {name} had no turn in {self._timeout:g} s") from None
        try:
            left = deadline - asyncio.get_running_loop().time()
            addresses, ttl = await addresses_of(name, servers, left)
        finally:
            self._room.release()
        if servers == self._asked:
            self._keep(name, addresses, ttl)
        return addresses

    def _keep(self, name: str, addresses: Addresses, ttl: float) -> None:
        self._cache[name] = (self._now() + min(max(ttl, SHORTEST_TTL), LONGEST_TTL), addresses)
        self._cache.move_to_end(name)
        if len(self._cache) > _CACHED_NAMES:
            self._cache.popitem(last=False)


class _Flight:
    def __init__(self, task: asyncio.Task[Addresses]) -> None:
        self.task = task
        self.waiting = 0


class _Watched(Generic[T]):
    """What a file of the host's says, parsed again when it is another than before; one that is not there is empty."""

    def __init__(self, path: str, parse: Callable[[str], T]) -> None:
        self._path = path
        self._parse = parse
        self._value = parse("")
        self._seen: tuple[int, ...] | None = None

    def read(self) -> T:
        # stat first: a change between the two is then seen at the next read
        seen = self._stamp()
        if seen != self._seen:
            self._value, self._seen = self._parse(self._text()), seen
        return self._value

    def _stamp(self) -> tuple[int, ...] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _text(self) -> str:
        try:
            with open(self._path, encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return ""


def _host_name(name: str) -> str:
    try:
        return canonical(name)
    except BadName as bad:
        raise InvalidRequest(f"hosts has {name!r}, which is no host name: {bad}") from None


def _host_addresses(name: str, spelled: Iterable[str]) -> Addresses:
    try:
        return tuple(map(ip_address, spelled))
    except ValueError as error:
        raise InvalidRequest(f"hosts has for {name!r} what is no address: {error}") from None


def _read_hosts(text: str) -> dict[str, Addresses]:
    """hosts(5); lines that are not of its form say nothing."""
    found: dict[str, Addresses] = {}
    for line in text.splitlines():
        first, *names = line.partition("#")[0].split() or [""]
        try:
            address = ip_address(first)
        except ValueError:
            continue
        for name in names:
            key = name.lower().removesuffix(".")
            found[key] = (*found.get(key, ()), address)
    return found


def _read_resolv_conf(text: str) -> tuple[Server, ...]:
    """The nameservers of resolv.conf(5), which are the local machine where none is named; nothing else of it."""
    servers = []
    for line in text.splitlines():
        keyword, *values = line.split() or [""]
        if keyword == "nameserver" and values:
            try:
                servers.append((str(ip_address(values[0])), PORT))
            except ValueError:
                continue
    return tuple(servers[:_MOST_NAMESERVERS]) or (("127.0.0.1", PORT),)
