"""A session's changes on their way to the host: whole or not at all, never over what changed there meanwhile."""

import errno
import fcntl
import os
import re
import shutil
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alcove.contract import Conflict, LifecycleError, SandboxIoError
from alcove.state import placing
from alcove.state.applying import Applied, apply
from alcove.state.contents import Contents
from alcove.state.entries import Reach, facts
from alcove.state.fingerprints import Fingerprints, decode, encode, fingerprints
from tests.state import inside, overlays
from tests.state.images import directories
from tests.state.inside import Look
from tests.state.overlays import Project

FILES: dict[str, str | bytes] = {
    "README": "read me\n",
    "run": "#!/bin/sh\n",
    "src/main.py": "print('hello')\n",
    "src/lib/a.py": "a = 1\n",
    "src/lib/b.py": "b = 2\n",
    "docs/one": "one\n",
    "docs/deep/two": "two\n",
    "plain": "a file\n",
}

#: A bit of everything: each kind of change, and each type that becomes another.
EVERYTHING = """
import shutil
Path('README').write_text('read me again\\n')
Path('new/deep').mkdir(parents=True)
Path('new/deep/file').write_text('new\\n')
os.symlink('../README', 'new/link')
os.chmod('run', 0o755)
os.rename('src/main.py', 'src/start.py')
os.unlink('src/lib/a.py')
os.chmod('src/lib', 0o750)
shutil.rmtree('docs'); Path('docs').write_text('now a file\\n')
os.unlink('plain'); os.mkdir('plain'); Path('plain/inside').write_text('now a directory\\n')
Path('new/closed').mkdir(); Path('new/closed/x').write_text('x'); os.chmod('new/closed', 0o555)
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with Project(tmp_path) as made:
        made.write(FILES)
        os.symlink("src", made.lower / "link")
        yield made


def refused(applied: Applied) -> dict[bytes, str]:
    return {refusal.path: refusal.reason for refusal in (*applied.conflicts, *applied.left)}


def paths(applied: Applied) -> list[bytes]:
    return [change.path for change in applied.applied]


# What arrives


def test_the_host_has_what_the_session_had(project: Project) -> None:
    base = project.whole()
    seen = project.session(EVERYTHING)
    applied = project.apply(base)
    assert not refused(applied)
    assert project.look() == seen
    assert project.changes() == []


def test_applying_again_changes_nothing(project: Project) -> None:
    base = project.whole()
    project.session(EVERYTHING)
    project.apply(base)
    before = {path: os.lstat(path).st_ctime_ns for path in project.lower.rglob("*")}
    known = project.apply(base).base
    assert project.apply(known) == Applied(known)
    assert project.apply(base).applied == ()
    assert {path: os.lstat(path).st_ctime_ns for path in project.lower.rglob("*")} == before


def test_a_session_goes_on_after_its_changes_were_applied(project: Project) -> None:
    base = project.whole()
    project.session("Path('README').write_text('one')")
    base = project.apply(base).base
    seen = project.session("Path('README').write_text('two'); os.unlink('plain')")
    base = decode(encode(project.apply(base).base))
    assert project.look() == seen
    project.session("Path('README').write_text('three'); Path('plain').write_text('again')")
    assert not refused(project.apply(base))
    assert (project.lower / "README").read_text() == "three"


NAMES = st.sampled_from(["a", "b", "d", "d/a", "d/e", "d/e/a", "\udcff x"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), NAMES, st.sampled_from(["", "x", "y", "x\ny\n"])),
        st.tuples(st.just("mode"), NAMES, st.sampled_from([0o600, 0o644, 0o700, 0o755])),
        st.tuples(st.just("link"), NAMES, st.sampled_from(["a", "/nowhere"])),
        st.tuples(st.just("directory"), NAMES, st.none()),
        st.tuples(st.just("remove"), NAMES, st.none()),
        st.tuples(st.just("move"), NAMES, NAMES),
    ),
    max_size=10,
)

EDITING = """
import shutil
def remove(path):
    shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
