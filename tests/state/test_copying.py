"""Copies of trees: everything that the source has, whatever way the bytes go, and nothing outside the target."""

import errno
import fcntl
import os
import random
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alcove.contract import LifecycleError
from alcove.state.copying import copy_tree, flatten
from alcove.state.tree import digest, measure
from tests.state import guest_trees
from tests.state.guest_trees import opened


def copied(source: Path, target: Path, *, reflink: bool = True) -> str:
    """Copy a tree to a new directory; return the copy's digest, which must be the source's."""
    target.mkdir(exist_ok=True)
    with opened(source, target) as (source_fd, target_fd):
        copy_tree(source_fd, target_fd, reflink=reflink)
        made = digest(target_fd)
        assert made == digest(source_fd)
        return made


def status(path: Path) -> tuple[int, ...]:
    found = path.lstat()
    return found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, found.st_nlink, found.st_size


def statuses(top: Path) -> dict[Path, tuple[int, ...]]:
    return {path.relative_to(top): status(path) for path in [top, *top.rglob("*")]}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    top.mkdir()
    guest_trees.of_everything(top)
    return top


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "copy"


@pytest.fixture
def deep_place(tmp_path: Path) -> Iterator[Path]:
    top = tmp_path / "deep"
    (top / "source").mkdir(parents=True)
    try:
        guest_trees.deep(top / "source", 2_000)
        yield top
    finally:
        subprocess.run(["rm", "-rf", str(top)], check=True)


# Everything that the source has


@pytest.mark.user
def test_a_copy_has_everything_of_its_source(tree: Path, target: Path) -> None:
    copied(tree, target)
    assert statuses(target) == statuses(tree)
    assert (target / "sparse").stat().st_blocks == (tree / "sparse").stat().st_blocks
    assert (target / "zz-same").samefile(target / "directory/inner/file")
    assert not (target / "zz-same").samefile(tree / "zz-same")
    assert (target / "link").readlink() == Path("/etc/passwd")
    assert os.getxattr(target / "directory/inner", "user.of-directory") == b""


@pytest.mark.user
def test_a_copy_of_an_upper_layer_deletes_and_hides_the_same(tmp_path: Path, target: Path) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    (lower / "replaced/old").mkdir(parents=True)
    (lower / "removed").touch()
    edits = "import os, shutil; os.unlink('removed'); shutil.rmtree('replaced'); os.mkdir('replaced')"
    guest_trees.in_overlay([lower], upper, edits)
    copied(upper, target)
    assert os.getxattr(target / "replaced", "user.overlay.opaque") == b"y"
    assert "user.overlay.uuid" not in os.listxattr(target)
    look = "import os; print(os.listdir('.'), os.listdir('replaced'))"
    assert guest_trees.in_overlay([lower, target], tmp_path / "upper-2", look) == "['replaced'] []\n"


@pytest.mark.root
def test_owners_and_set_id_bits_are_kept(tree: Path, target: Path) -> None:
    for number, path in enumerate([tree, *tree.rglob("*")]):
        os.chown(path, 1000 + number, 2000 + number, follow_symlinks=False)
    (tree / "script").chmod(0o6755)
    copied(tree, target)
    assert statuses(target) == statuses(tree)
    assert stat.S_IMODE((target / "script").stat().st_mode) == 0o6755


@pytest.mark.root
@pytest.mark.security
def test_capabilities_are_not_kept(tree: Path, target: Path) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    os.setxattr(tree / "script", "security.capability", capability)
    os.setxattr(tree / "script", "user.note", b"")
    copied(tree, target)
    assert "security.capability" in os.listxattr(tree / "script")
    assert os.listxattr(target / "script") == ["user.note"]


