"""Walks, digests and sizes of layers: the same for the same tree, another for any other, whatever a guest made."""

import os
import random
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alcove.contract import LifecycleError
from alcove.state.tree import Entry, Kind, Size, digest, measure, shown, walk
from tests.state import guest_trees
from tests.state.guest_trees import ODD_NAME, opened

#: The digest of `guest_trees.of_everything`: what one release recorded, the next one must find.
RECORDED = "sha256:b9d8d9caf0856c1ba6226559679d29b1d625eb1b3c5220bc589014ad6e71737b"


def digest_of(path: Path, *, owners: bool = True) -> str:
    with opened(path) as [fd]:
        return digest(fd, owners=owners)


def entries_of(path: Path) -> dict[bytes, Entry]:
    with opened(path) as [fd], walk(fd) as entries:
        return {entry.path: entry for entry in entries}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    top.mkdir()
    guest_trees.of_everything(top)
    return top


@pytest.fixture
def deep_tree(tmp_path: Path) -> Iterator[Path]:
    top = tmp_path / "deep"
    top.mkdir()
    try:
        guest_trees.deep(top, 5_000)
        yield top
    finally:
        # what pytest would do is recursive
        subprocess.run(["rm", "-rf", str(top)], check=True)


# Walked through


@pytest.mark.user
def test_a_walk_tells_everything_of_an_entry(tree: Path) -> None:
    found = entries_of(tree)
    kinds = {path: entry.kind for path, entry in found.items()}
    assert kinds == {
        b"dangling": Kind.SYMLINK,
        b"directory": Kind.DIRECTORY,
        b"directory/inner": Kind.DIRECTORY,
        b"directory/inner/empty": Kind.FILE,
        b"directory/inner/file": Kind.FILE,
        b"fifo": Kind.FIFO,
        b"link": Kind.SYMLINK,
        ODD_NAME: Kind.FILE,
        b"script": Kind.FILE,
        b"socket": Kind.SOCKET,
        b"sparse": Kind.FILE,
        b"zz-same": Kind.FILE,
        b"zz-same-link": Kind.SYMLINK,
    }
    inner, file = found[b"directory/inner"], found[b"directory/inner/file"]
    assert (inner.mode, inner.depth, inner.xattrs) == (0o1777, 2, ((b"user.of-directory", b""),))
    assert (file.size, file.depth, file.links, file.linked) == (8000, 3, 2, False)
    assert file.xattrs == ((b"user.note", b"a\0b"),)
    assert found[b"script"].mtime_ns == 1_000_000_000_123_456_789
    assert found[b"link"].target == b"/etc/passwd"
    assert found[b"sparse"].sparse
    assert not file.sparse


def test_names_come_in_the_order_of_their_bytes_and_each_directory_before_what_it_has(tree: Path) -> None:
    paths = list(entries_of(tree))
    assert paths == sorted(paths, key=lambda path: path.split(b"/"))
    assert [entry.position for entry in entries_of(tree).values()] == list(range(len(paths)))


def test_hard_links_are_told_by_the_position_of_the_first(tree: Path) -> None:
    found = entries_of(tree)
    assert found[b"zz-same"].linked
    assert found[b"zz-same"].first == found[b"directory/inner/file"].position
    assert found[b"zz-same-link"].first == found[b"link"].position


def test_a_name_outside_makes_no_hard_link(tree: Path, tmp_path: Path) -> None:
    before = digest_of(tree)
    os.link(tree / "script", tmp_path / "elsewhere")
    assert digest_of(tree) == before


def test_the_latest_file_is_open_for_reading(tree: Path) -> None:
    with opened(tree) as [fd], walk(fd) as entries:
        for entry in entries:
            if entry.kind is Kind.FILE:
                assert os.read(entries.fd, 10) == (tree / os.fsdecode(entry.path)).read_bytes()[:10]
            elif entry.kind is Kind.DIRECTORY:
                assert os.path.samestat(os.fstat(entries.fd), (tree / os.fsdecode(entry.path)).stat())
            else:
                assert entries.fd == -1


def test_no_descriptor_stays_open(tree: Path) -> None:
    before = guest_trees.descriptors()
    digest_of(tree)
    with opened(tree) as [fd], walk(fd) as entries:
        next(iter(entries))
    with opened(tree) as [fd]:
        walking = walk(fd)
        latest = [entry for entry, _ in zip(walking, range(3), strict=False)]
        assert latest[-1].depth == 2
        walking.__exit__()
    assert guest_trees.descriptors() == before


