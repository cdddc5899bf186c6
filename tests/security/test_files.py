"""FS: what a guest does to files that are not its own. Files of the harness's stand where a host's would be."""
# ruff: noqa: ASYNC240 - a test's own loop may wait for the host

import fcntl
import hashlib
import os
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alcove.contract import FilesystemAccess, FilesystemMount, InvalidRequest, Limited
from alcove.local import native
from tests.conftest import TREE
from tests.local import outside
from tests.security.cells import REFUSED, Cell, fingerprint, has_own, maps_no_host_root, marks, report
from tests.security.conftest import MakeCell, make_canary

pytestmark = [pytest.mark.security, pytest.mark.user]

TOOLCHAIN = [
    "/usr",
    "/usr/bin",
    "/usr/bin/env",
    "/usr/lib",
    "/etc",
    "/etc/passwd",
    "/etc/hostname",
    "/var",
    "/opt",
    "/",
]
AS_ROOT = os.geteuid() == 0


def read_only(source: Path, target: str) -> FilesystemMount:
    return FilesystemMount(source=str(source), target=target, access=FilesystemAccess.READ_ONLY)


def read_write(source: Path, target: str) -> FilesystemMount:
    return FilesystemMount(source=str(source), target=target, access=FilesystemAccess.READ_WRITE)


async def in_workspace(cell: Cell, name: str = "control") -> str:
    """Make the guest a canary of its own, and return its guest path."""
    script = "mkdir -p $1/sub && yes canary | head -c 7000 >$1/data && chmod -R 777 $1"
    assert (await cell.sh(script, f"/workspace/{name}")).success
    return f"/workspace/{name}"


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    """Return a host directory that sessions see as they see the toolchain."""
    return make_canary(tmp_path / "shown")


@pytest.fixture
def configuration(shown: Path) -> dict[str, Any]:
    return {"visible": (str(shown),), "allow_root_owned": True}


class TestFs01:
    """No change of what lies below, though its modes would allow everything to everybody."""

    async def test_fs01_shown_directories_stay_as_they_are(self, cell: Cell, shown: Path) -> None:
        control = report((await cell.hostile("writes", await in_workspace(cell))).stdout)
        assert {name for name, word in control.items() if word != "ok"} <= {"xattr", "unlink-data"}, control
        before = fingerprint(shown)
        said = report((await cell.hostile("writes", str(shown))).stdout)
        assert fingerprint(shown) == before
        assert "ok" not in said.values(), said
        assert said.keys() >= control.keys()

    async def test_fs01_a_read_only_attachment_stays_as_it_is(self, make_cell: MakeCell, canary: Path) -> None:
        cell = await make_cell(read_only(canary, "/mnt/canary"))
        before = fingerprint(canary)
        said = report((await cell.hostile("writes", "/mnt/canary")).stdout)
        assert fingerprint(canary) == before
        assert said
        assert "ok" not in said.values()

    async def test_fs01_a_writable_attachment_takes_the_same_attack(self, make_cell: MakeCell, canary: Path) -> None:
        """The harness sees it when there is something to see."""
        cell = await make_cell()
        await cell.backend.attach_filesystem(cell.id, read_write(canary, "/mnt/canary"))
        before = fingerprint(canary)
        await cell.hostile("writes", "/mnt/canary")
        assert fingerprint(canary) != before

    async def test_fs01_the_toolchain_stays_as_it_is(self, cell: Cell) -> None:
        maps_no_host_root(await cell.resident())
        places = [*TOOLCHAIN, sys.executable, sys.prefix]
        name = f".alcove-{secrets.token_hex(8)}"
        before = marks(places)
        script = (
            'name=$1; shift; for path; do touch -c -d @1 "$path"; chmod u+w "$path"; ln "$path" "$path/$name"; '
            'mkdir "$path/$name"; (: >>"$path") ; mv "$path" "$path.$name"; done; :'
        )
        await cell.sh(script, name, *places)
        assert marks(places) == before
        assert not [place for place in places if os.path.lexists(f"{place}/{name}")]

    async def test_fs01_memory_is_read_only(self, cell: Cell) -> None:
        memory = cell.session.mounts[0].host_path
        assert memory is not None
        (Path(memory) / "note").write_text("kept")
        before = fingerprint(Path(memory), times=False)
        assert (await cell.run("cat", "/mnt/memory/note")).stdout == "kept"
        await cell.sh("echo lost >/mnt/memory/note; rm /mnt/memory/note; chmod 777 /mnt/memory; touch /mnt/memory/new")
        assert fingerprint(Path(memory), times=False) == before


