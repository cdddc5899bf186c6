"""SR: the supervisor killed, starved, lied to and raced; what is left of a session, and what is said of it."""
# ruff: noqa: ASYNC220, ASYNC221, ASYNC222 - a test's own loop may wait for the host

import asyncio
import ctypes
import json
import os
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from alcove.contract import (
    Duration,
    ExecError,
    ExecRequest,
    FilesystemMount,
    InvalidRequest,
    LifecycleError,
    Limited,
    SandboxError,
    SandboxIoError,
    SandboxSpec,
    SessionNotFound,
)
from alcove.local import LocalSandbox, LocalSandboxConfig, native
from alcove.local.cell.launch import listen
from tests.keeping import children
from tests.local import outside
from tests.security.cells import Cell
from tests.security.conftest import MakeCell
from tests.security.corpus import compile_one
from tests.security.driver import SESSION
from tests.security.supervisors import CLOSED, Supervisors, counted, groups_of, new_backend
from tools.seccomp import policy

pytestmark = [pytest.mark.security, pytest.mark.user]

ARCH = os.uname().machine
NUMBERS = policy.load().numbers[ARCH]
HERE = Path(__file__).parent
PR_SET_CHILD_SUBREAPER = 36


async def usable_or_absent(store: Path) -> str:
    """Act as the next process: what is listed must work, and go; what is not must not be in the way."""
    backend = new_backend(store)
    try:
        await backend.terminate((await backend.provision(CLOSED)).id)  # which sweeps
        listed = [session.id for session in backend.sessions()]
        if SESSION not in listed:
            with pytest.raises(SessionNotFound):
                await backend.exec(SESSION, ExecRequest("true"))
            return "absent"
        assert (await backend.exec(SESSION, ExecRequest("true", timeout=20))).success
        await backend.terminate(SESSION)
        return "usable"
    finally:
        await backend.aclose()


class TestSr01:
    @counted
    async def test_sr01_killed_at_any_point_of_create(self, supervisors: Supervisors, times: int) -> None:
        total = supervisors.struck("create", 0, "kill")
        assert total["error"] is None
        assert await usable_or_absent(supervisors.store) == "usable"
        await supervisors.nothing_is_left(set())
        found = set()
        for at in [*range(1, total["events"] + 1)] * times:
            killed = supervisors.struck("create", at, "kill")["killed"]
            keys = supervisors.keys()
            found.add(await usable_or_absent(supervisors.store))
            await supervisors.nothing_is_left(keys)
            assert killed or at > total["events"] - 5, at
        assert "absent" in found

    @counted
    async def test_sr01_killed_at_any_point_of_exec(self, supervisors: Supervisors, times: int) -> None:
        """The session outlives the one who asked, and what was asked ends with him."""
        supervisors.struck("create", 0, "kill")
        total = supervisors.struck("use", 0, "kill")["events"]
        assert total > 3
        points = [(at, "kill") for at in range(1, total + 1)] + [(0, f"after:{step * 0.0003}") for step in range(1, 13)]
        for at, kind in points * times:
            supervisors.struck("use", at, kind)
            backend = new_backend(supervisors.store)
            assert (await backend.exec(SESSION, ExecRequest("true", timeout=20))).success
            await backend.aclose()
        keys = supervisors.keys()
        assert await usable_or_absent(supervisors.store) == "usable"
        await supervisors.nothing_is_left(keys)

    async def test_sr01_killed_at_any_time_of_create(self, supervisors: Supervisors) -> None:
        for step in range(1, 31):
            supervisors.struck("create", 0, f"after:{step * 0.0007}")
            keys = supervisors.keys()
            await usable_or_absent(supervisors.store)
            await supervisors.nothing_is_left(keys)

    async def test_sr01_what_is_half_made_is_not_listed_as_if_it_were(self, supervisors: Supervisors) -> None:
        """Before anything has swept: another process's list is the first thing a person looks at."""
        total = supervisors.struck("create", 0, "kill")["events"]
        await usable_or_absent(supervisors.store)
        supervisors.forget()
        wrong = []
        for at in range(1, total, 7):
            supervisors.struck("create", at, "kill")
            backend = new_backend(supervisors.store)
            for session in backend.sessions():
                try:
                    assert (await backend.exec(session.id, ExecRequest("true", timeout=20))).success
                except SandboxError as error:
                    wrong.append((at, session.state, str(error)))
            await backend.aclose()
            keys = supervisors.keys()
            await usable_or_absent(supervisors.store)
            await supervisors.nothing_is_left(keys)
        assert wrong == []


