"""`alcove diff`, `apply` and `discard`, as a person uses them."""

import os
import pty
import subprocess
from base64 import b64decode
from pathlib import Path

import pytest

from tests.cli.cli import WITHIN, Cli, read_until

pytestmark = pytest.mark.user

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b1m\u202e"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    top = tmp_path / "project"
    (top / "sub").mkdir(parents=True)
    (top / "edited").write_text("one\ntwo\n")
    (top / "gone").write_text("bye\n")
    (top / "sub" / "moved").write_text("content of it\n")
    return top


@pytest.fixture
def box(alcove: Cli, project: Path) -> str:
    """Return a session that has `project` by copy-on-write and has changed it."""
    alcove.create("--id", "box", "--mount", "./project:/workspace/project:cow")
    alcove.out("exec", "box", "-w", "project", "--", "sh", "-c", "echo three >>edited; rm gone; mv sub/moved sub/there")
    alcove.out("exec", "box", "-w", "project", "--", "sh", "-c", "mkdir new; echo n >new/file; chmod 700 sub")
    assert (project / "gone").exists()
    return "box"


LIST = "M edited\nD gone\nA new/\nA new/file\nM sub/ (mode 755 -> 700)\nR sub/moved -> sub/there\n"


def test_diff_lists(alcove: Cli, box: str) -> None:
    assert alcove.out("diff", box) == LIST
    assert alcove.out("diff", box, "new", "/workspace/project/gone") == "D gone\nA new/\nA new/file\n"


def test_diff_as_a_patch(alcove: Cli, box: str, project: Path) -> None:
    patch = alcove("diff", box, "--patch").stdout
    assert b"diff --git a/edited b/edited\n--- a/edited\n+++ b/edited\n@@ -1,2 +1,3 @@\n one\n two\n+three\n" in patch
    env = alcove.environment | {"GIT_CEILING_DIRECTORIES": str(project.parent), "GIT_CONFIG_GLOBAL": "/dev/null"}
    subprocess.run(["git", "apply"], cwd=project, input=patch, check=True, env=env)
    assert (project / "edited").read_text() == "one\ntwo\nthree\n"
    assert (project / "sub" / "there").exists()


def test_diff_as_json(alcove: Cli, box: str) -> None:
    found = {change["path"]: change for change in alcove.json("diff", box)}
    assert list(found) == ["edited", "gone", "new", "new/file", "sub", "sub/there"]
    assert found["edited"] == {
        "target": "/workspace/project",
        "kind": "modified",
        "path": "edited",
        "type": "file",
        "old_path": None,
        "mode": 0o644,
        "old_mode": 0o644,
        "binary": False,
    }
    assert found["sub/there"]["old_path"] == "sub/moved"
    with_text = {change["path"]: change["patch"] for change in alcove.json("diff", box, "--patch")}
    assert with_text["gone"].endswith("@@ -1 +0,0 @@\n-bye\n")


def test_apply_tells_what_it_wrote(alcove: Cli, box: str, project: Path) -> None:
    assert alcove.out("apply", box, "edited") == "M edited\n"
    assert (project / "edited").read_text() == "one\ntwo\nthree\n"
    assert (project / "gone").exists()
    outcome = alcove.json("apply", box)
    assert [change["path"] for change in outcome["applied"]] == ["gone", "new", "new/file", "sub", "sub/there"]
    assert outcome["conflicts"] == outcome["left"] == []
    assert not (project / "gone").exists()
    assert alcove.out("diff", box) == alcove.out("apply", box) == ""


def test_a_conflict_is_told_and_nothing_is_written(alcove: Cli, box: str, project: Path) -> None:
    alcove.out("diff", box)
    (project / "edited").write_text("by the host, longer than it was")
    done = alcove("apply", box)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().splitlines() == [
        "alcove: conflict: edited: it changed on the host meanwhile",
        "alcove: nothing was written; apply the others by their paths, or discard the changes",
    ]
    assert (project / "gone").exists()
    done = alcove("apply", box, "--json")
    assert done.returncode == 1
    assert b'"conflicts":[{"target":"/workspace/project","path":"edited","reason":' in done.stdout


def test_what_is_left_is_told(alcove: Cli, box: str, project: Path) -> None:
    alcove.out("exec", box, "--", "sh", "-c", "mkdir -p project/.git/hooks; echo x >project/.git/hooks/post-checkout")
    done = alcove("apply", box)
    assert done.returncode == 1
    assert b"A new/file\n" in done.stdout
    assert b"not written: .git/hooks/post-checkout: git on the host may run what it says; name" in done.stderr
    assert alcove.out("apply", box, ".git/hooks/post-checkout") == "A .git/hooks/post-checkout\n"
    assert (project / ".git" / "hooks" / "post-checkout").exists()