class TestFs02:
    async def test_fs02_no_route_leads_out(self, cell: Cell, tmp_path: Path) -> None:
        secret = secrets.token_hex(16)
        vault = tmp_path / "vault"
        vault.mkdir(mode=0o777)
        vault.chmod(0o777)
        (vault / "secret").write_text(secret)
        (cell.outputs / "secret").write_text(f"control {secret[::-1]}")
        assert secret[::-1] in (await cell.hostile("escapes", "/mnt/session/outputs/secret")).stdout
        said = await cell.hostile("escapes", str(vault / "secret"))
        assert said.exit_code == 0
        assert secret not in said.stdout
        assert [path.name for path in vault.iterdir()] == ["secret"]

    @pytest.mark.parametrize("canary_path", ["/root", "/home", "/boot", "/srv"])
    async def test_fs02_places_of_people_are_absent(self, make_cell: MakeCell, canary_path: str) -> None:
        cell = await make_cell()
        inside = Path(f"/proc/{await cell.resident()}/root{canary_path}")
        shown = {path.split("/")[1:2][0] for path in [sys.prefix, sys.base_prefix] if path.startswith(canary_path)}
        assert not inside.exists() or shown, list(inside.iterdir())
        if shown:  # the interpreter lies there: its parents are empty directories otherwise
            assert len(list(inside.iterdir())) <= 2


class TestFs04:
    """The launcher's file is the harness's own copy, which everybody may write to."""

    @pytest.fixture
    def launcher(self, tmp_path: Path) -> Path:
        copy = Path(shutil.copy(native.find(), tmp_path / "launcher"))
        copy.chmod(0o777)
        return copy

    @pytest.fixture
    def configuration(self, launcher: Path) -> dict[str, Any]:
        return {"native": str(launcher)}

    async def test_fs04_the_launcher_is_not_reached(self, launcher: Path, make_cell: MakeCell) -> None:
        cell = await make_cell()
        before = fingerprint(launcher)
        digest = hashlib.sha256(launcher.read_bytes()).hexdigest()
        python = hashlib.sha256(Path("/usr/bin/python3").resolve().read_bytes()).hexdigest()
        said = (await cell.hostile("launcher")).stdout
        assert " /proc/self/exe " in said
        assert python in said or "/usr/bin" not in (await cell.sh("command -v python3")).stdout
        assert digest not in said
        assert fingerprint(launcher) == before

    async def test_fs04_an_interpreter_line_does_not_execute_the_launcher(
        self, launcher: Path, make_cell: MakeCell
    ) -> None:
        """CVE-2019-5736: the file that is `/proc/self/exe` when the script is executed is the launcher's."""
        cell = await make_cell()
        before = fingerprint(launcher)
        await cell.hostile("launcher")
        control = await cell.sh("printf '#!/bin/echo ran\\n' >/workspace/plain; chmod 755 /workspace/plain; ./plain")
        assert control.stdout == "ran ./plain\n"
        said = await cell.run("/workspace/entry", "--version")
        assert said.exit_code == 126, said
        assert "alcove-warden" not in said.stdout
        assert fingerprint(launcher) == before
        assert (await cell.run("true")).success

    async def test_fs04_replaced_shells_and_libraries_are_the_guests_own_loss(self, make_cell: MakeCell) -> None:
        cell, other = await make_cell(), await make_cell()
        await cell.sh("cp /bin/false /workspace/sh; cp /bin/false /tmp/sh")
        assert (await cell.run("sh", "-c", "exit 3", env={"PATH": "/workspace"})).exit_code == 1
        assert (await cell.run("sh", "-c", "exit 3")).exit_code == 3
        assert (await other.run("sh", "-c", "exit 3")).exit_code == 3


