"""The programs on this kernel: each number and rule with nothing carried out, then deeds with and without a filter."""

import ctypes
import itertools
import mmap
import os
import pty
import signal
import socket
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from alcove.local import seccomp
from tests.seccomp.seccomp_child import ARCH, DEBUG, DEFAULT, SET_ID, Ended, answers, call, in_child
from tools.seccomp import policy

NUMBERS = policy.load().numbers[ARCH]
HIGH = 1 << 32
# Not asked: kernels from 6.14 on let them past every filter, to a SIGILL outside of a trampoline
UNFILTERED = {NUMBERS[name] for name in ("uretprobe", "uprobe") if name in NUMBERS}
AT_FDCWD = -100
pytestmark = [pytest.mark.security, pytest.mark.user]


def outcome(program: bytes | None, name: str, *args: object) -> object:
    return in_child(program, lambda: call(NUMBERS[name], *args)).said


@pytest.mark.parametrize("set_id", [False, True])
@pytest.mark.parametrize("debug", [False, True])
def test_every_number_has_the_verdict_of_the_table_on_this_kernel(debug: bool, set_id: bool) -> None:
    verdicts = seccomp.verdicts(ARCH, debug=debug, set_id=set_id)
    expected = {number: verdicts[name] for name, number in NUMBERS.items()}
    numbers = [*sorted(set(range(1024)) - UNFILTERED), *range(0x40000000, 0x40000400), 0x3FFFFFFF, 0x7FFFFFFF]
    for args in [(0, 0, 0), (1, 1, 1), (35, 8, 1), (0, 0x5412, 0x6000)]:
        said = answers(seccomp.program(ARCH, debug=debug, set_id=set_id), [(number, *args) for number in numbers])
        found = dict(zip(numbers, said, strict=True))
        wrong = {n: w for n, w in found.items() if expected.get(n, "ENOSYS") not in (w, "BY_ARGUMENT")}
        assert wrong == {}


def test_without_a_program_every_call_would_be_carried_out() -> None:
    assert set(answers(None, [(number,) for number in set(NUMBERS.values()) - UNFILTERED])) == {"ALLOW"}


@pytest.mark.parametrize(
    ("expected", "name", "args"),
    [
        ("EPERM", "ioctl", (0, 0x5412)),
        ("EPERM", "ioctl", (0, 0x5412 | HIGH)),
        ("EPERM", "ioctl", (0, 0x541C | 1 << 63)),
        ("EPERM", "ioctl", (0, 0x5423 | 0xFFFFFFFF << 32)),
        ("ALLOW", "ioctl", (0, 0x5401)),
        ("EPERM", "clone", (0x10000011,)),
        ("EPERM", "clone", (0x10000011 | HIGH,)),
        ("EPERM", "clone", (0x40000000,)),
        ("ALLOW", "clone", (0x3D0F00,)),
        ("ALLOW", "clone", (0x01200011,)),
        ("EAFNOSUPPORT", "socket", (40 | HIGH, 1, 0)),
        ("EPROTONOSUPPORT", "socket", (2 | HIGH, 1, 262)),
        ("EPROTONOSUPPORT", "socket", (2, 1 | 0o2004000, 262)),
        ("EPERM", "socket", (2, 3 | 0o2004000, 1)),
        ("ESOCKTNOSUPPORT", "socket", (2, 5, 0)),
        ("ALLOW", "socket", (16, 3, 0)),
        ("EPROTONOSUPPORT", "socket", (16, 3, 12)),
        ("EAFNOSUPPORT", "socketpair", (30, 1, 0)),
        ("ALLOW", "socketpair", (1, 5, 0)),
        ("ENOPROTOOPT", "setsockopt", (0, 6, 31 | HIGH)),
        ("ALLOW", "setsockopt", (0, 6, 1)),
        ("EPERM", "prctl", (35 | HIGH,)),
        ("ALLOW", "prctl", (15,)),
        ("EPERM", "seccomp", (1, 8)),
        ("ALLOW", "seccomp", (1, 1)),
        ("EPERM", "personality", (0x0400000,)),
        ("EPERM", "personality", (0x0040000,)),
        ("ALLOW", "personality", (0xFFFFFFFF,)),
        ("ALLOW", "personality", (0x0020000,)),
        ("EPERM", "mknodat", (0, 0, 0o20000)),
        ("EPERM", "mknodat", (0, 0, 0o60000 | 1 << 16)),
        ("EPERM", "mknodat", (0, 0, 0o104755)),
        ("ALLOW", "mknodat", (0, 0, 0o10644)),
        ("EPERM", "fchmod", (0, 0o4755)),
        ("ALLOW", "fchmod", (0, 0o1755)),
        ("EPERM", "fchmodat", (0, 0, 0o2755)),
        ("EPERM", "fchmodat2", (0, 0, 0o2755 | HIGH)),
        ("EPERM", "openat", (0, 0, 0o100, 0o4755)),
        ("EPERM", "openat", (0, 0, 0o20200000, 0o4755)),
        ("ALLOW", "openat", (0, 0, 0, 0o4755)),
        ("ALLOW", "openat", (0, 0, 0o100, 0o755)),
        ("ALLOW", "mkdirat", (0, 0, 0o6755)),
    ],
)
def test_argument_rules_on_this_kernel(expected: str, name: str, args: tuple[int, ...]) -> None:
    assert answers(DEFAULT, [(NUMBERS[name], *args)]) == [expected]
    assert answers(None, [(NUMBERS[name], *args)]) == ["ALLOW"]


