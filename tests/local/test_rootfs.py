# ruff: noqa: ASYNC221, ASYNC240 - small files of the host, looked at in between
"""The root file system of a session: what is there, what is not, and what can be written."""

import errno
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from alcove.contract import InvalidRequest, LifecycleError, Limited, SandboxSpec
from alcove.local.backend import LocalSandbox
from alcove.local.config import LocalSandboxConfig
from tests.local.cell import Cell, live, mark
from tests.local.outside import mounts, one

USER = pytest.mark.user


# What must be absent


@USER
async def test_what_is_the_hosts_own_is_absent(cell: Cell) -> None:
    for place in ("/home", "/srv", "/media", "/boot", "/lost+found", "/.dockerenv", "/initrd.img", "/vmlinuz"):
        assert (await cell.sh('test -e "$1"', place)).exit_code == 1, place
    assert set((await cell.out("ls /run")).split()) <= {"lock", "systemd"}
    assert set((await cell.out("ls /mnt")).split()) == {"memory", "session"}
    toolchain = {"bin", "etc", "lib", "lib32", "lib64", "libx32", "nix", "opt", "sbin", "usr", "var"}
    ours = {"dev", "mnt", "proc", "run", "sys", "tmp", "workspace"}
    interpreter = {path.split("/")[1] for path in (sys.prefix, sys.base_prefix, os.path.realpath(sys.prefix))}
    assert set((await cell.out("ls -A /")).split()) <= toolchain | ours | interpreter


@USER
async def test_root_holds_nothing_but_the_way_to_an_interpreter(cell: Cell) -> None:
    found = (await cell.out("find /root -maxdepth 1 -mindepth 1 2>/dev/null || true")).split()
    places = [os.path.realpath(prefix) for prefix in (sys.prefix, sys.base_prefix)]
    assert all(any(place.startswith(f"{path}/") or place == path for place in places) for path in found), found


@USER
async def test_the_store_is_not_to_be_seen(cell: Cell, store: Path) -> None:
    assert (await cell.sh('ls -d "$1" "$1/store.db"', str(store))).exit_code != 0
    assert await cell.out("find / -xdev -name store.db 2>/dev/null; true") == ""


@USER
async def test_no_socket_of_the_host_is_in_sight(cell: Cell) -> None:
    assert await cell.out("find / -xdev -type s -not -path '/proc/*' 2>/dev/null; find /run /tmp -type s; true") == ""


CANARY_PLACES = ("/etc", "/opt", "/usr/local", "/var", "/var/lib")


