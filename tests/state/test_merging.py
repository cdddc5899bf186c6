"""Chains of layers merged by us and by the kernel, which must look the same."""

import os
from pathlib import Path

import pytest

from alcove.state.copying import copy_tree, flatten
from alcove.state.tree import Entry, Kind, merge, walk
from tests.state import guest_trees
from tests.state.guest_trees import opened

EDITS = """
import os, random, shutil, sys
chance = random.Random(int(sys.argv[1]))

def places():
    found = ["."]
    for directory, names, _ in os.walk("."):
        found += [f"{directory}/{name}" for name in sorted(names)]
    return sorted(found)

def edit():
    place = chance.choice(places())
    path = f"{place}/{chance.choice('abcdef')}"
    what = chance.choice(["write", "mkdir", "remove", "link", "symlink", "chmod", "fifo", "again"])
    if what in {"remove", "again"} and os.path.lexists(path):
        shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
    if what in {"mkdir", "again"} and not os.path.lexists(path):
        os.mkdir(path)
    if what == "write" and (os.path.isfile(path) or not os.path.lexists(path)):
        with open(path, "a") as file:
            file.write(chance.choice(["", "x", "y" * 5000]))
    if what == "symlink" and not os.path.lexists(path):
        os.symlink(f"nowhere-{chance.random()}", path)
    if what == "fifo" and not os.path.lexists(path):
        os.mkfifo(path)
    if what == "chmod" and os.path.exists(path):
        os.chmod(path, chance.choice([0o700, 0o755, 0o644]))
    if what == "link" and os.path.isfile(path) and not os.path.lexists(f"{path}-same"):
        os.link(path, f"{path}-same", follow_symlinks=False)

for _ in range(60):
    edit()
"""
# Not which names are one file: an overlay shows hard links of its lower layers as files of their own
LISTING = """
import hashlib, os
from alcove.state.tree import walk
with walk(os.open(".", os.O_RDONLY)) as entries:
    for entry in entries:
        content = hashlib.sha256(os.read(entries.fd, 10_000)).hexdigest() if entry.size else ""
        print(entry.path, entry.kind, oct(entry.mode), entry.size, entry.mtime_ns, entry.target, entry.opaque, content)
"""


def entries_of(path: Path) -> list[Entry]:
    with opened(path) as [fd], walk(fd) as entries:
        return list(entries)


@pytest.mark.user
@pytest.mark.parametrize("seed", range(8))
def test_layers_merge_as_the_kernel_merges_them(tmp_path: Path, seed: int) -> None:
    chain = [tmp_path / "lowest"]
    chain[0].mkdir()
    shown_by_kernel = ""
    for number in range(4):
        upper = tmp_path / f"upper-{number}"
        shown_by_kernel = guest_trees.in_overlay(chain, upper, EDITS + LISTING, str(seed * 10 + number))
        chain.append(upper)
    flat = tmp_path / "flat"
    flat.mkdir()
    with opened(*chain) as fds, opened(flat) as [target]:
        flatten(fds, target)
    ours = guest_trees.in_user_namespace("", f"import os, sys; os.chdir(sys.argv[1]){LISTING}", str(flat))
    assert ours.splitlines() == shown_by_kernel.splitlines()
    if seed == 0:  # the layers are worth merging: something is deleted, and something hidden whole
        found = [entry for path in chain[1:] for entry in entries_of(path)]
        assert any(entry.kind is Kind.WHITEOUT for entry in found)
        assert any(entry.opaque for entry in found)


