"""The argument rules by interpreter, for both architectures: who passes, who does not, and what high bits change."""

import errno
import itertools
import random

import pytest

from alcove.local import seccomp
from tests.seccomp.bpf_machine import ALLOW, AUDIT_ARCH, ERRNO, run
from tools.seccomp import policy

NUMBERS = policy.load().numbers
HIGH = 1 << 32


def each_with(*names: tuple[str, int]) -> pytest.MarkDecorator:
    """Each architecture with each of these calls that it has, and where that call's mode (or flags) is."""
    having = [(arch, name, at) for arch in seccomp.ARCHITECTURES for name, at in names if name in NUMBERS[arch]]
    return pytest.mark.parametrize(("arch", "name", "at"), having)


each_architecture = pytest.mark.parametrize("arch", seccomp.ARCHITECTURES)

CLONE_THREAD_OF_GLIBC = 0x3D0F00
CLONE_FORK_OF_GLIBC = 0x01200011
NETLINK_SOCK_DIAG, NETLINK_XFRM, NETLINK_AUDIT, NETLINK_NETFILTER = 4, 6, 9, 12
O_CREAT, O_WRONLY, O_TRUNC, O_TMPFILE_BIT = 0o100, 0o1, 0o1000, 0o20000000
NONBLOCK, CLOEXEC = 0o4000, 0o2000000


def answer(arch: str, name: str, *args: int, debug: bool = False, set_id: bool = False) -> str:
    program = seccomp.program(arch, debug=debug, set_id=set_id)
    value = run(program, AUDIT_ARCH[arch], NUMBERS[arch][name], args).value
    return "ALLOW" if value == ALLOW else errno.errorcode[value & ~ERRNO]


@each_architecture
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (CLONE_FORK_OF_GLIBC, "ALLOW"),
        (CLONE_THREAD_OF_GLIBC, "ALLOW"),
        (0x4111, "ALLOW"),  # CLONE_VFORK | CLONE_VM | SIGCHLD: posix_spawn
        (0x1011, "ALLOW"),  # CLONE_PIDFD
        (0x80, "ALLOW"),  # CLONE_NEWTIME is CSIGNAL here
        *((bit | 17, "EPERM") for bit in (0x20000, 1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30)),
        (0x10000000 | CLONE_THREAD_OF_GLIBC, "EPERM"),
        (0x10000000 | HIGH, "EPERM"),
        (0x10000000 << 32 | 17, "ALLOW"),  # the kernel cuts the flags of clone to 32 bits
    ],
)
def test_clone_makes_no_namespace(arch: str, flags: int, expected: str) -> None:
    assert answer(arch, "clone", flags) == expected


@each_architecture
@pytest.mark.parametrize(
    ("persona", "plain", "debug"),
    [
        (0, "ALLOW", "ALLOW"),
        (0xFFFFFFFF, "ALLOW", "ALLOW"),
        ((1 << 64) - 1, "ALLOW", "ALLOW"),
        (0x0020000, "ALLOW", "ALLOW"),
        (0x0040000, "EPERM", "ALLOW"),
        (0x0060000, "EPERM", "ALLOW"),
        (0x0400000, "EPERM", "EPERM"),  # READ_IMPLIES_EXEC
        (0x0440000, "EPERM", "EPERM"),
        (0x0100000, "EPERM", "EPERM"),  # MMAP_PAGE_ZERO
        (0x0000008, "EPERM", "EPERM"),  # PER_LINUX32
        (0x0400000 | HIGH, "EPERM", "EPERM"),
        (0xFFFFFFFE, "EPERM", "EPERM"),
    ],
)
def test_personality_is_plain(arch: str, persona: int, plain: str, debug: str) -> None:
    assert answer(arch, "personality", persona) == plain
    assert answer(arch, "personality", persona, debug=True) == debug


@each_architecture
@pytest.mark.parametrize("high", [0, HIGH, 0xFFFFFFFF << 32])
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (0x5412, "EPERM"),
        (0x541C, "EPERM"),
        (0x5423, "EPERM"),
        (0x5401, "ALLOW"),  # TCGETS
        (0x5413, "ALLOW"),  # TIOCGWINSZ
        (0x541B, "ALLOW"),  # FIONREAD
        (0x5421, "ALLOW"),  # FIONBIO
        (0x40049409, "ALLOW"),  # FICLONE
    ],
)
def test_terminals_are_not_typed_into(arch: str, command: int, expected: str, high: int) -> None:
    assert answer(arch, "ioctl", 0, command | high) == expected


