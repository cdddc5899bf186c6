"""What a session changed of a project: every kind of change, from upper directories that the kernel wrote."""

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from alcove.contract import SandboxIoError
from alcove.state import pairs
from alcove.state.changes import Change, ChangeKind, changes
from alcove.state.entries import EntryType
from tests.state.overlays import Project

FILES: dict[str, str | bytes] = {
    "README": "read me\n",
    "src/main.py": "print('hello')\n",
    "src/lib/a.py": "a = 1\n",
    "src/lib/b.py": "b = 2\n",
    "data/blob": b"\0\1\2",
    "empty": "",
}


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with Project(tmp_path) as made:
        made.write(FILES)
        yield made


def brief(found: list[Change]) -> list[tuple[str, str]]:
    return [(str(change.kind), os.fsdecode(change.path)) for change in found]


def only(found: list[Change]) -> Change:
    (change,) = found
    return change


def test_nothing_changed(project: Project) -> None:
    assert project.changes() == []
    project.session("Path('src/main.py').read_text()")
    assert project.changes() == []


def test_added_modified_deleted_with_their_directories(project: Project) -> None:
    project.session(
        "Path('new/deep').mkdir(parents=True)\n"
        "Path('new/deep/file').write_text('x')\n"
        "Path('README').write_text('other')\n"
        "Path('src/lib/a.py').unlink()\n"
    )
    assert brief(project.changes()) == [
        ("modified", "README"),
        ("added", "new"),
        ("added", "new/deep"),
        ("added", "new/deep/file"),
        ("deleted", "src/lib/a.py"),
    ]


def test_a_deleted_directory_is_told_path_by_path(project: Project) -> None:
    project.session("import shutil; shutil.rmtree('src')")
    assert brief(project.changes()) == [
        ("deleted", path) for path in ("src", "src/lib", "src/lib/a.py", "src/lib/b.py", "src/main.py")
    ]


def test_a_directory_made_again_hides_what_was_in_it(project: Project) -> None:
    project.session(
        "import shutil; shutil.rmtree('src/lib'); os.mkdir('src/lib'); Path('src/lib/b.py').write_text('b = 3\\n')"
    )
    assert brief(project.changes()) == [("deleted", "src/lib/a.py"), ("modified", "src/lib/b.py")]


def test_what_was_copied_up_and_stayed_is_no_change(project: Project) -> None:
    project.session(
        "os.utime('README'); os.chmod('src/main.py', 0o600); os.chmod('src/main.py', 0o644)\n"
        "open('data/blob', 'r+b').close()"
    )
    assert os.path.exists(project.upper / "README")
    assert project.changes() == []


def test_the_same_size_is_not_the_same_content(project: Project) -> None:
    project.session("Path('README').write_text('READ ME\\n')")
    change = only(project.changes())
    assert change.content_changed
    assert not change.mode_changed
    assert change.before is not None
    assert change.after is not None
    assert change.before.size == change.after.size


def test_a_difference_behind_the_first_chunk_is_found(project: Project) -> None:
    project.write({"large": bytes(3 << 20)})
    project.session("f = open('large', 'r+b'); f.seek((3 << 20) - 1); f.write(b'x'); f.close()")
    assert brief(project.changes()) == [("modified", "large")]


def test_a_mode(project: Project) -> None:
    project.session("os.chmod('src/main.py', 0o755); os.chmod('data', 0o700)")
    found = project.changes()
    assert brief(found) == [("modified", "data"), ("modified", "src/main.py")]
    assert all(change.mode_changed and not change.content_changed for change in found)


@pytest.mark.root
def test_owners_are_compared_by_who_has_the_topmost_directory(project: Project) -> None:
    project.session("os.utime('README'); os.utime('empty')")
    # as in a session of root's: the person's id on the host is 0 inside
    for name in ("", "README", "empty"):
        os.chown(project.lower / name, 1000, 1000)
    os.chown(project.upper / "README", 0, 0)
    os.chown(project.upper / "empty", 7, 0)
    change = only(project.changes())
    assert change.path == b"empty"
    assert (change.owner_changed, change.content_changed, change.mode_changed) == (True, False, False)