def test_a_message_shows_a_name_that_a_terminal_does_not_act_on() -> None:
    assert shown(b"a/" + ODD_NAME) == r"'a/odd-\xff\xfe-\n\x1b[2J'"
    assert len(shown(b"n" * 10_000)) < 300


# Digested


@pytest.mark.user
def test_a_digest_is_what_it_was_in_the_first_release(tree: Path) -> None:
    assert digest_of(tree) == RECORDED


def test_the_order_and_the_times_of_the_making_do_not_count(tmp_path: Path) -> None:
    names = [f"{number:x}" for number in range(300)]
    digests = set()
    for seed in range(3):
        top = tmp_path / str(seed)
        top.mkdir()
        random.Random(seed).shuffle(names)
        for name in names:
            (top / name).write_text(name)
            os.utime(top / name, (seed, seed))
        digests.add(digest_of(top))
    assert len(digests) == 1


def test_the_topmost_directory_itself_does_not_count(tree: Path) -> None:
    before = digest_of(tree)
    tree.chmod(0o700)
    os.setxattr(tree, "user.note", b"")
    assert digest_of(tree) == before


def test_holes_count_as_the_zeros_that_they_read_as(tree: Path) -> None:
    before, content = digest_of(tree), (tree / "sparse").read_bytes()
    (tree / "sparse").write_bytes(content)
    assert not entries_of(tree)[b"sparse"].sparse
    assert digest_of(tree) == before


def test_what_an_overlay_notes_for_itself_does_not_count(tree: Path) -> None:
    before = digest_of(tree)
    for name in ("origin", "impure", "uuid"):
        os.setxattr(tree / "directory", f"user.overlay.{name}", b"y")
    os.setxattr(tree / "directory", "user.overlay.opaque", b"x")
    assert digest_of(tree) == before


def append(top: Path) -> None:
    with (top / "script").open("a") as file:
        file.write("x")


def change_a_byte_of_zeros(top: Path) -> None:
    with (top / "sparse").open("r+b") as file:
        file.seek(5 << 20)
        file.write(b"\1")


def move_data_by_a_megabyte(top: Path) -> None:
    with (top / "sparse").open("wb") as file:
        file.seek(4 << 20)
        file.write(b"in between")
        file.truncate(8 << 20)


def replace_link(top: Path) -> None:
    (top / "dangling").unlink()
    (top / "dangling").symlink_to("../../nowhere/")


def split_link(top: Path) -> None:
    content = (top / "zz-same").read_bytes()
    (top / "zz-same").unlink()
    (top / "zz-same").write_bytes(content)
    os.setxattr(top / "zz-same", "user.note", b"a\0b")


def link_otherwise(top: Path) -> None:
    (top / "zz-same").unlink()
    os.link(top / "script", top / "zz-same")


def file_to_directory(top: Path) -> None:
    (top / "directory/inner/empty").unlink()
    (top / "directory/inner/empty").mkdir(0o644)


def move_up(top: Path) -> None:
    (top / "directory/inner/empty").rename(top / "directory/empty")


def remove_fifo(top: Path) -> None:
    (top / "fifo").unlink()


CHANGES: list[Callable[[Path], object]] = [
    append,
    change_a_byte_of_zeros,
    move_data_by_a_megabyte,
    replace_link,
    split_link,
    link_otherwise,
    file_to_directory,
    move_up,
    remove_fifo,
    lambda top: (top / "script").chmod(0o754),
    lambda top: (top / "script").chmod(0o4755),
    lambda top: (top / "directory").chmod(0o700),
    lambda top: (top / "fifo").chmod(0o600),
    lambda top: (top / "script").rename(top / "scripT"),
    lambda top: (top / "new").mkdir(),
    lambda top: guest_trees.white_out(top / "new"),
    lambda top: os.truncate(top / "sparse", (8 << 20) + 1),
    lambda top: os.truncate(top / "directory/inner/empty", 1),
    lambda top: os.setxattr(top / "directory", "user.overlay.opaque", b"y"),
    lambda top: os.setxattr(top / "directory/inner/file", "user.note", b"a\0c"),
    lambda top: os.setxattr(top / "directory/inner/file", "user.more", b""),
    lambda top: os.removexattr(top / "directory/inner", "user.of-directory"),
]