def test_discard(alcove: Cli, box: str, project: Path) -> None:
    assert alcove.out("discard", box) == ""
    assert alcove.out("diff", box) == ""
    assert alcove.out("exec", box, "--", "ls", "project") == "edited\ngone\nsub\n"


def test_several_are_told_apart(alcove: Cli, box: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert alcove.out("mount", box, "./other:/other:cow") == f"/other (copy-on-write) shows {tmp_path}/other\n"
    alcove.out("exec", box, "--", "touch", "/other/x")
    assert alcove.out("diff", box).endswith("A /other/x\n")
    assert alcove.out("diff", box, "--target", "/other") == "A x\n"
    assert b"\n# /other\ndiff --git a/x b/x\n" in alcove("diff", box, "-p").stdout
    assert "say which to apply: --target /workspace/project" in alcove.refusal("apply", box)
    assert alcove.out("apply", box, "--target", "/other") == "A x\n"
    assert (tmp_path / "other" / "x").exists()


def test_what_cannot_be_done_is_told_with_the_next_step(alcove: Cli, box: str) -> None:
    alcove.create("--id", "bare")
    for command in ("diff", "apply", "discard"):
        assert "did you mean `box`?" in alcove.refusal(command, "bos")
        assert "give it one: alcove mount bare ./project:/workspace/project:cow" in alcove.refusal(command, "bare")
    assert alcove.refusal("apply", box, "nothing") == "the session changed nothing at `nothing`; see: alcove diff"
    alcove.out("exec", box, "--", "sh", "-c", "sleep 7000 >/dev/null 2>&1 &")
    said = alcove.refusal("discard", box)
    assert "1 processes run in session `box`" in said
    alcove.out(*said.rpartition("alcove ")[2].split())
    assert alcove.out("discard", box) == ""


def test_names_and_contents_give_a_terminal_no_orders(alcove: Cli, box: str) -> None:
    program = "import sys; open('project/' + sys.argv[1], 'w').write(sys.argv[1] + '\\n')"
    alcove.out("exec", box, "--", "python3", "-c", program, f"a{HOSTILE}")
    for words, end in ((["diff", box], b"sub/there"), (["diff", box, "--patch"], b"rename to sub/there")):
        seen = on_terminal(alcove, *words, end=end)
        assert b"owned" in seen
        for order in (b"\x1b]", b"\x1b[2J", b"\x07", b"\xc2\x9b", "\u202e".encode()):
            assert order not in seen, seen
        assert b"\x1b[32m" in seen
        assert b"\x1b" not in on_terminal(alcove, *words, end=end, NO_COLOR="1")
    assert b"+a\\x1b]0;owned\\x07" in on_terminal(alcove, "diff", box, "--patch", end=b"rename to", NO_COLOR="1")
    # a program gets the bytes, or the patch would be another
    assert f"+a{HOSTILE}\n".encode() in alcove("diff", box, "--patch").stdout


def test_names_that_are_no_utf_8(alcove: Cli, box: str, project: Path) -> None:
    alcove.out("exec", box, "--", "python3", "-c", "open(b'project/a\\xff', 'wb').write(b'caf\\xe9\\n')")
    assert 'A "a\\377"\n' in alcove.out("diff", box)
    change = alcove.json("diff", box, "--patch")[0]
    assert change["path"] == "a\ufffd"
    assert b64decode(change["path_base64"]) == b"a\xff"
    assert change["patch"].endswith("+caf\ufffd\n")
    assert alcove(*["diff", box, "--patch"]).stdout.count(b"+caf\xe9\n") == 1
    done = subprocess.run(
        [*alcove.command, b"apply", box.encode(), b"a\xff"], env=alcove.environment, check=True, capture_output=True
    )
    assert done.stdout == b'A "a\\377"\n'
    assert (os.fsencode(project) + b"/a\xff").endswith(b"\xff")
    assert Path(os.fsdecode(os.fsencode(project) + b"/a\xff")).read_bytes() == b"caf\xe9\n"


def on_terminal(alcove: Cli, *words: str, end: bytes, **variables: str) -> bytes:
    """Return what a terminal is sent, up to and with `end`."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*alcove.command, *words],
        cwd=alcove.cwd,
        env=alcove.environment | variables,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    try:
        seen = read_until(master, end)
        assert process.wait(WITHIN) == 0
        return seen
    finally:
        os.close(slave)
        os.close(master)