@pytest.mark.user
@pytest.mark.parametrize("seed", range(8))
def test_layers_over_something_else_delete_and_hide_there_what_they_did_together(tmp_path: Path, seed: int) -> None:
    chain = [tmp_path / "below"]
    chain[0].mkdir()
    shown_by_kernel = ""
    for number in range(5):
        upper = tmp_path / f"upper-{number}"
        shown_by_kernel = guest_trees.in_overlay(chain, upper, EDITS + LISTING, str(seed * 10 + number))
        chain.append(upper)
    # the first edit is what lies below: an upper layer of an empty directory is a plain tree
    below, flat = chain[1], tmp_path / "flat"
    flat.mkdir()
    with opened(*chain[2:]) as fds, opened(flat) as [target]:
        flatten(fds, target, over=True)
    ours = guest_trees.in_overlay([below, flat], tmp_path / "look", LISTING)
    assert ours.splitlines() == shown_by_kernel.splitlines()
    if seed == 1:
        assert any(entry.kind is Kind.WHITEOUT for entry in entries_of(flat))
        assert any(entry.opaque for entry in entries_of(flat))


@pytest.mark.user
@pytest.mark.parametrize("way", ["flatten", "copy_tree"])
def test_a_whiteout_with_nothing_below_it_is_not_listed(tmp_path: Path, way: str) -> None:
    below, upper, made = tmp_path / "below", tmp_path / "upper", tmp_path / "made"
    for path in (below, upper / "d", made):
        path.mkdir(parents=True)
    guest_trees.white_out(upper / "d/gone")
    look = "import os; print(os.listdir('d'))"
    assert guest_trees.in_overlay([below, upper], tmp_path / "bare", look) == "['gone']\n"
    with opened(upper, made) as (source, target):
        if way == "flatten":
            flatten([source], target, over=True)
        else:
            copy_tree(source, target)
    assert guest_trees.in_overlay([below, made], tmp_path / "look", look) == "[]\n"


def test_what_layers_over_something_hide_is_said_once(tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    (lower / "d").mkdir(parents=True)
    (lower / "new").mkdir()
    (upper / "d/inner").mkdir(parents=True)
    for path in (lower / "gone", lower / "d/gone", upper / "d/gone-too", lower / "made-again"):
        guest_trees.white_out(path)
    (upper / "made-again/inner").mkdir(parents=True)
    os.setxattr(upper / "d", "user.overlay.opaque", b"y")
    os.setxattr(upper / "d/inner", "user.overlay.opaque", b"y")
    with opened(lower, upper) as fds, merge(fds, over=True) as entries:
        found = [(entry.path, entry.kind, entry.opaque) for entry in entries]
    assert found == [
        (b"d", Kind.DIRECTORY, True),
        (b"d/inner", Kind.DIRECTORY, False),
        (b"gone", Kind.WHITEOUT, False),
        (b"made-again", Kind.DIRECTORY, True),
        (b"made-again/inner", Kind.DIRECTORY, False),
        (b"new", Kind.DIRECTORY, False),
    ]


def test_an_opaque_directory_hides_what_lies_below(tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    (lower / "d/old").mkdir(parents=True)
    (lower / "e/old").mkdir(parents=True)
    (upper / "d/new").mkdir(parents=True)
    (upper / "e/new").mkdir(parents=True)
    os.setxattr(upper / "d", "user.overlay.opaque", b"y")
    os.setxattr(upper / "e", "user.overlay.opaque", b"x")
    with opened(lower, upper) as fds, merge(fds) as entries:
        assert [entry.path for entry in entries] == [b"d", b"d/new", b"e", b"e/new", b"e/old"]


def test_a_whiteout_between_hides_what_lies_below_it(tmp_path: Path) -> None:
    chain = [tmp_path / name for name in ("lowest", "middle", "upper")]
    for path in chain:
        path.mkdir()
    (chain[0] / "d/secret").mkdir(parents=True)
    guest_trees.white_out(chain[1] / "d")
    (chain[2] / "d/new").mkdir(parents=True)
    with opened(*chain) as fds, merge(fds) as entries:
        assert [entry.path for entry in entries] == [b"d", b"d/new"]
    with opened(*chain[:2]) as fds, merge(fds) as entries:
        assert list(entries) == []