class TestSr02:
    @pytest.mark.parametrize("first", ["its connection", "its pipe"])
    async def test_sr02_a_foreground_command_dies_with_its_caller(self, store: Path, first: str) -> None:
        mark = f"7001{secrets.randbelow(10**9):09}"
        script = f"setsid sleep {mark} & sleep {mark} & while :; do echo flowing; done"
        argv = [sys.executable, "-m", "tests.security.driver", "flood", str(store), script]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as caller:
            assert caller.stdout is not None
            assert caller.stdout.readline() == f"{SESSION}\n"
            await outside.until(lambda: len(outside.bearing(mark)) == 2)
            (key,) = [path.name for path in (store / "sessions").iterdir()]
            (monitor,) = outside.called("alcove-exec", key)
            (shell,) = [pid for pid in children(monitor) if outside.command_line(pid)[:1] == ["sh"]]
            if first == "its pipe":  # nobody looks at the connection before the command has died of its output
                os.kill(monitor, signal.SIGSTOP)
            caller.kill()
        if first == "its pipe":
            await outside.until(lambda: not outside.is_there(shell))
            os.kill(monitor, signal.SIGCONT)
        await outside.gone(mark)
        backend = new_backend(store)
        assert [session.id for session in backend.sessions()] == [SESSION]
        assert (await backend.exec(SESSION, ExecRequest("echo", ["lives"]))).stdout == "lives\n"
        await backend.terminate(SESSION)
        await backend.aclose()


class TestSr04:
    @counted
    async def test_sr04_killed_at_any_point_of_terminate(self, supervisors: Supervisors, times: int) -> None:
        supervisors.struck("create", 0, "kill")
        total = supervisors.struck("terminate", 0, "kill")["events"]
        supervisors.forget()
        assert total > 10
        for at in [*range(1, total + 1)] * times:
            supervisors.struck("create", 0, "kill")
            keys = supervisors.keys()
            supervisors.struck("terminate", at, "kill")
            await self.end(supervisors.store)
            await supervisors.nothing_is_left(keys)

    async def test_sr04_killed_five_times_in_a_row(self, supervisors: Supervisors) -> None:
        supervisors.struck("create", 0, "kill")
        total = supervisors.struck("terminate", 0, "kill")["events"]
        supervisors.forget()
        for first in range(1, total, 6):
            supervisors.struck("create", 0, "kill")
            keys = supervisors.keys()
            for again in range(5):
                supervisors.struck("terminate", first + again, "kill")
            await self.end(supervisors.store)
            await supervisors.nothing_is_left(keys)

    async def end(self, store: Path) -> None:
        backend = new_backend(store)
        for _ in range(2):
            with suppress(SessionNotFound):
                await backend.terminate(SESSION)
        await backend.terminate((await backend.provision(CLOSED)).id)
        assert backend.sessions() == []
        await backend.aclose()


