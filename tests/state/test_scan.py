"""What a guest could leave in a layer to poison an overlay over it: found there, taken away, and nothing else."""

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from alcove.contract import LifecycleError
from alcove.state.scan import Findings, Trouble, clean, scan
from alcove.state.tree import digest
from tests.state import guest_trees
from tests.state.guest_trees import opened

pytestmark = pytest.mark.security

#: As setcap(8) writes it: VFS_CAP_REVISION_2, effective, cap_net_raw permitted.
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
MAKE_CAPABLE = "import os, sys; os.setxattr(sys.argv[1], 'security.capability', bytes.fromhex(sys.argv[2]))"
#: What makes a kernel write all that it writes in an upper directory.
EDITS = """
import os, shutil
os.unlink("removed")
shutil.rmtree("replaced")
os.mkdir("replaced")
open("replaced/new", "w").close()
open("changed", "a").write("more")
os.setxattr("changed", "user.note", b"of the guest's")
os.rename("moved", "elsewhere")
"""


def found_in(path: Path, *, lowest: bool) -> Findings:
    with opened(path) as [fd]:
        return scan(fd, lowest=lowest)


def cleaned(path: Path, *, lowest: bool, keep_set_id: bool = False) -> Findings:
    """Clean a layer; return what a scan finds afterwards."""
    with opened(path) as [fd]:
        clean(fd, scan(fd, lowest=lowest), keep_set_id=keep_set_id)
        return scan(fd, lowest=lowest)


def attributes(path: Path) -> list[str]:
    return sorted(os.listxattr(path, follow_symlinks=False))


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    top = tmp_path / "layer"
    (top / "workspace/inner").mkdir(parents=True)
    (top / "workspace/file").write_text("content")
    (top / "workspace/inner/empty").touch()
    return top


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    (lower / "replaced/old").mkdir(parents=True)
    for name in ("removed", "changed", "moved"):
        (lower / name).write_text(name)
    guest_trees.in_overlay([lower], upper, EDITS)
    return upper


@pytest.fixture
def deep_layer(tmp_path: Path) -> Iterator[Path]:
    top = tmp_path / "deep"
    top.mkdir()
    try:
        guest_trees.deep(top, 3_000)
        yield top
    finally:
        subprocess.run(["rm", "-rf", str(top)], check=True)


# Left alone


@pytest.mark.user
def test_what_the_kernel_wrote_in_an_upper_layer_is_no_trouble(upper: Path) -> None:
    assert stat.S_ISCHR((upper / "removed").lstat().st_mode)
    assert os.getxattr(upper / "replaced", "user.overlay.opaque") == b"y"
    assert "user.overlay.impure" in attributes(upper)
    assert not found_in(upper, lowest=False)


@pytest.mark.user
def test_the_same_in_a_plain_layer_is_all_found(upper: Path) -> None:
    found = found_in(upper, lowest=True)
    assert found.counts[Trouble.WHITEOUT] == 2
    assert found.counts[Trouble.OVERLAY] >= 2  # and one for each copy, where the kernel notes what it is of
    assert not cleaned(upper, lowest=True)
    assert attributes(upper) == attributes(upper / "replaced") == []
    assert sorted(path.name for path in upper.iterdir()) == ["changed", "elsewhere", "replaced"]


@pytest.mark.user
def test_an_ordinary_layer_stays_as_it_is(layer: Path) -> None:
    os.setxattr(layer / "workspace/file", "user.note", b"")
    os.mkfifo(layer / "workspace/fifo")
    (layer / "workspace/link").symlink_to("/dev/null")
    (layer / "workspace/inner").chmod(0o2775)
    with opened(layer) as [fd]:
        before = digest(fd)
        findings = scan(fd, lowest=True)
        assert not findings
        clean(fd, findings)
        assert digest(fd) == before


def test_no_descriptor_stays_open(layer: Path) -> None:
    os.setxattr(layer / "workspace", "user.overlay.redirect", b"/etc")
    before = guest_trees.descriptors()
    assert not cleaned(layer, lowest=False)
    assert guest_trees.descriptors() == before


def test_no_access_is_noted_on_what_is_scanned(layer: Path) -> None:
    file = layer / "workspace/file"
    os.utime(file, ns=(1, 2))
    found_in(layer, lowest=True)
    assert file.stat().st_atime_ns == 1


# Overlay attributes


