"""One connection of a guest's: which rule allows it, what it says first, and where it goes."""

import asyncio
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING

from msgspec import Struct

from alcove.egress.addresses import IPAddress
from alcove.egress.audit import Record
from alcove.egress.dial import NotDialled
from alcove.egress.http1 import Refused
from alcove.egress.inspect import Inspector, inspector
from alcove.egress.policy import Kind, Policy, Rule
from alcove.egress.relay import Relay

if TYPE_CHECKING:
    from alcove.egress.session import Session

#: Seconds within which what a rule asks to see must have come.
HEAD_WITHIN_S = 10.0
_HEAD_PIECE = 16 << 10
_SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h; linux/netfilter_ipv6/ip6_tables.h has the same number
_ABORT = struct.pack("ii", 1, 0)
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))


class Destination(Struct, frozen=True):
    """What the guest dialled: `name` is what the address stands for, "" for an address that stands for none."""

    address: IPAddress
    port: int
    name: str

    def rule(self, policy: Policy) -> Rule | None:
        """What allows it."""
        if self.name:
            return policy.rule(self.name, self.port)
        return policy.address_rule(self.address, self.port)


class Denied(Exception):  # noqa: N818
    """The connection goes nowhere; `str` says why."""

    def __init__(self, reason: str, address: str = "") -> None:
        super().__init__(reason)
        self.address = address


