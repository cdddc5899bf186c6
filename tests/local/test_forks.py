# ruff: noqa: ASYNC221, ASYNC240 - small files of the host, read in between, and processes that are waited for
"""Forks: many of one session, each with an identity of its own; and the tools that people use, at work in one."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from alcove.contract import FilesystemMount, InvalidRequest, Limited, SandboxSpec, SessionNotFound, Unrestricted
from alcove.local.backend import LocalSandbox
from alcove.local.config import LocalSandboxConfig
from tests.local import outside
from tests.local.cell import Cell, begun, forked, live

pytestmark = pytest.mark.user

FORKS = 50
#: Seconds for another process of the test's, on a busy machine.
WITHIN = 100.0


def layers(store: Path) -> list[Path]:
    return sorted((store / "layers").iterdir())


async def end_all(backend: LocalSandbox) -> None:
    await asyncio.gather(*(backend.terminate(session.id) for session in backend.sessions()))


# Identity


@pytest.mark.timeout(200)
async def test_fifty_forks_at_once_are_each_their_own(
    backend: LocalSandbox, cell: Cell, store: Path, *, as_root: bool
) -> None:
    await cell.out(
        "echo shared > file; echo shared > /tmp/file; echo shared > /mnt/session/outputs/file; echo x > gone"
    )
    made = [Cell(backend, session) for session in await asyncio.gather(*(backend.fork(cell.id) for _ in range(FORKS)))]
    try:
        assert len({one.id for one in made} | {cell.id}) == FORKS + 1
        assert len({one.directory for one in made} | {cell.directory}) == FORKS + 1
        if as_root:
            inits = [one.native("init") for one in made]
            for name in ("pid", "net", "user", "ipc"):
                assert len({outside.namespaces(pid)[name] for pid in inits}) == FORKS
            ranges = sorted(outside.id_map(pid, "uid")[0][1:] for pid in inits)
            ends = [first + count for first, count in ranges]
            assert all(end <= first for end, (first, _) in zip(ends, ranges[1:], strict=False))
        write = 'echo "$1" | tee file > /tmp/file; echo "$1" > /mnt/session/outputs/file; rm gone; touch "own-$1"'
        await asyncio.gather(*(one.out(write, one.id) for one in made))
        read = "cat file /tmp/file /mnt/session/outputs/file; ls"
        found = await asyncio.gather(*(one.out(read) for one in made))
        assert found == [f"{one.id}\n" * 3 + f"file\nown-{one.id}\n" for one in made]
        assert (
            await cell.out("cat file /tmp/file /mnt/session/outputs/file gone; ls")
            == "shared\n" * 3 + "x\nfile\ngone\n"
        )
        (sealed,) = (store / "layers").glob("*/workspace/file")
        assert sealed.read_text() == "shared\n"
    finally:
        await end_all(backend)
    assert layers(store) == []


@pytest.fixture
def host_directory(tmp_path: Path) -> Path:
    directory = tmp_path / "host"
    directory.mkdir()
    (directory / "given").write_text("from the host\n")
    return directory


async def test_a_fork_has_the_spec_of_its_session_as_it_is_now(backend: LocalSandbox, host_directory: Path) -> None:
    """A policy that another process has narrowed is narrow in the fork, whatever this one remembers."""
    mounts = [FilesystemMount(host_directory, "/data")]
    spec = SandboxSpec(labels={"a": "b"}, mounts=mounts, network_policy=Unrestricted(), pids=64)
    async with live(backend, spec) as cell:
        await cell.out("true")
        other = LocalSandbox(backend.config)
        try:
            await other.apply_network_policy(cell.id, Limited())
        finally:
            await other.aclose()
        async with forked(cell) as fork:
            assert fork.session.metadata["network"] == "none"
            assert fork.session.labels == {"a": "b"}
            assert "pids=64" in fork.session.metadata["limits"]
            assert await fork.out("cat /data/given") == "from the host\n"


async def test_a_fork_has_nothing_of_memory_or_live_mounts(
    backend: LocalSandbox, cell: Cell, host_directory: Path
) -> None:
    memory = cell.session.mounts[0].host_path
    assert memory is not None
    Path(memory, "fact").write_text("remembered")
    await backend.attach_filesystem(cell.id, FilesystemMount(host_directory, "/data"))
    async with forked(cell) as fork:
        assert await fork.out("ls -A /mnt/memory; test ! -e /data") == ""
        assert len(fork.session.mounts) == 2


async def test_what_a_fork_needs_stays_when_all_else_goes(backend: LocalSandbox, cell: Cell, store: Path) -> None:
    await cell.out("echo file > file")
    async with forked(cell) as fork:
        await backend.terminate(cell.id)
        assert backend.snapshots() == []
        assert await fork.out("cat file") == "file\n"
        async with forked(fork) as second:
            await backend.terminate(fork.id)
            assert await second.out("cat file") == "file\n"
            assert len(layers(store)) == 1
    assert layers(store) == []


async def test_a_fork_that_cannot_be_made_leaves_nothing(backend: LocalSandbox, cell: Cell, store: Path) -> None:
    await cell.out("echo file > file")
    with pytest.raises(InvalidRequest, match="is in use"):
        await backend.fork(cell.id, SandboxSpec(cell.id, network_policy=Limited()))
    with pytest.raises(InvalidRequest, match="leave rootfs out"):
        await backend.fork(cell.id, SandboxSpec(rootfs="snapshot:x", network_policy=Limited()))
    assert backend.snapshots() == []
    assert [session.id for session in backend.sessions()] == [cell.id]
    assert len(layers(store)) == 1  # the session's own
    assert await cell.out("cat file") == "file\n"


async def test_lineage_tells_where_all_comes_from(backend: LocalSandbox, cell: Cell) -> None:
    await cell.out("echo file > file")
    base = await backend.snapshot(cell.id, name="base")
    async with forked(cell) as fork, begun(backend, base) as copy:
        await fork.out("echo more > more")
        upper = await backend.snapshot(fork.id)
        nodes = {node.id: node for node in backend.lineage()}
        parents = {name: (node.kind, node.parent_kind, node.parent) for name, node in nodes.items()}
        assert parents == {
            base.snapshot_id: ("snapshot", None, None),
            cell.id: ("session", "snapshot", base.snapshot_id),
            upper.snapshot_id: ("snapshot", "session", cell.id),
            fork.id: ("session", "snapshot", upper.snapshot_id),
            copy.id: ("session", "snapshot", base.snapshot_id),
        }
        assert (nodes[base.snapshot_id].name, nodes[copy.id].state) == ("base", "running")
        assert {node.id for node in backend.snapshot_users("base")} == {cell.id, fork.id, copy.id, upper.snapshot_id}
        assert [node.id for node in backend.snapshot_users(upper.snapshot_id)] == [fork.id]
        await backend.delete_snapshot("base")
        gone = {node.id for node in backend.lineage() if node.parent_gone}
        assert gone == {cell.id, copy.id}


# Processes that work on one session at once

WORKER = """
import asyncio, json, os, sys
from alcove.contract import ExecRequest, SandboxError
from alcove.local import LocalSandbox, LocalSandboxConfig

