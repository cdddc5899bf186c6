"""Layers leave as an image that others read, and come back as they were."""

import hashlib
import io
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alcove.contract import InvalidRequest, LifecycleError, SandboxIoError
from alcove.state import packing
from alcove.state.archive import ArchiveWriter
from alcove.state.compression import Compression
from alcove.state.emptying import empty
from alcove.state.importing import import_
from alcove.state.limits import ImportLimits
from alcove.state.members import Kind, Member, header_of, parse_header
from tests.state import images
from tests.state.images import directories, listing
from tests.state.layers import digest_of, exported, furnish, imported

pytestmark = [pytest.mark.user, pytest.mark.usefixtures("no_descriptor_stays")]

ROOMY = ImportLimits(depth=10_000, path_bytes=1 << 20)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a layer with a workspace."""
    path = tmp_path / "source"
    (path / "workspace").mkdir(parents=True)
    return path


# There and back


@pytest.mark.parametrize("compression", Compression)
def test_all_that_a_layer_has_comes_back(source: Path, tmp_path: Path, compression: Compression) -> None:
    furnish(source)
    archive, out = exported(source, compression=compression, metadata={"parent": "s-1", "spec": '{"a": "ü"}'})
    back = imported(archive, tmp_path / "back")
    assert listing(tmp_path / "back") == listing(source)
    assert back.layers[0].digest == out.layers[0] == digest_of(source)
    assert back.metadata == {"parent": "s-1", "spec": '{"a": "ü"}'}
    assert (back.manifest, back.name, back.layers[0].squashed) == (out.manifest, "snapshot", False)


def test_a_directory_that_nobody_may_enter_comes_back(source: Path, tmp_path: Path) -> None:
    locked = source / "workspace" / "locked"
    (locked / "inside").mkdir(parents=True)
    (locked / "file").touch(0o000)
    for path in (locked / "inside", locked):
        path.chmod(0o000)
    before = digest_of(source)
    archive, _ = exported(source)
    assert imported(archive, tmp_path / "back").layers[0].digest == before
    assert stat.S_IMODE((tmp_path / "back" / "workspace" / "locked").stat().st_mode) == 0
    assert stat.S_IMODE(locked.stat().st_mode) == 0


@pytest.mark.parametrize("depth", [200, 1500])
def test_depth_comes_back(source: Path, tmp_path: Path, depth: int) -> None:
    fd = os.open(source / "workspace", os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    archive, out = exported(source)
    back = imported(archive, tmp_path / "back", limits=ROOMY)
    assert back.layers[0].digest == out.layers[0]
    with directories([source, tmp_path / "back"]) as opened:
        for top in opened:
            empty(top)
    assert os.listdir(source) == os.listdir(tmp_path / "back") == []


def test_holes_stay_holes(source: Path, tmp_path: Path) -> None:
    file = source / "workspace" / "disk"
    with file.open("wb") as disk:
        disk.write(b"start")
        disk.seek(1 << 29)
        disk.write(b"middle")
        disk.truncate(1 << 30)
    archive, out = exported(source, compression=Compression.NONE)
    assert len(archive.getvalue()) < 1 << 20
    back = imported(archive, tmp_path / "back")
    copy = (tmp_path / "back" / "workspace" / "disk").stat()
    assert back.layers[0].digest == out.layers[0]
    assert (copy.st_size, copy.st_blocks * 512 < 1 << 20) == (1 << 30, True)


def test_a_file_of_nothing_but_a_hole(source: Path, tmp_path: Path) -> None:
    (source / "workspace" / "hole").touch()
    os.truncate(source / "workspace" / "hole", 1 << 20)
    archive, out = exported(source)
    assert imported(archive, tmp_path / "back").layers[0].digest == out.layers[0]


@pytest.mark.parametrize("longest", [30_000, 100])
def test_a_map_of_holes_has_bounds(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: int) -> None:
    monkeypatch.setattr(packing, "_LONGEST_MAP", longest)
    with (source / "workspace" / "comb").open("wb") as comb:
        for tooth in range(300):
            os.pwrite(comb.fileno(), b"x", tooth << 17)
    archive, out = exported(source, compression=Compression.NONE)
    assert imported(archive, tmp_path / "back").layers[0].digest == out.layers[0]
    assert (len(archive.getvalue()) < 5 << 20) == (longest > 300)


names = st.binary(min_size=1, max_size=40).filter(
    lambda name: not {b"/"[0], 0} & set(name) and name not in {b".", b".."} and not name.startswith(b".wh.")
)
contents = st.one_of(
    st.tuples(st.just("file"), st.binary(max_size=2000), st.integers(0, 0o777)),
    st.tuples(st.just("symlink"), st.binary(min_size=1, max_size=200).filter(lambda text: 0 not in text), st.none()),
    st.tuples(st.just("fifo"), st.none(), st.integers(0, 0o777)),
)
trees = st.recursive(contents, lambda inner: st.dictionaries(names, inner, max_size=5), max_leaves=20)


def grow(path: bytes, tree: Any) -> None:
    if isinstance(tree, dict):
        os.mkdir(path)
        for name, below in tree.items():
            grow(path + b"/" + name, below)
        return
    kind, content, mode = tree
    if kind == "symlink":
        os.symlink(content, path)
        return
    if kind == "fifo":
        os.mkfifo(path)
    else:
        Path(os.fsdecode(path)).write_bytes(content)
    os.chmod(path, mode)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=st.dictionaries(names, trees, max_size=6), compression=st.sampled_from(Compression))
def test_any_tree_comes_back(tmp_path_factory: pytest.TempPathFactory, tree: Any, compression: Compression) -> None:
    base = tmp_path_factory.mktemp("tree")
    (base / "source").mkdir()
    grow(os.fsencode(base / "source" / "workspace"), tree)
    archive, out = exported(base / "source", compression=compression)
    assert imported(archive, base / "back").layers[0].digest == out.layers[0] == digest_of(base / "source")
    shutil.rmtree(base)


def test_pipes_carry_it_both_ways(source: Path, tmp_path: Path) -> None:
    furnish(source)
    reader, writer = os.pipe()

    def send() -> None:
        with open(writer, "wb") as out:
            exported(source, out=out)

    thread = threading.Thread(target=send)
    thread.start()
    with open(reader, "rb") as archive:
        back = imported(archive, tmp_path / "back")
    thread.join()
    assert back.layers[0].digest == digest_of(source)


@pytest.mark.parametrize("command", ["gzip", "zstd"])
def test_an_archive_that_somebody_compressed_comes_in(source: Path, tmp_path: Path, command: str) -> None:
    furnish(source)
    archive, out = exported(source, compression=Compression.NONE)
    packed = subprocess.run([command, "-c"], input=archive.getvalue(), capture_output=True, check=True).stdout
    assert imported(io.BytesIO(packed), tmp_path / "back").layers[0].digest == out.layers[0]


def test_one_archive_comes_in_any_number_of_times_at_once(source: Path, tmp_path: Path) -> None:
    furnish(source)
    archive, out = exported(source)
    (tmp_path / "archive").write_bytes(archive.getvalue())
    found: list[str] = []

    def read(number: int) -> None:
        with (tmp_path / "archive").open("rb") as file:
            found.append(imported(file, tmp_path / f"back{number}").layers[0].digest)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [out.layers[0]] * 4


# Deleted stays deleted


OVERLAY = """
set -e
cd "$1"
mount -t overlay overlay -o userxattr,lowerdir=lower/workspace,upperdir=upper/workspace,workdir=work merged
cd merged
rm secret; rm -r gone; rm file; mkdir file; touch file/below
rm -r directory; echo now a file > directory
rm -r opaque; mkdir opaque; touch opaque/new
rm target; ln -s elsewhere target
echo more >> kept/changed; chmod 600 kept/mode
"""

MERGED = """
set -e
cd "$1"
mount -t overlay overlay -o userxattr,lowerdir="$2/workspace:$3/workspace" merged
cd merged
find . -printf '%P %y %m %s %l\\n' | sort
"""


def in_namespace(program: str, *arguments: Path) -> str:
    command = ["unshare", "-Urm", "sh", "-c", program, "sh", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """Return a directory with `lower` and `upper`, made by an overlay as sessions have it."""
    lower = tmp_path / "lower" / "workspace"
    for name in ("gone/below", "directory", "opaque", "kept"):
        (lower / name).mkdir(parents=True)
    for name in ("file", "target", "directory/a", "opaque/old", "kept/changed", "kept/mode", "gone/below/a"):
        (lower / name).write_text(name)
    (lower / "secret").write_text("canary-of-the-secret")
    for name in ("upper/workspace", "work", "merged"):
        (tmp_path / name).mkdir(parents=True)
    in_namespace(OVERLAY, tmp_path)
    return tmp_path


def test_ap14_what_a_child_deleted_stays_deleted(chain: Path) -> None:
    archive, out = exported(chain / "lower", chain / "upper")
    back = imported(archive, chain / "back0", chain / "back1")
    assert [layer.digest for layer in back.layers] == list(out.layers)
    assert stat.S_ISCHR((chain / "back1" / "workspace" / "secret").lstat().st_mode)
    before = in_namespace(MERGED, chain, chain / "upper", chain / "lower")
    after = in_namespace(MERGED, chain, chain / "back1", chain / "back0")
    assert "opaque/new" in before
    assert "secret" not in before
    assert "opaque/old" not in before
    assert after == before


def test_ap14_the_child_alone_has_nothing_of_what_it_deleted(chain: Path) -> None:
    whole, _ = exported(chain / "lower", chain / "upper", compression=Compression.NONE)
    child, _ = exported(chain / "upper", compression=Compression.NONE)
    assert b"canary-of-the-secret" in whole.getvalue()
    assert b"canary-of-the-secret" not in child.getvalue()


def test_whiteouts_are_those_of_the_specification(chain: Path) -> None:
    archive, _ = exported(chain / "upper", compression=Compression.NONE)
    with inner_archive(archive) as layer:
        marks = {name for name in layer.getnames() if ".wh." in name}
        assert marks == {
            "workspace/.wh.secret",
            "workspace/.wh.gone",
            "workspace/file/.wh..wh..opq",
            "workspace/opaque/.wh..wh..opq",
        }
        assert all(layer.getmember(name).isreg() and layer.getmember(name).size == 0 for name in marks)


def test_a_whiteout_over_nothing_is_passed_over(tmp_path: Path) -> None:
    """Only an owned root's lowest layer lies over something: the host's directories."""
    members = [images.member("workspace/.wh.a"), images.member("workspace/.wh..wh..opq")]
    owned = [images.member("root", images.DIRECTORY), images.member("root/usr", images.DIRECTORY)]
    members += [*owned, images.member("root/usr/.wh.ls"), images.member("root/usr/.wh..wh..opq")]
    imported(images.Image(images.layer(*members)).file(), tmp_path / "back")
    assert os.listdir(tmp_path / "back" / "workspace") == []
    assert stat.S_ISCHR((tmp_path / "back" / "root" / "usr" / "ls").lstat().st_mode)
    assert os.getxattr(tmp_path / "back" / "root" / "usr", "user.overlay.opaque") == b"y"


# For others to read


def inner_archive(archive: io.BytesIO, number: int = 0) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(documents(archive)["layers"][number]))


def documents(archive: io.BytesIO) -> dict[str, Any]:
    """Read a layout by the specification's words, and check every digest and size on the way."""
    archive.seek(0)
    with tarfile.open(fileobj=archive) as outer:
        files = {item.name: outer.extractfile(item).read() for item in outer if item.isreg()}  # type: ignore[union-attr]

    def blob(descriptor: dict[str, Any]) -> bytes:
        data = files[f"blobs/sha256/{descriptor['digest'][7:]}"]
        assert len(data) == descriptor["size"]
        assert hashlib.sha256(data).hexdigest() == descriptor["digest"][7:]
        return data

    index = json.loads(files["index.json"])
    manifest = json.loads(blob(index["manifests"][0]))
    config = json.loads(blob(manifest["config"]))
    layers = [blob(layer) for layer in manifest["layers"]]
    layout = json.loads(files["oci-layout"])
    return {"layout": layout, "index": index, "manifest": manifest, "config": config, "layers": layers, "files": files}