for step, path, value in STEPS:
    path = os.path.join(TOP, path)
    try:
        if step == 'write':
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW), 'w') as f: f.write(value)
        elif step == 'mode' and not os.path.islink(path): os.chmod(path, value | 0o100 * os.path.isdir(path))
        elif step == 'link': os.symlink(value, path)
        elif step == 'directory': os.mkdir(path)
        elif step == 'remove': remove(path)
        elif step == 'move': shutil.move(path, os.path.join(TOP, value))
    except (OSError, shutil.Error):
        pass
"""


def editing(steps: list[tuple[str, str, Any]], top: str) -> str:
    return f"import os\nSTEPS, TOP = {steps!r}, {top!r}\n{EDITING}"


@settings(max_examples=60, deadline=None)
@given(before=STEPS, during=STEPS)
def test_whatever_was_done_the_host_has_it_then(
    before: list[tuple[str, str, Any]], during: list[tuple[str, str, Any]]
) -> None:
    with overlays.project() as project:
        exec(editing(before, str(project.lower)), {})
        base = project.whole()
        seen = project.session(editing(during, "."))
        assert not refused(project.apply(base))
        assert project.look() == seen
        assert project.changes() == []


def test_only_the_paths_that_are_named(project: Project) -> None:
    base = project.whole()
    project.session(EVERYTHING)
    assert paths(project.apply(base, b"new/deep/file", b"README/")) == [
        b"README",
        b"new",
        b"new/deep",
        b"new/deep/file",
    ]
    assert not (project.lower / "new/link").exists()
    assert paths(project.apply(base, b"src")) == [b"src/lib", b"src/lib/a.py", b"src/start.py"]
    assert not (project.lower / "src/main.py").exists()
    assert paths(project.apply(base, b"plain/inside")) == [b"plain", b"plain/inside"]
    assert project.apply(base, b"nothing/there").applied == ()


def test_a_rename_is_one_change_by_either_name(project: Project) -> None:
    base = project.whole()
    project.session("os.rename('src/main.py', 'start.py'); os.rename('plain', 'level')")
    assert paths(project.apply(base, b"src/main.py")) == [b"start.py"]
    assert paths(project.apply(base, b"level")) == [b"level"]
    assert sorted(os.listdir(project.lower)) == ["README", "docs", "level", "link", "run", "src", "start.py"]
    assert os.listdir(project.lower / "src") == ["lib"]


def test_holes_stay_holes(project: Project) -> None:
    base = project.whole()
    project.session("Path('sparse').touch()")
    with open(project.upper / "sparse", "r+b") as file:
        file.seek(1 << 30)
        file.write(b"end")
        file.truncate(1 << 31)
    project.apply(base)
    found = os.lstat(project.lower / "sparse")
    assert found.st_size == 1 << 31
    assert found.st_blocks * 512 < 1 << 20
    with open(project.lower / "sparse", "rb") as file:
        file.seek(1 << 30)
        assert file.read(4) == b"end\0"


def test_thousands_of_levels(project: Project) -> None:
    base = project.whole()
    at = os.open(project.upper, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(5000):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    try:
        assert len(project.apply(base).applied) == 5000
        assert project.changes() == []
    finally:
        # pytest's removal is as deep in calls as the tree in directories
        subprocess.run(["rm", "-rf", project.upper / "d", project.lower / "d"], check=True)


@pytest.mark.user
def test_rights_that_the_session_gave_are_there_for_what_it_wrote(project: Project) -> None:
    os.chmod(project.lower / "src", 0o555)
    base = project.whole()
    seen = project.session("os.chmod('src', 0o755); Path('src/new').write_text('x'); os.chmod('src/new', 0)")
    assert not refused(project.apply(base))
    os.chmod(project.lower / "src/new", 0o600)
    assert set(project.look()) == set(seen)


# What never arrives


@pytest.mark.security
def test_set_id_bits_do_not(project: Project) -> None:
    base = project.whole()
    project.session(
        "Path('new').write_text('x'); os.chmod('new', 0o6755); os.chmod('run', 0o4755)\n"
        "Path('README').write_text('x'); os.chmod('README', 0o2755); os.mkdir('d'); os.chmod('d', 0o3777)"
    )
    assert stat.S_IMODE(os.lstat(project.upper / "new").st_mode) == 0o6755  # the control
    project.apply(base)
    modes = {name: stat.S_IMODE(os.lstat(project.lower / name).st_mode) for name in ("new", "run", "README", "d")}
    assert modes == {"new": 0o755, "run": 0o755, "README": 0o755, "d": 0o1777}


def test_a_directory_keeps_the_group_bit_that_its_owner_gave_it(project: Project) -> None:
    os.chmod(project.lower / "src", 0o2755)
    base = project.whole()
    project.session("os.chmod('src', 0o700); os.mkdir('src/new')")
    project.apply(base)
    assert stat.S_IMODE(os.lstat(project.lower / "src").st_mode) == 0o2700
    assert os.lstat(project.lower / "src/new").st_mode & stat.S_ISGID


@pytest.mark.security
def test_what_is_neither_file_nor_directory_nor_link_does_not(project: Project) -> None:
    base = project.whole()
    project.session("import socket; os.mkfifo('fifo'); socket.socket(socket.AF_UNIX).bind('socket')\nPath('n').touch()")
    applied = project.apply(base)
    assert refused(applied) == {
        b"fifo": "a fifo is not made on the host",
        b"socket": "a socket is not made on the host",
    }
    assert paths(applied) == [b"n"]


@pytest.mark.root
def test_owners_stay(project: Project) -> None:
    for name, owner in (("", 1000), ("README", 1001), ("src", 1002), ("plain", 1003)):
        os.chown(project.lower / name, owner, owner + 10)
    project.upper.joinpath("src").mkdir()
    for name in ("README", "src/new", "top", "run"):
        project.upper.joinpath(name).write_text("x")
    os.symlink("x", project.upper / "new")
    shutil.copy2(project.lower / "plain", project.upper / "plain")
    os.chown(project.upper / "top", 5, 5)
    os.chown(project.upper / "plain", 5, 5)
    applied = project.apply(project.whole())
    assert refused(applied) == {b"plain": "owners on the host stay", b"src": "owners on the host stay"}
    owners = {name: os.lstat(project.lower / name) for name in ("README", "src/new", "top", "run", "new", "plain")}
    assert {name: (found.st_uid, found.st_gid) for name, found in owners.items()} == {
        "README": (1001, 1011),
        "src/new": (1002, 1012),
        "top": (1000, 1010),
        "run": (0, 0),
        "new": (1000, 1010),
        "plain": (1003, 1013),
    }


def test_extended_attributes_are_the_hosts(project: Project) -> None:
    os.setxattr(project.lower / "README", "user.mine", b"1")
    base = project.whole()
    project.session("Path('README').write_text('x'); os.setxattr('README', 'user.guest', b'2')")
    project.apply(base)
    assert os.listxattr(project.lower / "README") == ["user.mine"]


GIT = ("config", "hooks/pre-commit", "info/attributes", "rebase-merge/git-rebase-todo", "modules/x/objects/hooks/y")


@pytest.mark.security
def test_what_git_would_run_is_left_until_it_is_named(project: Project) -> None:
    base = project.whole()
    data = ["HEAD", "index", "objects/ab/cdef", "refs/heads/main", "logs/HEAD", "info/refs", "info/exclude"]
    project.session(
        "def put(path):\n"
        "    path = Path(path); path.parent.mkdir(parents=True, exist_ok=True); path.write_text(path.name)\n"
        f"for name in {[*GIT, *data]!r}: put('.git/' + name)\n"
        "put('sub/.GIT/config'); put('a/.git'); put('.git/refs/.git/config')\n"
        "os.symlink('../elsewhere', '.git/refs/link'); put('.github/config')"
    )
    applied = project.apply(base)
    expected = {f".git/{name}" for name in GIT} | {
        "sub/.GIT/config",
        "a/.git",
        ".git/refs/.git/config",
        ".git/refs/link",
    }
    assert {os.fsdecode(path) for path in refused(applied)} == expected
    assert all((project.lower / ".git" / name).exists() for name in data)
    assert (project.lower / ".github/config").exists()
    assert not any(os.path.lexists(project.lower / name) for name in expected)
    # not by naming what it lies in
    assert project.apply(base, b".git").applied == ()
    assert paths(project.apply(base, b".git/config")) == [b".git/config"]


@pytest.mark.security
def test_names_that_applying_uses_are_left(project: Project) -> None:
    base = project.whole()
    project.session("os.mkdir('.alcove-apply-0123456789abcdef'); Path('.alcove-apply-x').touch()")
    applied = project.apply(base)
    assert list(refused(applied)) == [b".alcove-apply-0123456789abcdef"]
    assert paths(applied) == [b".alcove-apply-x"]


# What changed on the host meanwhile


CONFLICTS: list[tuple[str, Callable[[Path], object], bytes]] = [
    ("Path('README').write_text('x')", lambda top: (top / "README").write_text("host"), b"README"),
    ("Path('README').write_text('x')", lambda top: (top / "README").unlink(), b"README"),
    ("os.unlink('README')", lambda top: (top / "README").write_text("host"), b"README"),
    ("Path('new').write_text('x')", lambda top: (top / "new").write_text("host"), b"new"),
    ("os.chmod('run', 0o700)", lambda top: (top / "run").chmod(0o711), b"run"),
    ("os.chmod('src', 0o700)", lambda top: (top / "src").chmod(0o711), b"src"),
    ("Path('src/main.py').write_text('x')", lambda top: shutil.rmtree(top / "src"), b"src/main.py"),
    ("import shutil; shutil.rmtree('docs')", lambda top: (top / "docs/new").write_text("host"), b"docs/new"),
    ("import shutil; shutil.rmtree('docs')", lambda top: (top / "docs/one").write_text("host"), b"docs/one"),
    ("os.rename('plain', 'level')", lambda top: (top / "level").write_text("host"), b"level"),
    ("os.rename('plain', 'level')", lambda top: (top / "plain").write_text("a FILE\n"), b"plain"),
    ("Path('new').mkdir(); Path('new/x').touch()", lambda top: (top / "new").write_text("host"), b"new"),
    ("os.unlink('plain'); os.mkdir('plain')", lambda top: (top / "plain").write_text("host"), b"plain"),
    (
        "os.unlink('README'); os.symlink('run', 'README')",
        lambda top: os.replace(top / "link", top / "README"),
        b"README",
    ),
]


@pytest.mark.parametrize("look", ["whole", "touched"])
@pytest.mark.parametrize(("script", "edit", "path"), CONFLICTS, ids=range(len(CONFLICTS)))
def test_what_changed_there_is_named_and_nothing_is_written(
    project: Project, look: str, script: str, edit: Callable[[Path], object], path: bytes
) -> None:
    base = project.whole()
    project.session(script + "\nPath('other').write_text('x')")
    if look == "touched":
        base = fingerprints(project.lower_fd, project.upper_fd)
    edit(project.lower)
    before = project.look()
    applied = project.apply(base)
    assert path in {conflict.path for conflict in applied.conflicts}
    assert applied.applied == ()
    assert project.look() == before
    # another path is none of its business
    assert paths(project.apply(base, b"other")) == [b"other"]
    # looked at again, it is what the person wants
    assert not project.apply(fingerprints(project.lower_fd, project.upper_fd)).conflicts


def test_the_same_content_written_again_is_no_conflict(project: Project) -> None:
    project.session("Path('README').write_text('x')")
    base = fingerprints(project.lower_fd, project.upper_fd)
    (project.lower / "README").unlink()
    (project.lower / "README").write_text("read me\n")
    assert not refused(project.apply(base))


def test_what_the_host_did_itself_is_no_conflict(project: Project) -> None:
    base = project.whole()
    project.session("Path('README').write_text('same'); os.unlink('plain')")
    (project.lower / "README").write_text("same")
    (project.lower / "plain").unlink()
    applied = project.apply(base)
    assert not applied.applied
    assert not refused(applied)
    # and from then on it is what both have
    project.session("Path('README').write_text('more'); Path('plain').write_text('again')")
    assert paths(project.apply(applied.base)) == [b"README", b"plain"]


def test_what_changed_before_the_first_look_shows_by_its_times(project: Project) -> None:
    began = os.lstat(project.lower / "plain").st_ctime_ns
    until_later_than(began, project.place / "clock")
    project.session("Path('README').write_text('x'); Path('run').write_text('x')")
    (project.lower / "README").write_text("host")
    base = fingerprints(project.lower_fd, project.upper_fd, began_ns=began)
    assert list(refused(project.apply(base))) == [b"README"]
    assert paths(project.apply(base, b"run")) == [b"run"]


def test_what_the_session_touched_after_the_look(project: Project) -> None:
    project.session("Path('README').write_text('x')")
    base = fingerprints(project.lower_fd, project.upper_fd)
    (project.lower / "run").write_text("host")
    project.session("Path('run').write_text('x')")
    assert "look at the changes first" in refused(project.apply(base))[b"run"]
    again = fingerprints(project.lower_fd, project.upper_fd, known=base)
    assert again.entries[b"README"] == base.entries[b"README"]
    assert not refused(project.apply(again))


def test_the_beginning_tells_of_what_nobody_looked_at(project: Project) -> None:
    began = os.lstat(project.lower / "plain").st_ctime_ns
    base = Fingerprints({}, began_ns=began)
    project.session("Path('README').write_text('x'); Path('run').write_text('x')")
    until_later_than(began, project.place / "clock")
    (project.lower / "run").write_text("host")
    assert list(refused(project.apply(base))) == [b"run"]


DIRECTORY_USES = {
    "merged": "Path('src/main.py').write_text('x')",
    "deep": "Path('src/lib/b.py').write_text('x')",
    "deleted": "import shutil; shutil.rmtree('src')",
    "in its place": "import shutil; shutil.rmtree('src'); Path('src').write_text('x')",
}


def exchange_directory(top: Path) -> None:
    (top / "src").rename(top / "src.old")
    (top / "src.new").rename(top / "src")


@pytest.mark.parametrize("looked", [False, True], ids=["unseen", "seen"])
@pytest.mark.parametrize("use", DIRECTORY_USES)
def test_a_directory_that_the_host_exchanged_is_not_written_over(project: Project, use: str, looked: bool) -> None:
    """Its files have the times that they always had."""
    shutil.copytree(project.lower / "src", project.lower / "src.new")
    (project.lower / "src.new/main.py").write_text("of another version\n")
    began = os.lstat(project.lower / "src.new/main.py").st_ctime_ns
    until_later_than(began, project.place / "clock")
    known = Fingerprints({}, began_ns=began)
    if looked:
        project.session("Path('src/run').write_text('x')")
        known = fingerprints(project.lower_fd, project.upper_fd, known=known)
    project.session(DIRECTORY_USES[use] + "\nPath('run').write_text('x')")
    exchange_directory(project.lower)
    before = project.look()
    for _ in range(2):
        known = fingerprints(project.lower_fd, project.upper_fd, known=known)
        applied = project.apply(known)
        assert any(path.startswith(b"src") for path in refused(applied))
        assert not applied.applied
        assert project.look() == before
        known = applied.base
    assert paths(project.apply(known, b"run")) == [b"run"]


def test_a_name_that_came_into_a_directory_is_no_other_directory(project: Project) -> None:
    began = os.lstat(project.lower / "plain").st_ctime_ns
    until_later_than(began, project.place / "clock")
    (project.lower / "src/by-the-host").write_text("x")
    project.session("Path('src/main.py').write_text('x'); Path('src/new').write_text('x')")
    base = fingerprints(project.lower_fd, project.upper_fd, began_ns=began)
    assert not refused(project.apply(base))


def test_a_mode_that_was_applied_makes_no_other_directory(project: Project) -> None:
    began = os.lstat(project.lower / "plain").st_ctime_ns
    until_later_than(began, project.place / "clock")
    project.session("os.chmod('src', 0o750)")
    applied = project.apply(fingerprints(project.lower_fd, project.upper_fd, began_ns=began))
    project.session("Path('src/main.py').write_text('x')")
    base = fingerprints(project.lower_fd, project.upper_fd, known=applied.base)
    assert paths(project.apply(base)) == [b"src/main.py"]


def until_later_than(moment: int, clock: Path) -> None:
    """Wait for the kernel's coarse clock, which stamps files."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        clock.write_text("tick")
        if os.lstat(clock).st_ctime_ns > moment:
            return
    raise AssertionError("the clock stands still")