store, session, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])

async def main():
    backend = LocalSandbox(LocalSandboxConfig(root_dir=store, native=os.environ.get("ALCOVE_TEST_NATIVE")))
    told = []
    async def attempt(what, work):
        try:
            done = await work
            told.append([what, getattr(done, "snapshot_id", None) or getattr(done, "id", None)])
        except SandboxError as error:
            told.append([what, f"!{type(error).__name__}: {error}"])
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(rounds):
        await attempt("write", backend.exec(session, ExecRequest("touch", [f"{os.getpid()}-{number}"], timeout=30)))
        await asyncio.gather(
            attempt("snapshot", backend.snapshot(session)),
            attempt("fork", backend.fork(session)),
            attempt("fork", backend.fork(session)),
        )
    await backend.aclose()
    print(json.dumps(told), flush=True)

asyncio.run(main())
"""


Workers = list[subprocess.Popen[str]]


@contextmanager
def workers(
    config: LocalSandboxConfig, session: str, *, count: int, rounds: int
) -> Iterator[list[subprocess.Popen[str]]]:
    """Yield processes that begin together when they are written to."""
    argv = [sys.executable, "-W", "error", "-c", WORKER, str(config.root_dir), session, str(rounds)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(argv, **pipes) for _ in range(count)]
    try:
        for process in started:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        yield started
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.communicate()


def failures(told_of: list[tuple[str, str]], *, as_root: bool) -> list[str]:
    """What was refused, but for a plain user's that another process's command runs: nothing of theirs can be frozen."""
    found = [outcome for _, outcome in told_of if outcome and outcome.startswith("!")]
    return [outcome for outcome in found if as_root or "cannot be frozen" not in outcome]


def begin(started: Workers) -> None:
    for process in started:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()


async def told(started: Workers) -> list[list[tuple[str, str]]]:
    ended = await asyncio.gather(*(asyncio.to_thread(process.communicate, None, WITHIN) for process in started))
    return [[(what, outcome) for what, outcome in json.loads(out)] for out, _ in ended]


@pytest.mark.timeout(250)
async def test_processes_that_fork_and_snapshot_one_session_at_once(
    backend: LocalSandbox, cell: Cell, store: Path, *, as_root: bool
) -> None:
    """Each sees all that it wrote before, in the order of its own calls; nobody waits for ever, nothing is left."""
    await cell.out("echo kept > note")
    with workers(backend.config, cell.id, count=3, rounds=5) as started:
        begin(started)
        outcomes = await told(started)
    for process, told_of in zip(started, outcomes, strict=True):
        assert failures(told_of, as_root=as_root) == []
        assert len(told_of) == 20
        for number in range(5):
            for what, outcome in told_of[number * 4 + 1 : number * 4 + 4]:
                if not outcome.startswith("!"):
                    await _has(backend, what, outcome, [f"{process.pid}-{earlier}" for earlier in range(number + 1)])
    names = set((await cell.out("ls")).split())
    assert names == {"note", *(f"{process.pid}-{number}" for process in started for number in range(5))}
    await _all_gone(backend, store)


async def _has(backend: LocalSandbox, what: str, name: str, wanted: list[str]) -> None:
    spec = SandboxSpec(rootfs=f"snapshot:{name}", network_policy=Limited())
    session = backend.session(name) if what == "fork" else await backend.provision(spec)
    found = set((await Cell(backend, session).out("ls")).split())
    await backend.terminate(session.id)
    assert {"note", *wanted} <= found


async def _all_gone(backend: LocalSandbox, store: Path) -> None:
    await end_all(backend)
    for snapshot in backend.snapshots():
        await backend.delete_snapshot(snapshot.snapshot_id)
    assert backend.sessions() == []
    assert layers(store) == []
    assert list((store / "sessions").iterdir()) == []


@pytest.mark.timeout(250)
async def test_a_session_that_is_ended_while_others_fork_it(
    backend: LocalSandbox, store: Path, *, as_root: bool
) -> None:
    """Every call has a result or finds no session, in this order; what was made before is whole."""
    session = await backend.provision(SandboxSpec(network_policy=Limited()))
    cell = Cell(backend, session)
    await cell.out("echo kept > note")
    with workers(backend.config, session.id, count=2, rounds=6) as started:
        begin(started)
        await outside.until(lambda: len(backend.snapshots()) >= 2, "nobody takes a snapshot", WITHIN)
        await backend.terminate(session.id)
        outcomes = await told(started)
    refused = [failure for told_of in outcomes for failure in failures(told_of, as_root=as_root)]
    assert {failure.partition(":")[0] for failure in refused} == {"!SessionNotFound"}
    for told_of in outcomes:
        written = [bool(outcome and outcome.startswith("!")) for what, outcome in told_of if what == "write"]
        assert written == sorted(written)  # once it is gone, it stays so
        for what, outcome in told_of:
            if what != "write" and not outcome.startswith("!"):
                await _has(backend, what, outcome, [])
    with pytest.raises(SessionNotFound):
        await backend.fork(session.id)
    await _all_gone(backend, store)


KILLED = """
import asyncio, os, signal, sys
from alcove.contract import Limited
from alcove.local import LocalSandbox, LocalSandboxConfig
from alcove.local.sessions import Sessions

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    backend = LocalSandbox(LocalSandboxConfig(root_dir=sys.argv[1], native=os.environ.get("ALCOVE_TEST_NATIVE")))
    Sessions.make = die
    await backend.fork(sys.argv[2])