def test_the_documents_are_those_of_the_specification(source: Path) -> None:
    furnish(source)
    archive, out = exported(source, compression=Compression.NONE, metadata={"parent": "s-1"}, name="mine")
    found = documents(archive)
    manifest, config, index = found["manifest"], found["config"], found["index"]
    assert found["layout"] == {"imageLayoutVersion": "1.0.0"}
    assert (index["schemaVersion"], manifest["schemaVersion"]) == (2, 2)
    assert index["manifests"][0]["mediaType"] == manifest["mediaType"] == images.MANIFEST
    assert index["manifests"][0]["annotations"] == {"org.opencontainers.image.ref.name": "mine"}
    assert index["manifests"][0]["digest"] == out.manifest
    assert manifest["config"]["mediaType"] == images.CONFIG
    assert manifest["annotations"] == {"org.alcove.format": "1", "org.alcove.metadata.parent": "s-1"}
    assert manifest["layers"][0]["mediaType"] == images.LAYER
    assert manifest["layers"][0]["annotations"] == {"org.alcove.layer.digest": out.layers[0]}
    assert config["os"] == "linux"
    assert config["rootfs"] == {"type": "layers", "diff_ids": [images.digest(found["layers"][0])]}
    assert len(found["files"]) == 5


def test_gnu_tar_makes_the_same_tree_of_it(source: Path, tmp_path: Path) -> None:
    furnish(source)
    with (source / "workspace" / "sparse").open("wb") as sparse:
        sparse.write(b"start")
        sparse.truncate(1 << 22)
    archive, _ = exported(source, compression=Compression.NONE)
    (tmp_path / "back").mkdir()
    extract = ["tar", "--extract", "--xattrs", "--xattrs-include=user.*", "--preserve-permissions", "--same-owner"]
    if os.geteuid() != 0:
        extract.remove("--same-owner")
    unpacking = [*extract, "--directory", str(tmp_path / "back")]
    if os.geteuid() != 0:
        unpacking.append("--no-same-owner")
    subprocess.run(unpacking, input=documents(archive)["layers"][0], check=True)
    assert listing(tmp_path / "back") == listing(source)


