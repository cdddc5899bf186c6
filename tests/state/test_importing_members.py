"""Members of strangers' layers: what is wrong is refused before it has any effect, and its honest twin comes in.

Every probe is made by `tests.state.images`, which shares nothing with the code under test. The oracle is the directory
around the layer, with a canary, compared by all that `lstat` says; a layer that was refused has to be empty.
"""

import io
import os
import stat
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alcove.contract import InvalidRequest
from alcove.state.unpacking import Policy
from tests.state.arena import Arena
from tests.state.images import CHARACTER, DIRECTORY, FIFO, FILE, LINK, SYMLINK, Image, header, layer, listing, member
from tests.state.probes import HONEST_SPARSE, PROBES, UPPER_PROBES, directory, file, link, symlink

pytestmark = [pytest.mark.security, pytest.mark.user, pytest.mark.usefixtures("no_descriptor_stays")]


@pytest.mark.parametrize("probe", PROBES)
def test_a_member_that_is_refused(arena: Arena, probe: str) -> None:
    hostile, honest = PROBES[probe]
    arena.bring_in(Image(layer(honest)).file())
    assert any(os.listdir(path) for path in arena.layers())
    arena.set_aside()
    arena.refuses(Image(layer(hostile)).file())


@pytest.mark.parametrize("probe", UPPER_PROBES)
def test_a_member_of_an_upper_layer_that_is_refused(arena: Arena, probe: str) -> None:
    hostile, honest = UPPER_PROBES[probe]
    below = layer(file("workspace/below"))
    arena.bring_in(Image(below, layer(honest)).file())
    arena.set_aside()
    arena.refuses(Image(below, layer(hostile)).file())


def test_ap16_set_id_bits_come_in_only_if_asked_for(arena: Arena) -> None:
    archive = Image(layer(file("workspace/a", mode=0o4755))).file()
    arena.refuses(archive, "set-id bit")
    archive.seek(0)
    arena.bring_in(archive, policy=Policy(set_id=True))
    assert stat.S_IMODE((arena.layers()[-1] / "workspace" / "a").stat().st_mode) == 0o4755


def test_an_image_may_have_any_place_if_asked_for(arena: Arena) -> None:
    archive = Image(layer(directory("usr"), symlink("bin", "usr/bin"))).file()
    arena.refuses(archive, "has no place")
    archive.seek(0)
    arena.bring_in(archive, policy=Policy(children=None))
    assert os.readlink(arena.layers()[-1] / "bin") == "usr/bin"


def test_missing_parents_are_made_and_order_is_no_matter(arena: Arena) -> None:
    members = [
        file("workspace/a/b/c"),
        directory("workspace/a", mode=0o500, mtime=1000),
        file("workspace/z", mtime=2000),
        file("workspace/a/b/d"),
        directory("workspace/a/b", mode=0o000, mtime=3000),
        file("workspace/a/e"),
    ]
    arena.bring_in(Image(layer(*members)).file())
    workspace = arena.layers()[0] / "workspace"
    found = {path: os.lstat(workspace / path) for path in ("a", "a/b", "z")} if os.geteuid() == 0 else {}
    found["a"] = os.lstat(workspace / "a")
    assert (stat.S_IMODE(found["a"].st_mode), found["a"].st_mtime) == (0o500, 1000)
    if "a/b" in found:
        assert (stat.S_IMODE(found["a/b"].st_mode), found["a/b"].st_mtime) == (0, 3000)
        assert sorted(os.listdir(workspace / "a" / "b")) == ["c", "d"]


# Anything at all


components = st.sampled_from(
    ["workspace", "a", "b", "..", ".", "", "outside", "canary", ".wh.a", ".wh..wh..opq", "tmp"]
)
paths = st.builds("/".join, st.lists(components, min_size=1, max_size=5))
anything = st.builds(
    lambda path, kind, target, mode, content: member(
        path, kind, content if kind == FILE else b"", target=target if kind in {LINK, SYMLINK} else "", mode=mode
    ),
    paths.filter(bool),
    st.sampled_from([FILE, DIRECTORY, LINK, SYMLINK, FIFO, CHARACTER]),
    paths,
    st.sampled_from([0o644, 0o755, 0o000, 0o4755, 0o1777]),
    st.binary(max_size=10),
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members=st.lists(anything, max_size=8), upper=st.booleans())
def test_whatever_comes_stays_inside(
    tmp_path_factory: pytest.TempPathFactory, members: list[bytes], upper: bool
) -> None:
    """And is what Python's own reader would make of it, where both take it."""
    base = tmp_path_factory.mktemp("arena")
    arena = Arena(base)
    data = layer(*members)
    below = [layer()] if upper else []
    try:
        arena.bring_in(Image(*below, data).file())
    except InvalidRequest:
        assert [path for path in arena.layers() if os.listdir(path)] == []
        return
    if b".wh." in data:
        return
    other = tmp_path_factory.mktemp("other")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extraction_filter = lambda item, path: item  # trust it: what both take has been checked by ours
        archive.extractall(other)
    assert without_times(listing(arena.layers()[-1])) == without_times(listing(other))


RICH = layer(
    member("workspace/" + "d" * 120, DIRECTORY, pax={"SCHILY.xattr.user.a": "1", "mtime": "1.5"}),
    file("workspace/a", b"content" * 100),
    link("workspace/b", "workspace/a"),
    symlink("workspace/c", "x" * 120),
    header(b"L", 12) + b"workspace/e\0".ljust(512, b"\0") + header(b"0"),
    file("workspace/.wh.gone", b""),
    HONEST_SPARSE,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_layer_with_any_bytes_is_taken_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Its digests are right: what a stranger wrote on purpose reaches the reader of archives."""
    arena = Arena(tmp_path_factory.mktemp("arena"))
    spoiled = bytearray(RICH)
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(RICH) - 1), st.integers(0, 255)), max_size=4)):
        spoiled[at] = byte
    for start in range(0, len(spoiled) - 512, 512):
        if spoiled[start + 257 : start + 262] == b"ustar":
            spoiled[start + 148 : start + 156] = b" " * 8
            spoiled[start + 148 : start + 156] = b"%06o\0 " % sum(spoiled[start : start + 512])
    try:
        arena.bring_in(Image(bytes(spoiled)).file())
    except InvalidRequest:
        assert [path for path in arena.layers() if os.listdir(path)] == []


def without_times(found: dict[bytes, tuple[object, ...]]) -> dict[bytes, tuple[object, ...]]:
    """Return a listing but for times: of directories that only were spoken of, each reader makes its own."""
    return {path: facts[:2] + facts[3:] for path, facts in found.items()}