class TestFs10:
    async def test_fs10_no_device_is_made_or_opened(self, cell: Cell) -> None:
        stayed = await cell.stay("nodes")
        has_own(stayed.pid, "mnt")
        made = {name: word for name, word in stayed.said.items() if name.startswith("mknod:")}
        assert all(word == "ok" for name, word in made.items() if name.endswith(":fifo")), made
        nodes = [
            path
            for path in (Path(where, name) for where, _, names in os.walk(cell.directory) for name in names)
            if stat.S_ISCHR(path.lstat().st_mode) or stat.S_ISBLK(path.lstat().st_mode)
        ]
        assert nodes == []
        inside = Path(f"/proc/{stayed.pid}/root")
        for place in ("dev/shm", "run"):
            kinds = {path.name: stat.S_IFMT(path.lstat().st_mode) for path in (inside / place).iterdir()}
            assert set(kinds.values()) <= {stat.S_IFIFO, stat.S_IFDIR}, kinds
        opened = {name for name in outside.descriptors(stayed.pid).values() if name.startswith("/dev/")}
        assert opened == {"/dev/null"}

    async def test_fs10_dev_holds_what_is_listed_and_no_more(self, make_cell: MakeCell) -> None:
        inside = Path(f"/proc/{await (await make_cell()).resident()}/root/dev")
        devices = {path.name: path.lstat().st_rdev for path in inside.iterdir() if stat.S_ISCHR(path.lstat().st_mode)}
        known = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}
        assert devices == {name: os.makedev(1, minor) for name, minor in known.items()} | {"tty": os.makedev(5, 0)}
        rest = {path.name for path in inside.iterdir()} - devices.keys()
        assert rest == {"fd", "ptmx", "pts", "shm", "stderr", "stdin", "stdout"}


def set_id_files(directory: Path) -> list[str]:
    found = []
    for where, _, names in os.walk(directory):
        for path in (Path(where, name) for name in names):
            seen = path.lstat()
            capable = "security.capability" in os.listxattr(path, follow_symlinks=False)
            if (stat.S_ISREG(seen.st_mode) and seen.st_mode & (stat.S_ISUID | stat.S_ISGID)) or capable:
                found.append(path.name)
    return sorted(found)


class TestFs11:
    async def test_fs11_no_set_id_file_in_the_session(self, cell: Cell) -> None:
        said = report((await cell.hostile("setid", "/workspace")).stdout)
        assert said["plain"] == "ok"
        assert set_id_files(cell.directory) == []
        assert {word for name, word in said.items() if name != "plain"} <= REFUSED

    async def test_fs11_no_set_id_file_on_an_attached_directory(self, make_cell: MakeCell, canary: Path) -> None:
        cell = await make_cell()
        await cell.backend.attach_filesystem(cell.id, read_write(canary, "/mnt/canary"))
        said = report((await cell.hostile("setid", "/mnt/canary")).stdout)
        assert said["plain"] == "ok"
        assert (canary / "plain").stat().st_mode & 0o777 == 0o711
        assert set_id_files(canary) == []

    async def test_fs11_set_id_and_a_writable_attachment_exclude_each_other(
        self, make_cell: MakeCell, canary: Path
    ) -> None:
        with pytest.raises(InvalidRequest, match="set-id"):
            await make_cell(read_write(canary, "/mnt/canary"), set_id=True)
        cell = await make_cell(set_id=True)
        with pytest.raises(InvalidRequest, match="set-id"):
            await cell.backend.attach_filesystem(cell.id, read_write(canary, "/mnt/canary"))
        await cell.hostile("setid", "/workspace")
        assert "c4755" in set_id_files(cell.directory)  # what the others do not have is to be had