NAMES = st.binary(min_size=1, max_size=12).filter(lambda name: not set(name) & {0, 0x2F} and name not in {b".", b".."})
MODES = st.integers(0, 0o7777).map(lambda mode: mode | 0o700)
LEAVES = st.one_of(
    st.tuples(st.just("file"), MODES, st.lists(st.tuples(st.integers(0, 4 << 20), st.binary(max_size=50)), max_size=3)),
    st.tuples(st.just("symlink"), st.binary(min_size=1, max_size=40).filter(lambda target: b"\0" not in target)),
    st.tuples(st.just("fifo"), MODES),
    st.tuples(st.just("whiteout")),
    st.tuples(st.just("link"), st.integers(0, 20)),
)
TREES = st.recursive(
    st.dictionaries(NAMES, LEAVES, max_size=4),
    lambda inner: st.dictionaries(NAMES, st.one_of(LEAVES, st.tuples(st.just("directory"), MODES, inner)), max_size=4),
    max_leaves=20,
)


def make(place: int, tree: dict[bytes, tuple[object, ...]], files: list[tuple[int, bytes]]) -> None:
    for name, (kind, *rest) in tree.items():
        match kind, rest:
            case "file", [int(mode), list(pieces)]:
                fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, dir_fd=place)
                for offset, data in pieces:
                    os.pwrite(fd, data, offset)
                os.fchmod(fd, mode)
                os.close(fd)
                files.append((os.dup(place), name))
            case "symlink", [bytes(target)]:
                os.symlink(target, name, dir_fd=place)
            case "fifo", [int(mode)]:
                os.mkfifo(name, mode, dir_fd=place)
            case "whiteout", []:
                os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=place)
            case "link", [int(number)] if files:
                fd, source = files[number % len(files)]
                os.link(source, name, src_dir_fd=fd, dst_dir_fd=place)
            case "directory", [int(mode), dict(inner)]:
                os.mkdir(name, dir_fd=place)
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=place)
                make(below, inner, files)
                os.fchmod(below, mode)
                os.close(below)


@pytest.mark.user
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tree=TREES, clones=st.booleans())
def test_any_tree_is_the_same_once_copied(tree: dict[bytes, tuple[object, ...]], *, clones: bool) -> None:
    with TemporaryDirectory() as place:
        source, target = Path(place, "source"), Path(place, "target")
        source.mkdir()
        files: list[tuple[int, bytes]] = []
        with opened(source) as [fd]:
            make(fd, tree, files)
        for fd, _ in files:
            os.close(fd)
        copied(source, target, reflink=clones)


# Whatever way the bytes go


def refuse(monkeypatch: pytest.MonkeyPatch, what: object, name: str, error: int) -> list[int]:
    """Let a call fail; return where its calls are counted."""
    calls: list[int] = []

    def failing(*arguments: object) -> None:
        calls.append(error)
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(what, name, failing)
    return calls


@pytest.fixture
def many(tmp_path: Path) -> Path:
    top = tmp_path / "many"
    top.mkdir()
    for number in range(5):
        (top / f"{number}").write_bytes(random.Random(number).randbytes((number << 20) + 1))
    return top