@pytest.fixture(params=CANARY_PLACES)
def canaries(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Yield a directory of the host's with two files: `open` for everybody, and `closed` for root alone."""
    directory = Path(request.param, f"alcove-canary-{os.getpid()}")
    directory.mkdir(mode=0o755)
    try:
        for name, mode in (("open", 0o644), ("closed", 0o600), ("group", 0o640)):
            (directory / name).write_text(f"canary {name}")
            (directory / name).chmod(mode)
        (directory / "locked").mkdir(mode=0o700)
        (directory / "locked" / "within").write_text("canary within")
        (directory / "locked").chmod(0o700)
        yield directory
    finally:
        shutil.rmtree(directory)


@pytest.mark.root
@pytest.mark.security
@pytest.mark.parametrize("user", ["root", "agent", "65534"])
async def test_what_no_ordinary_user_reads_is_not_readable(cell: Cell, canaries: Path, user: str) -> None:
    async def read(name: str) -> str:
        result = await cell.sh('cat "$1"', str(canaries / name), user=user)
        return result.stdout or result.stderr.rpartition(": ")[2]

    assert await read("open") == "canary open"  # the positive control
    for name in ("closed", "group", "locked/within"):
        assert await read(name) == "Permission denied\n", name
    for attempt in ("chmod 644", "rm -f", "chown 0", "ln -sf /x", "touch"):
        assert not (await cell.sh(f'{attempt} "$1" || exit 1', str(canaries / "closed"), user=user)).success, attempt
    assert (canaries / "closed").read_text() == "canary closed"
    assert stat.S_IMODE((canaries / "closed").stat().st_mode) == 0o600


@pytest.mark.user(only=True)
@pytest.mark.security
async def test_what_this_user_may_not_read_is_not_readable(cell: Cell) -> None:
    for path in ("/etc/shadow-", "/etc/gshadow-", "/var/lib/private", "/var/cache/ldconfig", "/var/log/btmp"):
        with_us = subprocess.run(["test", "-r", path], check=False).returncode
        assert with_us != 0
        assert not (await cell.sh('cat "$1"/ || cat "$1"', path)).success
    assert (await cell.exec("cat", ["/etc/os-release"])).success


@pytest.mark.root
@pytest.mark.security
async def test_the_hosts_password_hashes_are_not_there(cell: Cell) -> None:
    hidden = Path("/etc/shadow").read_text()
    for path in ("/etc/shadow", "/etc/gshadow", "/etc/shadow-", "/etc/gshadow-"):
        shown = (await cell.sh('cat "$1" 2>/dev/null; true', path)).stdout
        assert all(line.split(":")[1] in {"*", "!", "!!", ""} for line in shown.splitlines() if ":" in line), path
    assert hidden != (await cell.sh("cat /etc/shadow")).stdout


# What is there, and works


@USER
async def test_python_works(cell: Cell) -> None:
    program = "import json, ssl, sqlite3, zlib, hashlib, asyncio, multiprocessing; print('works')"
    assert (await cell.exec("python3", ["-c", program])).stdout == "works\n"


@USER
async def test_the_running_interpreter_works_with_its_packages(cell: Cell) -> None:
    program = "import sys, msgspec, alcove.contract; print(sys.executable, sys.prefix)"
    result = await cell.exec(sys.executable, ["-c", program])
    assert result.stdout == f"{sys.executable} {sys.prefix}\n", result


@USER
async def test_the_interpreters_directory_is_at_the_end_of_the_path(cell: Cell) -> None:
    name = Path(sys.executable).name
    assert (await cell.sh('command -v "$1"', name)).success
    path = (await cell.out("echo $PATH")).strip().split(":")
    assert path[:6] == ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]


TOOLS = {
    "git": "git init -q r && cd r && echo x > f && git add f && "
    "git -c user.name=a -c user.email=b@c commit -qm m && git log --format=%s",
    "tar": "mkdir t && echo m > t/f && tar czf t.tgz t && rm -r t && tar xzf t.tgz && cat t/f",
    "perl": "perl -e 'print \"m\\n\"'",
    "gcc": "printf 'int main(void){return !!__builtin_printf(\"m\\\\n\");}' > p.c && gcc -o p p.c && { ./p || true; }",
    "make": "printf 'all:\\n\\t@echo m\\n' > Makefile && make -s",
    "awk": "echo a m | awk '{print $2}'",
    "sed": "echo x | sed s/x/m/",
    "xargs": "echo m | xargs -n1 echo",
    "bash": "bash -c 'echo <(:) >/dev/null; echo m'",
}


@USER
@pytest.mark.parametrize("tool", [name for name in TOOLS if shutil.which(name)])
async def test_a_tool_of_the_host_works(cell: Cell, tool: str) -> None:
    assert await cell.out(TOOLS[tool]) == "m\n"


@USER
async def test_pip_works(cell: Cell) -> None:
    assert (await cell.exec(sys.executable, ["-m", "venv", "--without-pip", "v"])).success
    assert await cell.out("v/bin/python -c 'import sys; print(sys.prefix)'") == "/workspace/v\n"
    done = await cell.exec(sys.executable, ["-m", "pip", "--version"])
    assert done.stdout.startswith("pip "), done


@USER
async def test_a_virtual_environment_and_a_thread_pool(cell: Cell) -> None:
    program = """
import multiprocessing, os, tempfile, threading
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(abs, [-1, 2]) == [1, 2]
    lock = multiprocessing.Lock()  # a semaphore in /dev/shm
    with lock, tempfile.NamedTemporaryFile() as file:
        assert file.name.startswith("/tmp/")
    thread = threading.Thread(target=print, args=("pooled",))
    thread.start()
    thread.join()
"""
    assert (await cell.python(program)).stdout == "pooled\n"