def _socket_expectation(family: int, kind: int, protocol: int) -> str:
    """In words of the requirement: stream and datagram, TCP, UDP and ping; AF_UNIX; the routing netlink."""
    if family == 1 and kind in (1, 2, 5):
        return "ALLOW"
    if family == 16:
        return "ALLOW" if protocol == 0 else "EPROTONOSUPPORT"
    if family not in (1, 2, 10):
        return "EAFNOSUPPORT"
    if kind in (3, 10):
        return "EPERM"
    if kind not in (1, 2):
        return "ESOCKTNOSUPPORT"
    allowed = {1: {0, 6}, 2: {0, 17, 1 if family == 2 else 58}}[kind]
    return "ALLOW" if protocol in allowed else "EPROTONOSUPPORT"


@each_architecture
@pytest.mark.parametrize("name", ["socket", "socketpair"])
def test_sockets_of_every_family_type_and_protocol(arch: str, name: str) -> None:
    protocols = [*range(64), 132, 136, 142, 255, 256, 262, 0xFFFFFFFF]
    for family, kind, protocol in itertools.product(range(48), range(16), protocols):
        expected = _socket_expectation(family, kind, protocol)
        flags = (NONBLOCK, CLOEXEC, NONBLOCK | CLOEXEC, 0)[protocol % 4]
        assert answer(arch, name, family, kind | flags, protocol) == expected, (family, kind, protocol)


@each_architecture
@pytest.mark.parametrize("family", [40 | HIGH, 38 | HIGH, 17 | HIGH, 40 | 2 << 32, 17 | 1 << 63])
def test_high_bits_do_not_hide_a_family(arch: str, family: int) -> None:
    assert answer(arch, "socket", family, 1, 0) == "EAFNOSUPPORT"


@each_architecture
@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((2 | HIGH, 1, 262), "EPROTONOSUPPORT"),
        ((2, 1, 262 | HIGH), "EPROTONOSUPPORT"),
        ((2, 1, 6 | 262 << 32), "ALLOW"),
        ((2, 3 | HIGH, 1), "EPERM"),
        ((2, 3 | 0x10, 1), "EPERM"),
        ((2, 10, 0x0300), "EPERM"),  # SOCK_PACKET becomes AF_PACKET
        ((2, 5, 0), "ESOCKTNOSUPPORT"),  # would be SCTP
        ((16, 3, NETLINK_SOCK_DIAG), "EPROTONOSUPPORT"),
        ((16, 3, NETLINK_XFRM), "EPROTONOSUPPORT"),
        ((16, 3, NETLINK_AUDIT), "EPROTONOSUPPORT"),
        ((16, 3, NETLINK_NETFILTER), "EPROTONOSUPPORT"),
        ((16, 3, NETLINK_NETFILTER << 32), "ALLOW"),
    ],
)
def test_socket_tricks(arch: str, args: tuple[int, ...], expected: str) -> None:
    assert answer(arch, "socket", *args) == expected


@each_architecture
@pytest.mark.parametrize(
    ("level", "option", "expected"),
    [
        (6, 31, "ENOPROTOOPT"),
        (6 | HIGH, 31 | HIGH, "ENOPROTOOPT"),
        (1, 50, "EPERM"),
        (1, 52, "EPERM"),
        (6, 1, "ALLOW"),  # TCP_NODELAY
        (1, 31, "ALLOW"),
        (6, 50, "ALLOW"),
        (1, 2, "ALLOW"),  # SO_REUSEADDR
        (41, 26, "ALLOW"),  # IPV6_V6ONLY
    ],
)
def test_no_tls_and_no_ebpf_on_sockets(arch: str, level: int, option: int, expected: str) -> None:
    assert answer(arch, "setsockopt", 3, level, option) == expected


@each_architecture
@pytest.mark.parametrize("high", [0, HIGH])
@pytest.mark.parametrize(
    ("option", "expected"),
    [
        *((option, "EPERM") for option in (35, 62, 67)),
        # PDEATHSIG, DUMPABLE, NAME, SECCOMP, NO_NEW_PRIVS, SPECULATION_CTRL, VMA, CHILD_SUBREAPER
        *((option, "ALLOW") for option in (1, 4, 15, 22, 38, 53, 0x53564D41, 36)),
    ],
)
def test_prctl(arch: str, option: int, expected: str, high: int) -> None:
    assert answer(arch, "prctl", option | high) == expected