class TestFs12:
    @pytest.mark.parametrize("place", ["/workspace", "/tmp", "/mnt/session/outputs"])
    async def test_fs12_no_alias_of_a_file_below(self, make_cell: MakeCell, shown: Path, place: str) -> None:
        cell = await make_cell()
        control = await in_workspace(cell)
        own = report((await cell.hostile("links", f"{control}/data", "/workspace")).stdout)
        assert own["link"] == "ok"
        before = fingerprint(shown)
        assert (await cell.run("mkdir", f"{place}/aliases")).success
        said = report((await cell.hostile("links", str(shown / "data"), f"{place}/aliases")).stdout)
        assert set(said.values()) <= {"EXDEV", "EROFS", "EACCES", "EPERM"}, said
        assert fingerprint(shown) == before

    async def test_fs12_no_alias_of_memory_though_it_lies_on_the_same_file_system(self, make_cell: MakeCell) -> None:
        cell = await make_cell()
        memory = Path(str(cell.session.mounts[0].host_path))
        (memory / "note").write_text("kept")
        (memory / "note").chmod(0o666)
        said = report((await cell.hostile("links", "/mnt/memory/note", "/workspace")).stdout)
        assert (memory / "note").read_text() == "kept"
        assert (memory / "note").stat().st_nlink == 1
        assert "ok" not in said.values(), said

    async def test_fs12_what_an_ordinary_host_user_cannot_read_is_not_readable(
        self, make_cell: MakeCell, shown: Path
    ) -> None:
        secret = secrets.token_hex(16)
        (shown / "open").write_text(secret[::-1])
        (shown / "private").write_text(secret)
        (shown / "private").chmod(0o600)
        if not AS_ROOT:  # the guest is the caller, whose own file this would be
            shutil.copy("/etc/shadow", shown / "x") if os.access("/etc/shadow", os.R_OK) else (
                shown / "private"
            ).unlink()
        cell = await make_cell()
        said = await cell.sh(
            f"cat {shown}/open {shown}/private /etc/shadow-; ln {shown}/private /workspace/alias; cat /workspace/alias"
        )
        assert secret[::-1] in said.stdout
        assert secret not in said.stdout


@pytest.fixture
def memory_store() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="alcove-trees-", dir="/dev/shm"))
    yield directory
    subprocess.run(["rm", "-rf", str(directory)], check=True)


class TestFs15:
    @pytest.fixture
    def store(self, memory_store: Path) -> Path:
        return memory_store / "store"

    @pytest.mark.parametrize("kind", ["deep", "wide", "loops", "closed", "odd"])
    async def test_fs15_hostile_trees_go_with_their_session(self, make_cell: MakeCell, store: Path, kind: str) -> None:
        cell = await make_cell()
        assert (await cell.hostile("trees", kind)).stdout == "made\n"
        assert (cell.directory / "workspace" / "tree").exists()
        open_before = len(os.listdir("/proc/self/fd"))
        await cell.backend.terminate(cell.id)
        assert list((store / "sessions").iterdir()) == []
        assert len(os.listdir("/proc/self/fd")) <= open_before


class TestFs17:
    async def test_fs17_files_of_ones_own_are_locked_for_nobody_else(self, make_cell: MakeCell) -> None:
        cell, other = await make_cell(), await make_cell()
        for each in (cell, other):
            await each.sh(": >/workspace/file")
        first = await cell.stay("locks", "/workspace/file")
        again, second = await cell.stay("locks", "/workspace/file"), await other.stay("locks", "/workspace/file")
        assert first.said["flock"] == second.said["flock"] == "ok"
        assert again.said["flock"] == "EAGAIN"

    async def test_fs17_a_shared_file_gives_no_lease_and_no_record_lock(self, make_cell: MakeCell, shown: Path) -> None:
        """flock(2) on a file below crosses between sessions and to the host: a residual that SECURITY.md names."""
        cell = await make_cell()
        path = shown / "data"
        stayed = await cell.stay("locks", str(path), "leases")
        assert stayed.said["record-write"] == "EBADF"
        if AS_ROOT:  # a plain user's guest is the owner of what that user owns
            assert stayed.said["lease-write"] == stayed.said["lease-read"] == "EACCES"
        crossed = False
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                crossed = True
        text = (TREE / "SECURITY.md").read_text() if (TREE / "SECURITY.md").exists() else ""
        assert not crossed or "flock" in text, "a guest's flock is seen outside, and SECURITY.md does not say so"


