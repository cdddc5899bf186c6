"""`alcove run` and `alcove exec` as whole processes: exit codes, streams, options."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.cli import Cli, read_until

pytestmark = pytest.mark.user

EVERY_BYTE = bytes(range(256)) * 4096  # 1 MiB


# Exit codes


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("true", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -9 $$", 137),
        ("kill -TERM $$", 143),
        ("no-such-program", 127),
        ("/etc/passwd", 126),
    ],
)
def test_the_exit_code_is_the_commands(alcove: Cli, command: str, code: int) -> None:
    assert alcove("run", "--", "sh", "-c", command).returncode == code


def test_a_timeout_is_124(alcove: Cli) -> None:
    done = alcove("run", "--timeout", "300ms", "--", "sh", "-c", "echo before; exec sleep 60")
    assert (done.returncode, done.stdout) == (124, b"before\n")
    assert done.stderr == b"alcove: the command was killed at its timeout\n"


def test_a_reader_that_sleeps_does_not_prolong_a_timeout(alcove: Cli) -> None:
    with alcove.started("run", "--timeout", "500ms", "--", "yes") as process:
        assert process.wait(30) == 124


def test_our_own_failure_is_125(alcove: Cli) -> None:
    assert alcove.refusal("run", "--cwd", "nowhere", "--", "true") == (
        "working directory `/workspace/nowhere` does not exist"
    )
    assert alcove.refusal("run", "--mount", "nowhere:/data", "--", "true").startswith("mount source")
    assert alcove.ids() == []


def test_no_network_unless_asked(alcove: Cli) -> None:
    interfaces = ["--", "sh", "-c", "ls /sys/class/net 2>/dev/null || sed 1,2d /proc/net/dev"]
    assert [line.split()[0] for line in alcove.out("run", *interfaces).splitlines()] in (["lo:"], ["lo"])
    namespace = ["--", "readlink", "/proc/self/ns/net"]
    assert alcove.out("run", *namespace).strip() != os.readlink("/proc/self/ns/net")
    assert alcove.out("run", "--net", *namespace).strip() == os.readlink("/proc/self/ns/net")


# Streams


def test_any_bytes_pass_both_ways(alcove: Cli) -> None:
    assert alcove("run", "--", "cat", stdin=EVERY_BYTE).stdout == EVERY_BYTE
    both = alcove("run", "--", "sh", "-c", "cat >&2; printf '\\377\\0'", stdin=EVERY_BYTE)
    assert (both.stdout, both.stderr) == (b"\xff\0", EVERY_BYTE)


def test_files_pass_both_ways(alcove: Cli, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(EVERY_BYTE * 8)
    with (tmp_path / "in").open("rb") as reading, (tmp_path / "out").open("wb") as writing:
        done = subprocess.run(
            [*alcove.command, "run", "--", "cat"], check=False, env=alcove.environment, stdin=reading, stdout=writing
        )
    assert done.returncode == 0
    assert (tmp_path / "out").read_bytes() == EVERY_BYTE * 8


def test_output_comes_as_it_is_written_and_input_as_it_is_typed(alcove: Cli) -> None:
    with alcove.started("run", "--", "sh", "-c", "echo name?; read name; echo hello $name") as process:
        assert process.stdin
        assert process.stdout
        read_until(process.stdout.fileno(), b"name?\n")
        process.stdin.write(b"you\n")
        read_until(process.stdout.fileno(), b"hello you\n")
        assert process.wait(30) == 0


def test_input_that_never_ends_holds_nothing_back(alcove: Cli) -> None:
    for words in (["--", "true"], ["--json", "--", "true"]):
        with alcove.started("run", *words) as process:  # its standard input stays open
            assert process.wait(30) == 0


def test_input_that_nobody_reads(alcove: Cli) -> None:
    assert alcove("run", "--", "true", stdin=EVERY_BYTE * 16).returncode == 0


def test_a_reader_that_leaves_ends_the_command(alcove: Cli) -> None:
    with alcove.started("run", "--", "yes") as process:
        assert process.stdout
        process.stdout.read(1)
        process.stdout.close()
        assert process.wait(30) == 128 + signal.SIGPIPE


def test_output_that_cannot_be_written(alcove: Cli) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*alcove.command, "run", "--", "echo", "hello"],
            check=False,
            env=alcove.environment,
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert done.returncode == 125
    assert done.stderr == b"alcove: the command's output could not be written: No space left on device\n"


def test_closed_standard_streams_become_nothing_else(alcove: Cli) -> None:
    """The store must not be what the command reads as its input, or writes its output into."""
    line = '"$@" <&- >&- 2>&-'
    for command in ("cat", "echo spoilt; echo spoilt >&2"):
        done = subprocess.run(
            ["sh", "-c", line, "sh", *alcove.command, "run", "--", "sh", "-c", command],
            check=False,
            env=alcove.environment,
        )
        assert done.returncode == 0
    assert b"spoilt" not in b"".join(path.read_bytes() for path in alcove.store.glob("store.db*"))
    assert alcove.ids() == []


def test_a_background_child_does_not_hold_the_result_back(alcove: Cli) -> None:
    box = alcove.create()
    script = "(while sleep 0.1; do echo beat; done) & echo started"
    assert alcove.out("exec", box, "--", "sh", "-c", script).startswith("started\n")
    assert alcove.out("exec", box, "--", "pgrep", "-c", "sleep|sh").strip() != "0"


# Options


def test_environment_directory_and_standard_input(alcove: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "echo $A $MINE $NOT_MINE; pwd"
    monkeypatch.setitem(alcove.environment, "MINE", "mine")
    monkeypatch.setitem(alcove.environment, "NOT_MINE", "secret")
    out = alcove.out("run", "-e", "A=1", "-e", "MINE", "--cwd", "/tmp", "--", "sh", "-c", script)
    assert out == "1 mine\n/tmp\n"
    assert alcove.refusal("run", "-e", "NEITHER", "--", "true").startswith("--env NEITHER: it is not set here")


def test_mounts_are_read_only_unless_said(alcove: Cli, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("from the host\n")
    assert alcove.out("run", "--mount", "data:/data", "--", "cat", "/data/file") == "from the host\n"
    done = alcove("run", "--mount", "data:/data:ro", "--", "touch", "/data/new")
    assert done.returncode == 1
    assert b"Read-only file system" in done.stderr
    allowed = ["--allow-root-owned"] if os.geteuid() == 0 else []
    alcove.out("run", *allowed, "--mount", f"{tmp_path}/data:/data:rw", "--", "touch", "/data/new")
    assert (tmp_path / "data" / "new").exists()


def test_a_read_write_mount_of_roots_needs_leave(alcove: Cli, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        message = alcove.refusal("run", "--mount", f"{tmp_path}:/data:rw", "--", "true")
        assert "root" in message
    assert alcove.ids() == []


def test_limits(alcove: Cli) -> None:
    assert alcove.out("run", "--open-files", "50", "--", "sh", "-c", "ulimit -n").strip() == "50"
    script = "for i in 1 2 3 4 5 6 7 8; do sleep 60 & done; wait"
    done = alcove("run", "--pids", "6", "--timeout", "20", "--", "sh", "-c", script)
    assert done.returncode not in {0, 124}
    assert b"fork" in done.stderr


def test_a_kept_session_is_told_and_stays(alcove: Cli) -> None:
    done = alcove("run", "--keep", "--label", "why=test", "--", "sh", "-c", "echo kept > file")
    assert (done.returncode, done.stdout) == (0, b"")
    words = done.stderr.decode().split()
    assert words[:3] == ["alcove:", "kept", "session"]
    assert alcove.ids() == [words[3]]
    assert alcove.out("exec", words[3], "--", "cat", "file") == "kept\n"


def test_json(alcove: Cli) -> None:
    done = alcove("run", "--json", "--raw", "--", "sh", "-c", "cat; printf '\\377' >&2; exit 3", stdin=b"in\n")
    assert done.returncode == 3
    assert json.loads(done.stdout) == {
        "stdout": "in\n",
        "stderr": "\ufffd",
        "exit_code": 3,
        "timed_out": False,
        "stdout_base64": "aW4K",
        "stderr_base64": "/w==",
    }
    limited = alcove("run", "--json", "--output-limit", "1K", "--", "head", "-c", "5000", "/dev/zero")
    assert json.loads(limited.stdout)["stdout_omitted"] == 5000 - 1024
    late = alcove("run", "--json", "--timeout", "200ms", "--", "sleep", "60")
    assert (late.returncode, json.loads(late.stdout)["timed_out"]) == (124, True)


# Ends


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("stubborn", [False, True])
def test_a_signal_ends_the_command_and_the_session(alcove: Cli, number: signal.Signals, stubborn: bool) -> None:
    script = "trap '' INT TERM HUP; echo ready; sleep 60; sleep 60" if stubborn else "echo ready; exec sleep 60"
    with alcove.started("run", "--", "sh", "-c", script) as process:
        assert process.stdout
        read_until(process.stdout.fileno(), b"ready\n")
        process.send_signal(number)
        assert process.wait(30) == 128 + number
    assert alcove.ids() == []


def test_ctrl_c_in_a_session_that_stays(alcove: Cli) -> None:
    box = alcove.create()
    with alcove.started("exec", box, "--", "sh", "-c", "(setsid sleep 61 &); echo ready; sleep 61") as process:
        assert process.stdout
        read_until(process.stdout.fileno(), b"ready\n")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert alcove("exec", box, "--", "pgrep", "-f", "sleep 61").returncode == 1
    assert alcove.ids() == [box]


def test_an_ignored_signal_stays_ignored(alcove: Cli) -> None:
    """As nohup(1) wants it, and a script's background jobs."""
    ignoring = "import os, signal, sys; signal.signal(1, signal.SIG_IGN); os.execvp(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", ignoring, *alcove.command, "run", "--", "sh", "-c", "echo ready; read line; exit 9"],
        env=alcove.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdin
        assert process.stdout
        read_until(process.stdout.fileno(), b"ready\n")
        process.send_signal(signal.SIGHUP)
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.wait(30) == 9


def test_killed_ourselves_the_command_dies_too(alcove: Cli) -> None:
    """Nobody can clean up after SIGKILL, but a foreground command belongs to its caller."""
    box = alcove.create()
    with alcove.started("exec", box, "--", "sh", "-c", "echo ready; exec sleep 62") as process:
        assert process.stdout
        read_until(process.stdout.fileno(), b"ready\n")
        process.kill()
        process.wait(30)
    wait = "while pgrep -f '[s]leep 62'; do :; done"
    assert alcove("exec", box, "--timeout", "20", "--", "sh", "-c", wait).returncode == 0
