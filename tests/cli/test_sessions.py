"""The commands that make, show, change and end sessions."""

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from alcove.contract import SandboxSession, SandboxState, from_json
from tests.cli.cli import WITHIN, Cli, read_until

pytestmark = pytest.mark.user


def test_create_ls_show_rm(alcove: Cli, tmp_path: Path) -> None:
    assert alcove.create("--id", "first", "--label", "why=test", "--mount", f"{tmp_path}:/data") == "first"
    second = from_json(alcove.out("create", "--json", "--timeout", "10"), SandboxSession, strict=True)
    assert second.state is SandboxState.PROVISIONED
    assert "wall_time=10s" in second.metadata["limits"]
    assert alcove.ids() == ["first", second.id]
    assert [entry["id"] for entry in alcove.json("ls", "--label", "why=test")] == ["first"]

    lines = alcove.out("ls").splitlines()
    assert lines[0].split() == ["ID", "STATE", "NETWORK", "LIMITS", "LABELS"]
    assert lines[1].split()[:3] == ["first", "running", "none"]
    assert lines[1].endswith("why=test")

    shown = from_json(alcove.out("show", "first", "--json"), SandboxSession, strict=True)
    assert shown.labels == {"why": "test"}
    assert shown.mounts[-1].host_path == str(tmp_path)
    text = alcove.out("show", "first")
    assert f"mount      /data (read-only) {tmp_path}" in text.splitlines()

    assert alcove.out("rm", "first", second.id) == ""
    assert alcove.ids() == []
    assert [entry["state"] for entry in alcove.json("ls", "--all") if entry["id"] == "first"] == ["terminated"]
    assert "state      terminated" in alcove.out("show", "first").splitlines()
    assert alcove.json("ls") == []


@pytest.mark.parametrize("listing", ["ls", "tree", "snapshots"])
def test_a_listing_puts_right_what_a_kill_left(alcove: Cli, listing: str) -> None:
    alcove.create("--id", "whole")
    left = [alcove.store / "sessions" / "0123456789abcdef.ending", alcove.store / "layers" / "0123456789"]
    for path in left:
        (path / "workspace").mkdir(parents=True)
        (path / "workspace" / "file").touch()
    alcove(listing)
    assert not any(path.exists() for path in left)
    assert alcove.out("exec", "whole", "--", "echo", "lives") == "lives\n"
    alcove("rm", "whole")


def test_an_id_in_use(alcove: Cli) -> None:
    alcove.create("--id", "box")
    assert alcove.refusal("create", "--id", "box") == "session id `box` is in use"
    assert alcove.refusal("run", "--id", "no good", "--", "true").startswith("session id 'no good' must begin with")


def test_an_unknown_id_is_met_with_close_ones(alcove: Cli) -> None:
    assert alcove.refusal("show", "box") == (
        "sandbox session `box` was not found\n  there is no session yet; make one: alcove create"
    )
    alcove.create("--id", "web-server")
    alcove.create("--id", "database")
    for words in (
        ["show", "web-sever"],
        ["exec", "web-sever", "--", "true"],
        ["net", "web-sever", "host"],
        ["mount", "web-sever", ":/data"],
        ["rm", "web-sever"],
    ):
        message = "sandbox session `web-sever` was not found\n  did you mean `web-server`?"
        assert alcove.refusal(*words) == message
    assert "there are: web-server, database (`alcove ls`)" in alcove.refusal("show", "zzzzzz")


def test_rm_goes_on_past_one_that_is_not_there(alcove: Cli) -> None:
    alcove.create("--id", "box")
    assert alcove.refusal("rm", "nowhere", "box").startswith("sandbox session `nowhere` was not found")
    assert alcove.ids() == []
    assert alcove("rm", "box").returncode == 0  # ended already: that is what was wanted
    assert alcove.refusal("rm").startswith("name the sessions to end, or give --all")
    assert alcove.refusal("rm", "box", "--all").startswith("name the sessions to end, or give --all")


def test_suspend_and_resume(alcove: Cli) -> None:
    box = alcove.create()
    assert alcove("exec", box, "--", "sh", "-c", "echo kept > note").returncode == 0
    assert alcove.out("suspend", box) == f"{box} sleeps until it is used\n"
    assert [entry["state"] for entry in alcove.json("ls")] == ["suspended"]
    assert alcove.out("exec", box, "--", "cat", "note") == "kept\n"
    assert [entry["state"] for entry in alcove.json("ls")] == ["running"]
    assert alcove.json("suspend", box)["state"] == "suspended"
    assert alcove.out("resume", box) == f"{box} is awake\n"
    assert alcove.json("resume", box)["state"] == "running"
    assert "was not found" in alcove.refusal("suspend", "nobody")


def test_an_idle_timeout_is_told_and_kept(alcove: Cli) -> None:
    box = alcove.create("--idle-timeout", "90m")
    shown = from_json(alcove.out("show", box, "--json"), SandboxSession, strict=True)
    assert "idle_timeout=5400s" in shown.metadata["limits"].split(",")


