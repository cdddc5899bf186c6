"""Changes as unified diffs: git applies them, and their cost is bounded."""

import difflib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alcove.contract import SandboxIoError
from alcove.state.changes import Change
from alcove.state.linediff import edits
from alcove.state.patches import DiffLimits, quoted, unified_diff
from tests.state import overlays
from tests.state.inside import Look
from tests.state.overlays import Project

COUNTING = "".join(f"line {number}\n" for number in range(1, 41))


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with Project(tmp_path) as made:
        made.write({"text": COUNTING, "blob": b"\0", "end": "no newline"})
        yield made


def diff(project: Project, limits: DiffLimits | None = None) -> str:
    return "".join(
        unified_diff(project.lower_fd, project.upper_fd, change, limits=limits or DiffLimits())
        for change in project.changes()
    )


def test_a_modified_file(project: Project) -> None:
    project.session("text = Path('text'); text.write_text(text.read_text().replace('line 20\\n', 'twenty\\n'))")
    assert diff(project) == (
        "diff --git a/text b/text\n"
        "--- a/text\n"
        "+++ b/text\n"
        "@@ -17,7 +17,7 @@\n"
        " line 17\n line 18\n line 19\n-line 20\n+twenty\n line 21\n line 22\n line 23\n"
    )


def test_far_edits_have_hunks_of_their_own_and_near_ones_share(project: Project) -> None:
    project.session(
        "lines = Path('text').read_text().splitlines(True)\n"
        "lines[0] = 'first\\n'; lines[5] = 'sixth\\n'; lines[39] = 'last\\n'\n"
        "Path('text').write_text(''.join(lines))"
    )
    heads = [line for line in diff(project).splitlines() if line.startswith("@@")]
    assert heads == ["@@ -1,9 +1,9 @@", "@@ -37,4 +37,4 @@"]


def test_added_and_deleted_files(project: Project) -> None:
    project.session("Path('new').write_text('one\\ntwo\\n'); os.chmod('new', 0o755); os.unlink('end')")
    assert diff(project) == (
        "diff --git a/end b/end\n"
        "deleted file mode 100644\n"
        "--- a/end\n"
        "+++ /dev/null\n"
        "@@ -1 +0,0 @@\n"
        "-no newline\n"
        "\\ No newline at end of file\n"
        "diff --git a/new b/new\n"
        "new file mode 100755\n"
        "--- /dev/null\n"
        "+++ b/new\n"
        "@@ -0,0 +1,2 @@\n"
        "+one\n"
        "+two\n"
    )


def test_a_newline_that_came_to_the_end(project: Project) -> None:
    project.session("Path('end').write_text('no newline\\n')")
    assert diff(project).endswith("@@ -1 +1 @@\n-no newline\n\\ No newline at end of file\n+no newline\n")


def test_a_rename_and_a_mode(project: Project) -> None:
    project.session("os.rename('text', 'a text'); os.chmod('a text', 0o755)")
    assert diff(project) == (
        "diff --git a/text b/a text\n"
        "old mode 100644\n"
        "new mode 100755\n"
        "similarity index 100%\n"
        "rename from text\n"
        "rename to a text\n"
    )


def test_binary_files_are_named_and_not_shown(project: Project) -> None:
    project.session("Path('blob').write_bytes(b'\\0\\1'); Path('new').write_bytes(b'\\0')")
    assert diff(project) == (
        "diff --git a/blob b/blob\n"
        "Binary files a/blob and b/blob differ\n"
        "diff --git a/new b/new\n"
        "new file mode 100644\n"
        "Binary files /dev/null and b/new differ\n"
    )


def test_a_file_that_became_a_link_goes_and_comes(project: Project) -> None:
    project.session("os.unlink('end'); os.symlink('text', 'end')")
    assert diff(project) == (
        "diff --git a/end b/end\n"
        "deleted file mode 100644\n"
        "--- a/end\n"
        "+++ /dev/null\n"
        "@@ -1 +0,0 @@\n"
        "-no newline\n"
        "\\ No newline at end of file\n"
        "diff --git a/end b/end\n"
        "new file mode 120000\n"
        "--- /dev/null\n"
        "+++ b/end\n"
        "@@ -0,0 +1 @@\n"
        "+text\n"
        "\\ No newline at end of file\n"
    )


def test_what_git_has_no_words_for(project: Project) -> None:
    project.session("os.mkdir('d'); os.mkfifo('fifo')")
    assert len(project.changes()) == 2
    assert diff(project) == ""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"plain/name.py", "plain/name.py"),
        ("naïve ☃".encode(), "naïve ☃"),
        (b"a\tb\nc", r'"a\tb\nc"'),
        (b'say "\\"', r'"say \"\\\""'),
        (b"\xff\x1b[2J", r'"\377\033[2J"'),
        ("\u202eevil".encode(), r'"\342\200\256evil"'),
        (b"", '""'),
    ],
)
def test_names_cannot_act_on_a_terminal(path: bytes, expected: str) -> None:
    assert quoted(path) == expected


def test_bytes_that_are_no_text_come_back(project: Project) -> None:
    project.session("Path('new').write_bytes(b'caf\\xe9\\r\\n')")
    assert diff(project).encode(errors="surrogateescape").endswith(b"\n+caf\xe9\r\n")