asyncio.run(main())
"""


async def test_a_killed_fork_leaves_no_snapshot(backend: LocalSandbox, cell: Cell, store: Path) -> None:
    await cell.out("echo kept > note")
    done = subprocess.run([sys.executable, "-c", KILLED, str(store), cell.id], check=False, timeout=WITHIN)
    assert done.returncode == -signal.SIGKILL
    assert backend.snapshots() == []
    assert await cell.out("cat note") == "kept\n"
    await backend.terminate(cell.id)
    again = LocalSandbox(backend.config)
    try:
        await again.terminate((await again.provision(SandboxSpec(network_policy=Limited()))).id)  # which sweeps
    finally:
        await again.aclose()
    assert layers(store) == []


# Tools, over a layer

RENAME = """
import errno, os
os.mkdir("new"); os.rename("new", "renamed"); print("own directory", os.listdir("renamed"))
os.rename("sub/file", "moved"); print("file", open("moved").read())
try:
    os.rename("sub", "elsewhere")
except OSError as error:
    print("directory of a layer", errno.errorcode[error.errno])
"""


async def test_a_directory_of_a_layer_is_renamed_by_copying(cell: Cell) -> None:
    """As in an image's container: rename(2) is EXDEV, and programs that meet it copy, as they do between disks."""
    await cell.out("mkdir -p sub/deep; echo content > sub/file; echo content > sub/deep/file; chmod 750 sub/deep")
    async with forked(cell) as fork:
        result = await fork.python(RENAME)
        assert result.stdout.splitlines() == ["own directory []", "file content", "", "directory of a layer EXDEV"]
        await fork.out("mv sub elsewhere; test ! -e sub; test ! -e elsewhere/file")
        assert await fork.out("cat elsewhere/deep/file; stat -c %a elsewhere/deep") == "content\n750\n"
        moved = await fork.python("import shutil; shutil.move('elsewhere', 'back')")
        assert moved.success, moved
        async with forked(fork) as second:
            shown = await second.out("find . -type f | sort; cat back/deep/file")
            assert shown == "./back/deep/file\n./moved\ncontent\n"