def test_python_reads_it(source: Path) -> None:
    furnish(source)
    archive, _ = exported(source, compression=Compression.NONE)
    with inner_archive(archive) as layer:
        assert layer.getmember("workspace/content").isreg()
        assert layer.getmember("workspace/deep/hard").linkname == "workspace/content"
        assert layer.getmember("workspace/deep/long").linkname == "x" * 300
        assert layer.getmember("tmp").mode == 0o1777
        assert layer.getmember("workspace/" + "l" * 255).size == 9


def test_gzip_is_of_a_kind_that_gzip_reads(source: Path) -> None:
    furnish(source)
    archive, _ = exported(source, compression=Compression.GZIP)
    found = documents(archive)
    plain = subprocess.run(["gzip", "-dc"], input=found["layers"][0], capture_output=True, check=True).stdout
    assert found["manifest"]["layers"][0]["mediaType"] == images.LAYER + "+gzip"
    assert images.digest(plain) == found["config"]["rootfs"]["diff_ids"][0]


def test_zstd_is_of_a_kind_that_zstd_reads(source: Path) -> None:
    furnish(source)
    archive, _ = exported(source, compression=Compression.ZSTD)
    found = documents(archive)
    plain = subprocess.run(["zstd", "-dc"], input=found["layers"][0], capture_output=True, check=True).stdout
    assert found["manifest"]["layers"][0]["mediaType"] == images.LAYER + "+zstd"
    assert images.digest(plain) == found["config"]["rootfs"]["diff_ids"][0]