def test_every_family_type_and_protocol_on_this_kernel() -> None:
    """What the filter lets through is AF_UNIX, the routing netlink, TCP, UDP and ping, by list."""
    asked = list(itertools.product(range(47), (1, 2, 3, 4, 5, 6, 10), (0, 1, 6, 17, 33, 58, 132, 136, 262)))
    said = answers(DEFAULT, [(NUMBERS["socket"], *arguments) for arguments in asked])
    allowed = {arguments for arguments, word in zip(asked, said, strict=True) if word == "ALLOW"}
    inet = {(family, *rest) for family in (2, 10) for rest in ((1, 0), (1, 6), (2, 0), (2, 17))}
    local = {(1, kind, protocol) for family, kind, protocol in asked if family == 1 and kind in (1, 2, 5)}
    netlink = {(16, kind, protocol) for family, kind, protocol in asked if family == 16 and protocol == 0}
    assert allowed == inet | local | netlink | {(2, 2, 1), (10, 2, 58)}


# ---- Deeds: what happens without a filter, and with one --------------------------------------------------------------

MACHINE_CODE = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"  # mov eax, 20 (i386's getpid); int 0x80; ret


def _run_machine_code() -> int:
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(MACHINE_CODE)
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    return int(function() == os.getpid())


if ARCH == "x86_64":

    def test_int_0x80_kills() -> None:
        assert in_child(None, _run_machine_code) == Ended(0, 1)
        for program in (DEFAULT, DEBUG, SET_ID):
            assert in_child(program, _run_machine_code) == Ended(signal.SIGSYS, None)

    def test_x32_is_absent() -> None:
        assert in_child(DEFAULT, lambda: call(0x40000000 | NUMBERS["getppid"])).said == "ENOSYS"


def _type_into_terminal(command: int) -> list[str]:
    """Whether `command` puts a character into the caller's own controlling terminal."""
    os.setsid()
    master, slave = pty.openpty()
    os.close(os.open(os.ttyname(slave), os.O_RDWR))
    return [call(NUMBERS["ioctl"], slave, command, ctypes.byref(ctypes.c_char(b"x"))), str(os.isatty(master))]


def test_the_terminal_is_not_typed_into() -> None:
    for command in (0x5412, 0x5412 | HIGH):
        assert in_child(DEFAULT, partial(_type_into_terminal, command)).said == ["EPERM", "True"]
    if Path("/proc/sys/dev/tty/legacy_tiocsti").read_text().strip() == "1":
        assert in_child(None, lambda: _type_into_terminal(0x5412 | HIGH)).said == ["ok", "True"]


def _line_discipline() -> str:
    _, slave = pty.openpty()
    return call(NUMBERS["ioctl"], slave, 0x5423, ctypes.byref(ctypes.c_int(0)))


def test_no_line_discipline_is_chosen() -> None:
    assert in_child(None, _line_discipline).said == "ok"
    assert in_child(DEFAULT, _line_discipline).said == "EPERM"