class TestFs18:
    async def test_fs18_nothing_is_left_for_another_session(self, make_cell: MakeCell) -> None:
        secret = secrets.token_hex(16)
        cell, other = await make_cell(), await make_cell()
        assert (await cell.hostile("messages", "put", secret)).success
        theirs = await other.hostile("messages", "get")
        own = await cell.hostile("messages", "get")
        assert own.stdout.count(secret) >= 5, own
        assert theirs.success
        assert secret not in theirs.stdout

    async def test_fs18_nothing_of_the_hosts_is_there(self, make_cell: MakeCell, corpus: Path) -> None:
        """Of System V and POSIX objects of the host; its abstract sockets are behind the network namespace."""
        secret = secrets.token_hex(16)
        cell = await make_cell()

        def here(*arguments: str) -> str:
            argv = [sys.executable, "-m", "tests.security.hostile.messages", *arguments]
            return subprocess.run(argv, cwd=corpus, capture_output=True, check=True, text=True, timeout=30).stdout

        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind("\0alcove-hostile")
            try:
                here("put", secret)
                theirs = (await cell.hostile("messages", "get")).stdout
                assert "somebody else's" in here("get")
            finally:
                here("drop")
                for place in ("/dev/shm", "/tmp", "/var/tmp", "/run", "/run/lock"):
                    Path(place, "hostile-message").unlink(missing_ok=True)
        assert secret not in theirs
        assert "somebody else's" not in theirs

    async def test_fs18_a_new_session_starts_empty(self, make_cell: MakeCell) -> None:
        secret = secrets.token_hex(16)
        cell = await make_cell()
        await cell.hostile("messages", "put", secret)
        await cell.backend.terminate(cell.id)
        after = await make_cell()
        assert secret not in (await after.hostile("messages", "get")).stdout

    @pytest.mark.parametrize("policy", ["limited", "unrestricted"])
    async def test_fs18_abstract_sockets_of_the_host_are_out_of_reach(self, make_cell: MakeCell, policy: str) -> None:
        from alcove.contract import Unrestricted

        cell = await make_cell(network_policy=Unrestricted() if policy == "unrestricted" else Limited(allowed_hosts=[]))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind("\0alcove-hostile")
            said = (await cell.hostile("messages", "get")).stdout
        assert "abstract None" in said


def listen(path: Path, kind: int) -> socket.socket:
    end = socket.socket(socket.AF_UNIX, kind)
    end.setblocking(False)
    end.bind(str(path))
    path.chmod(0o777)
    if kind != socket.SOCK_DGRAM:
        end.listen(8)
    return end


def accepted(end: socket.socket) -> int:
    count = 0
    try:
        while True:
            if end.type == socket.SOCK_DGRAM:
                end.recv(64)
            else:
                end.accept()[0].close()
            count += 1
    except BlockingIOError:
        return count


def socket_places() -> list[str]:
    """Return directories of the host that a session may see, and in which this user can make a socket."""
    return [
        place for place in ("/run", "/tmp", "/var/tmp", "/dev/shm", "/var/lib", "/opt") if os.access(place, os.W_OK)
    ]


class TestFs19:
    @pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
    @pytest.mark.parametrize("place", socket_places())
    async def test_fs19_no_socket_of_the_host_is_connected_to(self, make_cell: MakeCell, place: str, kind: int) -> None:
        directory = Path(tempfile.mkdtemp(prefix="alcove-", dir=place))
        try:
            directory.chmod(0o755)
            path = directory / "socket"
            with listen(path, kind) as listener:
                with socket.socket(socket.AF_UNIX, kind) as control:
                    control.connect(str(path))
                    control.send(b"from outside")
                assert accepted(listener) == 1
                cell = await make_cell()
                said = report((await cell.hostile("callers", str(path))).stdout)
                assert said
                assert accepted(listener) == 0, said
        finally:
            shutil.rmtree(directory)

    async def test_fs19_the_sessions_own_sockets_are_out_of_reach(self, make_cell: MakeCell) -> None:
        cell, other = await make_cell(), await make_cell()
        paths = [str(each.directory / name) for each in (cell, other) for name in ("control.sock", "exec.sock")]
        said = report((await cell.hostile("callers", *paths)).stdout)
        assert len(said) >= 12
        assert "ok" not in said.values(), said
        assert (await other.run("true")).success