# The session's own places


@USER
async def test_home_and_temporary_directories(cell: Cell) -> None:
    assert await cell.out("cd; pwd; stat -c %a /tmp /var/tmp; echo x > /tmp/f; echo y > /var/tmp/g") == (
        "/workspace\n1777\n1777\n"
    )
    assert await cell.out("stat -f -c %T /dev/shm; stat -c %a /dev/shm; echo z > /dev/shm/f; cat /dev/shm/f") == (
        "tmpfs\n1777\nz\n"
    )


@USER
async def test_only_the_sessions_places_can_be_written(cell: Cell) -> None:
    writable = ("/workspace", "/tmp", "/var/tmp", "/dev/shm", "/mnt/session/outputs", "/run")
    for place in writable:
        assert (await cell.sh('touch "$1/probe"', place)).success, place
    for place in (
        "/",
        "/usr",
        "/usr/local",
        "/etc",
        "/opt",
        "/var",
        "/var/lib",
        "/dev",
        "/mnt",
        "/mnt/memory",
        "/sys",
        "/proc",
    ):
        result = await cell.sh('touch "$1/probe"', place)
        assert not result.success, place
        assert "Read-only" in result.stderr or "denied" in result.stderr or "No such file" in result.stderr, result


@USER
async def test_the_memory_is_the_hosts_to_fill(cell: Cell) -> None:
    memory = cell.session.mounts[0].host_path
    assert memory is not None
    assert memory == str(cell.directory / "memory")
    Path(memory, "fact").write_text("known")
    Path(memory, "deep").mkdir()
    assert await cell.out("cat /mnt/memory/fact; cat $HARN_MEMORY_DIR/fact") == "knownknown"
    for attempt in (
        "touch /mnt/memory/x",
        "rm /mnt/memory/fact",
        "echo x >> /mnt/memory/fact",
        "chmod 777 /mnt/memory",
    ):
        result = await cell.sh(attempt)
        assert "Read-only file system" in result.stderr, attempt
    assert Path(memory, "fact").read_text() == "known"


