"""The way out: a name is resolved here, every address is filtered, and what was checked is what is dialled."""

import asyncio
import errno
import os
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

from alcove.egress import descriptors
from alcove.egress.addresses import AddressFilter, IPAddress
from alcove.egress.names import HOST_LOOPBACK
from alcove.egress.resolver import ResolveError, Resolver

#: Seconds for one address to answer; the next is tried then.
CONNECT_WITHIN_S = 10.0
_ATTEMPTS = 8
_LOOPBACK: tuple[IPAddress, ...] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))


class NotDialled(Exception):  # noqa: N818
    """There is no connection; `str` says why, `address` is what was tried last, `denied` whether we would not."""

    def __init__(self, reason: str, address: str = "", *, denied: bool) -> None:
        super().__init__(reason)
        self.address = address
        self.denied = denied


class Dialler:
    """Connects to names and to written-out addresses."""

    def __init__(self, resolver: Resolver, addresses: AddressFilter) -> None:
        self._resolver = resolver
        self._addresses = addresses

    async def name(self, name: str, port: int) -> socket.socket:
        """A connection to a canonical name.

        Raises:
            NotDialled: it does not resolve, no address of it may be dialled, or none answers.
        """
        if name == HOST_LOOPBACK:
            return await self._first(_LOOPBACK, port)
        try:
            found = await self._resolver.resolve(name)
        except ResolveError as error:
            raise NotDialled(str(error), denied=False) from None
        return await self._first(self._allowed(found, written=False), port)

    async def address(self, address: IPAddress, port: int) -> socket.socket:
        """A connection to an address that the policy has written out.

        Raises:
            NotDialled: it may not be dialled all the same, or does not answer.
        """
        return await self._first(self._allowed((address,), written=True), port)

    def _allowed(self, found: tuple[IPAddress, ...], *, written: bool) -> tuple[IPAddress, ...]:
        refusals = {address: self._addresses.refusal(address, written=written) for address in found}
        allowed = tuple(address for address, refusal in refusals.items() if refusal is None)
        if not allowed:
            address, refusal = next(iter(refusals.items()))
            reason = f"{refusal}; an operator may open it by `egress.allow_addresses`"
            raise NotDialled(reason, str(address), denied=True)
        return allowed

    async def _first(self, addresses: tuple[IPAddress, ...], port: int) -> socket.socket:
        failure = NotDialled("no address", denied=False)
        for address in addresses[:_ATTEMPTS]:
            try:
                return await _connect(address, port)
            except OSError as error:
                failure = NotDialled(_reason(error), str(address), denied=False)
        raise failure


async def _connect(address: IPAddress, port: int) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    upstream = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        descriptors.check(upstream.fileno())
        async with asyncio.timeout(CONNECT_WITHIN_S):
            await asyncio.get_running_loop().sock_connect(upstream, (str(address), port))
        _check_peer(upstream, address)
    except BaseException:
        upstream.close()
        raise
    return upstream


def _check_peer(upstream: socket.socket, address: IPAddress) -> None:
    """What was checked is what was dialled."""
    if ip_address(upstream.getpeername()[0]) != address:
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_WITHIN_S:g} s"
    return os.strerror(error.errno).lower() if error.errno else str(error)
