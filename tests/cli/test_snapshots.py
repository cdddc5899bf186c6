"""The commands about snapshots and forks, and the tree of both."""

import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest

from alcove.cli.tree import Branch, branches
from alcove.cli.values import shown_size
from alcove.contract import SandboxSession, SandboxSnapshot, from_json
from alcove.local import LineageNode
from tests import keeping
from tests.cli.cli import WITHIN, Cli, read_until
from tests.cli.test_completion import offered

pytestmark = pytest.mark.user

ID = re.compile(r"snap-[0-9a-f]{12}")
NO_NETWORK = {"allowed_hosts": [], "mode": "limited"}


@pytest.fixture
def work(alcove: Cli) -> str:
    """A session with one file."""
    alcove.create("--id", "work", "--label", "why=test")
    alcove.out("exec", "work", "--", "sh", "-c", "echo kept > note")
    return "work"


def change(alcove: Cli, session: str) -> None:
    alcove.out("exec", session, "--", "sh", "-c", "echo changed > note")


def note(alcove: Cli, session: str) -> str:
    return alcove.out("exec", session, "--", "cat", "note")


# Snapshots


def test_a_snapshot_is_taken_and_begun_with(alcove: Cli, work: str) -> None:
    taken = alcove.out("snapshot", work, "--name", "base").strip()
    assert ID.fullmatch(taken)
    change(alcove, work)
    for reference in (taken, "base"):
        assert alcove.out("run", "--from", reference, "--", "cat", "note") == "kept\n"
    made = alcove.create("--from", "base")
    assert (note(alcove, made), note(alcove, work)) == ("kept\n", "changed\n")
    again = from_json(alcove.out("snapshot", work, "--json"), SandboxSnapshot, strict=True)
    assert (again.session_id, again.metadata["parent"]) == (work, taken)


def test_snapshots_are_listed_and_shown(alcove: Cli, work: str) -> None:
    assert alcove.out("snapshots", "--quiet") == ""
    assert alcove.json("snapshots") == []
    first = alcove.out("snapshot", work, "--name", "base").strip()
    change(alcove, work)
    second = alcove.out("snapshot", work).strip()
    assert alcove.out("snapshots", "-q").split() == [first, second]
    lines = [line.split() for line in alcove.out("snapshots").splitlines()]
    assert lines[0] == ["ID", "NAME", "SESSION", "PARENT", "AGE", "SIZE", "FILES", "DURABLE"]
    assert lines[1][:3] == [first, "base", work]
    assert lines[2][:3] == [second, work, first]
    assert [one["snapshot_id"] for one in alcove.json("snapshots")] == [first, second]
    shown = dict(line.split(maxsplit=1) for line in alcove.out("snapshots", "show", second).splitlines())
    assert (shown["id"], shown["session"], shown["parent"], shown["used"]) == (
        second,
        work,
        first,
        f"by  session {work}",
    )
    base = alcove.json("snapshots", "show", "base")
    assert (base["snapshot_id"], [user["id"] for user in base["used_by"]]) == (first, [work, second])


def test_a_snapshot_is_named_and_renamed(alcove: Cli, work: str) -> None:
    taken = alcove.out("snapshot", work).strip()
    assert alcove.out("snapshots", "name", taken, "base") == "base\n"
    assert alcove.out("snapshots", "name", "base", "better") == "better\n"
    assert alcove.refusal("snapshot", work, "--name", "better").startswith(f"snapshot `{taken}` has the name")
    assert alcove.refusal("snapshots", "name", "better", "-x").startswith("there is no option `-x`")
    assert alcove.refusal("snapshots", "name", "better", "a b").startswith("snapshot name")
    assert alcove.out("snapshots", "name", "better", "--none") == f"{taken}\n"
    assert "name" not in alcove.json("snapshots", "show", taken)["metadata"]
    other = alcove.out("snapshot", work).strip()
    assert alcove.refusal("snapshots", "name", other, taken).startswith(f"snapshot `{taken}` has the name")
    for words in (["name", taken], ["name", taken, "x", "--none"]):
        assert "NAME|--none" in alcove.refusal("snapshots", *words)


def test_what_lives_on_a_deleted_snapshot_is_told(alcove: Cli, work: str) -> None:
    alcove.out("snapshot", work, "--name", "base")
    change(alcove, work)
    upper = alcove.out("snapshot", work).strip()
    done = alcove("snapshots", "rm", "base")
    assert (done.returncode, done.stdout) == (0, b"")
    told = f"alcove: base is deleted; its files stay as long as session {work} lives and snapshot {upper} exists\n"
    assert done.stderr.decode() == told
    assert alcove.out("run", "--from", upper, "--", "cat", "note") == "changed\n"
    alcove.out("rm", work)
    assert alcove.out("snapshots", "rm", upper) == ""  # nobody is left who would live on it
    assert list((alcove.store / "layers").iterdir()) == []