def test_hard_links_of_the_host_do_not_stand_in_each_others_way(project: Project) -> None:
    os.link(project.lower / "README", project.lower / "again")
    project.session("os.unlink('again'); os.unlink('README'); Path('run').write_text('x')")
    base = fingerprints(project.lower_fd, project.upper_fd)
    assert paths(project.apply(base, b"README")) == [b"README"]
    assert not refused(project.apply(base))
    assert not (project.lower / "again").exists()


def test_fingerprints_keep(project: Project) -> None:
    project.session("Path('README').write_text('x'); Path('new').touch()")
    for base in (project.whole(), fingerprints(project.lower_fd, project.upper_fd, began_ns=1)):
        assert decode(encode(base)) == base


# While it is being written


LAST_MOMENT = [conflict for conflict in CONFLICTS if not conflict[0].startswith("os.chmod")]


@pytest.mark.parametrize(("script", "edit", "path"), LAST_MOMENT, ids=range(len(LAST_MOMENT)))
def test_what_changes_at_the_last_moment_stays(
    project: Project, monkeypatch: pytest.MonkeyPatch, script: str, edit: Callable[[Path], object], path: bytes
) -> None:
    """Right before the first name takes its place, after everything was looked at."""
    base = project.whole()
    project.session(script)
    after: list[Look] = []
    rename = placing._rename

    def meddle(*arguments: Any) -> None:
        if not after:
            edit(project.lower)
            after.append({name: entry for name, entry in project.look().items() if name not in litter(project)})
        rename(*arguments)

    monkeypatch.setattr(placing, "_rename", meddle)
    applied = project.apply(base)
    assert applied.conflicts
    assert project.look().get(path.decode()) == after[0].get(path.decode())
    assert not litter(project)