@pytest.mark.user
@pytest.mark.parametrize("name", ["opaque", "whiteout", "redirect", "metacopy", "origin", "overlay.opaque", "any"])
def test_forged_attributes_in_a_plain_layer(layer: Path, name: str) -> None:
    for path in (layer, layer / "workspace", layer / "workspace/file"):
        os.setxattr(path, f"user.overlay.{name}", b"y")
    os.setxattr(layer / "workspace/file", "user.note", b"stays")
    assert found_in(layer, lowest=True).counts == {Trouble.OVERLAY: 3}
    assert not cleaned(layer, lowest=True)
    assert attributes(layer / "workspace/file") == ["user.note"]


@pytest.mark.parametrize("name", ["redirect", "metacopy", "nlink", "upper", "overlay.opaque"])
def test_forged_attributes_in_an_upper_layer(upper: Path, name: str) -> None:
    os.setxattr(upper / "changed", f"user.overlay.{name}", b"/etc")
    found = found_in(upper, lowest=False)
    assert found.counts == {Trouble.OVERLAY: 1}
    assert found.examples == (f"'changed': overlay attribute 'user.overlay.{name}'",)
    assert not cleaned(upper, lowest=False)
    assert os.getxattr(upper / "replaced", "user.overlay.opaque") == b"y"


@pytest.mark.root
def test_attributes_of_the_other_kind_of_overlay(layer: Path) -> None:
    os.setxattr(layer / "workspace", "trusted.overlay.redirect", b"/etc")
    assert found_in(layer, lowest=False).counts == {Trouble.OVERLAY: 1}
    assert not cleaned(layer, lowest=False)


def test_what_a_forged_layer_hides_is_there_again_once_it_is_clean(layer: Path, tmp_path: Path) -> None:
    workspace = layer / "workspace"
    os.setxattr(workspace / "inner", "user.overlay.opaque", b"x")
    os.setxattr(workspace / "inner/empty", "user.overlay.whiteout", b"")
    look = "import os; print(os.path.exists('inner/empty'))"
    assert guest_trees.in_overlay([workspace], tmp_path / "before", look) == "False\n"
    assert not cleaned(layer, lowest=True)
    assert guest_trees.in_overlay([workspace], tmp_path / "after", look) == "True\n"


# Set-id bits and capabilities


@pytest.mark.user
def test_set_id_bits_are_taken_unless_they_may_stay(layer: Path) -> None:
    file = layer / "workspace/file"
    file.chmod(0o6755)
    (layer / "workspace/inner/empty").chmod(0o2600)
    assert found_in(layer, lowest=False).counts == {Trouble.SET_ID: 2}
    assert cleaned(layer, lowest=False, keep_set_id=True).counts == {Trouble.SET_ID: 2}
    assert stat.S_IMODE(file.stat().st_mode) == 0o6755
    assert not cleaned(layer, lowest=False)
    assert stat.S_IMODE(file.stat().st_mode) == 0o755


@pytest.mark.user
@pytest.mark.parametrize("keep", [False, True])
def test_capabilities_are_taken_even_by_a_plain_user(layer: Path, *, keep: bool) -> None:
    file = layer / "workspace/file"
    file.chmod(0o4711)
    # as a guest would: root of its own user namespace
    guest_trees.in_user_namespace("", MAKE_CAPABLE, str(file), CAPABILITY.hex())
    assert found_in(layer, lowest=True).counts == {Trouble.CAPABILITY: 1, Trouble.SET_ID: 1}
    assert cleaned(layer, lowest=True, keep_set_id=keep).counts == ({Trouble.SET_ID: 1} if keep else {})
    assert attributes(file) == []
    assert stat.S_IMODE(file.stat().st_mode) == (0o4711 if keep else 0o711)
    assert file.read_text() == "content"


# Nodes


@pytest.mark.user
def test_a_socket_leaves_a_plain_layer_and_a_whiteout_in_an_upper_one(layer: Path) -> None:
    path = layer / "workspace/socket"
    for lowest in (True, False):
        guest_trees.bind_socket(path)
        assert found_in(layer, lowest=lowest).counts == {Trouble.SOCKET: 1}
        assert not cleaned(layer, lowest=lowest)
        assert sorted(os.listdir(path.parent)) == ["file", "inner", *([] if lowest else ["socket"])]
    assert stat.S_ISCHR(path.lstat().st_mode)
    assert path.lstat().st_rdev == 0


