"""`alcove export` and `alcove import`: files and pipes, a bar on a terminal, and no archive on one."""

import asyncio
import fcntl
import os
import pty
import select
import signal
import subprocess
import termios
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from alcove.contract import ExecRequest, Limited, SandboxSnapshot, SandboxSpec, from_json
from alcove.local import LocalSandbox, LocalSandboxConfig
from tests.cli.cli import WITHIN, Cli

pytestmark = pytest.mark.user


def with_backend(alcove: Cli, work: Callable[[LocalSandbox], Awaitable[Any]]) -> Any:
    async def open_and_work() -> Any:
        backend = LocalSandbox(LocalSandboxConfig(root_dir=str(alcove.store)))
        try:
            return await work(backend)
        finally:
            await backend.aclose()

    return asyncio.run(open_and_work())


async def delete_all(backend: LocalSandbox) -> None:
    for snapshot in backend.snapshots():
        await backend.delete_snapshot(snapshot.snapshot_id)


@pytest.fixture
def snapshot(alcove: Cli) -> Iterator[SandboxSnapshot]:
    """Yield a snapshot called `kept`, of a session that is no more; in the end delete all that there are."""
    box = alcove.create()
    alcove.out("exec", box, "--", "sh", "-c", "echo kept > file; head -c 3000000 /dev/urandom > noise")
    made = with_backend(alcove, lambda backend: backend.snapshot(box, name="kept"))
    alcove.out("rm", box)
    yield made
    with_backend(alcove, delete_all)


def has_the_file(alcove: Cli, reference: str) -> bool:
    async def look(backend: LocalSandbox) -> bool:
        spec = SandboxSpec(network_policy=Limited(), rootfs=f"snapshot:{reference}")
        box = (await backend.provision(spec)).id
        result = await backend.exec(box, ExecRequest("cat", ["file"]))
        await backend.terminate(box)
        return result.stdout == "kept\n"

    return bool(with_backend(alcove, look))


def test_by_file(alcove: Cli, snapshot: SandboxSnapshot, tmp_path: Path) -> None:
    assert alcove.out("export", "kept", "kept.tar") == ""
    told = alcove.json("export", snapshot.snapshot_id, "again.tar", "--compression", "gzip", "--flat")
    assert told["snapshot"] == snapshot.snapshot_id
    assert told["bytes"] == (tmp_path / "again.tar").stat().st_size
    made = alcove.out("import", "kept.tar", "--name", "mine").strip()
    assert has_the_file(alcove, made)
    view = from_json(alcove.out("import", "again.tar", "--json"), SandboxSnapshot, strict=True)
    assert view.snapshot_id not in {made, snapshot.snapshot_id}


def test_by_pipe(alcove: Cli, snapshot: SandboxSnapshot) -> None:
    with alcove.started("export", snapshot.snapshot_id, stdin=subprocess.DEVNULL) as sending:
        received = alcove("import", "-", "--name", "piped", stdin=sending.stdout)
        assert sending.wait(WITHIN) == 0
    assert received.returncode == 0, received.stderr
    assert has_the_file(alcove, received.stdout.decode().strip())
    archive = alcove("export", "kept", "-", "--compression", "none").stdout
    assert alcove("import", stdin=archive).returncode == 0


def test_appended_to_a_file(alcove: Cli, snapshot: SandboxSnapshot, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"before")
    with path.open("ab") as file, alcove.started("export", snapshot.snapshot_id, stdout=file) as sending:
        assert sending.wait(WITHIN) == 0
    assert path.read_bytes()[:6] == b"before"
    assert alcove("import", stdin=path.read_bytes()[6:]).returncode == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export", "none", "file"], "there is no snapshot `none`"),
        (["export", "kept", "--json"], "--json is about what was written, and stdout is the archive"),
        (["export", "kept", "file", "--compression", "lzma"], "it is zstd, gzip or none"),
        (["import", "nowhere"], "No such file or directory"),
        (["import", "archive", "--name", "kept"], "has the name `kept` already"),
        (["import", "archive", "--max-size", "1M"], "archive refused: it unpacks to more than 1048576 bytes"),
        (["import", "archive", "--max-entries", "1"], "archive refused: it has more than 1 entries"),
    ],
)
def test_what_is_refused(alcove: Cli, snapshot: SandboxSnapshot, words: list[str], message: str) -> None:
    alcove.out("export", snapshot.snapshot_id, "archive")
    assert message in alcove.refusal(*words)
    assert len(os.listdir(alcove.store / "layers")) == 1


def on_a_terminal(alcove: Cli, *words: str, stream: str) -> tuple[int, bytes]:
    """Run a command line with one stream on a terminal; return its exit code and all that it wrote there."""
    terminal, inside = pty.openpty()
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, stream: inside}
    try:
        with alcove.started(*words, **streams) as process:
            os.close(inside)
            seen = b""
            while select.select([terminal], [], [], WITHIN)[0]:
                try:
                    seen += os.read(terminal, 65536)
                except OSError:  # EIO: the other side is closed
                    break
            if process.stderr:
                seen += process.stderr.read()
            return process.wait(WITHIN), seen
    finally:
        os.close(terminal)


def test_no_archive_on_a_terminal(alcove: Cli, snapshot: SandboxSnapshot) -> None:
    code, seen = on_a_terminal(alcove, "export", snapshot.snapshot_id, stream="stdout")
    assert code == 125
    assert b"an archive is nothing for a terminal: name a FILE" in seen
    assert b"\0" not in seen


@pytest.mark.parametrize(
    ("words", "what"), [(["export", "kept", "new"], b"exporting"), (["import", "old"], b"importing")]
)
def test_a_bar_on_a_terminal(alcove: Cli, snapshot: SandboxSnapshot, words: list[str], what: bytes) -> None:
    alcove.out("export", snapshot.snapshot_id, "old")
    code, seen = on_a_terminal(alcove, *words, stream="stderr")
    assert code == 0, seen
    assert what in seen
    assert b"MB" in seen
    assert b"B/s" in seen


def drained(pipe: int) -> None:
    """Wait until the other side of a pipe has read all."""
    deadline = time.monotonic() + WITHIN
    left = bytearray(4)
    while fcntl.ioctl(pipe, termios.FIONREAD, left) == 0 and any(left):
        assert time.monotonic() < deadline
        os.sched_yield()


def test_a_signal_while_it_waits_for_more(alcove: Cli) -> None:
    with alcove.started("import") as process:
        assert process.stdin
        process.stdin.write(b"the beginning of something")
        drained(process.stdin.fileno())
        process.send_signal(signal.SIGINT)
        assert process.wait(WITHIN) == 130
    assert os.listdir(alcove.store / "layers") == []


def test_a_reader_that_leaves(alcove: Cli, snapshot: SandboxSnapshot) -> None:
    with alcove.started("export", snapshot.snapshot_id, "--compression", "none") as process:
        assert process.stdout
        assert process.stdout.read(512)
        process.stdout.close()
        assert process.wait(WITHIN) == 128 + signal.SIGPIPE
