"""What only root can give or make: owners, devices, and an image as other tools unpack it."""

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from alcove.contract import LifecycleError
from alcove.state.compression import Compression
from tests.state.images import listing
from tests.state.layers import exported, furnish, imported

pytestmark = pytest.mark.root


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a layer with a workspace."""
    path = tmp_path / "source"
    (path / "workspace").mkdir(parents=True)
    return path


def test_owners_come_back(source: Path, tmp_path: Path) -> None:
    furnish(source)
    for number, path in enumerate(sorted(source.rglob("*"))):
        os.chown(path, number, (1 << 21) + number, follow_symlinks=False)
    archive, _ = exported(source)
    imported(archive, tmp_path / "back")
    assert listing(tmp_path / "back") == listing(source)


def test_a_device_is_refused(source: Path) -> None:
    os.mknod(source / "workspace" / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with pytest.raises(LifecycleError, match="null' is a device"):
        exported(source)


@pytest.mark.e2e
def test_skopeo_and_umoci_read_it(source: Path, tmp_path: Path) -> None:
    furnish(source)
    archive, out = exported(source, compression=Compression.GZIP, name="mine")
    (tmp_path / "image.tar").write_bytes(archive.getvalue())
    (tmp_path / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    copy = ["skopeo", "--policy", "policy.json", "copy", "oci-archive:image.tar:mine", "oci:layout:mine"]
    subprocess.run(copy, cwd=tmp_path, check=True)
    assert json.loads((tmp_path / "layout" / "index.json").read_text())["manifests"][0]["digest"] == out.manifest
    subprocess.run(["umoci", "unpack", "--image", "layout:mine", "bundle"], cwd=tmp_path, check=True)
    assert listing(tmp_path / "bundle" / "rootfs") == listing(source)
