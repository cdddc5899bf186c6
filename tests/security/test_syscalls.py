"""PK: the kernel's surface, by system call, socket and terminal, from inside real sessions."""
# ruff: noqa: ASYNC240 - a test's own loop may wait for the host

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from alcove.contract import Unrestricted
from alcove.local import seccomp
from tests.local import outside
from tests.security.cells import Cell, anonymous_descriptors, has_own, maps_no_host_root, report, sockets
from tests.security.conftest import MakeCell
from tools.seccomp import policy

pytestmark = [pytest.mark.security, pytest.mark.user]

ARCH = os.uname().machine
NUMBERS = policy.load().numbers[ARCH]
#: Kernels from 6.14 on let these past every filter, to a SIGILL outside of a trampoline.
UNFILTERED = {NUMBERS[name] for name in ("uretprobe", "uprobe") if name in NUMBERS}
#: With all ones for arguments these would not come back, or not alone, or take long.
NOT_CARRIED_OUT = {
    NUMBERS[name]
    for name in "exit exit_group fork vfork clone pause rt_sigreturn sync rt_sigsuspend vhangup".split()
    if name in NUMBERS
}
ASKED = sorted({*range(600), *range(1000, 1024)} - UNFILTERED)


def as_anybody(program: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a program of the corpus on the host, without root's rights."""
    identity = ["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]
    with program.open("rb") as file:
        argv = [f"/proc/self/fd/{file.fileno()}", *arguments]
        return subprocess.run(
            ["setpriv", *identity, "--", *argv] if os.geteuid() == 0 else argv,
            capture_output=True,
            check=True,
            cwd="/",
            pass_fds=[file.fileno()],
            text=True,
            timeout=50,
        )


class TestPk01:
    @pytest.mark.parametrize(("debug", "set_id"), [(False, False), (True, False), (False, True)])
    async def test_pk01_every_number_has_its_verdict(
        self, make_cell: MakeCell, corpus: Path, debug: bool, set_id: bool
    ) -> None:
        cell = await make_cell(set_id=set_id)
        maps_no_host_root(await cell.resident())
        has_own(await cell.resident(), "mnt", "pid", "net")
        verdicts = seccomp.verdicts(ARCH, debug=debug, set_id=set_id)
        expected = {number: verdicts[name] for name, number in NUMBERS.items()}
        stopped = report((await cell.hostile("syscalls", "stopped", *map(str, ASKED), debug=debug)).stdout)
        refused = {number for number in ASKED if stopped[str(number)] != "ENOSYS"}
        by_argument = {number for number in ASKED if expected.get(number) == "BY_ARGUMENT"}
        assert refused - by_argument == {number for number in ASKED if expected.get(number) == "EPERM"}
        carried = [number for number in ASKED if number not in NOT_CARRIED_OUT | by_argument]
        inside = report((await cell.hostile("syscalls", "carried", *map(str, carried), debug=debug)).stdout)
        on_host = report(as_anybody(corpus / "syscalls", "carried", *map(str, carried)).stdout)
        absent = {number for number in carried if on_host[str(number)] == "ENOSYS"}
        unknown = {number for number in carried if expected.get(number, "ENOSYS") == "ENOSYS"}
        assert {number for number in carried if inside[str(number)] == "ENOSYS"} - unknown <= absent
        assert {number for number in unknown if inside[str(number)] != "ENOSYS"} == set()
        assert len(absent) < len(carried) / 2  # the control: without the filter most of them are there

    async def test_pk01_the_filter_of_every_guest_is_ours_and_one(self, cell: Cell) -> None:
        status = outside.status(await cell.resident())
        assert (status["Seccomp"], status["Seccomp_filters"], status["NoNewPrivs"]) == ("2", "1", "1")

    async def test_pk01_numbers_of_other_tables_are_absent(self, make_cell: MakeCell) -> None:
        cell = await make_cell()
        numbers = [0x40000000 | number for number in range(548)] + [0x3FFFFFFF, 0x7FFFFFFF, 0x80000000]
        said = report((await cell.hostile("syscalls", "carried", *map(str, numbers))).stdout)
        assert set(said.values()) == {"ENOSYS"}
        assert len(said) == len(numbers)


if ARCH == "x86_64":

    class TestPk02:
        async def test_pk02_the_32_bit_gates_are_closed(self, cell: Cell) -> None:
            workspace = cell.directory / "workspace"
            said = await cell.hostile("gate32", "/workspace/made")
            assert said.signal == signal.SIGSYS
            assert [path.name for path in workspace.iterdir()] == ["made.64"]

        def test_pk02_they_are_open_on_this_kernel(self, corpus: Path, tmp_path: Path) -> None:
            subprocess.run([corpus / "gate32", tmp_path / "made"], check=True, timeout=10)
            assert {"made.64", "made.32"} <= {path.name for path in tmp_path.iterdir()}


class TestPk05:
    async def test_pk05_sockets_are_those_of_the_list(self, cell: Cell) -> None:
        stayed = await cell.stay("sockets")
        made = {tuple(map(int, name.split(":"))) for name, word in stayed.said.items() if word == "ok"}
        inet = {(family, *rest) for family in (2, 10) for rest in ((1, 0), (1, 6), (2, 0), (2, 17))}
        assert inet <= made
        assert {made_ for made_ in made - inet if made_[0] not in (1, 16)} <= {(2, 2, 1), (10, 2, 58)}
        assert {made_[2] for made_ in made if made_[0] == 16} == {0}
        assert sockets(stayed.pid) == len([made_ for made_ in made if made_[0] not in (1, 16)])
        packets = outside.read(stayed.pid, "net/packet").splitlines()
        assert len(packets) <= 1

    def test_pk05_more_of_them_are_to_be_had_on_this_kernel(self) -> None:
        import socket

        socket.socket(16, 3, 15).close()
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0).close()


class TestPk06:
    async def test_pk06_the_network_is_not_administered(self, cell: Cell) -> None:
        pid = await cell.resident()
        has_own(pid, "net")
        maps_no_host_root(pid)

        def seen() -> list[str]:
            return [outside.read(pid, f"net/{name}") for name in ("route", "fib_trie", "if_inet6", "ptype")]

        before = seen()
        assert "127.0.0.1" in before[1]
        stayed = await cell.stay("network")
        assert seen() == before
        devices = [line.partition(":")[0].strip() for line in outside.read(pid, "net/dev").splitlines()[2:]]
        assert set(devices) <= {
            "lo",
            "sit0",
            "ip6tnl0",
            "tunl0",
            "gre0",
            "gretap0",
            "erspan0",
            "ip_vti0",
            "ip6_vti0",
            "ip6gre0",
        }
        assert {name for name, word in stayed.said.items() if word == "ok"} == {"low-port"}

    def test_pk06_it_is_where_it_may_be(self, corpus: Path) -> None:
        script = f"ip link set lo up; cd {corpus}; exec {sys.executable} -m tests.security.hostile.network"
        argv = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", script]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as control:
            try:
                assert control.stdout is not None
                said = report("".join(iter(lambda: _until_stays(control), "")))
                trie = outside.read(control.pid, "net/fib_trie")
            finally:
                control.kill()
        assert said["address"] == "ok"
        assert "10.9.8.7" in trie


def _until_stays(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    return "" if line.startswith("stays") else line


class TestPk08To10:
    """Keys, page faults, and what else a kernel offers to a process that asks."""

    async def test_pk08_pk09_pk10_no_surface_gives_anything(self, cell: Cell) -> None:
        before = Path("/proc/keys").read_text()
        maps_no_host_root(await cell.resident())
        stayed = await cell.stay("surfaces")
        assert "ok" not in stayed.said.values(), stayed.said
        assert len(stayed.said) >= 22
        assert anonymous_descriptors(stayed.pid) <= {"/dev/null", *_namespace_files(stayed.pid)}
        assert outside.read(stayed.pid, "personality").strip() == "00000000"
        assert "alcove-hostile" not in Path("/proc/keys").read_text()
        assert before.count("alcove-hostile") == 0

    def test_pk08_pk09_pk10_the_kernel_offers_them(self, corpus: Path) -> None:
        with subprocess.Popen([corpus / "surfaces"], stdout=subprocess.PIPE, text=True) as control:
            try:
                said = report("".join(iter(lambda: _until_stays(control), "")))
            finally:
                control.kill()
        assert said["personality"] == said["mempolicy"] == "ok"
        assert {"ok"} & {said["userfaultfd"], said["io_uring"], said["keyring"]}


def _namespace_files(pid: int) -> set[str]:
    return {name for name in outside.descriptors(pid).values() if name.startswith("net:[")}


class TestPk08:
    async def test_pk08_a_key_of_the_callers_is_not_inherited(self, make_cell: MakeCell) -> None:
        """The session keyring of the launcher's caller is not the session's (keyctl(2): inherited across execve)."""
        cell = await make_cell()
        assert Path("/proc/keys").exists()
        said = await cell.run("cat", "/proc/keys", "/proc/key-users")
        assert said.stdout == ""


class TestPk11:
    async def test_pk11_no_terminal_is_typed_into(self, cell: Cell) -> None:
        said = report((await cell.hostile("terminal")).stdout)
        assert {word for name, word in said.items() if ":sti:" in name} <= {"EPERM", "ENOTTY"}, said
        assert [word for name, word in said.items() if name.startswith("own:")] == ["EPERM"] * 5
        assert said["ctty"] == "ENXIO"

    def test_pk11_the_callers_own_terminal_is_not_typed_into(self, tmp_path: Path, corpus: Path) -> None:
        """The caller has a controlling terminal, as in a shell; what arrives in it is the host's to say."""
        driver = [sys.executable, "-m", "tests.security.driver", "attack", str(tmp_path / "store"), str(corpus)]
        assert _typed_into([*driver, "terminal"]) == b""

    def test_pk11_the_same_program_types_where_it_may(self, corpus: Path) -> None:
        if Path("/proc/sys/dev/tty/legacy_tiocsti").read_text().strip() == "1":
            argv = [sys.executable, "-c", f"import os, runpy, sys; os.chdir('{corpus}'); sys.path.insert(0, '.'); "]
            argv[-1] += "runpy.run_module('tests.security.hostile.terminal', run_name='__main__')"
            assert b"hostile" in _typed_into(argv)


def _typed_into(argv: list[str]) -> bytes:
    """Run with a terminal of the harness's as controlling one; return what was put into its input."""
    pid, master = pty.fork()
    if pid == 0:
        try:
            # nothing of the output goes to the terminal: what comes out of it then was typed, and echoed
            null = os.open("/dev/null", os.O_RDWR)
            os.dup2(null, 1)
            os.dup2(null, 2)
            os.execv(argv[0], argv)
        finally:
            os._exit(127)
    status = os.waitpid(pid, 0)[1]
    assert status == 0, status
    said = b""
    while select.select([master], [], [], 0)[0]:
        try:
            said += os.read(master, 4096)
        except OSError:  # EIO: nobody has it open any more
            break
    os.close(master)
    return said


class TestPk20:
    @pytest.mark.parametrize("kind", ["errno", "trace", "kill", "tsync"])
    async def test_pk20_a_guests_filter_is_its_own(self, make_cell: MakeCell, kind: str) -> None:
        cell = await make_cell()
        base = outside.status(await cell.resident())["Seccomp_filters"]
        stayed = await cell.stay("filters", kind)
        assert stayed.said["install"] == "ok"
        assert outside.status(stayed.pid)["Seccomp_filters"] == str(int(base) + 1)
        assert outside.status(await cell.resident())["Seccomp_filters"] == base
        listed = await cell.run("ls", "/")
        assert listed.success
        assert "workspace" in listed.stdout

    async def test_pk20_no_listener_over_others(self, make_cell: MakeCell) -> None:
        cell = await make_cell()
        stayed = await cell.stay("filters", "notify")
        assert stayed.said["install"] == "EPERM"
        assert not [name for name in outside.descriptors(stayed.pid).values() if "seccomp" in name]


async def test_pk06_an_unrestricted_session_administers_nothing_either(make_cell: MakeCell) -> None:
    cell = await make_cell(network_policy=Unrestricted())
    pid = await cell.resident()
    maps_no_host_root(pid)
    assert outside.namespaces(pid)["net"] == outside.namespaces(os.getpid())["net"]
    owner = outside.status(pid)
    assert int(owner["CapEff"], 16) >> 12 & 1 == 0  # CAP_NET_ADMIN
    said = await cell.run("python3", "-c", "import socket; socket.socket(17, 3, 3)")
    assert said.exit_code == 1
    assert shutil.which("ip") is not None