@pytest.mark.user
def test_every_change_counts(tmp_path: Path) -> None:
    seen: dict[str, int] = {}
    for number, change in enumerate([lambda top: None, *CHANGES]):
        top = tmp_path / str(number)
        top.mkdir()
        guest_trees.of_everything(top)
        change(top)
        found = digest_of(top)
        assert found not in seen, f"changes {seen[found]} and {number} are alike"
        seen[found] = number


def test_parts_are_not_mistaken_for_one_another(tmp_path: Path) -> None:
    for number, (name, target) in enumerate([("ab", "c"), ("a", "bc")]):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / name).symlink_to(target)
    for number, value in enumerate([b"user.b", b""]):
        (tmp_path / f"x{number}").mkdir()
        (tmp_path / f"x{number}" / "f").touch()
        os.setxattr(tmp_path / f"x{number}" / "f", "user.a", value)
    assert len({digest_of(tmp_path / name) for name in ("0", "1", "x0", "x1")}) == 4


@pytest.mark.user
def test_whiteouts_of_both_kinds_are_alike(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    guest_trees.white_out(one / "gone")
    os.link(one / "gone", one / "gone-too")
    for name in ("gone", "gone-too"):
        (other / name).touch()
        os.setxattr(other / name, "user.overlay.whiteout", b"")
    assert {entry.kind for path in (one, other) for entry in entries_of(path).values()} == {Kind.WHITEOUT}
    assert digest_of(one) == digest_of(other)


def test_a_file_with_content_is_no_whiteout(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    os.setxattr(tmp_path / "file", "user.overlay.whiteout", b"")
    assert entries_of(tmp_path)[b"file"].kind is Kind.FILE


@pytest.mark.root
def test_owners_count_unless_they_are_not_asked_for(tree: Path) -> None:
    before, without = digest_of(tree), digest_of(tree, owners=False)
    os.chown(tree / "link", 1000, 100, follow_symlinks=False)
    assert digest_of(tree) != before
    assert digest_of(tree, owners=False) == without


@pytest.mark.user(only=True)
def test_what_is_a_plain_users_own_is_roots_inside(tree: Path) -> None:
    assert {(entry.uid, entry.gid) for entry in entries_of(tree).values()} == {(0, 0)}
    assert digest_of(tree) == digest_of(tree, owners=False)


# Measured


def test_a_size_counts_each_file_once(tree: Path) -> None:
    with opened(tree) as [fd]:
        size = measure(fd)
    assert size == Size(files=5, bytes=8000 + 10 + (8 << 20), allocated=size.allocated)
    assert 0 < size.allocated < 1 << 20


# Whatever a guest made


@pytest.mark.security
def test_a_file_of_holes_costs_nothing(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, 1 << 40)
    with (tmp_path / "other").open("r+b") as file:
        file.seek(1 << 39)
        file.write(b"1")
    before = digest_of(tmp_path)
    with (tmp_path / "other").open("r+b") as file:
        file.seek(1 << 39)
        file.write(b"2")
    assert digest_of(tmp_path) != before


@pytest.mark.user
@pytest.mark.security
def test_five_thousand_directories_deep(deep_tree: Path) -> None:
    before, most, depth = guest_trees.descriptors(), 0, 0
    with opened(deep_tree) as [fd], walk(fd) as entries:
        for entry in entries:
            depth = max(depth, entry.depth)
            if entry.depth % 500 == 0:
                most = max(most, guest_trees.descriptors())
    assert depth == 5_001
    assert most - before < 50
    assert digest_of(deep_tree).startswith("sha256:")
    with opened(deep_tree) as [fd]:
        assert measure(fd).files == 1


@pytest.mark.security
@pytest.mark.slow
def test_a_hundred_thousand_names_in_a_directory(tmp_path: Path) -> None:
    with opened(tmp_path) as [fd]:
        for number in range(100_000):
            os.close(os.open(f"{number}", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        assert measure(fd).files == 100_000
        assert digest(fd).startswith("sha256:")


@pytest.mark.user(only=True)
@pytest.mark.security
def test_what_lacks_every_right_is_read_and_left_as_it_was(tree: Path) -> None:
    paths = [tree / name for name in ("directory/inner/file", "directory/inner", "directory", "script")]
    before = {path: path.stat().st_mode for path in paths}
    modes = {"directory": 0o000, "directory/inner": 0o400, "directory/inner/file": 0o000, "script": 0o111}
    for path in paths:
        path.chmod(modes[str(path.relative_to(tree))])
    found = entries_of(tree)
    assert {os.fsdecode(path): found[os.fsencode(path)].mode for path in modes} == modes
    assert found[b"directory/inner/file"].xattrs == ((b"user.note", b"a\0b"),)
    assert digest_of(tree).startswith("sha256:")
    with opened(tree) as [fd], walk(fd) as entries:
        for entry in entries:
            if entry.kind is Kind.FILE and entry.depth == 3:
                break  # the way back up puts everything back
    for path in reversed(paths):
        name = str(path.relative_to(tree))
        assert stat.S_IMODE(path.stat().st_mode) == modes[name], name
        path.chmod(before[path])


@pytest.mark.user(only=True)
@pytest.mark.security
def test_deep_directories_that_lack_every_right(tmp_path: Path) -> None:
    guest_trees.deep(tmp_path, 100)
    way = [tmp_path.joinpath(*["d"] * depth) for depth in range(100, 0, -1)]
    for path in way:
        path.chmod(0)
    found = entries_of(tmp_path)
    assert len(found) == 102
    assert all(entry.mode == 0 for entry in found.values() if entry.kind is Kind.DIRECTORY)
    for path in reversed(way):
        assert stat.S_IMODE(path.stat().st_mode) == 0
        path.chmod(0o700)


@pytest.mark.security
def test_a_directory_that_becomes_a_link_is_not_followed(tmp_path: Path) -> None:
    outside, top = tmp_path / "outside", tmp_path / "top"
    (outside / "inner").mkdir(parents=True)
    (top / "a").mkdir(parents=True)
    (top / "b").mkdir()
    (outside / "secret").write_text("the host's")
    with opened(top) as [fd], walk(fd) as entries:
        walking = iter(entries)
        assert next(walking).name == b"a"
        (top / "b").rmdir()
        (top / "b").symlink_to(outside)
        assert os.listdir(top / "b")  # by name one would be there
        with pytest.raises(NotADirectoryError):
            next(walking)


@pytest.mark.security
def test_a_file_that_becomes_a_link_is_not_followed(tmp_path: Path) -> None:
    secret, top = tmp_path / "secret", tmp_path / "top"
    secret.write_text("the host's")
    top.mkdir()
    (top / "a").touch()
    (top / "b").touch()
    with opened(top) as [fd], walk(fd) as entries:
        walking = iter(entries)
        assert next(walking).name == b"a"
        (top / "b").unlink()
        (top / "b").symlink_to(secret)
        with pytest.raises(OSError, match="symbolic link"):
            next(walking)


@pytest.mark.security
def test_a_file_that_becomes_a_fifo_keeps_nobody_waiting(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    with opened(tmp_path) as [fd], walk(fd) as entries:
        walking = iter(entries)
        next(walking)
        (tmp_path / "b").unlink()
        os.mkfifo(tmp_path / "b")
        with pytest.raises(LifecycleError, match="'b' changed while it was read"):
            next(walking)


def move_while_walking(fd: int, source: Path, target: Path) -> None:
    with walk(fd) as entries:
        for entry in entries:
            if entry.depth == 40:
                source.rename(target)


@pytest.mark.security
def test_a_directory_that_is_moved_away_leads_nowhere_else(tmp_path: Path) -> None:
    outside, top = tmp_path / "outside", tmp_path / "top"
    outside.mkdir()
    top.mkdir()
    guest_trees.deep(top, 50)
    with opened(top) as [fd]:
        before = guest_trees.descriptors()
        with pytest.raises(LifecycleError, match="moved"):
            move_while_walking(fd, top.joinpath(*["d"] * 10), outside / "d")
        assert guest_trees.descriptors() == before


@pytest.mark.security
def test_a_file_that_becomes_shorter_is_no_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"content")
    read = os.preadv

    def cut_short(fd: int, buffers: list[memoryview], offset: int) -> int:
        os.truncate(tmp_path / "file", 3)
        return read(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", cut_short)
    with pytest.raises(LifecycleError, match="shorter"):
        digest_of(tmp_path)