class TestSr06:
    """Everything that the native side can say, said by somebody else."""

    FRAMES = (
        b"",
        b"\2",
        b"\2\0\0\0" * 3,
        (3).to_bytes(4, "little") + (0).to_bytes(4, "little") + (1000).to_bytes(4, "little") + bytes(4),
        (3).to_bytes(4, "little") + (0).to_bytes(4, "little") + (-1 & 0xFFFFFFFF).to_bytes(4, "little") + bytes(4),
        (77).to_bytes(4, "little") + bytes(12),
        (1).to_bytes(4, "little") + bytes(12),
        (3).to_bytes(4, "little") + (0).to_bytes(4, "little") + (6).to_bytes(4, "little") + b"\xff\xff\xff\x7f",
        b"\xff" * 100_000,
    )

    @pytest.mark.parametrize("frame", FRAMES, ids=range(len(FRAMES)))
    async def test_sr06_a_spawner_that_talks_nonsense(self, make_cell: MakeCell, frame: bytes) -> None:
        cell, other = await make_cell(), await make_cell()
        with listen(str(cell.directory), "exec.sock") as listener:
            answering = asyncio.create_task(_answer(listener, frame))
            with pytest.raises(ExecError):
                await cell.run("true", timeout=Duration(3))
            answering.cancel()
        assert (await other.run("true")).success

    @pytest.mark.parametrize("frame", [b"", b"\0", b"\1" * 71, b"\xff" * 72, b"\xff" * 4096], ids=range(5))
    async def test_sr06_a_warden_that_talks_nonsense(self, make_cell: MakeCell, frame: bytes, tmp_path: Path) -> None:
        cell, other = await make_cell(), await make_cell()
        (tmp_path / "shown").mkdir()
        with listen(str(cell.directory), "control.sock") as listener:
            answering = asyncio.create_task(_answer(listener, frame))
            mount = FilesystemMount(str(tmp_path / "shown"), "/mnt/shown", "read_only")  # type: ignore[arg-type]
            with pytest.raises(SandboxError):
                await cell.backend.attach_filesystem(cell.id, mount)
            answering.cancel()
        assert (await other.run("true")).success

    @pytest.mark.parametrize("said", [b"\0", b"\1" * 100, b"\xff" * 276, bytes(276), b"\1\0\0\0" + b"\xff" * 272])
    async def test_sr06_a_launcher_that_lies(self, store: Path, tmp_path: Path, said: bytes) -> None:
        liar = tmp_path / "lying"
        compile_one(HERE / "launchers" / "lying.c", liar)
        liar.with_suffix(".said").write_bytes(said)
        backend = LocalSandbox(LocalSandboxConfig(root_dir=str(store), native=str(liar)))
        with pytest.raises(LifecycleError):
            await backend.provision(CLOSED)
        await backend.aclose()
        assert list((store / "sessions").iterdir()) == []

    @pytest.mark.parametrize("role", ["init", "spawner", "warden"])
    async def test_sr06_a_stopped_shim_does_not_hold_the_end(self, make_cell: MakeCell, role: str) -> None:
        cell, other = await make_cell(), await make_cell()
        await cell.resident()
        members = cell.members()
        os.kill(getattr(cell.processes(), role), signal.SIGSTOP)
        if role != "init":  # which no command waits for
            with suppress(SandboxError):  # or a result that says timed out
                await cell.run("true", timeout=Duration(1))
        await asyncio.wait_for(cell.backend.terminate(cell.id), 10)
        await outside.until(lambda: not any(outside.is_there(pid) for pid in members))
        assert groups_of(cell.key) == []
        assert (await other.run("true")).success


async def _answer(listener: socket.socket, frame: bytes) -> None:
    loop = asyncio.get_running_loop()
    while True:
        connection, _ = await loop.sock_accept(listener)
        with connection:
            connection.setblocking(False)
            await loop.sock_recv(connection, 65536)
            if frame:
                await loop.sock_sendall(connection, frame)


#: What the launcher calls on its way to a session; with each of them refused, there is none, or one like any other.
#: Calls that only wait are left out: without them the launcher waits for ever, and a bound of ours ends it.
CALLED = (
    "unshare setns mount umount2 pivot_root fsopen fsconfig fsmount move_mount open_tree mount_setattr openat2 capset "
    "capget prctl seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self setresuid setresgid "
    "setgroups close_range clone3 clone sethostname keyctl prlimit64 setrlimit getrlimit socketpair pipe2 mmap mkdirat "
    "fchmodat symlinkat chdir fchdir sendmsg recvmsg epoll_create1 epoll_ctl signalfd4 umask setsid fcntl dup2 dup3 "
    "waitid fstat newfstatat getpid open openat close read write ioctl socket sendto pidfd_open"
).split()


