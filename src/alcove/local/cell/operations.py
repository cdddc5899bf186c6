"""Operations of a launch plan or a request, as the native side reads them. native/plan.h is the other half.

One operation: u32 kind, flags, n0, n1; u64 v0, v1; u32 len0, len1; s0, NUL, s1, NUL; padded to 8 bytes.
"""

from collections.abc import Iterable
from os import fsencode
from struct import Struct

_HEADER = Struct("<IIIIQQII")


class Kind:
    """`enum op_kind`."""

    NAMESPACES = 1
    HOSTNAME = 2
    MAP_UID = 3
    MAP_GID = 4
    CGROUP_TASKS = 5
    CGROUP_UNIFIED = 6
    SYSCTL = 7
    USER_SYSCTL = 8
    RLIMIT = 9
    CAPABILITIES = 10
    LANDLOCK = 11
    LANDLOCK_RULE = 12
    SECCOMP = 13
    OOM_SCORE = 14
    AWAIT = 15
    DISK = 24
    ROOT = 32
    DIRECTORY = 33
    SYMLINK = 34
    FILE = 35
    TREE = 36
    TMPFS = 37
    OVERLAY = 38
    OVERLAY_UPPER = 39
    WRITABLE = 40
    PROC = 41
    DEVPTS = 42
    MASK = 43
    READONLY = 44
    SEAL = 45
    ARGV = 64
    ENV = 65
    FALLBACK_ARGV = 66
    CWD = 67
    USER = 68
    TTY = 69
    STDIO = 70
    BODY = 71
    ATTACH = 96
    DRAIN = 97
    STATUS = 98
    END = 99
    SPAWNER = 100
    NETWORK = 101
    NETLINK = 102
    SOCKET = 103
    FREEZE = 104
    THAW = 105
    FAULT = 128


class Tree:
    """`TREE_*`: how a host directory appears."""

    RDONLY = 1
    NOSUID = 2
    NODEV = 4
    NOEXEC = 8
    HOST = 16
    IDMAP = 32
    IDMAP_OWNER = 64
    OPTIONAL = 128
    NOT_RECURSIVE = 256
    FILE = 512
    STAGE = 1024
    COW = 2048


class Stdio:
    """`STDIO_*`: the descriptors that come with an exec request, in this order."""

    IN = 1
    OUT = 2
    ERR = 4


def operation(
    kind: int,
    s0: str | bytes = b"",
    s1: str | bytes = b"",
    *,
    flags: int = 0,
    n0: int = 0,
    n1: int = 0,
    v0: int = 0,
    v1: int = 0,
) -> bytes:
    """Encode one operation."""
    first = s0 if isinstance(s0, bytes) else fsencode(s0)
    second = s1 if isinstance(s1, bytes) else fsencode(s1)
    body = b"%b\0%b\0" % (first, second)
    return b"".join(
        (
            _HEADER.pack(kind, flags, n0, n1, v0, v1, len(first), len(second)),
            body,
            bytes(-(_HEADER.size + len(body)) % 8),
        )
    )


def strings(kind: int, values: Iterable[str]) -> bytes:
    """Encode a list of strings as one operation."""
    encoded = [value.encode("utf-8", "surrogateescape") for value in values]
    return operation(kind, b"".join(b"%b\0" % value for value in encoded), n0=len(encoded))