@pytest.mark.parametrize(
    ("script", "before", "after"),
    [
        ("os.unlink('README'); os.symlink('/etc/passwd', 'README')", EntryType.FILE, EntryType.SYMLINK),
        ("os.unlink('README'); os.mkdir('README')", EntryType.FILE, EntryType.DIRECTORY),
        ("os.unlink('README'); os.mkfifo('README')", EntryType.FILE, EntryType.FIFO),
        ("import shutil; shutil.rmtree('data'); Path('data').write_text('')", EntryType.DIRECTORY, EntryType.FILE),
    ],
)
def test_a_type(project: Project, script: str, before: EntryType, after: EntryType) -> None:
    project.session(script)
    change = project.changes()[0]
    assert change.type_changed
    assert change.before is not None
    assert change.after is not None
    assert (change.before.type, change.after.type) == (before, after)


def test_what_a_file_hides_is_deleted(project: Project) -> None:
    project.session("import shutil; shutil.rmtree('src/lib'); Path('src/lib').write_text('file')")
    assert brief(project.changes()) == [
        ("modified", "src/lib"),
        ("deleted", "src/lib/a.py"),
        ("deleted", "src/lib/b.py"),
    ]


def test_links_by_their_target(project: Project) -> None:
    os.symlink("README", project.lower / "link")
    project.session("os.unlink('link'); os.symlink('README', 'link')")
    assert project.changes() == []
    project.session("os.unlink('link'); os.symlink('src', 'link')")
    change = only(project.changes())
    assert change.content_changed
    assert change.after is not None
    assert change.after.target == b"src"


def test_binary_is_told_from_text(project: Project) -> None:
    project.session("Path('data/blob').write_bytes(b'text'); Path('n').write_bytes(b'a\\0'); Path('t').write_text('t')")
    assert {change.path: change.binary for change in project.changes()} == {b"data/blob": True, b"n": True, b"t": False}


def test_a_renamed_file(project: Project) -> None:
    project.session("os.rename('src/main.py', 'src/start.py'); os.chmod('src/start.py', 0o755)")
    change = only(project.changes())
    assert change.kind is ChangeKind.RENAMED
    assert (change.old_path, change.path) == (b"src/main.py", b"src/start.py")
    assert change.mode_changed
    assert not change.content_changed


def test_a_renamed_directory_is_files_that_moved(project: Project) -> None:
    project.session("import shutil; shutil.move('src', 'source')")
    assert [(str(c.kind), c.old_path, c.path) for c in project.changes() if c.old_path] == [
        ("renamed", b"src/lib/a.py", b"source/lib/a.py"),
        ("renamed", b"src/lib/b.py", b"source/lib/b.py"),
        ("renamed", b"src/main.py", b"source/main.py"),
    ]


def test_among_equal_files_the_name_decides(project: Project) -> None:
    project.write({"x/one": "same", "x/two": "same", "x/three": "same"})
    project.session(
        "import shutil; shutil.rmtree('x'); os.mkdir('y')\n"
        "for name in ('two', 'one', 'four'): Path('y', name).write_text('same')"
    )
    renames = {change.path: change.old_path for change in project.changes() if change.old_path}
    assert renames == {b"y/one": b"x/one", b"y/two": b"x/two", b"y/four": b"x/three"}


def test_an_empty_file_comes_from_nowhere(project: Project) -> None:
    project.session("os.rename('empty', 'void')")
    assert brief(project.changes()) == [("deleted", "empty"), ("added", "void")]


def test_names_of_any_bytes(project: Project) -> None:
    name = b"\xff\n\x1b[31m .wh.x"
    project.session(f"open({name!r}, 'wb').close()")
    assert only(project.changes()).path == name