def test_a_mount_in_a_live_session(alcove: Cli, tmp_path: Path) -> None:
    box = alcove.create()
    (tmp_path / "file").write_text("from the host\n")
    assert alcove.out("mount", box, ".:/data") == f"/data (read-only) shows {tmp_path}\n"
    assert alcove.out("exec", box, "--", "cat", "/data/file") == "from the host\n"
    assert alcove.out("mount", box, ":/fresh:rw") == "/fresh (read-write) shows a fresh directory\n"
    alcove.out("exec", box, "--", "touch", "/fresh/file")
    assert alcove.refusal("mount", box, ".:/data") == "mount target `/data` is already mounted"
    assert alcove.refusal("mount", box, "data").startswith("data: write it as SRC:DST")
    assert len(alcove.json("show", box)["mounts"]) == 4


def test_the_network_of_a_session(alcove: Cli) -> None:
    box = alcove.create()
    host = os.readlink("/proc/self/ns/net")
    inside = ["exec", box, "--", "readlink", "/proc/self/ns/net"]
    assert alcove.out("net", box) == "none\n"
    assert alcove.out(*inside).strip() != host
    assert alcove.out("net", box, "host") == "host\n"
    assert alcove.out(*inside).strip() == host
    assert alcove.out("net", box, "none") == "none\n"
    assert alcove.out(*inside).strip() != host
    assert alcove.refusal("net", box, "some").startswith("a session's network is `none` or `host`, not `some`: ")
    assert alcove.json("net", box)["metadata"]["network"] == "none"


def test_what_a_table_shows_on_a_terminal(alcove: Cli) -> None:
    alcove.create("--id", "box", "--label", "why=[red]no markup[/red]")
    plain, colourful = on_terminal(alcove, "ls", NO_COLOR="1"), on_terminal(alcove, "ls")
    for shown in (plain, colourful):
        assert b"box" in shown
        assert b"[red]no markup[/red]" in shown
    assert b"\x1b[32mrunning" in colourful
    assert b"\x1b[3" not in plain
    assert b"running" in plain


def test_a_message_has_colour_on_a_terminal_only(alcove: Cli) -> None:
    assert b"\x1b[31malcove:" in on_terminal(alcove, "show", "box", failing=True)
    assert b"\x1b" not in on_terminal(alcove, "show", "box", failing=True, NO_COLOR="1")
    assert alcove("show", "box").stderr.startswith(b"alcove: ")


def on_terminal(alcove: Cli, *words: str, failing: bool = False, **variables: str) -> bytes:
    """Return what a terminal of 200 columns is sent."""
    master, slave = pty.openpty()
    os.set_inheritable(slave, False)
    environment = alcove.environment | {"COLUMNS": "200"} | variables
    process = subprocess.Popen([*alcove.command, *words], env=environment, stdin=slave, stdout=slave, stderr=slave)
    try:
        seen = read_until(master, b"alcove create" if failing else b"markup[/red]")
        assert process.wait(WITHIN) == (125 if failing else 0)
        return seen + rest(master)
    finally:
        os.close(slave)
        os.close(master)


def rest(fd: int) -> bytes:
    os.set_blocking(fd, False)
    try:
        return os.read(fd, 65536)
    except BlockingIOError:
        return b""


def test_version_and_help(alcove: Cli) -> None:
    version = alcove.out("version")
    assert version.startswith("alcove ")
    assert alcove.out("--version") == version
    overview = alcove.out()
    assert overview == alcove.out("--help") == alcove.out("-h")
    for command in ("run", "shell", "create", "exec", "ls", "show", "mount", "net", "rm", "doctor", "completion"):
        assert f"\n  {command} " in overview
        shown = alcove.out(command, "--help")
        assert shown.startswith(f"Usage: alcove {command}")
        assert "--help" in shown
        assert all(len(line) <= 80 for line in shown.splitlines()), shown
    assert "__complete" not in overview


def test_output_that_nobody_reads(alcove: Cli) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run([*alcove.command, "--help"], check=False, stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*alcove.command, "--help"], check=False, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (125, b"alcove: No space left on device\n")


def test_doctor(alcove: Cli) -> None:
    report = alcove.json("doctor")
    assert report["ok"] is True
    assert all(finding["what"] in alcove.out("doctor") for finding in report["findings"])


def test_bad_input_is_never_a_traceback(alcove: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for words in (
        ["frob"],
        ["run", "--frob", "--", "true"],
        ["run", "--", ""],
        ["run", "-e", "A B=1", "--", "true"],
        ["run", "--user", "nobody at all", "--", "true"],
        ["run", "--user", "no-such-user", "--", "true"],
        ["run", "--mount", f"{tmp_path}:/proc", "--", "true"],
        ["run", "--mount", f"{tmp_path}:/a", "--mount", f"{tmp_path}:/a", "--", "true"],
        ["run", "--label", "=x", "--", "true"],
        ["show", ""],
        ["show", "../../etc"],
        ["completion", "tcsh"],
    ):
        alcove.refusal(*words)
    # a byte that is no text is passed on as it is
    assert alcove("run", "--", "printf", "\udcff").stdout == b"\xff"


def test_a_store_that_cannot_be_had(alcove: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = alcove.refusal("ls", ALCOVE_HOME=str(tmp_path / "file"))
    assert "set ALCOVE_HOME" in message
    assert json.loads(alcove.out("ls", "--json")) == []