def test_rm_goes_on_past_one_that_is_not_there(alcove: Cli, work: str) -> None:
    alcove.out("snapshot", work, "--name", "base")
    done = alcove("snapshots", "rm", "bass", "base", "base")
    assert done.returncode == 125
    assert b"there is no snapshot `bass`\n  did you mean `base`?" in done.stderr
    assert alcove.json("snapshots") == []


# Forks


def test_a_fork_is_as_its_session_but_for_what_is_said(alcove: Cli, work: str, tmp_path: Path) -> None:
    alcove.out("rm", work)
    alcove.create(
        "--id", "box", "--label", "why=test", "--mount", f"{tmp_path}:/data", "--pids", "40", "--timeout", "9"
    )
    alcove.out("exec", "box", "--", "sh", "-c", "echo kept > note")
    plain = from_json(alcove.out("fork", "box", "--json"), SandboxSession, strict=True)
    assert plain.labels == {"why": "test"}
    assert plain.mounts[-1].target == "/data"
    assert {"pids=40", "wall_time=9s"} <= {part.partition(":")[0] for part in plain.metadata["limits"].split(",")}
    assert plain.metadata["network"] == "none"

    words = ["--id", "other", "--label", "x=y", "--pids", "50", "--timeout", "8", "--net", "--no-mounts"]
    assert alcove.out("fork", "box", *words) == "other\n"
    other = alcove.json("show", "other")
    assert (other["labels"], len(other["mounts"]), other["metadata"]["network"]) == ({"x": "y"}, 2, "host")
    limits = {part.partition(":")[0] for part in other["metadata"]["limits"].split(",")}
    assert {"pids=50", "wall_time=8s"} <= limits
    assert note(alcove, "other") == note(alcove, plain.id) == "kept\n"

    # and back: without a network, with a mount of its own
    assert alcove.out("fork", "other", "--id", "third", "--no-net", "--mount", ":/fresh:rw") == "third\n"
    third = alcove.json("show", "third")
    assert (third["metadata"]["network"], third["mounts"][-1]["target"]) == ("none", "/fresh")
    change(alcove, "other")
    assert note(alcove, "third") == "kept\n"

    # nothing that is asked for is left out in silence
    words = ["--id", "fourth", "--disk", "64M", "--idle-timeout", "1h", "--best-effort", "--no-mounts"]
    assert alcove.out("fork", "box", *words) == "fourth\n"
    limits = {part.partition("=")[0] for part in alcove.json("show", "fourth")["metadata"]["limits"].split(",")}
    assert {"disk_mb", "idle_timeout"} <= limits


def test_a_fork_that_cannot_be(alcove: Cli, work: str) -> None:
    assert alcove.refusal("fork", "wrok") == "sandbox session `wrok` was not found\n  did you mean `work`?"
    assert alcove.refusal("fork", work, "--id", work).startswith("session id `work` is in use")
    assert alcove.refusal("fork", work, "--net", "--no-net").startswith("--no-net leaves nothing to reach")
    assert alcove.refusal("fork", work, "--mount", ":/a", "--no-mounts").startswith("--mount and --no-mounts exclude")
    assert alcove.json("snapshots") == []
    assert alcove.ids() == [work]


# What is not there


def test_a_reference_that_names_nothing(alcove: Cli, work: str) -> None:
    assert alcove.refusal("create", "--from", "base") == (
        "there is no snapshot `base`\n  there is none yet; take one: alcove snapshot ID"
    )
    alcove.out("snapshot", work, "--name", "base")
    for words in (
        ["snapshots", "show", "bade"],
        ["snapshots", "name", "bade", "x"],
        ["snapshots", "rm", "bade"],
        ["run", "--from", "bade", "--", "true"],
        ["create", "--from", "bade"],
        ["export", "bade", "archive"],
    ):
        assert alcove.refusal(*words) == "there is no snapshot `bade`\n  did you mean `base`?"
    assert "there are: base (`alcove snapshots`)" in alcove.refusal("run", "--from", "zzz", "--", "true")
    for words in (["show", "base"], ["rm", "base"]):
        assert alcove.refusal(*words).endswith("it is a snapshot: alcove snapshots show base")
    assert "alcove snapshot work" in alcove.refusal("snapshots", "show", work)
    alcove.refusal("create", "--from", "\udcff")


def test_references_are_completed(alcove: Cli, work: str) -> None:
    taken = alcove.out("snapshot", work, "--name", "base").strip()
    assert offered(alcove, "snapshots", "") == ["show", "name", "rm"]
    for words in (["snapshots", "show"], ["snapshots", "rm", "base"], ["run", "--from"], ["create", "--from"]):
        assert offered(alcove, *words, "") == ["base", taken]
    assert offered(alcove, "snapshots", "name", "ba") == ["base"]
    assert offered(alcove, "fork", "") == offered(alcove, "snapshot", "") == [work]


# The tree