def test_whiteouts_by_attribute(project: Project) -> None:
    """As composed layers have them; needs no kernel that writes such."""
    (project.upper / "src").mkdir()
    os.setxattr(project.upper / "src", "user.overlay.opaque", b"x")
    (project.upper / "src/main.py").touch()
    os.setxattr(project.upper / "src/main.py", "user.overlay.whiteout", b"y")
    assert brief(project.changes()) == [("deleted", "src/main.py")]


@pytest.mark.security
def test_a_guest_cannot_forge_the_marks_of_an_overlay(project: Project) -> None:
    project.session(
        "os.setxattr('src', 'user.overlay.opaque', b'y'); os.setxattr('README', 'user.overlay.whiteout', b'y')"
    )
    assert project.changes() == []
    # the control: what the kernel itself writes counts
    os.setxattr(project.upper / "src", "user.overlay.opaque", b"y")
    assert {str(change.kind) for change in project.changes()} == {"deleted"}


@pytest.mark.security
def test_a_directory_exchanged_for_a_link_is_not_followed(project: Project, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    os.symlink(tmp_path / "outside", project.upper / "src")
    os.symlink(tmp_path / "outside/secret", project.upper / "README")
    found = project.changes()
    assert not any(b"secret" in change.path for change in found)
    assert {change.path: change.after.size for change in found if change.after is not None} == {
        b"src": 0,
        b"README": 0,
    }
    # the control: a directory there is gone into
    (project.upper / "src").unlink()
    os.mkdir(project.upper / "src")
    (project.upper / "src/secret").write_text("the guest's")
    assert ("added", "src/secret") in brief(project.changes())


def test_what_is_no_file_is_not_opened(project: Project) -> None:
    project.session(
        "import socket; os.mkfifo('fifo'); s = socket.socket(socket.AF_UNIX); s.bind('socket')\n"
        "os.unlink('README'); os.mkfifo('README')"
    )
    types = {change.path: change.after.type for change in project.changes() if change.after is not None}
    assert types == {b"README": EntryType.FIFO, b"fifo": EntryType.FIFO, b"socket": EntryType.SOCKET}


@pytest.mark.user
def test_modes_that_forbid_reading_are_lent_and_given_back(project: Project) -> None:
    project.session(
        "Path('locked').mkdir(); Path('locked/file').write_text('x'); os.chmod('locked/file', 0)\n"
        "Path('README').write_text('other'); os.chmod('README', 0)\n"
        "os.chmod('locked', 0)"
    )
    assert brief(project.changes()) == [("modified", "README"), ("added", "locked"), ("added", "locked/file")]
    assert stat.S_IMODE(os.lstat(project.upper / "locked").st_mode) == 0
    assert stat.S_IMODE(os.lstat(project.upper / "README").st_mode) == 0
    os.chmod(project.upper / "locked", 0o700)


def test_thousands_of_levels(project: Project) -> None:
    project.session("os.mkdir('d')")
    at = os.open(project.upper / "d", os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(5000):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    found = project.changes()
    assert len(found) == 5001
    assert found[-1].path.count(b"/") == 5000
    subprocess.run(["rm", "-rf", project.upper / "d"], check=True)  # pytest's removal is as deep in calls


@pytest.mark.security
def test_names_beyond_measure_are_refused(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.session("for n in range(20): Path('x' * 100 + str(n)).touch()")
    assert len(project.changes()) == 20
    monkeypatch.setattr(pairs, "PATH_BYTES", 1000)
    with pytest.raises(SandboxIoError, match="names"):
        project.changes()


def test_no_descriptor_is_left(project: Project) -> None:
    project.session("Path('a/b').mkdir(parents=True); Path('a/b/c').write_text('x'); os.unlink('README')")
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        changes(project.lower_fd, project.upper_fd)
    assert sorted(os.listdir("/proc/self/fd")) == before