@pytest.mark.root
@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
def test_device_nodes_are_refused(layer: Path, kind: int) -> None:
    node, file = layer / "workspace/inner/node", layer / "workspace/file"
    file.chmod(0o4755)
    os.mknod(node, kind | 0o666, os.makedev(1, 3))
    found = found_in(layer, lowest=True)
    assert found.counts == {Trouble.DEVICE: 1, Trouble.SET_ID: 1}
    with opened(layer) as [fd], pytest.raises(LifecycleError, match=r"device nodes.*'workspace/inner/node'"):
        clean(fd, found)
    assert node.exists()
    assert file.stat().st_mode & stat.S_ISUID


@pytest.mark.root
def test_a_device_node_that_came_after_the_scan_is_refused(layer: Path) -> None:
    (layer / "workspace/file").chmod(0o4755)
    with opened(layer) as [fd]:
        found = scan(fd, lowest=False)
        os.mknod(layer / "workspace/node", stat.S_IFCHR, os.makedev(1, 3))
        with pytest.raises(LifecycleError, match="not there before"):
            clean(fd, found)


# Whatever a guest made


def test_a_link_leads_nobody_out_of_the_layer(layer: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    for path in (outside, outside / "file"):
        os.setxattr(path, "user.overlay.redirect", b"/")
    (outside / "file").chmod(0o4755)
    (layer / "to-directory").symlink_to(outside)
    (layer / "to-file").symlink_to(outside / "file")
    # the positive control: by name there would be something
    assert found_in(outside, lowest=True).counts == {Trouble.OVERLAY: 2, Trouble.SET_ID: 1}
    os.setxattr(layer / "workspace", "user.overlay.redirect", b"/")
    assert found_in(layer, lowest=True).counts == {Trouble.OVERLAY: 1}
    assert not cleaned(layer, lowest=True)
    assert found_in(outside, lowest=True).counts == {Trouble.OVERLAY: 2, Trouble.SET_ID: 1}


def test_many_troubles_are_counted_and_a_few_are_named(layer: Path) -> None:
    for number in range(2_000):
        (layer / f"file-{number}").touch()
        os.setxattr(layer / f"file-{number}", "user.overlay.any", b"")
    found = found_in(layer, lowest=False)
    assert found.counts == {Trouble.OVERLAY: 2_000}
    assert len(found.examples) == 5
    assert not cleaned(layer, lowest=False)


def test_whiteouts_are_taken_out_of_a_directory_of_many(layer: Path) -> None:
    guest_trees.white_out(layer / "0")
    for number in range(1, 5_000):
        os.link(layer / "0", layer / str(number))
    assert found_in(layer, lowest=True).counts == {Trouble.WHITEOUT: 5_000}
    assert not cleaned(layer, lowest=True)
    assert os.listdir(layer) == ["workspace"]


@pytest.mark.user
def test_three_thousand_directories_deep(deep_layer: Path) -> None:
    with opened(deep_layer) as [fd]:
        top = os.dup(fd)
        for _ in range(3_000):
            below = os.open("d", os.O_RDONLY, dir_fd=top)
            os.close(top)
            top = below
        os.setxattr(top, "user.overlay.opaque", b"y")
        os.close(top)
        found = scan(fd, lowest=True)
        assert found.counts == {Trouble.OVERLAY: 1}
        assert len(found.examples[0]) < 500
        clean(fd, found)
        assert not scan(fd, lowest=True)


@pytest.mark.user(only=True)
def test_what_lacks_every_right_is_cleaned_and_left_as_it_was(layer: Path) -> None:
    inner, file = layer / "workspace/inner", layer / "workspace/inner/empty"
    os.setxattr(file, "user.overlay.metacopy", b"")
    os.setxattr(inner, "user.overlay.opaque", b"y")
    guest_trees.white_out(inner / "gone")
    file.chmod(0)
    inner.chmod(0)
    assert found_in(layer, lowest=True).counts == {Trouble.OVERLAY: 2, Trouble.WHITEOUT: 1}
    assert not cleaned(layer, lowest=True)
    assert stat.S_IMODE(inner.stat().st_mode) == 0
    inner.chmod(0o700)
    assert stat.S_IMODE(file.stat().st_mode) == 0
    assert os.listdir(inner) == ["empty"]
