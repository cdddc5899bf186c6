"""Sessions' egress on this machine: the sockets come from a session's warden, the keeper's service serves them."""

import errno
import os
import socket
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import lru_cache
from ipaddress import ip_network
from typing import TYPE_CHECKING

from alcove.contract import Limited, NetworkPolicyError, SandboxSpec
from alcove.egress import netlink
from alcove.egress.config import EgressConfig
from alcove.egress.policy import Policy
from alcove.egress.settings import fake, resolver
from alcove.egress.wire import Apply, Attach, Reply, Request, ask
from alcove.local import keeper
from alcove.local.cell.control import ANSWER_WITHIN_S, parse_reply, send
from alcove.local.cell.launch import CONTROL_SOCKET, connect
from alcove.local.cell.layout import EGRESS_LOG
from alcove.local.cell.operations import Kind, operation
from alcove.local.cell.processes import open_warden
from alcove.local.readiness import readable
from alcove.local.records import Egress

if TYPE_CHECKING:
    from alcove.local.sessions import LiveSession

# On the session's loopback, where a server of the guest's is least likely to want to be
_TCP_PORT = 1
_DNS_PORT = 2
_ATTEMPTS = 4  # to start a keeper is one


def parsed(policy: Limited, config: EgressConfig) -> Policy:
    """The policy, read.

    Raises:
        InvalidRequest: an entry of it cannot be.
    """
    return _read(policy.allowed_hosts, config)


@lru_cache(maxsize=8)  # read more than once for each session, and sessions come with few lists
def _read(entries: tuple[str, ...], config: EgressConfig) -> Policy:
    return Policy.parse(entries, fake=fake(config))


def _networks(policy: Limited, config: EgressConfig) -> tuple[str, ...]:
    return tuple(map(str, parsed(policy, config).networks))


async def open_up(root: str, live: "LiveSession", egress: Egress, asked: socket.socket | None = None) -> Egress:
    """Put a session's policy in force: its namespace is prepared, and the service serves it.

    `asked` is what `ask_early` returned.

    Raises:
        NetworkPolicyError: it cannot be; the session then reaches nothing.
    """
    policy = _policy(live)
    networks = _networks(policy, egress.settings)
    with _early(root) as early:
        fds = await prepare(live, egress, networks, asked)
        try:
            await _ask(root, _attach(live, policy, egress.settings, len(fds) - 3), fds, early)
        finally:
            _close(fds)
    return Egress(settings=egress.settings, networks=networks, prepared=True)


def _early(root: str) -> AbstractContextManager[socket.socket | None]:
    """A connection to a service that is there, which turns to us while the session's warden is busy."""
    try:
        return keeper.reach(root)
    except OSError:
        return nullcontext()


def _policy(live: "LiveSession") -> Limited:
    return _limited(live.spec)


def _limited(spec: SandboxSpec) -> Limited:
    policy = spec.network_policy
    return policy if isinstance(policy, Limited) else Limited()


def ask_early(live: "LiveSession", egress: Egress) -> socket.socket | None:
    """Ask the warden for what `open_up` will need; it answers as soon as it is there."""
    networks = _networks(_policy(live), egress.settings)
    with suppress(OSError):
        return _asked(live, _whole(egress.settings, networks, replace=False), _wanted(ipv6=_has_ipv6(networks)))
    return None


async def prepare(
    live: "LiveSession", egress: Egress, networks: tuple[str, ...], asked: socket.socket | None = None
) -> tuple[int, ...]:
    """The session's sockets, and a pidfd of its warden: descriptors of ours from then on.

    Raises:
        NetworkPolicyError: the namespace cannot be prepared.
    """
    settings = egress.settings
    ipv6 = _has_ipv6(networks)
    if egress.prepared:
        messages = netlink.change_routes(map(ip_network, egress.networks), map(ip_network, networks))
        if ipv6 and not _has_ipv6(egress.networks):
            messages.insert(0, _redirects(settings, ipv6=True))
        fds = await _sockets(live, messages, ipv6=ipv6)
    else:
        try:
            fds = await _sockets(live, _whole(settings, networks, replace=False), ipv6=ipv6, asked=asked)
        except FileExistsError:  # an attempt before this one came as far as to the tables
            fds = await _sockets(live, _whole(settings, networks, replace=True), ipv6=ipv6)
    try:
        return (*fds, open_warden(live.record.processes))
    except OSError as error:
        _close(fds)
        raise NetworkPolicyError(f"session `{live.id}` has ended: {error.strerror}") from None


@lru_cache(maxsize=8)
def _whole(settings: EgressConfig, networks: tuple[str, ...], *, replace: bool) -> list[netlink.Message]:
    return netlink.prepare(
        [fake(settings), *map(ip_network, networks)],
        tcp_port=_TCP_PORT,
        dns_port=_DNS_PORT,
        resolver=resolver(settings),
        ipv6=_has_ipv6(networks),
        replace=replace,
    )


