# ruff: noqa: ASYNC240 - small files of the host, read in between
"""Sessions belong to their wardens: named, listed and used from any process of the user, and ended for good."""

import asyncio
import errno
import fcntl
import os
import secrets
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from alcove.contract import (
    InvalidRequest,
    LifecycleError,
    Limited,
    SandboxIoError,
    SandboxSpec,
    SandboxState,
    SessionNotFound,
    Unrestricted,
    Unsupported,
)
from alcove.contract.types import ExecRequest, FilesystemMount
from alcove.local import records
from alcove.local.backend import LocalSandbox
from alcove.local.cell.launch import Launcher
from alcove.local.config import LocalSandboxConfig
from alcove.local.records import Maker
from alcove.local.store import Row, Store
from alcove.testing import no_leaks
from tests.local import outside
from tests.local.cell import Cell, live, mark

pytestmark = pytest.mark.user

OFFLINE = SandboxSpec(network_policy=Limited())


# Names


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "7", "x" * 128, "s.", "a..b"])
async def test_a_good_id_is_kept(backend: LocalSandbox, name: str) -> None:
    async with live(backend, SandboxSpec(name, network_policy=Limited())) as cell:
        assert cell.id == name
        assert await cell.out("echo here") == "here\n"
        assert name not in {path.name for path in cell.directory.parent.iterdir()}


@pytest.mark.parametrize("name", ["", " ", "..", ".a", "-a", "_a", "a/b", "a b", "ä", "a\n", "x" * 129])
async def test_a_bad_id_is_refused(backend: LocalSandbox, name: str) -> None:
    with pytest.raises(InvalidRequest):
        await backend.provision(SandboxSpec(name, network_policy=Limited()))
    assert backend.sessions() == []


async def test_an_id_in_use_stays_with_its_session(backend: LocalSandbox, cell: Cell) -> None:
    with pytest.raises(InvalidRequest, match="is in use"):
        await backend.provision(SandboxSpec(cell.id, network_policy=Limited()))
    assert await cell.out("echo alive") == "alive\n"


async def test_an_ended_id_is_remembered(backend: LocalSandbox) -> None:
    async with live(backend) as cell:
        pass
    assert backend.sessions() == []
    assert sum(session.id == cell.id for session in backend.sessions(ended=True)) == 1
    assert backend.session(cell.id).state is SandboxState.TERMINATED
    with pytest.raises(InvalidRequest, match="less than a day ago"):
        await backend.provision(SandboxSpec(cell.id, network_policy=Limited()))
    with pytest.raises(SessionNotFound):
        await cell.exec("true")
    with pytest.raises(SessionNotFound):
        await backend.attach_filesystem(cell.id, FilesystemMount("", "/data"))
    with pytest.raises(SessionNotFound):
        await backend.apply_network_policy(cell.id, Limited())


async def test_an_unknown_id_is_not_found(backend: LocalSandbox) -> None:
    with pytest.raises(SessionNotFound, match=r"^sandbox session `nobody` was not found$"):
        await backend.terminate("nobody")
    with pytest.raises(SessionNotFound):
        backend.session("nobody")