def test_the_tree_of_sessions_and_snapshots(alcove: Cli, work: str) -> None:
    base = alcove.out("snapshot", work, "--name", "base").strip()
    alcove.out("fork", work, "--id", "forked")
    alcove.create("--from", "base", "--id", "begun")
    alcove.create("--id", "alone")
    first, *below = alcove.out("tree").splitlines()
    assert first.partition("(base)")[0] == f"snapshot  {base}  "  # with its size, once that is known
    assert below == [
        "  session  work  suspended",
        "    session  forked  running",
        "  session  begun  running",
        "session  alone  running",
    ]
    nodes = {node["id"]: node for node in alcove.json("tree")}
    assert set(nodes) == {base, "work", "forked", "begun", "alone"}
    assert {"kind", "id", "name", "parent", "state", "created", "bytes"} <= nodes[base].keys()
    assert [nodes[name]["parent"] for name in ("work", "forked", "begun", "alone")] == [base, "work", base, None]
    drawn = on_terminal(alcove, "tree").decode()
    assert f"snapshot  {base}  (base)" in drawn
    assert "├── session  work" in drawn
    assert "│   └── session  forked" in drawn
    assert "└── session  begun" in drawn

    alcove("snapshots", "rm", "base")
    alcove.out("rm", "work")
    assert alcove.out("tree").splitlines() == [
        "session  forked  running  [from session work, which is gone]",
        f"session  begun  running  [from snapshot {base}, which is gone]",
        "session  alone  running",
    ]
    alcove.out("rm", "--all")
    done = alcove("tree")
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"no session and no snapshot yet" in done.stderr


def node(name: str, parent: str | None) -> LineageNode:
    return LineageNode(
        kind="session",
        id=name,
        name=None,
        parent_kind="session" if parent else None,
        parent=parent,
        parent_gone=False,
        state="running",
        created=name,
        bytes=None,
    )


def test_a_session_that_an_id_made_its_own_ancestor_is_drawn_once() -> None:
    """An id is given again a day after its session's end, so a child may name its own descendant."""

    def names(found: list[Branch]) -> list[str]:
        return [name for branch in found for name in (branch.node.id, *names(branch.below))]

    nodes = [node("a", "b"), node("b", "a"), node("c", "a"), node("d", "d"), node("e", None)]
    assert sorted(names(branches(nodes))) == ["a", "b", "c", "d", "e"]


def test_a_long_line_of_sessions_is_a_tree() -> None:
    (root,) = branches([node("0", None), *(node(str(number), str(number - 1)) for number in range(1, 1500))])
    depth = 0
    while root.below:
        (root,) = root.below
        depth += 1
    assert depth == 1499


# For people


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0B"), (999, "999B"), (1000, "1.0K"), (1536, "1.5K"), (10 << 20, "10M"), (3 << 40, "3.0T")],
)
def test_a_size_is_short(count: int, shown: str) -> None:
    assert shown_size(count) == shown


BAR = """
from alcove.cli import progress
progress._PATIENCE_S = {patience}
with progress.CopyBar("snapshot of work") as bar:
    bar.advance(5 << 20)
    bar.advance(5 << 20)
print("done", flush=True)
"""


@pytest.mark.parametrize(("patience", "shown"), [(0, True), (600, False)])
def test_a_long_copy_has_a_bar_on_a_terminal(patience: int, shown: bool) -> None:
    terminal, other = pty.openpty()
    try:
        argv = [sys.executable, "-c", BAR.format(patience=patience)]
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
        done = subprocess.run(argv, stderr=other, check=True, env=environment, timeout=WITHIN)
        assert done.returncode == 0
        os.write(other, b"<end>")
        seen = read_until(terminal, b"<end>")
    finally:
        os.close(terminal)
        os.close(other)
    assert (b"snapshot of work" in seen) is shown
    assert (b"10.5/? MB" in seen) is shown


def test_elsewhere_there_is_no_bar() -> None:
    argv = [sys.executable, "-c", BAR.format(patience=0)]
    done = subprocess.run(argv, capture_output=True, check=True, timeout=WITHIN)
    assert (done.stdout, done.stderr) == (b"done\n", b"")


def on_terminal(alcove: Cli, *words: str) -> bytes:
    """Return what a terminal is sent."""
    terminal, other = pty.openpty()
    with alcove.started(*words, stdin=subprocess.DEVNULL, stdout=other, stderr=subprocess.DEVNULL) as process:
        process.wait(WITHIN)
        assert process.returncode == 0
        os.write(other, b"<end>")
        os.close(other)
        seen = read_until(terminal, b"<end>")
        os.close(terminal)
    return seen


def test_what_goes_on_behind_keeps_nothing_of_its_callers(alcove: Cli) -> None:
    alcove.create("--id", "watched", "--idle-timeout", "1h")  # whoever looks at it stays
    keeping.end(alcove.store)
    alcove.create("--id", "plain")
    reading, writing = os.pipe()
    subprocess.run([*alcove.command, "snapshot", "plain"], env=alcove.environment, pass_fds=(writing,), check=True)
    os.close(writing)
    assert select.select([reading], [], [], WITHIN)[0]
    assert os.read(reading, 1) == b""
    os.close(reading)