@USER
async def test_a_memory_of_the_configuration(store: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory of all"
    memory.mkdir()
    (memory / "fact").write_text("shared")
    backend = LocalSandbox(LocalSandboxConfig(root_dir=str(store), memory_dir=str(memory)))
    try:
        for _ in range(2):
            async with live(backend) as cell:
                assert cell.session.mounts[0].host_path == str(memory)
                assert await cell.out("cat /mnt/memory/fact; touch /mnt/memory/x || echo no") == "sharedno\n"
        assert [path.name for path in memory.iterdir()] == ["fact"]
    finally:
        await backend.aclose()


@USER
async def test_outputs_are_on_the_host_as_the_sessions(cell: Cell, as_root: bool) -> None:
    outputs = cell.session.mounts[1].host_path
    assert outputs is not None
    await cell.out(
        "echo made > /mnt/session/outputs/f; mkdir /mnt/session/outputs/d; echo in > $ALCOVE_OUTPUTS_DIR/d/g"
    )
    found = Path(outputs, "f")
    assert found.read_text() == "made\n"
    assert Path(outputs, "d", "g").read_text() == "in\n"
    # root has canonical ids on disk, beneath a directory of its own; a plain user has its own
    assert found.stat().st_uid == os.geteuid()
    assert stat.S_IMODE(found.stat().st_mode) == 0o644
    Path(outputs, "answer").write_text("host")
    assert await cell.out("cat /mnt/session/outputs/answer; rm /mnt/session/outputs/answer; echo $?") == "host0\n"
    if as_root:
        await cell.sh("echo a > /mnt/session/outputs/by-agent", user="agent")
        assert Path(outputs, "by-agent").stat().st_uid == 1000
    assert stat.S_IMODE(Path(outputs).parents[2].stat().st_mode) == 0o700


# Devices and kernel file systems


@USER
async def test_the_devices_are_the_few(cell: Cell) -> None:
    listed = (
        await cell.out("cd /dev; for n in *; do [ -L $n ] && echo $n@ || { [ -c $n ] && echo $n || echo $n/; }; done")
    ).split()
    assert set(listed) == {
        *("full", "null", "random", "tty", "urandom", "zero"),
        *("fd@", "ptmx@", "stderr@", "stdin@", "stdout@"),
        *("pts/", "shm/"),
    }
    program = """
import os
assert len(os.read(os.open("/dev/urandom", os.O_RDONLY), 16)) == 16
assert os.read(os.open("/dev/zero", os.O_RDONLY), 4) == bytes(4)
assert os.write(os.open("/dev/null", os.O_WRONLY), b"x") == 1
try:
    os.write(os.open("/dev/full", os.O_WRONLY), b"x")
except OSError as error:
    print(error.errno)
"""
    assert (await cell.python(program)).stdout == "28\n"


@USER
async def test_terminals_are_of_an_instance_of_its_own(cell: Cell) -> None:
    program = """
import os, pty
master, slave = pty.openpty()
print(os.ttyname(slave), sorted(os.listdir("/dev/pts")))
os.write(slave, b"x")
assert os.read(master, 1) == b"x"
"""
    assert (await cell.python(program)).stdout == "/dev/pts/0 ['0', 'ptmx']\n"
    number = mark()
    await cell.sh('sleep "$1" >/dev/null 2>&1 &', number)
    pid = await one(number)
    assert os.stat(f"/proc/{pid}/root/dev/pts").st_dev != os.stat("/dev/pts").st_dev
    assert "noexec" in mounts(pid)["/dev/pts"]


@USER
@pytest.mark.security
async def test_what_leaks_of_proc_is_masked(cell: Cell) -> None:
    for name in ("kcore", "kallsyms", "keys", "key-users", "timer_list", "kmsg", "interrupts", "sched_debug"):
        assert await cell.out('cat "/proc/$1" 2>/dev/null | head -c 100; true', name) == "", name
    for name in ("acpi", "bus", "fs", "irq", "scsi", "asound"):
        assert await cell.out('ls -A "/proc/$1" 2>/dev/null; true', name) == "", name
    for name in (
        "sysrq-trigger",
        "sys/kernel/core_pattern",
        "sys/vm/drop_caches",
        "sys/kernel/hostname",
        "irq/default_smp_affinity",
    ):
        assert not (await cell.sh('echo 1 > "/proc/$1"', name)).success, name
    assert Path("/proc/sys/kernel/core_pattern").read_text() != "1\n"


@USER
async def test_proc_is_the_sessions_own(cell: Cell) -> None:
    pids = [int(name) for name in (await cell.out("ls /proc")).split() if name.isdigit()]
    assert pids[0] == 1 or 1 in pids
    assert len(pids) < 10
    assert "MemTotal" in await cell.out("cat /proc/meminfo")
    assert "processor" in await cell.out("cat /proc/cpuinfo")
    program = "import os; print(os.cpu_count(), len(os.sched_getaffinity(0)))"
    assert (await cell.python(program)).stdout == f"{os.cpu_count()} {len(os.sched_getaffinity(0))}\n"


@USER
async def test_sys_is_a_stub(cell: Cell) -> None:
    assert await cell.out("find /sys -type f | sort") == "".join(
        f"/sys/devices/system/cpu/{name}\n" for name in ("online", "possible", "present")
    )
    assert await cell.out("stat -f -c %T /sys") != "sysfs\n"


# Names


@USER
async def test_the_host_has_a_name_of_its_own(cell: Cell) -> None:
    names = (await cell.out("hostname; cat /etc/hostname; uname -n")).split()
    assert len(set(names)) == 1
    assert re.fullmatch("alcove-[0-9a-f]{8}", names[0])
    assert os.uname().nodename != "alcove"
    assert (await cell.exec("getent", ["hosts", names[0]])).stdout.split()[:2] == ["127.0.0.1", "localhost"]
    assert (await cell.exec("getent", ["hosts", "localhost"])).success


@USER
async def test_users_are_known_by_name(cell: Cell) -> None:
    assert (await cell.exec("getent", ["passwd", "root"])).stdout.startswith("root:x:0:0:root:/workspace:")
    assert (await cell.exec("getent", ["group", "0"])).stdout == "root:x:0:\n"
    program = """
import getpass, os, pwd
print(getpass.getuser(), pwd.getpwuid(os.getuid()).pw_dir, os.path.expanduser("~root"))
"""
    assert (await cell.python(program)).stdout == "root /workspace /workspace\n"
    assert await cell.out("id -un; whoami; ls -ld ~ | cut -d' ' -f3") == "root\nroot\nroot\n"


@USER
async def test_each_session_is_somebody_else(backend: LocalSandbox, cell: Cell) -> None:
    program = "hostname; cat /etc/hostname /etc/machine-id /etc/hosts"
    async with live(backend) as other:
        assert await cell.out(program) != await other.out(program)
    snapshot = await backend.snapshot(cell.id)
    before = await cell.out(program)  # by other processes than before: it is still who it was
    spec = SandboxSpec(rootfs=f"snapshot:{snapshot.snapshot_id}", network_policy=Limited())
    async with live(backend, spec) as one, live(backend, spec) as two:
        assert len({await each.out(program) for each in (cell, one, two)}) == 3
        assert await cell.out(program) == before
    await backend.delete_snapshot(snapshot.snapshot_id)


@USER
async def test_the_hosts_users_are_not(cell: Cell) -> None:
    names = {line.split(":")[0] for line in (await cell.out("cat /etc/passwd")).splitlines()}
    assert names <= {"root", "daemon", "agent", "nobody"}
    assert (await cell.sh("grep -c . /etc/machine-id")).stdout == "1\n"
    host = Path("/etc/machine-id")
    assert not host.exists() or host.read_text() != await cell.out("cat /etc/machine-id")


@USER
async def test_the_nameserver_of_a_session_without_network_cannot_be_reached(cell: Cell) -> None:
    """It is there for the day on which the session is given an allow-list; until then a question fails at once."""
    assert "nameserver 198.18.0.1\n" in await cell.out("cat /etc/resolv.conf")
    script = (
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nprint(s.connect_ex(('198.18.0.1', 53)))"
    )
    assert int((await cell.python(script)).stdout) == errno.ENETUNREACH


# Configuration


@USER
async def test_further_places_can_be_shown_and_hidden(store: Path, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    (shown / "secret").mkdir(parents=True)
    (shown / "file").write_text("visible")
    (shown / "secret" / "file").write_text("hidden")
    config = LocalSandboxConfig(
        root_dir=str(store), visible=(str(shown),), hidden=(str(shown / "secret"), "/usr/share/doc")
    )
    backend = LocalSandbox(config)
    try:
        async with live(backend) as cell:
            assert await cell.out('cat "$1/file"; ls -A "$1/secret"; ls -A /usr/share/doc', str(shown)) == "visible"
            assert not (await cell.sh('touch "$1/new"', str(shown))).success
    finally:
        await backend.aclose()
    assert sorted(path.name for path in shown.iterdir()) == ["file", "secret"]


@USER
def test_a_place_that_is_not_absolute_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"LocalSandboxConfig\.visible must be an absolute path"):
        LocalSandboxConfig(visible=("relative",))
    with pytest.raises(InvalidRequest, match=r"LocalSandboxConfig\.hidden must be an absolute path"):
        LocalSandboxConfig(hidden=("relative",))


@pytest.mark.user(only=True)
def test_a_plain_user_can_own_no_root(store: Path) -> None:
    with pytest.raises(LifecycleError, match="needs root"):
        LocalSandbox(LocalSandboxConfig(root_dir=str(store), rootfs="owned"))