class TestSr08:
    @pytest.fixture
    def refusing(self, tmp_path: Path) -> Path:
        program = tmp_path / "refusing"
        compile_one(HERE / "launchers" / "refusing.c", program)
        return program

    async def test_sr08_a_failing_step_is_no_weaker_session(
        self, refusing: Path, make_cell: MakeCell, store: Path
    ) -> None:
        standing = await make_cell()
        whole = await look(standing)
        await standing.close()  # from here on every native child is one too many
        weaker: dict[str, object] = {}
        leaking: dict[str, list[str]] = {}
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        made = set()
        kept = {path.name for path in (store / "sessions").iterdir()}
        for name in (name for name in CALLED if name in NUMBERS):
            refusing.with_suffix(".conf").write_text(f"{NUMBERS[name]} 12 {native.find()}")
            backend = LocalSandbox(LocalSandboxConfig(root_dir=str(store), native=str(refusing)))
            try:
                session = await backend.provision(CLOSED)
            except SandboxError:
                assert {path.name for path in (store / "sessions").iterdir()} == kept, name
                if left := await strays():
                    leaking[name] = left
                await backend.aclose()
                continue
            cell = Cell(backend, session, Path())
            try:
                found = await look(cell)
                made.add(name)
                if found != whole:
                    weaker[name] = {
                        key: (value, found.get(key)) for key, value in whole.items() if value != found.get(key)
                    }
            except (SandboxError, AssertionError):
                pass  # no command starts in it
            finally:
                await cell.close()
                await backend.aclose()
            if left := await strays():
                leaking[name] = left
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        assert leaking == {}
        assert weaker == {}
        assert made  # a call that is not needed does not matter
        assert not made & {"seccomp", "capset", "landlock_restrict_self", "unshare", "pivot_root", "mount_setattr"}

    @pytest.mark.parametrize("kind", ["ENOSPC", "EMFILE"])
    @pytest.mark.parametrize("deed", ["create", "use", "terminate"])
    async def test_sr08_an_error_anywhere_is_ours_and_leaves_nothing(
        self, supervisors: Supervisors, deed: str, kind: str
    ) -> None:
        if deed != "create":
            supervisors.struck("create", 0, kind)
        total = supervisors.struck(deed, 0, kind)["events"]
        if deed != "terminate":
            await usable_or_absent(supervisors.store)
        supervisors.forget()
        foreign = {}
        for at in range(1, total + 1, 1 if deed == "create" else 2):
            if deed != "create":
                supervisors.struck("create", 0, kind)
            keys = supervisors.keys()
            said = supervisors.struck(deed, at, kind)
            keys |= supervisors.keys()
            if said.get("error") and said["error"].startswith("!"):
                foreign[at] = said["error"]
            await usable_or_absent(supervisors.store)
            await supervisors.nothing_is_left(keys)
        assert foreign == {}

    async def test_sr08_few_descriptors(self, store: Path) -> None:
        """From none free to enough: each time a clean error or a session."""
        (store / "sessions").mkdir(parents=True, exist_ok=True)
        ended = []
        for free in range(3, 40):  # the event loop itself takes three
            argv = [sys.executable, "-m", "tests.security.driver", "limited", str(store), "create", str(free)]
            done = subprocess.run(argv, capture_output=True, check=False, text=True, timeout=30)
            error = json.loads(done.stdout)["error"] if done.stdout else f"!{done.stderr[-300:]}"
            ended.append(error)
            backend = new_backend(store)
            try:
                if error is None:
                    await backend.terminate(SESSION)
                assert backend.sessions() == []
                with sqlite3.connect(store / "store.db") as database:
                    database.execute("DELETE FROM sessions")
            finally:
                await backend.aclose()
            assert list((store / "sessions").iterdir()) == []
        assert None in ended
        assert [error for error in ended if error and error.startswith("!")] == []


