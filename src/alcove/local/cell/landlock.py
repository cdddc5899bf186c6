"""Landlock rights by ABI (Documentation/userspace-api/landlock.rst): a second fence, never the only one.

Reading and writing beneath the cell's root are granted whole, since read-only is the mount's business: a running domain
cannot gain rules, and later attachments must work. What is fenced: device nodes, ioctls on devices outside /dev,
whatever does not lie beneath the cell's root at all, signals to processes and connections to abstract sockets outside.
"""

from msgspec import Struct

from alcove.local.cell.operations import Kind, operation

_FS_RIGHTS_OF_ABI = {1: 13, 2: 14, 3: 15, 5: 16}
_MAKE_CHAR = 1 << 6
_MAKE_BLOCK = 1 << 11
_IOCTL_DEV = 1 << 15
_SCOPE_ABSTRACT_UNIX_SOCKET = 1
_SCOPE_SIGNAL = 2
_SCOPES_SINCE = 6
#: What `unrestricted` needs, since abstract sockets belong to the network namespace that it shares.
ABI_WITH_SCOPES = _SCOPES_SINCE


class Ruleset(Struct, frozen=True):
    """The access rights that a kernel's ABI can handle, and the scopes."""

    abi: int
    handled: int
    scoped: int

    def operations(self) -> list[bytes]:
        """The plan's operations; none where the kernel has no Landlock."""
        if not self.handled:
            return []
        granted = self.handled & ~(_MAKE_CHAR | _MAKE_BLOCK | _IOCTL_DEV)
        rules = [operation(Kind.LANDLOCK_RULE, "/", v0=granted)]
        if self.handled & _IOCTL_DEV:
            rules.append(operation(Kind.LANDLOCK_RULE, "/dev", v0=_IOCTL_DEV))
        return [operation(Kind.LANDLOCK, v0=self.handled, v1=self.scoped), *rules]


def ruleset(abi: int) -> Ruleset:
    """What to ask of a kernel whose `landlock_create_ruleset(VERSION)` answered `abi`; 0 is a kernel without it."""
    rights = max((count for since, count in _FS_RIGHTS_OF_ABI.items() if since <= abi), default=0)
    scoped = _SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL if abi >= _SCOPES_SINCE else 0
    return Ruleset(abi=abi, handled=(1 << rights) - 1, scoped=scoped)