@pytest.mark.parametrize(
    ("name", "args", "without", "within"),
    [
        ("personality", (0x0440000,), {"ok"}, "EPERM"),
        ("socket", (2, 1, 262), {"ok", "EPROTONOSUPPORT"}, "EPROTONOSUPPORT"),
        ("socket", (40, 1, 0), {"ok", "EAFNOSUPPORT"}, "EAFNOSUPPORT"),
        ("socket", (38, 5, 0), {"ok", "EAFNOSUPPORT"}, "EAFNOSUPPORT"),
        ("socket", (16, 3, 15), {"ok"}, "EPROTONOSUPPORT"),
        ("socket", (2, 2, 136), {"ok", "EPROTONOSUPPORT"}, "EPROTONOSUPPORT"),
        ("unshare", (0x10000000,), {"ok", "EPERM", "ENOSPC"}, "EPERM"),
        ("clone3", (0, 0), {"EINVAL"}, "ENOSYS"),
        ("openat2", (AT_FDCWD, 0, 0, 0), {"EINVAL"}, "ENOSYS"),
        ("io_uring_setup", (1, 0), {"EFAULT", "EPERM"}, "ENOSYS"),
        ("vmsplice", (-1, 0, 0, 0), {"EBADF"}, "ENOSYS"),
        ("statmount", (0, 0, 0, 0), {"EFAULT", "ENOSYS"}, "ENOSYS"),
        ("keyctl", (0, -3, 0), {"ok"}, "EPERM"),
        ("get_mempolicy", (0, 0, 0, 0, 0), {"ok", "ENOSYS"}, "ENOSYS"),
        ("kcmp", (0, 0, 0, 0, 0), {"ESRCH"}, "EPERM"),
        ("name_to_handle_at", (-1, 0, 0, 0, 0), {"EFAULT"}, "EPERM"),
        ("adjtimex", (0,), {"EFAULT"}, "EPERM"),
        ("lookup_dcookie", (0, 0, 0), {"ENOSYS", "EPERM"}, "EPERM"),
        ("mseal", (0, 0, 1), {"EINVAL", "ENOSYS"}, None),
        ("rseq", (0, 0, 1, 0), {"EINVAL"}, None),
        ("getppid", (), {"ok"}, "ok"),
        ("landlock_create_ruleset", (0, 0, 1), {"ok", "EOPNOTSUPP", "ENOSYS"}, None),
        ("mkdirat", (AT_FDCWD, 0, 0o6755), {"EFAULT"}, "EFAULT"),
    ],
)
def test_calls_with_and_without(name: str, args: tuple[int, ...], without: set[str], within: str | None) -> None:
    """`within` is None where the filter changes nothing."""
    free = outcome(None, name, *args)
    assert free in without
    assert outcome(DEFAULT, name, *args) == (free if within is None else within)


def _listener() -> str:
    allow_all = ctypes.create_string_buffer(b"\x06\x00\x00\x00\x00\x00\xff\x7f", 8)
    fprog = (ctypes.c_uint64 * 2)(1, ctypes.addressof(allow_all))
    return call(NUMBERS["seccomp"], 1, 8, ctypes.byref(fprog))


def _nested_filter() -> str:
    allow_all = ctypes.create_string_buffer(b"\x06\x00\x00\x00\x00\x00\xff\x7f", 8)
    fprog = (ctypes.c_uint64 * 2)(1, ctypes.addressof(allow_all))
    return call(NUMBERS["seccomp"], 1, 0, ctypes.byref(fprog))


def test_a_guest_adds_filters_but_no_listener() -> None:
    harmless = b"\x06\x00\x00\x00\x00\x00\xff\x7f"
    assert in_child(harmless, _listener).said == "ok"
    assert in_child(DEFAULT, _listener).said == "EPERM"
    assert in_child(DEFAULT, _nested_filter).said == "ok"


def _upper_layer() -> str:
    with socket.socket() as listener, socket.socket() as end:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        end.connect(listener.getsockname())
        return call(NUMBERS["setsockopt"], end.fileno(), 6, 31, ctypes.c_char_p(b"tls"), 4)


def test_tls_stays_in_user_space() -> None:
    assert in_child(None, _upper_layer).said in ("ok", "ENOENT")
    assert in_child(DEFAULT, _upper_layer).said == "ENOPROTOOPT"


def _set_id_bits(path: Path) -> str:
    return f"{path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID):o}"


def _names(*names: str) -> list[str]:
    return [name for name in names if name in NUMBERS]


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6711])
@pytest.mark.parametrize("name", _names("chmod", "fchmod", "fchmodat", "fchmodat2"))
def test_chmod_sets_no_set_id_bit(name: str, mode: int, tmp_path: Path) -> None:
    path = tmp_path / "file"

    def change() -> list[str]:
        path.touch()
        with path.open() as file:
            before = {"chmod": (os.fsencode(path),), "fchmod": (file.fileno(),)}
            return [call(NUMBERS[name], *before.get(name, (AT_FDCWD, os.fsencode(path))), mode, 0), _set_id_bits(path)]

    wanted = f"{mode & 0o6000:o}"
    assert in_child(DEFAULT, change).said == ["EPERM", "0"]
    if in_child(None, change).said != ["ENOSYS", "0"]:  # fchmodat2 is of 6.6
        assert in_child(None, change).said == ["ok", wanted]
        assert in_child(SET_ID, change).said == ["ok", wanted]


