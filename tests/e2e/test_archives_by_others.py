"""What `export` writes, read by other tools: skopeo and umoci (Debian packages), and plain tar."""

import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any, Literal

import pytest

from alcove import ExecRequest, Limited, LocalSandbox, LocalSandboxConfig, SandboxSpec
from alcove.testing import no_leaks

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(300)]

WORK = """
mkdir -p project/src && echo 'print("hello")' > project/src/main.py && chmod 700 project/src
ln project/src/main.py project/linked && ln -s src/main.py project/soft && chown -R 1000:1000 project
echo gone > deleted && echo put-out > /mnt/session/outputs/report
"""
MORE = "rm deleted && echo more > project/more && rm -r project/src && mkdir project/src && touch project/src/new"


def skopeo(place: Path, *words: str) -> Any:
    argv = ["skopeo", "--policy", str(place / "policy.json"), *words]
    done = subprocess.run(argv, capture_output=True, check=False, cwd=place, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if words[0] == "inspect" else done.stdout


def unpacked(place: Path, image: str) -> Path:
    """Let umoci unpack an image of a layout."""
    subprocess.run(["umoci", "unpack", "--image", image, "bundle"], cwd=place, check=True, timeout=120)
    return place / "bundle" / "rootfs"


def untarred(place: Path) -> Path:
    """Find the one layer of `image.tar` by the documents, and let tar unpack it."""
    with tarfile.open(place / "image.tar") as layout:
        layout.extractall(place / "layout", filter="data")

    def blob(descriptor: dict[str, str]) -> Path:
        return place / "layout/blobs/sha256" / descriptor["digest"].removeprefix("sha256:")

    index = json.loads((place / "layout/index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]).read_text())
    (place / "root").mkdir()
    subprocess.run(["tar", "-C", "root", "-xpzf", blob(manifest["layers"][0])], cwd=place, check=True, timeout=60)
    return place / "root"


def facts(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    return found.st_mode & 0o7777, found.st_uid, found.st_gid


@pytest.mark.parametrize(("compression", "flat"), [("gzip", False), ("zstd", False), ("none", True)])
async def test_other_tools_read_a_sessions_archive(
    tmp_path: Path, compression: Literal["gzip", "zstd", "none"], *, flat: bool
) -> None:
    backend = LocalSandbox(LocalSandboxConfig(root_dir=str(tmp_path / "store")))
    async with no_leaks(tmp_path / "store"):
        session = await backend.provision(SandboxSpec(network_policy=Limited()))
        assert (await backend.exec(session.id, ExecRequest("sh", ["-ec", WORK]))).success
        first = await backend.snapshot(session.id)
        assert (await backend.exec(session.id, ExecRequest("sh", ["-ec", MORE]))).success
        await backend.snapshot(session.id, name="step-1")
        done = await backend.export_snapshot("step-1", tmp_path / "image.tar", compression=compression, flat=flat)
        await backend.terminate(session.id)
        for known in backend.snapshots():
            await backend.delete_snapshot(known.snapshot_id)
    await backend.aclose()

    (tmp_path / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    seen = skopeo(tmp_path, "inspect", "oci-archive:image.tar:step-1")
    assert seen["Digest"] == done.manifest
    assert len(seen["Layers"]) == (1 if flat else 2)
    raw = skopeo(tmp_path, "inspect", "--raw", "oci-archive:image.tar:step-1")
    assert raw["annotations"]["org.alcove.metadata.parent"] == first.snapshot_id
    skopeo(tmp_path, "copy", "oci-archive:image.tar:step-1", "oci:layout:step-1")
    if compression == "zstd":  # umoci 0.4 reads none
        skopeo(tmp_path, "copy", "--dest-compress-format", "gzip", "oci:layout:step-1", "dir:plain")
        return
    root = unpacked(tmp_path, "layout:step-1")
    assert not (root / "workspace/deleted").exists()
    assert sorted(path.name for path in (root / "workspace/project").iterdir()) == ["linked", "more", "soft", "src"]
    assert [path.name for path in (root / "workspace/project/src").iterdir()] == ["new"]
    assert (root / "workspace/project/linked").read_text() == 'print("hello")\n'
    assert (root / "outputs/report").read_text() == "put-out\n"
    assert facts(root / "workspace/project/linked") == (0o644, 1000, 1000)


async def test_tar_reads_it(tmp_path: Path) -> None:
    backend = LocalSandbox(LocalSandboxConfig(root_dir=str(tmp_path / "store")))
    session = await backend.provision(SandboxSpec(network_policy=Limited()))
    assert (await backend.exec(session.id, ExecRequest("sh", ["-ec", WORK]))).success
    snapshot = await backend.snapshot(session.id)
    await backend.export_snapshot(snapshot.snapshot_id, tmp_path / "image.tar", compression="gzip")
    await backend.terminate(session.id)
    await backend.delete_snapshot(snapshot.snapshot_id)
    await backend.aclose()
    root = untarred(tmp_path)
    assert (root / "workspace/project/soft").read_text() == 'print("hello")\n'
    assert facts(root / "workspace/project/linked") == (0o644, 1000, 1000)
    assert facts(root / "workspace/project/src") == (0o700, 1000, 1000)