async def strays() -> list[str]:
    """Return what a launcher that failed left running, once it had time to end; ends it."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")

    def left() -> list[int]:
        pids = [int(pid) for pid in children.read_text().split()]
        return [pid for pid in pids if os.waitpid(pid, os.WNOHANG)[0] == 0]  # this process has no other children

    with suppress(AssertionError):
        await outside.until(lambda: not left(), within=1)
    titles = [outside.read(pid, "cmdline") for pid in left()]
    for pid in left():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return titles


async def look(cell: Cell) -> dict[str, object]:
    """Return what confines a command, as the host sees it."""
    pid = await cell.resident()
    status = outside.status(pid)
    names = "Uid Gid Groups CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp SigBlk SigIgn".split()
    base = int(status["Uid"].split()[0])
    ours = outside.namespaces(os.getpid())
    whose = status if os.geteuid() else {**status, "Uid": "own", "Gid": "own"}
    assert base > 0
    return {
        **{name: whose[name] for name in names},
        "landlock": "Seccomp_filters" in status,
        "namespaces": {kind for kind, name in outside.namespaces(pid).items() if name != ours[kind]},
        "limits": outside.limits(pid),
        "descriptors": sorted(outside.descriptors(pid)),
        "oom": outside.read(pid, "oom_score_adj"),
        "mounts": {place: options for place, options in outside.mounts(pid).items() if place != "/mnt/hostile"},
        "hostname": (await cell.run("hostname")).stdout[: len("alcove-")],
        "keyring": outside.read(pid, "keys"),
        "umask": status.get("Umask"),
    }


# What makes a store of today one of schema 1.
STORE_1 = (
    "DROP TABLE layers",
    "DROP TABLE snapshots",
    "DROP TABLE uses",
    """CREATE TABLE one (id TEXT PRIMARY KEY, key TEXT NOT NULL UNIQUE, slot INTEGER UNIQUE, spec BLOB NOT NULL,
    record BLOB NOT NULL, created REAL NOT NULL, ended REAL) STRICT, WITHOUT ROWID""",
    "INSERT INTO one SELECT id, key, slot, spec, record, created, ended FROM sessions",
    "DROP TABLE sessions",
    "ALTER TABLE one RENAME TO sessions",
    "PRAGMA user_version=1",
)


class TestSr10:
    async def test_sr10_a_store_of_a_later_version_is_refused(self, store: Path, backend: LocalSandbox) -> None:
        await backend.terminate((await backend.provision(CLOSED)).id)
        with sqlite3.connect(store / "store.db") as database:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            database.execute(f"PRAGMA user_version={version + 1}")
        with pytest.raises(SandboxIoError, match="upgrade"):
            new_backend(store)
        with sqlite3.connect(store / "store.db") as database:
            database.execute(f"PRAGMA user_version={version}")
        await new_backend(store).aclose()

    async def test_sr10_a_store_of_the_version_before_keeps_its_sessions(
        self, store: Path, backend: LocalSandbox
    ) -> None:
        session = await backend.provision(CLOSED)
        await backend.exec(session.id, ExecRequest("sh", ["-c", "echo kept > note"]))
        with sqlite3.connect(store / "store.db") as database:
            for statement in STORE_1:
                database.execute(statement)
        after = new_backend(store)
        assert (await after.exec(session.id, ExecRequest("cat", ["note"]))).stdout == "kept\n"
        await after.terminate(session.id)
        assert [(found.id, found.state) for found in after.sessions(ended=True)] == [(session.id, "terminated")]
        await after.aclose()

    async def test_sr10_a_store_of_somebody_elses_is_refused(self, tmp_path: Path) -> None:
        theirs = Path("/") if os.geteuid() else tmp_path / "theirs"
        if theirs != Path("/"):
            theirs.mkdir()
            os.chown(theirs, 12345, 12345)
        with pytest.raises(SandboxIoError, match="ALCOVE_HOME"):
            new_backend(theirs)

    async def test_sr10_ordinary_use_is_shared(self, store: Path, backend: LocalSandbox) -> None:
        first = await backend.provision(CLOSED)
        second = new_backend(store)
        assert (await second.exec(first.id, ExecRequest("true"))).success
        await second.terminate(first.id)
        with pytest.raises(SessionNotFound):
            await backend.exec(first.id, ExecRequest("true"))
        await backend.terminate(first.id)
        await second.aclose()


class TestSr11:
    @pytest.mark.parametrize("jump", [86_400 * 30, -86_400 * 30])
    async def test_sr11_timeouts_do_not_follow_the_wall_clock(
        self, make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch, jump: int
    ) -> None:
        cell = await make_cell()
        real = time.time
        task = asyncio.create_task(cell.run("sleep", "100000", timeout=Duration(1)))
        await outside.until(cell.guests)
        monkeypatch.setattr(time, "time", lambda: real() + jump)
        began = time.monotonic()
        assert (await task).timed_out
        assert time.monotonic() - began <= 1.5 + outside.SLACK
        assert (await cell.run("true")).success
        await cell.backend.terminate(cell.id)
        await cell.backend.terminate(cell.id)


class TestSr12:
    async def test_sr12_one_of_many_gets_an_id(self, backend: LocalSandbox, store: Path) -> None:
        others = [new_backend(store) for _ in range(4)]
        for number in range(5):
            spec = SandboxSpec(session_id=f"wanted-{number}", network_policy=Limited(allowed_hosts=[]))
            made = await asyncio.gather(*(each.provision(spec) for each in others * 3), return_exceptions=True)
            assert sum(not isinstance(result, BaseException) for result in made) == 1, made
            assert all(isinstance(result, InvalidRequest) for result in made if isinstance(result, BaseException))
            execs = [each.exec(f"wanted-{number}", ExecRequest("true", timeout=20)) for each in others * 5]
            ends = [each.terminate(f"wanted-{number}") for each in others]
            results = await asyncio.gather(*execs, *ends, return_exceptions=True)
            assert all(isinstance(result, SandboxError) for result in results if isinstance(result, BaseException)), (
                results
            )
            assert all(result is None for result in results[-4:])
        assert backend.sessions() == []
        for each in others:
            await each.aclose()

    def test_sr12_threads_and_processes_do_not_meet(self, store: Path) -> None:
        new_store = store.parent / "threads"

        def life(number: int) -> bool:
            async def live() -> bool:
                backend = new_backend(new_store)
                session = await backend.provision(CLOSED)
                said = await asyncio.gather(
                    *(backend.exec(session.id, ExecRequest("echo", [str(number)])) for _ in range(4))
                )
                await backend.terminate(session.id)
                await backend.aclose()
                return all(result.stdout == f"{number}\n" for result in said)

            return asyncio.run(live())

        asyncio.run(new_backend(new_store).aclose())
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(life, range(64)))
        assert list((new_store / "sessions").iterdir()) == []