async def test_one_of_many_at_once_gets_the_id(backend: LocalSandbox) -> None:
    spec = SandboxSpec(f"one-{secrets.token_hex(4)}", network_policy=Limited())
    results = await asyncio.gather(*(backend.provision(spec) for _ in range(5)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["InvalidRequest"] * 4 + ["SandboxSession"]
    await backend.terminate(f"{spec.session_id}")


async def test_labels_are_kept(backend: LocalSandbox) -> None:
    labels = {"team": "a", "käse": "🧀", "empty": ""}
    async with live(backend, SandboxSpec(labels=labels, network_policy=Limited())) as cell:
        assert cell.session.labels == labels
        assert backend.session(cell.id).labels == labels
        assert [dict(session.labels) for session in backend.sessions()] == [labels]


# Any process of the user


CLIENT = """
import asyncio, os, sys
from alcove.contract import ExecRequest, Limited, SandboxSpec, to_json
from alcove.local.backend import LocalSandbox
from alcove.local.config import LocalSandboxConfig

native = os.environ.get("ALCOVE_TEST_NATIVE")

async def main(action, store, *arguments):
    backend = LocalSandbox(LocalSandboxConfig(root_dir=store or None, native=native))
    if action == "list":
        for session in backend.sessions():
            print(session.id, session.state)
    elif action == "make":
        spec = SandboxSpec(arguments[0], labels={"made": "elsewhere"}, network_policy=Limited())
        print((await backend.provision(spec)).id)
    elif action == "exec":
        result = await backend.exec(arguments[0], ExecRequest("sh", ["-c", arguments[1]], timeout=30))
        print(result.stdout, end="")
        sys.exit(result.exit_code)
    elif action == "end":
        await backend.terminate(arguments[0])
    await backend.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


def client(action: str, store: Path | str, *arguments: str, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, action, str(store), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        env={**os.environ, **(env or {})},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_another_process_lists_and_uses_a_session(cell: Cell, store: Path) -> None:
    assert client("list", store) == f"{cell.id} running\n"
    assert client("exec", store, cell.id, "echo from elsewhere > note; echo done") == "done\n"
    assert await cell.out("cat note") == "from elsewhere\n"


async def test_a_session_outlives_the_process_that_made_it(backend: LocalSandbox, store: Path) -> None:
    name = f"made-{secrets.token_hex(4)}"
    assert client("make", store, name) == f"{name}\n"
    (session,) = backend.sessions()
    assert (session.id, session.state, session.labels) == (name, SandboxState.RUNNING, {"made": "elsewhere"})
    cell = Cell(backend, session)
    warden = cell.native("warden")
    assert await cell.out("echo alive") == "alive\n"
    assert cell.native("warden") == warden
    await backend.terminate(name)
    assert not outside.is_there(warden)
    assert not cell.directory.exists()


async def test_another_process_ends_a_session(cell: Cell, store: Path) -> None:
    assert await cell.out("echo alive") == "alive\n"
    client("end", store, cell.id)
    assert not cell.directory.exists()
    with pytest.raises(SessionNotFound):
        await cell.exec("true")
    await cell.backend.terminate(cell.id)


async def test_two_backends_on_one_store(backend: LocalSandbox, cell: Cell) -> None:
    other = LocalSandbox(backend.config)
    try:
        theirs = Cell(other, cell.session)
        outputs = await asyncio.gather(*((cell if i % 2 else theirs).out("echo $1", str(i)) for i in range(20)))
        assert outputs == [f"{i}\n" for i in range(20)]
        await asyncio.gather(backend.terminate(cell.id), other.terminate(cell.id))
        for one in (backend, other):
            with pytest.raises(SessionNotFound):
                await one.exec(cell.id, ExecRequest("true"))
            assert one.session(cell.id).state is SandboxState.TERMINATED
    finally:
        await other.aclose()


async def test_two_backends_bring_a_session_back_once(backend: LocalSandbox, cell: Cell) -> None:
    other = LocalSandbox(backend.config)
    try:
        theirs = Cell(other, cell.session)
        await theirs.out("true")
        warden = cell.native("warden")
        os.kill(warden, signal.SIGKILL)
        await outside.until(lambda: not outside.is_there(warden))
        await asyncio.gather(*((cell if i % 2 else theirs).out("true") for i in range(8)))
        assert cell.native("warden") != warden
    finally:
        await other.aclose()


async def test_a_session_that_another_backend_brought_back_ends_whole(backend: LocalSandbox, cell: Cell) -> None:
    os.kill(cell.native("warden"), signal.SIGKILL)
    # which takes the spawner along: until it does, that still serves
    await outside.until(lambda: not outside.called("alcove-spawner", cell.directory.name))
    other = LocalSandbox(backend.config)
    try:
        await Cell(other, cell.session).out("true")
        brought_back = cell.native("warden")
        await backend.terminate(cell.id)
        assert not Path(f"/proc/{brought_back}").exists()
    finally:
        await other.aclose()


# The store


async def test_a_path_longer_than_a_socket_address(tmp_path: Path) -> None:
    store = tmp_path / ("a long name of a directory " * 6) / ("and another " * 12)
    await _works(store)


async def test_a_path_of_letters_that_are_more_bytes_than_letters(short_tmp: Path) -> None:
    await _works(short_tmp / ("é" * 40))


async def test_a_path_with_every_odd_letter(tmp_path: Path) -> None:
    await _works(tmp_path / "odd \n\t\\ 'name' \"of\" a:store,x=y")


async def _works(store: Path) -> None:
    backend = LocalSandbox(LocalSandboxConfig(root_dir=str(store)))
    try:
        async with live(backend) as cell:
            assert await cell.out("echo kept > note; cat note") == "kept\n"
            assert (await cell.exec("true", debug=True)).success
            await backend.attach_filesystem(cell.id, FilesystemMount("", "/data"))
            warden = cell.native("warden")
            os.kill(warden, signal.SIGKILL)
            await outside.until(lambda: not outside.is_there(warden))
            assert await cell.out("cat note") == "kept\n"
        assert list((store / "sessions").iterdir()) == []
    finally:
        await backend.aclose()


def test_the_store_is_where_the_environment_says(tmp_path: Path, as_root: bool) -> None:
    home = tmp_path / "home of alcove"
    name = f"home-{secrets.token_hex(4)}"
    client("make", "", name, env={"ALCOVE_HOME": str(home)})
    try:
        assert client("list", "", env={"ALCOVE_HOME": str(home)}) == f"{name} running\n"
        assert home.stat().st_mode & 0o777 == 0o700
        assert len(list((home / "sessions").iterdir())) == 1
    finally:
        client("end", "", name, env={"ALCOVE_HOME": str(home)})
    if not as_root:  # root's is /var/lib/alcove, which may be in use
        assert client("list", "", env={"ALCOVE_HOME": "", "XDG_DATA_HOME": str(tmp_path / "data")}) == ""
        assert (tmp_path / "data" / "alcove" / "store.db").exists()
        assert client("list", "", env={"ALCOVE_HOME": "", "XDG_DATA_HOME": "", "HOME": str(tmp_path)}) == ""
        assert (tmp_path / ".local" / "share" / "alcove" / "store.db").exists()


async def test_nothing_of_a_session_is_for_other_users(cell: Cell, store: Path) -> None:
    assert store.stat().st_mode & 0o777 == 0o700
    assert cell.directory.stat().st_mode & 0o777 == 0o700
    assert (store / "store.db").stat().st_uid == os.geteuid()


def test_sessions_do_not_lie_side_by_side_where_ext4_can_help_it(tmp_path: Path) -> None:
    """Where a directory cannot be marked so at all, that is all the same."""
    Store(str(tmp_path / "store")).close()
    (tmp_path / "plain").mkdir()
    assert _top(tmp_path / "store" / "sessions") == _mark_top(tmp_path / "plain")


_TOP = 0x0002_0000  # FS_TOPDIR_FL of linux/fs.h


def _top(directory: Path) -> bool:
    return bool(_flags(directory) & _TOP)


def _mark_top(directory: Path) -> bool:
    fd = os.open(directory, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, 0x4008_6602, struct.pack("=q", _flags(directory) | _TOP))
    except OSError:
        return False
    finally:
        os.close(fd)
    return _top(directory)


def _flags(directory: Path) -> int:
    fd = os.open(directory, os.O_RDONLY)
    try:
        return int(struct.unpack("=q", fcntl.ioctl(fd, 0x8008_6601, struct.pack("=q", 0)))[0])
    except OSError:
        return 0
    finally:
        os.close(fd)


@pytest.mark.parametrize("processors", [1, None])
async def test_a_session_runs_where_its_caller_may(backend: LocalSandbox, processors: int | None) -> None:
    """Its parts are moved apart while it is made; nothing of that is left."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:processors])
    try:
        async with live(backend) as made:
            mine = os.sched_getaffinity(0)
            assert [os.sched_getaffinity(made.native(role)) for role in ("warden", "init", "spawner")] == [mine] * 3
            assert await made.out("python3 -c 'import os; print(os.sched_getaffinity(0))'") == f"{mine}\n"
    finally:
        os.sched_setaffinity(0, before)


async def test_a_host_that_lets_nobody_move_a_process_has_sessions_too(
    backend: LocalSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "not here")

    with monkeypatch.context() as patch:
        patch.setattr(os, "sched_setaffinity", refuse)
        async with live(backend) as cell:
            assert await cell.out("echo lives") == "lives\n"


@pytest.mark.parametrize("make", ["file", "foreign"])
def test_a_store_that_cannot_be_is_told(tmp_path: Path, make: str, as_root: bool) -> None:
    store = tmp_path / "place"
    if make == "file":
        store.write_text("no directory")
    elif as_root:
        store.mkdir()
        os.chown(store, 4242, 4242)
    else:
        store = Path("/usr/share")
    with pytest.raises(SandboxIoError, match="ALCOVE_HOME"):
        LocalSandbox(LocalSandboxConfig(root_dir=str(store)))


# Provisioning that fails


def launcher(tmp_path: Path, script: str) -> LocalSandboxConfig:
    """Return a configuration whose launcher probes as the real one does, and starts as `script` says."""
    real = os.environ.get("ALCOVE_TEST_NATIVE") or str(Path(sys.executable).parent / "alcove-warden")
    fake = tmp_path / "launcher"
    fake.write_text(f'#!/bin/sh\nreal="{real}"\ncase $1 in --*) exec "$real" "$@";; esac\n{script}\n')
    fake.chmod(0o755)
    return LocalSandboxConfig(root_dir=str(tmp_path / "store"), native=str(fake))


@pytest.mark.parametrize("script", ["exit 3", "kill -9 $$", "exec /no/such/program", "echo garbage >&6; echo more >&4"])
async def test_a_launcher_that_fails_leaves_nothing(tmp_path: Path, script: str) -> None:
    backend = LocalSandbox(launcher(tmp_path, script))
    try:
        with pytest.raises(LifecycleError):
            await backend.provision(OFFLINE)
        async with no_leaks(tmp_path / "store"):
            for _ in range(3):
                with pytest.raises(LifecycleError):
                    await backend.provision(SandboxSpec("again", network_policy=Limited()))
        assert backend.sessions(ended=True) == []
        assert list((tmp_path / "store" / "sessions").iterdir()) == []
    finally:
        await backend.aclose()


async def test_the_answer_of_a_launcher_that_ended_early_is_heard(tmp_path: Path) -> None:
    started = Launcher(str(launcher(tmp_path, "printf why >&3").native), "warden", "key")
    try:
        started.send(0)
        await asyncio.to_thread(os.waitid, os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)
        started.send(0)
        assert await started.answer(16, 5) == b"why"
    finally:
        started.abandon()


async def test_a_plan_with_a_network_of_its_own_is_refused_where_init_was_born_without(tmp_path: Path) -> None:
    heard = LocalSandbox(launcher(tmp_path, 'exec "$real" "$@"'))
    try:
        async with live(heard, OFFLINE) as cell:
            assert (await cell.out("wc -l </proc/net/dev")) == "3\n"  # two of header, and the loopback
    finally:
        await heard.aclose()
    deaf = LocalSandbox(launcher(tmp_path, 'exec "$real" "$1" "$2"'))
    try:
        with pytest.raises(LifecycleError, match=r"setns \(net\): EPERM"):
            await deaf.provision(OFFLINE)
        async with live(deaf, SandboxSpec(network_policy=Unrestricted())) as cell:
            assert await cell.out("echo here") == "here\n"
    finally:
        await deaf.aclose()


async def test_cancelling_a_launcher_that_hangs_leaves_nothing(tmp_path: Path) -> None:
    number = mark()
    backend = LocalSandbox(launcher(tmp_path, f"exec sleep {number}"))
    try:
        for _ in range(2):
            task = asyncio.ensure_future(backend.provision(OFFLINE))
            await outside.one(number)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert outside.bearing(number) == []
        assert backend.sessions(ended=True) == []
        assert list((tmp_path / "store" / "sessions").iterdir()) == []
    finally:
        await backend.aclose()


async def test_cancelling_provision_at_any_moment_leaves_nothing(backend: LocalSandbox, store: Path) -> None:
    for turns in range(0, 40, 3):
        task = asyncio.ensure_future(backend.provision(OFFLINE))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        results = await asyncio.gather(task, return_exceptions=True)
        for result in results:
            if not isinstance(result, BaseException):
                await backend.terminate(result.id)
    assert backend.sessions() == []
    assert list((store / "sessions").iterdir()) == []


async def test_a_mount_that_fails_leaves_no_session(backend: LocalSandbox) -> None:
    with pytest.raises(SandboxIoError):
        await backend.provision(SandboxSpec("failed", mounts=[FilesystemMount("", "/usr/no/where")]))
    assert backend.sessions(ended=True) == [
        session for session in backend.sessions(ended=True) if session.id != "failed"
    ]
    async with live(backend, SandboxSpec("failed", network_policy=Limited())) as cell:  # the id is free again
        assert cell.id == "failed"


def test_a_launcher_that_is_none_is_told(tmp_path: Path) -> None:
    for native in ("/bin/false", "/no/such/launcher"):
        with pytest.raises(LifecycleError, match=f"{native} does not run"):
            LocalSandbox(LocalSandboxConfig(root_dir=str(tmp_path / "store"), native=native))


# What there is not


async def test_what_is_not_there_says_so(backend: LocalSandbox, cell: Cell) -> None:
    assert backend.capabilities().local_process_sandbox
    with pytest.raises(Unsupported, match=r"^backend `local` does not support "):
        await backend.provision(SandboxSpec(rootfs="image:debian", network_policy=Limited()))
    with pytest.raises(Unsupported, match=r"^backend `local` does not support checkpoints"):
        await backend.checkpoint(cell.id)


async def test_what_cannot_be_swept_keeps_nothing_else(backend: LocalSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    swept = []

    async def refuse(row: Row) -> None:
        swept.append(row.id)
        raise LifecycleError(f"{row.id} stays")

    async with live(backend), live(backend):
        with monkeypatch.context() as patch:
            patch.setattr(backend._sessions, "unmade", lambda _: True)
            patch.setattr(backend._sessions, "sweep_row", refuse)
            with pytest.raises(LifecycleError, match="stays"):
                await backend.recover()
    assert len(swept) == 2


async def test_a_sweep_looks_again_at_what_it_read_before(backend: LocalSandbox) -> None:
    """Whoever was making a session when the rows were read has made it, and gone."""
    async with live(backend) as cell:
        row = backend._store.find(cell.id)
        assert row is not None
        made = records.decode(row.record)
        old = replace(row, record=records.encode(replace(made, maker=Maker(2**22 + 1, 1))))
        assert backend._sessions.unmade(old)
        await backend._sessions.sweep_row(old)
        assert await cell.out("echo lives") == "lives\n"


async def test_a_list_tells_of_what_cannot_be_looked_at_too(
    backend: LocalSandbox, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pidfd_open", fail)
        assert [(session.id, session.state) for session in backend.sessions()] == [(cell.id, SandboxState.RUNNING)]