def test_a_large_file_is_not_shown(project: Project) -> None:
    project.session("Path('text').write_text('x\\n' * 600)")
    assert diff(project, DiffLimits(bytes=1200)).count("\n-line") == 40
    assert diff(project, DiffLimits(bytes=1199)) == (
        "diff --git a/text b/text\nFiles a/text and b/text differ: more than 1199 bytes\n"
    )


def test_a_file_that_went_meanwhile(project: Project) -> None:
    project.session("Path('new').write_text('x')")
    (change,) = project.changes()
    (project.upper / "new").unlink()
    with pytest.raises(SandboxIoError, match="new"):
        unified_diff(project.lower_fd, project.upper_fd, change)


@pytest.mark.security
def test_a_link_in_the_place_of_the_file_is_not_followed(project: Project, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret\n")
    project.session("Path('d').mkdir(); Path('d/new').write_text('open\\n')")
    _, change = project.changes()
    assert "+open" in unified_diff(project.lower_fd, project.upper_fd, change)  # the control
    (project.upper / "d/new").unlink()
    os.symlink(tmp_path / "secret", project.upper / "d/new")
    refused(project, change)
    (project.upper / "d/new").unlink()
    (project.upper / "d").rmdir()
    (tmp_path / "new").write_text("secret\n")
    os.symlink(tmp_path, project.upper / "d")
    refused(project, change)


def refused(project: Project, change: Change) -> None:
    with pytest.raises(SandboxIoError):
        unified_diff(project.lower_fd, project.upper_fd, change)


LINES = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"d\n", b"\n", b"e"]), max_size=30)


@given(a=LINES, b=LINES, steps=st.sampled_from([0, 4, 40, 100_000]))
def test_edits_lead_from_one_text_to_the_other(a: list[bytes], b: list[bytes], steps: int) -> None:
    made = list(a)
    for edit in reversed(edits(a, b, steps)):
        assert made[edit.a_start : edit.a_end] == a[edit.a_start : edit.a_end]
        made[edit.a_start : edit.a_end] = b[edit.b_start : edit.b_end]
    assert made == b


@given(a=LINES, b=LINES)
def test_edits_are_the_least(a: list[bytes], b: list[bytes]) -> None:
    found = edits(a, b, 100_000)
    cost = sum(edit.a_end - edit.a_start + edit.b_end - edit.b_start for edit in found)
    other = difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    assert cost <= len(a) + len(b) - 2 * sum(block.size for block in other)


def test_lines_that_occur_once_divide_what_is_too_long_to_compare() -> None:
    a = [b"%d\n" % number for number in range(3000)]
    b = [line if number % 3 else b"new %d\n" % number for number, line in enumerate(a)]
    assert len(edits(a, b, 20_000)) == 1000


@pytest.mark.security
@pytest.mark.parametrize("kind", ["cycles", "all alike", "no line alike"])
def test_texts_made_to_be_slow_are_not(kind: str) -> None:
    size = 100_000
    a, b = {
        "cycles": ([b"%d\n" % (n % 7) for n in range(size)], [b"%d\n" % (n % 11) for n in range(size)]),
        "all alike": ([b"\n"] * size, [b"x\n", *[b"\n"] * (size // 2), b"x\n"]),
        "no line alike": ([b"a%d\n" % n for n in range(size)], [b"b%d\n" % n for n in range(size)]),
    }[kind]
    begun = time.process_time()
    found = edits(a, b, DiffLimits().steps)
    assert time.process_time() - begun < 10
    assert found


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["one", "two words", "d/three", "d/four"]),
        st.sampled_from(["", "a\n", "a\nb\nc\n", COUNTING, COUNTING.replace("line 7\n", ""), "x\r\ny", "\xe9\n"]),
        st.sampled_from([0o644, 0o755]),
    ),
    max_size=4,
)


@settings(max_examples=25, deadline=None)
@given(before=EDITS, after=EDITS, gone=st.lists(st.sampled_from(["one", "d/three"])))
def test_git_applies_them(
    before: list[tuple[str, str, int]], after: list[tuple[str, str, int]], gone: list[str]
) -> None:
    with overlays.project() as project:
        for path, content, mode in before:
            project.write({path: content})
            os.chmod(project.lower / path, mode)
        script = ["os.makedirs('d', exist_ok=True)"]
        script += [f"Path({path!r}).unlink(missing_ok=True)" for path in gone]
        script += [f"Path({p!r}).write_text({c!r}, newline=''); os.chmod({p!r}, {m})" for p, c, m in after]
        seen = project.session("\n".join(script))
        patch = diff(project)
        if patch:
            subprocess.run(
                ["git", "apply", "--whitespace=nowarn", "-p1", "-"],
                check=True,
                cwd=project.lower,
                env={**os.environ, "GIT_CEILING_DIRECTORIES": str(project.place), "GIT_CONFIG_NOSYSTEM": "1"},
                input=patch.encode(errors="surrogateescape"),
            )
        assert files(project.look()) == files(seen)


def files(seen: Look) -> Look:
    return {path: entry for path, entry in seen.items() if path != "d"}