@each_architecture
@pytest.mark.parametrize(
    ("flags", "expected"),
    [(0, "ALLOW"), (1, "ALLOW"), (2, "ALLOW"), (8, "EPERM"), (0x18, "EPERM"), (8 | HIGH, "EPERM"), (9, "EPERM")],
)
def test_filters_but_no_listeners(arch: str, flags: int, expected: str) -> None:
    for debug in (False, True):
        assert answer(arch, "seccomp", 1, flags, debug=debug) == expected


@each_with(("mknod", 1), ("mknodat", 2))
@pytest.mark.parametrize(
    ("mode", "plain", "set_id"),
    [
        (0o020644, "EPERM", "EPERM"),
        (0o060644, "EPERM", "EPERM"),
        (0o020000 | HIGH, "EPERM", "EPERM"),
        (0o020000 | 1 << 16, "EPERM", "EPERM"),  # a mode is 16 bits to the kernel
        (0o010644, "ALLOW", "ALLOW"),
        (0o140755, "ALLOW", "ALLOW"),
        (0o100644, "ALLOW", "ALLOW"),
        (0o000644, "ALLOW", "ALLOW"),
        (0o101777, "ALLOW", "ALLOW"),
        (0o104755, "EPERM", "ALLOW"),
        (0o102755, "EPERM", "ALLOW"),
        (0o104755 | HIGH, "EPERM", "ALLOW"),
    ],
)
def test_nodes_are_no_devices(arch: str, name: str, at: int, mode: int, plain: str, set_id: str) -> None:
    args = (*(0x7FFF0C00,) * at, mode, 0)
    assert answer(arch, name, *args) == plain
    assert answer(arch, name, *args, set_id=True) == set_id


@each_with(("chmod", 1), ("fchmod", 1), ("fchmodat", 2), ("fchmodat2", 2), ("creat", 1))
@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (0o755, "ALLOW"),
        (0o1777, "ALLOW"),
        (0, "ALLOW"),
        *((mode, "EPERM") for mode in (0o4755, 0o2755, 0o6755, 0o4000, 0o2000, 0o7777, 0o104755, 0o4755 | HIGH)),
        (0o6000 << 32 | 0o755, "ALLOW"),
    ],
)
def test_no_set_id_bits(arch: str, name: str, at: int, mode: int, expected: str) -> None:
    args = (*(0x7FFF0C00,) * at, mode)
    assert answer(arch, name, *args) == expected
    assert answer(arch, name, *args, debug=True) == expected
    assert answer(arch, name, *args, set_id=True) == "ALLOW"


@each_with(("open", 1), ("openat", 2))
@pytest.mark.parametrize(
    ("flags", "mode", "expected"),
    [
        (0, 0o6777, "ALLOW"),
        (O_WRONLY | O_TRUNC, 0o6777, "ALLOW"),
        (0o200000, 0o6777, "ALLOW"),  # O_DIRECTORY
        (O_CREAT | O_WRONLY, 0o644, "ALLOW"),
        (O_CREAT, 0o1777, "ALLOW"),
        (O_CREAT, 0o4755, "EPERM"),
        (O_CREAT, 0o2755, "EPERM"),
        (O_CREAT | HIGH, 0o2755 | HIGH, "EPERM"),
        (O_TMPFILE_BIT, 0o4755, "EPERM"),
        (O_TMPFILE_BIT | 0o200000, 0o4755, "EPERM"),
        (O_TMPFILE_BIT | 0o200000, 0o600, "ALLOW"),
        (O_CREAT << 32, 0o4755, "ALLOW"),
    ],
)
def test_no_set_id_bits_when_creating(arch: str, name: str, at: int, flags: int, mode: int, expected: str) -> None:
    args = (*(0x7FFF0C40,) * at, flags, mode)
    assert answer(arch, name, *args) == expected
    assert answer(arch, name, *args, set_id=True) == "ALLOW"


@each_architecture
def test_high_halves_of_arguments_never_count(arch: str) -> None:
    """The kernel reads 32 bits of all of these; a filter that read more could be led past."""
    chance = random.Random(4711)
    program = seccomp.program(arch, debug=False, set_id=False)
    interesting = [0, 1, 2, 3, 6, 8, 10, 16, 31, 35, 50, 0x5412, 0x40, 0o6000, 0o20000, 0x10000000, 0xFFFFFFFF]
    for name, word in seccomp.verdicts(arch, debug=False, set_id=False).items():
        if word != "BY_ARGUMENT":
            continue
        for _ in range(400):
            low = tuple(chance.choice(interesting) for _ in range(6))
            high = tuple(arg | chance.getrandbits(32) << 32 for arg in low)
            values = {run(program, AUDIT_ARCH[arch], NUMBERS[arch][name], args).value for args in (low, high)}
            assert len(values) == 1, (name, low, high)