def _redirects(settings: EgressConfig, *, ipv6: bool) -> netlink.Message:
    return netlink.redirects(
        tcp_port=_TCP_PORT, dns_port=_DNS_PORT, resolver=resolver(settings), ipv6=ipv6, replace=True
    )


def _has_ipv6(networks: tuple[str, ...]) -> bool:
    """Tell whether an address of IPv6 is written out: names stand for those of IPv4, and half the tables are saved."""
    return any(":" in network for network in networks)


def _attach(live: "LiveSession", policy: Limited, settings: EgressConfig, listeners: int) -> Attach:
    return Attach(
        id=str(live.id),
        allowed_hosts=tuple(policy.allowed_hosts),
        log=f"{live.directory}/{EGRESS_LOG}",
        settings=settings,
        listeners=listeners,
    )


async def serve_again(live: "LiveSession", egress: Egress) -> tuple[Attach, list[int]]:
    """What a service that was started anew needs of a session.

    Raises:
        NetworkPolicyError: the session has ended.
    """
    fds = await prepare(live, egress, egress.networks)
    return _attach(live, _policy(live), egress.settings, len(fds) - 3), list(fds)


async def change(root: str, live: "LiveSession", policy: Limited, before: SandboxSpec, egress: Egress) -> Egress:
    """Put another policy than that of `before` in force on a session that is served; what it forbids is broken off.

    Raises:
        InvalidRequest: an entry of it cannot be; the old one stays.
        NetworkPolicyError: it could not be put in force; the old one stays.
    """
    networks = _networks(policy, egress.settings)
    apply = Apply(id=str(live.id), allowed_hosts=tuple(policy.allowed_hosts))
    served = (await _ask(root, apply)).served
    try:
        fds = await prepare(live, egress, networks)
    except NetworkPolicyError:
        await _ask(root, Apply(id=str(live.id), allowed_hosts=tuple(_limited(before).allowed_hosts)))
        raise
    try:
        if not served:
            await _ask(root, _attach(live, policy, egress.settings, len(fds) - 3), fds)
        elif _has_ipv6(networks) and not _has_ipv6(egress.networks):
            await _ask(root, apply, fds[:1])
    finally:
        _close(fds)
    return Egress(settings=egress.settings, networks=networks, prepared=True)


async def _ask(root: str, request: Request, fds: tuple[int, ...] = (), early: socket.socket | None = None) -> Reply:
    if early is not None:
        with suppress(OSError):
            return await ask(early, request, fds)
    for _ in range(_ATTEMPTS):  # a service may be on its way out, or die
        try:
            connection = keeper.reach(root)
        except OSError:
            await keeper.start(root)
            continue
        with suppress(OSError):
            return await ask(connection, request, fds)
    raise NetworkPolicyError(f"the egress service does not answer; {root}/egress.err may tell why")


_Wanted = list[tuple[int, int, int]]


def _wanted(*, ipv6: bool) -> _Wanted:
    """Type, family and port of the sockets that serve a session: listeners first."""
    listeners = [socket.AF_INET6, socket.AF_INET] if ipv6 else [socket.AF_INET]
    wanted = [(int(socket.SOCK_STREAM), int(family), _TCP_PORT) for family in listeners]
    return wanted + [(int(kind), int(socket.AF_INET), _DNS_PORT) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)]


def _asked(live: "LiveSession", messages: Iterable[netlink.Message], wanted: _Wanted) -> socket.socket:
    """Ask the session's warden to configure its namespace, and for sockets in it."""
    request = [operation(Kind.NETWORK)]
    request += [operation(Kind.NETLINK, datagram, n0=protocol) for protocol, datagram in messages]
    request += [operation(Kind.SOCKET, n0=kind, v0=family, n1=port) for kind, family, port in wanted]
    connection = connect(live.directory, CONTROL_SOCKET)
    try:
        send(connection, b"".join(request))
    except BaseException:
        connection.close()
        raise
    return connection


async def _sockets(
    live: "LiveSession", messages: Iterable[netlink.Message], *, ipv6: bool, asked: socket.socket | None = None
) -> tuple[int, ...]:
    """The sockets that the session's warden answers with.

    Raises:
        FileExistsError: something is there that was not to be replaced.
        NetworkPolicyError: it cannot.
    """
    wanted = _wanted(ipv6=ipv6)
    try:
        with asked or _asked(live, messages, wanted) as connection:
            if not await readable(connection.fileno(), ANSWER_WITHIN_S):
                raise TimeoutError("the session's warden did not answer")
            data, fds, _, _ = socket.recv_fds(connection, 4096, len(wanted), socket.MSG_CMSG_CLOEXEC)
        reply = parse_reply(data)
    except OSError as error:
        raise NetworkPolicyError(f"session `{live.id}` does not answer: {error}") from None
    if reply.error or len(fds) != len(wanted):
        _close(fds)
        if reply.error == errno.EEXIST:
            raise FileExistsError
        raise NetworkPolicyError(
            f"the session's network could not be prepared: {reply.step}: {os.strerror(reply.error)}; `alcove doctor` "
            "tells what this kernel lacks"
        )
    return tuple(fds)


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