class Connection:
    """One accepted connection, from its first byte to its record in the log."""

    def __init__(self, session: "Session", guest: socket.socket) -> None:
        self._session = session
        self._guest = guest
        self._upstream: socket.socket | None = None
        self._relay: Relay | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._dialled = ""
        self.destination: Destination | None = None
        self.rule: Rule | None = None

    async def serve(self) -> None:
        """See it through. Cancelling it breaks off both sides."""
        reason, allowed, address = "", False, ""
        try:
            self.destination = self._original()
            self.rule = self._allowed(self.destination)
            await self._through(self.destination, self.rule)
            allowed = True
        except (Denied, Refused) as refusal:
            reason, address = str(refusal), getattr(refusal, "address", "")
            self._abort()
        except asyncio.CancelledError:
            reason, allowed = "the policy changed, or the session ended", self._relay is not None
            self._abort()
            raise
        except (OSError, TimeoutError) as error:
            allowed = self._relay is not None
            reason = (getattr(error, "strerror", None) or str(error)).lower()
            self._abort()
        finally:
            # told first: whoever reads the log after the guest has seen the end finds it there
            self._tell(allowed=allowed, reason=reason, address=address)
            self._close()

    def stands(self, policy: Policy) -> bool:
        """Tell whether another policy lets it go on, under the same checks."""
        if self.destination is None or self.rule is None:
            return True  # nothing has been decided: what comes is decided by the policy in force then
        rule = self.destination.rule(policy)
        return rule is not None and rule.kind is self.rule.kind

    def _original(self) -> Destination:
        level = socket.IPPROTO_IP if self._guest.family == socket.AF_INET else socket.IPPROTO_IPV6
        try:
            raw = self._guest.getsockopt(level, _SO_ORIGINAL_DST, 28)
        except OSError:
            raise Denied("it was not redirected") from None
        port = int.from_bytes(raw[2:4], "big")
        address = ip_address(raw[4:8] if level == socket.IPPROTO_IP else raw[8:24])
        if address.is_loopback:  # a guest that found our own port
            raise Denied("it was not redirected")
        name = self._session.pool.name(address) if isinstance(address, IPv4Address) else None
        return Destination(address, port, name or "")

    def _allowed(self, wanted: Destination) -> Rule:
        rule = wanted.rule(self._session.policy)
        if rule is None:
            raise Denied(self._why_not(wanted))
        return rule

    def _still(self, wanted: Destination, rule: Rule) -> None:
        if self._allowed(wanted).kind is not rule.kind:
            raise Denied("the policy changed")

    def _why_not(self, wanted: Destination) -> str:
        if wanted.name:
            return self._session.policy.why_not(wanted.name, wanted.port)
        if wanted.address in self._session.fake:
            return "an address that stands for no name here"
        return self._session.policy.why_not(str(wanted.address), wanted.port)

    async def _through(self, wanted: Destination, rule: Rule) -> None:
        checks = inspector(rule, wanted.name, wanted.port)
        first = b"" if rule.kind is not Kind.WEB else await self._first(checks)
        self._still(wanted, rule)  # the policy may have changed while we read
        self._upstream = await self._dial(wanted)
        self._still(wanted, rule)
        self._dialled = str(self._upstream.getpeername()[0])
        for side in (self._guest, self._upstream):
            _tune(side)
        self._relay = relay = Relay(self._guest, self._upstream)
        if not checks.opaque:
            relay.out.through = self._checked(checks, relay)
        if checks.upgrading:
            relay.back.through = self._answered(checks, relay)
        relay.out.push(first)
        await relay.run()

    async def _first(self, checks: Inspector) -> bytes:
        """The guest's first bytes, once they have been checked."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(HEAD_WITHIN_S):
                while True:
                    data = await loop.sock_recv(self._guest, _HEAD_PIECE)
                    if not data:
                        raise Denied("it ended before it said what it wanted")
                    checked = checks.feed(data)
                    if checked and not checks.waiting:
                        return checked
        except TimeoutError:
            raise Denied(f"it did not say what it wanted within {HEAD_WITHIN_S:g} s") from None

    async def _dial(self, wanted: Destination) -> socket.socket:
        dialler = self._session.dialler
        try:
            if wanted.name:
                async with self._session.dialling:
                    return await dialler.name(wanted.name, wanted.port)
            return await dialler.address(wanted.address, wanted.port)
        except NotDialled as failure:
            if failure.denied:
                raise Denied(str(failure), failure.address) from None
            raise Denied(f"allowed, but not reached: {failure}", failure.address) from None

    # While bytes flow

    def _checked(self, checks: Inspector, relay: Relay) -> Callable[[bytes], bytes]:
        def through(data: bytes) -> bytes:
            try:
                passed = checks.feed(data)
            except Refused as refusal:
                relay.out.push(refusal.passed)
                raise
            if checks.opaque:
                relay.out.through = None
            if checks.upgrading:
                relay.back.through = self._answered(checks, relay)
            self._set_deadline(checks, relay)
            return passed

        return through

    def _answered(self, checks: Inspector, relay: Relay) -> Callable[[bytes], bytes]:
        def through(data: bytes) -> bytes:
            released = checks.response(data)
            if not checks.upgrading:
                relay.back.through = None
            relay.out.push(released)
            return data

        return through

    def _set_deadline(self, checks: Inspector, relay: Relay) -> None:
        """A ClientHello that an opaque stream began with must be whole in time as well."""
        if checks.waiting and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(HEAD_WITHIN_S, relay.fail, Denied("a ClientHello that did not come whole"))
        elif not checks.waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Its end

    def _abort(self) -> None:
        """What broke off must not look like an end to either side."""
        for side in (self._guest, self._upstream):
            if side is not None:
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._guest.close()
        if self._upstream is not None:
            self._upstream.close()

    def _tell(self, *, allowed: bool, reason: str, address: str) -> None:
        wanted, relay = self.destination, self._relay
        self._session.tell(
            Record(
                session=self._session.id,
                kind="connect",
                name=wanted.name if wanted else "",
                address=address or self._dialled or (str(wanted.address) if wanted else ""),
                port=wanted.port if wanted else None,
                allowed=allowed,
                reason=reason,
                sent=relay.sent if relay else 0,
                received=relay.received if relay else 0,
            )
        )


def _tune(side: socket.socket) -> None:
    """A piece goes on as it came, and a peer that is gone is noticed."""
    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    side.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        side.setsockopt(socket.IPPROTO_TCP, option, value)