def test_without_a_way_in_the_kernel_by_hand(many: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clones = refuse(monkeypatch, fcntl, "ioctl", errno.EOPNOTSUPP)
    copies = refuse(monkeypatch, os, "copy_file_range", errno.EXDEV)
    copied(many, target)
    assert (len(clones), len(copies)) == (1, 1)  # once refused, not tried again


def test_a_file_that_cannot_be_cloned_says_nothing_of_the_next(
    many: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clones = refuse(monkeypatch, fcntl, "ioctl", errno.EINVAL)
    copied(many, target)
    assert len(clones) == 5


def test_no_clone_is_tried_where_none_is_wanted(many: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clones = refuse(monkeypatch, fcntl, "ioctl", errno.EINVAL)
    copied(many, target, reflink=False)
    assert clones == []


@pytest.mark.parametrize("name", ["ioctl", "copy_file_range"])
def test_a_full_disk_is_told_and_leaves_nothing_open(
    tree: Path, target: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, fcntl if name == "ioctl" else os, name, errno.ENOSPC)
    target.mkdir()
    with opened(tree, target) as (source_fd, target_fd):
        before = guest_trees.descriptors()
        with pytest.raises(OSError, match="No space"):
            copy_tree(source_fd, target_fd)
        assert guest_trees.descriptors() == before


def test_progress_is_told_of_every_byte_and_may_end_it(tree: Path, target: Path) -> None:
    told: list[int] = []
    target.mkdir()
    with opened(tree, target) as (source_fd, target_fd):
        copy_tree(source_fd, target_fd, progress=told.append)
        assert sum(told) == measure(source_fd).bytes
    other = target.with_name("other")
    other.mkdir()

    def end(count: int) -> None:
        raise InterruptedError

    with opened(tree, other) as (source_fd, target_fd), pytest.raises(InterruptedError):
        copy_tree(source_fd, target_fd, progress=end)


def test_a_file_that_becomes_shorter_is_no_copy(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"x" * (33 << 20))
    target.mkdir()
    with opened(source, target) as (source_fd, target_fd), pytest.raises(LifecycleError, match="shorter"):
        copy_tree(source_fd, target_fd, reflink=False, progress=lambda count: os.truncate(source / "file", count))


@pytest.mark.security
def test_a_file_of_holes_costs_nothing(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").touch()
    os.truncate(source / "file", 1 << 40)
    copied(source, target)
    assert (target / "file").stat().st_size == 1 << 40
    assert (target / "file").stat().st_blocks < 100


@pytest.mark.root
@pytest.mark.e2e
@pytest.mark.parametrize("make_file_system", ["mkfs.xfs", "mkfs.btrfs"])
def test_a_clone_takes_no_space(tmp_path: Path, make_file_system: str) -> None:
    image, place = tmp_path / "image", tmp_path / "mounted"
    image.touch()
    os.truncate(image, 512 << 20)
    place.mkdir()
    subprocess.run([make_file_system, "-q", str(image)], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        (place / "source").mkdir()
        (place / "source/file").write_bytes(random.Random(1).randbytes(64 << 20))
        os.sync()
        free = os.statvfs(place).f_bavail
        copied(place / "source", place / "copy")
        os.sync()
        used = (free - os.statvfs(place).f_bavail) * os.statvfs(place).f_bsize
        assert used < 8 << 20
    finally:
        subprocess.run(["umount", str(place)], check=True)


# Hard links


def test_a_file_with_more_names_than_the_target_allows_is_made_again(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "0").write_text("content")
    for number in range(1, 7):
        os.link(source / "0", source / str(number))
    link = os.link

    def limited(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int, follow_symlinks: bool) -> None:
        if os.stat(source, dir_fd=src_dir_fd).st_nlink == 3:
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        link(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(os, "link", limited)
    target.mkdir()
    with opened(source, target) as (source_fd, target_fd):
        copy_tree(source_fd, target_fd)
    assert sorted(path.name for path in target.iterdir()) == [str(number) for number in range(7)]
    assert {path.read_text() for path in target.iterdir()} == {"content"}
    assert 1 < len({path.stat().st_ino for path in target.iterdir()}) < 7


@pytest.mark.user
@pytest.mark.security
def test_two_thousand_directories_deep_with_hard_links(deep_place: Path) -> None:
    before = guest_trees.descriptors()
    made = copied(deep_place / "source", deep_place / "copy")
    assert guest_trees.descriptors() == before
    assert [path.name for path in (deep_place / "copy").iterdir()] == ["d"]  # nothing of ours stays
    assert copied(deep_place / "copy", deep_place / "again") == made


@pytest.mark.user(only=True)
@pytest.mark.security
def test_hard_links_into_directories_without_a_right(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "source"
    for name in ("a", "b"):
        (source / name).mkdir(parents=True)
    (source / "a/file").write_text("content")
    os.setxattr(source / "a/file", "user.note", b"n")
    os.link(source / "a/file", source / "b/file")
    places = [source / "a/file", source / "a", source / "b", source]
    for path in places:
        path.chmod(0)
    source_fd = os.open(source, os.O_PATH | os.O_DIRECTORY)
    target.mkdir()
    try:
        with opened(target) as [target_fd]:
            copy_tree(source_fd, target_fd)
            assert digest(target_fd) == digest(source_fd)
    finally:
        os.close(source_fd)
    for top in (source, target):
        for name in ("", "a", "b", "a/file"):
            assert stat.S_IMODE((top / name).stat().st_mode) == 0
            (top / name).chmod(0o700)
    assert (target / "a/file").samefile(target / "b/file")


# Nothing outside the target


@pytest.mark.security
@pytest.mark.parametrize("name", ["file", "directory"])
def test_a_link_that_is_in_the_way_is_not_followed(tmp_path: Path, target: Path, name: str) -> None:
    source, outside = tmp_path / "source", tmp_path / "outside"
    (source / "directory").mkdir(parents=True)
    (source / "directory/inner").touch()
    (source / "file").write_text("of the guest's")
    outside.mkdir()
    target.mkdir()
    (target / name).symlink_to(outside / "new" if name == "file" else outside)
    with opened(source, target) as (source_fd, target_fd), pytest.raises(FileExistsError):
        copy_tree(source_fd, target_fd)
    assert list(outside.iterdir()) == []


@pytest.mark.security
def test_links_are_copied_and_what_they_lead_to_is_left_alone(tmp_path: Path, target: Path) -> None:
    source, outside = tmp_path / "source", tmp_path / "outside"
    source.mkdir()
    outside.mkdir(mode=0o750)
    (outside / "file").write_text("the host's")
    before = statuses(outside)
    (source / "to-directory").symlink_to(outside)
    (source / "to-file").symlink_to(outside / "file")
    os.link(source / "to-file", source / "to-file-again", follow_symlinks=False)
    copied(source, target)
    assert statuses(outside) == before
    assert all(path.is_symlink() for path in target.iterdir())


@pytest.mark.root
@pytest.mark.security
def test_device_nodes_are_refused(tree: Path, target: Path) -> None:
    os.mknod(tree / "directory/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    target.mkdir()
    with (
        opened(tree, target) as (source_fd, target_fd),
        pytest.raises(LifecycleError, match="'directory/null' is a dev"),
    ):
        copy_tree(source_fd, target_fd)


# Chains in one


@pytest.mark.user
def test_a_chain_is_one_plain_layer_without_what_was_deleted(tmp_path: Path, target: Path) -> None:
    chain = [tmp_path / name for name in ("lowest", "middle", "upper")]
    for path in chain:
        (path / "workspace").mkdir(parents=True)
    for name in ("kept", "secret", "changed"):
        (chain[0] / "workspace" / name).write_text(name)
    os.link(chain[0] / "workspace/kept", chain[0] / "workspace/kept-too")
    guest_trees.white_out(chain[1] / "workspace/secret")
    (chain[2] / "workspace/changed").write_text("anew")
    (chain[2] / "workspace").chmod(0o711)
    target.mkdir()
    with opened(*chain) as fds, opened(target) as [target_fd]:
        flatten(fds, target_fd)
    found = {path.name: path.read_text() for path in (target / "workspace").iterdir()}
    assert found == {"kept": "kept", "kept-too": "kept", "changed": "anew"}
    assert stat.S_IMODE((target / "workspace").stat().st_mode) == 0o711
    assert (target / "workspace/kept").samefile(target / "workspace/kept-too")
    assert os.listxattr(target / "workspace") == []


def test_many_layers_are_within_the_limit_of_descriptors(tmp_path: Path, target: Path) -> None:
    chain = [tmp_path / f"{number}" for number in range(40)]
    for number, path in enumerate(chain):
        path.mkdir()
        guest_trees.deep(path, 60)
        path.joinpath(*["d"] * 60, "last").write_text("content")  # where most is open
        (path / "d" / f"file-{number}").touch()
    target.mkdir()
    most: list[int] = []
    with opened(*chain) as fds, opened(target) as [target_fd]:
        before = guest_trees.descriptors()
        flatten(fds, target_fd, progress=lambda _: most.append(guest_trees.descriptors()))
    assert len(list((target / "d").iterdir())) == 41
    assert max(most) - before < 350