def test_the_same_layers_are_the_same_bytes(source: Path, tmp_path: Path) -> None:
    furnish(source)
    copy = tmp_path / "copy"
    subprocess.run(["cp", "--archive", source, copy], check=True)
    assert exported(source)[0].getvalue() == exported(copy)[0].getvalue()


def test_two_layers_alike_are_one_blob(source: Path, tmp_path: Path) -> None:
    furnish(source)
    archive, out = exported(source, source, compression=Compression.NONE)
    assert len(documents(archive)["files"]) == 5
    back = imported(archive, tmp_path / "a", tmp_path / "b")
    assert [layer.digest for layer in back.layers] == list(out.layers)


def test_a_file_of_its_own_may_lie_around_it(source: Path, tmp_path: Path) -> None:
    furnish(source)
    archive, out = exported(source)
    wrapped = io.BytesIO(b"before" + archive.getvalue())
    wrapped.seek(6)
    (tmp_path / "back").mkdir()
    with directories([tmp_path / "back"]) as (fd,):
        assert import_(wrapped, lambda: fd).layers[0].digest == out.layers[0]


# What does not leave


def test_a_socket_stays_behind(source: Path, tmp_path: Path) -> None:
    (source / "workspace" / "file").write_text("kept")
    with socket.socket(socket.AF_UNIX) as listener:
        fd = os.open(source / "workspace", os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{fd}/socket")
        os.close(fd)
    archive, _ = exported(source)
    back = imported(archive, tmp_path / "back")
    assert os.listdir(tmp_path / "back" / "workspace") == ["file"]
    assert back.layers[0].digest == digest_of(tmp_path / "back")


def test_several_names_of_what_is_no_file_become_several(source: Path, tmp_path: Path) -> None:
    """What `cp -al` makes of a tree."""
    workspace = source / "workspace"
    (workspace / "file").write_text("kept")
    (workspace / "link").symlink_to("file")
    os.mkfifo(workspace / "fifo", 0o640)
    for name in ("file", "link", "fifo"):
        os.link(workspace / name, workspace / f"other-{name}", follow_symlinks=False)
    archive, _ = exported(source, compression=Compression.NONE)
    imported(archive, tmp_path / "back")
    back = tmp_path / "back" / "workspace"
    assert sorted(os.listdir(back)) == ["fifo", "file", "link", "other-fifo", "other-file", "other-link"]
    assert (back / "file").samefile(back / "other-file")
    assert os.readlink(back / "other-link") == "file"
    assert [(back / name).lstat().st_nlink for name in ("other-link", "other-fifo")] == [1, 1]
    assert stat.S_IMODE((back / "other-fifo").lstat().st_mode) == 0o640


def test_a_name_that_means_something_else_is_refused(source: Path) -> None:
    (source / "workspace" / ".wh.passwd").touch()
    with pytest.raises(LifecycleError, match="means something is gone: rename it"):
        exported(source)


def test_a_file_that_shrinks_is_told(source: Path) -> None:
    writer = ArchiveWriter(io.BytesIO())
    with pytest.raises(SandboxIoError, match="changed while it was read"):
        writer.add(Member(path=b"workspace/file", kind=Kind.FILE, size=10), [b"short"])


@pytest.mark.parametrize("options", [{"metadata": {"a b": "1"}}, {"name": "a b"}, {"digests": []}])
def test_a_request_that_cannot_be_is_told(source: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        exported(source, **options)


def test_without_zstandard_the_error_says_what_to_install(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, _ = exported(source)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(InvalidRequest, match=r"pip install 'alcove\[zstd\]'"):
        exported(source)
    with pytest.raises(InvalidRequest, match=r"pip install 'alcove\[zstd\]'"):
        imported(archive, tmp_path / "back")


def test_a_full_disk_is_told(source: Path) -> None:
    (source / "workspace" / "file").write_bytes(os.urandom(1 << 20))
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(SandboxIoError, match="No space left"):
        exported(source, out=full)


def test_progress_tells_every_byte(source: Path, tmp_path: Path) -> None:
    furnish(source)
    packed: list[int] = []
    archive, _ = exported(source, compression=Compression.NONE, progress=packed.append)
    assert sum(packed) == len(documents(archive)["layers"][0])
    read: list[int] = []
    imported(archive, tmp_path / "back", progress=read.append)
    size = len(archive.getvalue())
    assert size <= sum(read) <= 3 * size


def test_a_size_that_octal_digits_cannot_say() -> None:
    for size in (0, (1 << 33) - 1, 1 << 33, 1 << 40):
        member = Member(path=b"blobs/sha256/x", kind=Kind.FILE, size=size)
        block = header_of(member, size)
        assert parse_header(block).size == size
        assert len(block) == 512
        assert tarfile.TarInfo.frombuf(block, "utf-8", "strict").size == size
