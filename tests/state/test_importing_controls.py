"""Each probe is held off by one control: with that switched off it comes in, or has an effect outside."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from alcove.state import compression, descent, image, importing, names, unpacking
from alcove.state.limits import ImportLimits
from alcove.state.members import Kind
from tests.state.arena import Arena
from tests.state.images import LAYER, Image, layer
from tests.state.probes import PROBES, file
from tests.state.test_importing import LAYOUTS, spoil

pytestmark = [pytest.mark.security, pytest.mark.user, pytest.mark.usefixtures("no_descriptor_stays")]

Patch = Callable[[pytest.MonkeyPatch], None]


class Anything(str):
    """A digest that is every digest."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return 0


def nothing(*arguments: Any, **more: Any) -> None:
    """Check nothing."""


def split(path: bytes, kind: Kind, limits: ImportLimits) -> tuple[bytes, ...]:
    return tuple(path.strip(b"/").split(b"/"))


def without_names(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(names, "components", split)
    patch.setattr(unpacking._Unpacking, "_check_place", nothing)


def without_places(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(unpacking._Unpacking, "_check_place", nothing)


def without_checks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(unpacking._Unpacking, "_check", nothing)


def following_links(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(descent, "_DIRECTORY", descent._DIRECTORY & ~os.O_NOFOLLOW)


def overwriting(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(unpacking, "_NEW_FILE", os.O_WRONLY | os.O_CREAT)


def without_digests(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(compression.Digested, "digest", property(lambda stream: Anything("sha256:" + "0" * 64)))


def without_tree_digests(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(importing, "digest", lambda layer, **more: Anything("sha256:" + "0" * 64))


def without_image_checks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(image.Blobs, "_check", nothing)


MEMBERS: list[tuple[str, Patch]] = [
    ("climbs", without_names),
    ("has no place", without_places),
    ("leaves by a place", without_places),
    ("leaves by a place of the owned root", without_places),
    ("is set-user-id", without_checks),
    ("is a set-group-id directory", without_checks),
    ("has user.overlay.opaque", without_checks),
    ("has user.overlay.redirect", without_checks),
    ("goes through a symlink", following_links),
    ("goes through a symlink to a sibling", following_links),
    ("links through a symlink", following_links),
    ("writes through a symlink", overwriting),
    ("is a file twice", overwriting),
]


@pytest.mark.parametrize(("probe", "switch_off"), MEMBERS)
def test_a_member_comes_in_without_its_control(
    arena: Arena, monkeypatch: pytest.MonkeyPatch, probe: str, switch_off: Patch
) -> None:
    archive = Image(layer(PROBES[probe][0])).file()
    arena.refuses(archive)
    switch_off(monkeypatch)
    archive.seek(0)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        arena.refuses(archive)


LAYOUT_CONTROLS: list[tuple[str, Patch]] = [
    ("a blob of another content", without_digests),
    ("another diff_id", without_digests),
    ("another tree", without_tree_digests),
    ("a format to come", without_image_checks),
    ("too many layers", without_image_checks),
]


@pytest.mark.parametrize(("probe", "switch_off"), LAYOUT_CONTROLS)
def test_a_layout_comes_in_without_its_control(
    arena: Arena, monkeypatch: pytest.MonkeyPatch, probe: str, switch_off: Patch
) -> None:
    arena.refuses(spoil(LAYOUTS[probe]))
    switch_off(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        arena.refuses(spoil(LAYOUTS[probe]))


@pytest.mark.parametrize(
    "limit", ["total_bytes", "ratio", "entries", "depth", "path_bytes", "document_bytes", "layers"]
)
def test_a_limit_is_what_stops_it(arena: Arena, limit: str) -> None:
    archives = {
        "total_bytes": ([layer(file("workspace/a", bytes(1 << 20)))], 1 << 20),
        "ratio": ([layer(file("workspace/a", bytes(1 << 20)))], 2),
        "entries": ([layer(file("workspace/a"), file("workspace/b"))], 2),
        "depth": ([layer(file("workspace/a/b/c"))], 3),
        "path_bytes": ([layer(file("workspace/" + "a" * 90))], 99),
        "document_bytes": ([layer()], 100),
        "layers": ([layer(), layer()], 1),
    }
    layers, value = archives[limit]
    archive = Image(*layers, media_type=LAYER + "+gzip").file()
    limits = {limit: value, "ratio_floor": 0} if limit == "ratio" else {limit: value}
    arena.refuses(archive, limits=ImportLimits(**limits))
    archive.seek(0)
    arena.bring_in(archive)