async def test_a_hard_link_of_a_layer_splits_when_it_is_written(cell: Cell) -> None:
    await cell.out("echo one > a; ln a b")
    async with forked(cell) as fork:
        assert await fork.out("echo two >> a; cat a -; echo --; cat b", stdin="") == "one\ntwo\n--\none\n"
        assert await fork.out("echo x > c; ln c d; echo y >> c; cat d") == "x\ny\n"
    assert await cell.out("stat -c %h a") == "2\n"


BEFORE = {
    "git": """
git init -q -b main repo; cd repo; git config user.name a; git config user.email a@example.org
mkdir -p src/sub; seq 1 500 > src/sub/file; echo a > a; git add .; git commit -qm first
git checkout -qb side; git mv src lib; git commit -qm moved; git checkout -q main
""",
    "npm": """
mkdir package app; cd package; echo '{"name":"left","version":"1.0.0"}' > package.json
echo 'module.exports = 6 * 7' > index.js; cd ../app; npm init -y >/dev/null; npm install --offline ../package
""",
    "pip": "python3 -m venv env",
    "cargo": "cargo new --quiet --vcs none app; cd app; cargo build --quiet --offline",
    "uv": "uv venv --quiet --offline env",
}
AFTER = {
    # git mv of a directory is the one thing of git's that has no way around EXDEV
    "git": """
cd repo; test -z "$(git status --porcelain)"
echo b > b; git add b; git commit -qm again; git checkout -q side; test -f lib/sub/file; git checkout -q main
git rebase -q side; mv lib/sub moved; git add -A; git commit -qm moved; git gc -q; git fsck --strict
git clone -q . ../clone; test "$(git -C ../clone log --oneline | wc -l)" = 4; rm -rf ../clone
""",
    "npm": """
cd app; node -e 'console.log(require("left"))'; npm uninstall --offline left; test ! -e node_modules/left
npm install --offline --install-links ../package; node -e 'console.log(require("left"))'
""",
    "pip": """
cp -r env copy; mv env away; mv away env; env/bin/python3 -m pip --version
env/bin/python3 -m pip uninstall -y pip >/dev/null; ! env/bin/python3 -m pip --version 2>/dev/null
rm -r env; mv copy env; env/bin/python3 -m pip --version
""",
    "cargo": "cd app; echo 'fn main() { println!(\"changed\") }' > src/main.rs; cargo run --quiet --offline",
    "uv": "rm -rf env; uv venv --quiet --offline env; env/bin/python --version",
}


@pytest.mark.timeout(200)
@pytest.mark.parametrize("tool", list(BEFORE))
async def test_a_tool_works_in_a_fork(backend: LocalSandbox, tool: str) -> None:
    """What it made before the fork it changes after it, and the source goes on with what it had."""
    async with live(backend) as cell:
        if not (await cell.sh(f"command -v {tool} && {tool} --version")).success:
            pytest.skip(f"sessions on this machine have no {tool}")
        made = await cell.sh(f"set -e; {BEFORE[tool]}", timeout=100)
        assert made.success, made
        async with forked(cell) as fork:
            worked = await fork.sh(f"set -e; {AFTER[tool]}", timeout=100)
            assert worked.success, worked
        again = await cell.sh(f"set -e; {AFTER[tool]}", timeout=100)
        assert again.success, again


async def test_a_fork_that_is_made_is_somebodys(
    backend: LocalSandbox, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled when all was done but to return it: whoever asked has it, or there is none."""
    watch = backend._sessions.watch

    async def then_cancel(made: Any) -> None:
        await watch(made)
        asyncio.get_running_loop().call_soon(forking.cancel)

    monkeypatch.setattr(backend._sessions, "watch", then_cancel)
    forking = asyncio.ensure_future(backend.fork(cell.id))
    await asyncio.wait([forking])
    had = [] if forking.cancelled() else [forking.result().id]
    assert {session.id for session in backend.sessions()} == {cell.id, *had}
    assert backend.snapshots() == []
    for session_id in had:
        await backend.terminate(session_id)
