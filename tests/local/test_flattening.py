"""A chain of layers made into one: what takes its place shows the same, part by part."""

import os
import random
from pathlib import Path

import pytest

from alcove.local.snapshots.flattening import flatten_layers
from tests.state import guest_trees
from tests.state.guest_trees import opened


def flattened(target: Path, *chain: Path, names: tuple[str, ...]) -> Path:
    target.mkdir()
    with opened(*chain) as fds, opened(target) as [made]:
        flatten_layers(fds, made, names)
    return target


@pytest.fixture
def chain(tmp_path: Path) -> list[Path]:
    layers = [tmp_path / "lowest", tmp_path / "middle", tmp_path / "top"]
    for layer in layers:
        layer.mkdir()
    return layers


@pytest.mark.user
def test_a_chain_becomes_one_layer_part_by_part(tmp_path: Path, chain: list[Path]) -> None:
    lowest, middle, top = chain
    (lowest / "workspace").mkdir()
    (lowest / "workspace/kept").write_text("old")
    (lowest / "workspace/gone").touch()
    (lowest / "root/usr").mkdir(parents=True)
    guest_trees.white_out(lowest / "root/usr/games")
    (middle / "workspace").mkdir()
    (middle / "workspace/kept").write_text("new")
    guest_trees.white_out(middle / "workspace/gone")
    (top / "root/usr/share").mkdir(parents=True)
    os.setxattr(top / "root/usr/share", "user.overlay.opaque", b"y")
    (top / "root/usr").chmod(0o711)
    (top / "root/etc").mkdir()
    flat = flattened(tmp_path / "flat", *chain, names=("root/etc", "root/usr", "tmp", "workspace"))
    assert sorted(str(path.relative_to(flat)) for path in flat.rglob("*")) == [
        "root",
        "root/etc",
        "root/usr",
        "root/usr/games",
        "root/usr/share",
        "workspace",
        "workspace/kept",
    ]
    assert (flat / "workspace/kept").read_text() == "new"
    assert (flat / "root/usr/games").is_char_device()
    assert os.getxattr(flat / "root/usr/share", "user.overlay.opaque") == b"y"
    assert (flat / "root/usr").stat().st_mode & 0o777 == 0o711


@pytest.mark.user
def test_outputs_are_those_of_the_topmost_layer_that_has_any(tmp_path: Path, chain: list[Path]) -> None:
    for layer, name in zip(chain, ("first", "second", ""), strict=True):
        if name:
            (layer / "outputs").mkdir()
            (layer / "outputs" / name).touch()
            os.setxattr(layer / "outputs", "user.overlay.opaque", b"y")
    flat = flattened(tmp_path / "flat", *chain, names=("outputs",))
    assert os.listdir(flat / "outputs") == ["second"]


def test_no_descriptor_stays_open(tmp_path: Path, chain: list[Path]) -> None:
    for layer in chain:
        (layer / "workspace/d").mkdir(parents=True)
        (layer / "workspace/d/file").write_bytes(random.randbytes(3))
    before = guest_trees.descriptors()
    flattened(tmp_path / "flat", *chain, names=("workspace", "outputs"))
    (tmp_path / "taken/workspace").mkdir(parents=True)
    (tmp_path / "taken/workspace/d").touch()
    with opened(*chain) as fds, opened(tmp_path / "taken") as [target], pytest.raises(FileExistsError):
        flatten_layers(fds, target, ("workspace",))
    assert guest_trees.descriptors() == before
