"""What an operator decides about egress, as one frozen value that travels with each session.

It stands on the path of every command, so the modules that read addresses are only loaded for values that have any.
"""

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import force_setattr

from alcove.contract import InvalidRequest

#: The addresses that stand for names inside a session (RFC 2544, for benchmarks of networks: nobody routes them).
FAKE_RANGE = "198.18.0.0/15"
#: The address that a session's resolv.conf names, in that range.
RESOLVER = "198.18.0.1"


class EgressConfig(Struct, frozen=True, kw_only=True):
    """Configuration of the egress service.

    `allow_addresses` opens address ranges that names may not resolve to otherwise (private, loopback, reserved).
    `resolvers` are the nameservers to ask (`address`, `address:port`, `[v6]:port`; default: the host's resolv.conf),
    `hosts` are names with addresses of the operator's own. `fake_range` holds the addresses that stand for names inside
    a session, at least a /16; change it where something inside needs the default 198.18.0.0/15.

    Raises:
        InvalidRequest: a text stands where a list should.
    """

    allow_addresses: tuple[str, ...] = ()
    resolvers: tuple[str, ...] | None = None
    hosts: tuple[tuple[str, tuple[str, ...]], ...] = ()
    fake_range: str = FAKE_RANGE

    def __post_init__(self) -> None:
        _refuse_text(self.allow_addresses, "allow_addresses")
        _refuse_text(self.resolvers, "resolvers")
        force_setattr(self, "allow_addresses", tuple(self.allow_addresses))
        if self.resolvers is not None:
            force_setattr(self, "resolvers", tuple(self.resolvers))
        pairs = self.hosts.items() if isinstance(self.hosts, Mapping) else self.hosts
        force_setattr(self, "hosts", tuple((name, tuple(addresses)) for name, addresses in pairs))

    def check(self) -> None:
        """Read everything that has a form; not when a value is made, since each command decodes those of its sessions.

        Raises:
            InvalidRequest: a value is not of its form.
        """
        if self.allow_addresses or self.resolvers or self.hosts or self.fake_range != FAKE_RANGE:
            from alcove.egress.settings import check

            check(self)

    @property
    def resolver(self) -> str:
        """The address that a session's resolv.conf names."""
        if self.fake_range == FAKE_RANGE:
            return RESOLVER
        from alcove.egress.settings import resolver

        return str(resolver(self))


def _refuse_text(value: object, name: str) -> None:
    if isinstance(value, str):
        raise InvalidRequest(f'egress.{name} must be a list: write ["{value}"]')