def _creations(directory: Path) -> dict[str, Callable[[], str]]:
    path = os.fsencode(directory / "made")
    flags = os.O_CREAT | os.O_WRONLY
    every: dict[str, Callable[[], str]] = {
        "openat": lambda: call(NUMBERS["openat"], AT_FDCWD, path, flags, 0o6755),
        "mknodat": lambda: call(NUMBERS["mknodat"], AT_FDCWD, path, stat.S_IFREG | 0o6755, 0),
        "open": lambda: call(NUMBERS["open"], path, flags, 0o6755),
        "creat": lambda: call(NUMBERS["creat"], path, 0o6755),
        "mknod": lambda: call(NUMBERS["mknod"], path, stat.S_IFREG | 0o6755, 0),
    }
    return {name: deed for name, deed in every.items() if name in NUMBERS}


@pytest.mark.parametrize("name", _names("openat", "mknodat", "open", "creat", "mknod"))
def test_nothing_is_created_with_a_set_id_bit(name: str, tmp_path: Path) -> None:
    made = tmp_path / "made"

    def create() -> list[str]:
        made.unlink(missing_ok=True)
        return [_creations(tmp_path)[name](), _set_id_bits(made) if made.exists() else "none"]

    assert in_child(None, create).said == ["ok", "6000"]
    assert in_child(SET_ID, create).said == ["ok", "6000"]
    assert in_child(DEFAULT, create).said == ["EPERM", "none"]


@pytest.mark.parametrize("program", [None, DEFAULT], ids=["none", "default"])
def test_mkdir_drops_set_id_bits_by_itself(program: bytes | None, tmp_path: Path) -> None:
    """Why the policy has no rule for mkdir."""

    def create() -> list[str]:
        path = tmp_path / "directory"
        return [call(NUMBERS["mkdirat"], AT_FDCWD, os.fsencode(path), 0o6755), _set_id_bits(path)]

    assert in_child(program, create).said == ["ok", "0"]


def _make_nodes(directory: Path) -> list[str]:
    kinds = {"whiteout": stat.S_IFCHR, "block": stat.S_IFBLK, "fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "file": 0}
    words = []
    for name, kind in kinds.items():
        path = directory / name
        words.append(call(NUMBERS["mknodat"], AT_FDCWD, os.fsencode(path), kind | 0o644, 0))
        path.unlink(missing_ok=True)
    return words


def test_whiteouts_are_not_made_but_fifos_are(tmp_path: Path) -> None:
    free = in_child(None, lambda: _make_nodes(tmp_path)).said
    block = "ok" if os.geteuid() == 0 else "EPERM"
    assert free == ["ok", block, "ok", "ok", "ok"]
    assert in_child(DEFAULT, lambda: _make_nodes(tmp_path)).said == ["EPERM", "EPERM", "ok", "ok", "ok"]
    assert in_child(SET_ID, lambda: _make_nodes(tmp_path)).said == ["EPERM", "EPERM", "ok", "ok", "ok"]


def _trace_a_child() -> str:
    """PTRACE_SEIZE of a child; dumpable and of the same user, so only a filter is in the way."""
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    word = call(NUMBERS["ptrace"], 0x4206, child, 0, 0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return word


def test_tracing_is_for_debug() -> None:
    assert in_child(None, _trace_a_child).said == "ok"
    assert in_child(DEBUG, _trace_a_child).said == "ok"
    assert in_child(DEFAULT, _trace_a_child).said == "EPERM"
    assert outcome(DEBUG, "personality", 0x0040000) == "ok"
    assert outcome(DEFAULT, "personality", 0x0040000) == "EPERM"


def test_ping_sockets_and_routes_work() -> None:
    def open_them() -> list[str]:
        return [call(NUMBERS["socket"], *arguments) for arguments in ((16, 3, 0), (2, 2, 0), (10, 1, 6), (1, 5, 0))]

    assert in_child(DEFAULT, open_them).said == in_child(None, open_them).said == ["ok"] * 4
    assert outcome(DEFAULT, "socket", 2, 2, 1) == outcome(None, "socket", 2, 2, 1)