def litter(project: Project) -> list[str]:
    return [name for name in project.look() if ".alcove-apply-" in name]


@pytest.mark.security
def test_a_link_on_the_way_is_not_followed(project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    base = project.whole()
    project.session("Path('src/main.py').write_text('x'); Path('src/new').write_text('x'); os.unlink('src/lib/a.py')")
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(project.lower / "src", elsewhere)
    untouched = inside.look(os.fsencode(elsewhere))

    def exchange() -> None:
        (project.lower / "src").rename(project.lower / "aside")
        (project.lower / "src").symlink_to(elsewhere)

    def back() -> None:
        (project.lower / "src").unlink()
        (project.lower / "aside").rename(project.lower / "src")

    exchange()
    assert not project.apply(base).applied
    back()
    # and while it is being written, once everything was looked at
    put = placing.Placing.put
    todo = [exchange]

    def late(self: placing.Placing, *arguments: Any) -> Any:
        if todo:
            todo.pop()()
        return put(self, *arguments)

    monkeypatch.setattr(placing.Placing, "put", late)
    assert not project.apply(base).applied
    assert inside.look(os.fsencode(elsewhere)) == untouched
    # the control: where the directory is itself, all of it arrives
    back()
    assert len(project.apply(base).applied) == 3
    assert inside.look(os.fsencode(elsewhere)) == untouched


@pytest.mark.security
def test_a_directory_that_is_exchanged_for_a_link_all_the_time(project: Project, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(project.lower / "src", elsewhere)
    untouched = inside.look(os.fsencode(elsewhere))
    os.symlink(elsewhere, project.lower / "aside")
    project.session("Path('src/main.py').write_text('x')")
    over = threading.Event()
    exchanging = threading.Thread(target=exchange_until, args=(over, project.lower_fd))
    exchanging.start()
    arrived = 0
    try:
        for number in range(60):
            (project.upper / f"src/new{number}").write_text("x")
            with suppress(SandboxIoError, LifecycleError):
                # what lies there is taken as it is, so that nothing but the way itself holds the writing back
                arrived += len(project.apply(fingerprints(project.lower_fd, project.upper_fd)).applied)
    finally:
        over.set()
        exchanging.join()
    assert arrived  # the control
    assert inside.look(os.fsencode(elsewhere)) == untouched


def exchange_until(over: threading.Event, parent: int) -> None:
    while not over.is_set():
        with suppress(OSError):
            placing._rename(b"src", b"aside", parent, placing._EXCHANGE)


@pytest.mark.security
def test_a_link_in_the_place_of_a_file_is_replaced_and_not_written_through(project: Project, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("the host's")
    os.symlink(canary, project.lower / "to")
    base = project.whole()
    project.session("os.unlink('to'); Path('to').write_text('x'); os.chmod('to', 0o777)")
    assert paths(project.apply(base)) == [b"to"]
    assert (project.lower / "to").read_text() == "x"
    assert canary.read_text() == "the host's"
    assert stat.S_IMODE(canary.stat().st_mode) == 0o644


def test_a_session_that_still_writes(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    base = project.whole()
    project.session("Path('README').write_text('x'); Path('run').write_text('y')")
    copy = Contents.copy

    def meanwhile(contents: Contents, source: int, *arguments: Any, **options: Any) -> None:
        copy(contents, source, *arguments, **options)
        (project.upper / "README").write_text("more")

    monkeypatch.setattr(Contents, "copy", meanwhile)
    applied = project.apply(base)
    assert refused(applied) == {b"README": "the session wrote to it meanwhile; suspend it first"}
    assert paths(applied) == [b"run"]
    assert (project.lower / "README").read_text() == "read me\n"


#: What changes something on the host.
STEPS_OF_WRITING = (
    "mkdir", "symlink", "rename", "unlink", "rmdir", "chmod", "fchmod", "fchown", "chown", "pwrite",
    "copy_file_range", "ftruncate", "fsync", "setxattr", "open",
)  # fmt: skip


def killed_before(step: int, work: Callable[[], object]) -> bool:
    """Do the work in a child that kill -9 meets right before a step of writing; False: it came to its end first."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        return os.WIFSIGNALED(status)
    try:
        left = iter(range(step))

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def counting(*arguments: Any, **options: Any) -> Any:
                makes = function is not real_open or arguments[1] & os.O_CREAT
                if makes and next(left, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **options)

            return counting

        real_open = os.open
        for name in STEPS_OF_WRITING:
            setattr(os, name, counted(getattr(os, name)))
        placing._rename = counted(placing._rename)
        work()
        os._exit(0)
    finally:
        os._exit(1)


def test_kill_at_any_step_leaves_each_file_old_or_new(project: Project) -> None:
    new = project.session(EVERYTHING)
    old = project.look()
    pristine = project.place / "pristine"
    shutil.copytree(project.lower, pristine, symlinks=True)
    for step in range(1000):
        again = project.place / "again"
        shutil.copytree(pristine, again, symlinks=True)
        fd = os.open(again, os.O_RDONLY | os.O_DIRECTORY)
        base = fingerprints(fd)
        killed = killed_before(step, partial(apply, fd, project.upper_fd, base=base))
        assert_old_or_new(inside.look(os.fsencode(again)), old, new)
        applied = apply(fd, project.upper_fd, base=base)
        assert not refused(applied)
        assert inside.look(os.fsencode(again)) == new
        assert_known(applied.base, again)
        os.close(fd)
        (again / "new/closed").chmod(0o755)
        shutil.rmtree(again)
        if not killed:
            break
    assert 50 < step < 999


def assert_known(base: Fingerprints, top: Path) -> None:
    """What was written, by whomever, is no change of the host's when the session changes it once more."""
    with directories([top]) as (fd,), Reach(fd) as reach:
        for path in base.entries:
            try:
                parent, name = reach.parent(path)
                now = facts(name, parent)
            except (FileNotFoundError, NotADirectoryError):
                now = None
            assert (base.entries[path] is None) == (now is None), path
            assert base.objection(path, now, lambda: None) is None, path


def assert_old_or_new(now: Look, old: Look, new: Look) -> None:
    for name in old.keys() | new.keys():
        assert same(now.get(name), old.get(name)) or same(now.get(name), new.get(name)), name
    assert any(name in now for name in ("src/main.py", "src/start.py"))
    for name in now.keys() - old.keys() - new.keys():
        assert re.search(r"(^|/)\.alcove-apply-[0-9a-f]{16}$", name), name


def same(now: tuple[int, int, str] | None, other: tuple[int, int, str] | None) -> bool:
    """A directory that is being filled may be its owner's to write in still."""
    if now and other and stat.S_ISDIR(now[0]) and stat.S_ISDIR(other[0]):
        return now[1] in {other[1], other[1] | stat.S_IRWXU}
    return now == other


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EMFILE])
def test_a_host_that_takes_no_more(project: Project, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    base = project.whole()
    kept: list[Fingerprints] = []
    seen = project.session("for n in range(5): Path(f'new{n}').write_text('x')\nos.unlink('plain')")

    def full(contents: Contents, *arguments: Any, **options: Any) -> None:
        if (project.lower / "new2").exists():
            raise OSError(number, os.strerror(number))
        copy(contents, *arguments, **options)

    copy = Contents.copy
    with monkeypatch.context() as patch:
        patch.setattr(Contents, "copy", full)
        with pytest.raises(SandboxIoError, match=r"new3.*apply again"):
            apply(project.lower_fd, project.upper_fd, base=base, keep=kept.append)
    assert sorted(name for name in os.listdir(project.lower) if "new" in name) == ["new0", "new1", "new2"]
    assert (project.lower / "plain").exists()
    assert not litter(project)
    assert not refused(project.apply(kept[0]))
    assert project.look() == seen


def test_what_was_written_before_an_error_is_no_change_of_the_hosts(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = project.whole()
    project.session("for n in range(5): Path(f'new{n}').write_text('x')\nPath('README').write_text('x')")
    kept: list[Fingerprints] = []

    def full(contents: Contents, *arguments: Any, **options: Any) -> None:
        if (project.lower / "new2").exists():
            raise OSError(errno.ENOSPC, "full")
        copy(contents, *arguments, **options)

    copy = Contents.copy
    with monkeypatch.context() as patch:
        patch.setattr(Contents, "copy", full)
        with pytest.raises(SandboxIoError, match="apply again"):
            apply(project.lower_fd, project.upper_fd, base=base, keep=kept.append)
    seen = project.session("for name in ('README', 'new0', 'new1', 'new4'): Path(name).write_text('y')")
    assert b"README" in refused(project.apply(base))  # the control
    assert not refused(project.apply(kept[0]))
    assert project.look() == seen


@pytest.mark.user(only=True)
def test_what_cannot_be_written_is_named_and_the_rest_arrives(project: Project) -> None:
    os.chmod(project.lower / "src", 0o555)
    base = project.whole()
    project.session("Path('src/new').write_text('x'); Path('new').write_text('x')")
    applied = project.apply(base)
    assert refused(applied) == {b"src/new": "it cannot be written: Permission denied"}
    assert paths(applied) == [b"new"]


def test_a_file_system_that_cannot_exchange_names(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    base = project.whole()
    project.session(
        "Path('README').write_text('x'); Path('new').touch(); os.unlink('run')\nos.unlink('plain'); os.mkdir('plain')"
    )

    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(placing, "_rename", refuse)
    applied = project.apply(base)
    assert paths(applied) == [b"README", b"new", b"run"]
    assert refused(applied) == {b"plain": "it cannot be written: Invalid argument"}
    assert not litter(project)


def test_one_at_a_time(project: Project) -> None:
    base = project.whole()
    other = os.open(project.lower, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(Conflict, match="somebody else"):
        project.apply(base)
    os.close(other)
    assert project.apply(base) == Applied(base)


def test_no_descriptor_is_left(project: Project) -> None:
    base = project.whole()
    before = sorted(os.listdir("/proc/self/fd"))
    project.session(EVERYTHING)
    project.apply(base)
    (project.lower / "README").write_text("host")
    project.session("Path('README').write_text('x')")
    assert project.apply(base).conflicts
    assert sorted(os.listdir("/proc/self/fd")) == before
