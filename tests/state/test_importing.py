"""Image layouts of strangers: every part is held against its digest, and nothing half done is left.

The oracle is the directory around the layers, with a canary; a layer that was refused has to be empty.
"""

import hashlib
import io
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alcove.contract import InvalidRequest, SandboxIoError
from alcove.state import importing
from alcove.state.importing import import_
from alcove.state.unpacking import Policy
from tests.state import images
from tests.state.arena import Arena
from tests.state.images import END, LAYER, MANIFEST, Image, directories, layer, listing, member
from tests.state.layers import digest_of, exported, furnish
from tests.state.probes import directory, file, link, symlink

pytestmark = [pytest.mark.security, pytest.mark.user, pytest.mark.usefixtures("no_descriptor_stays")]


# The layout around the layers


HONEST = layer(directory("workspace/a"), file("workspace/a/b", b"content" * 100))


def spoil(change: Callable[[Image], object]) -> io.BytesIO:
    image = Image(HONEST)
    change(image)
    return image.file()


def redescribe(image: Image, **fields: Any) -> None:
    image.layers[0].update(fields)


def no_layers(image: Image) -> None:
    image.layers.clear()
    image.diff_ids.clear()


def too_many_layers(image: Image) -> None:
    image.layers *= 200
    image.diff_ids *= 200


def two_images(image: Image) -> None:
    image.complete()
    image.index["manifests"] *= 2


def a_long_document(image: Image) -> None:
    image.layout["more"] = "x" * (5 << 20)


def the_same_blob(image: Image) -> None:
    image.extra.append(member(f"blobs/sha256/{images.digest(HONEST)[7:]}", content=HONEST))


LAYOUTS: dict[str, Callable[[Image], object]] = {
    "a digest that climbs": lambda image: redescribe(image, digest="sha256:../../../outside/canary"),
    "a digest in capitals": lambda image: redescribe(image, digest=image.layers[0]["digest"].upper()),
    "a digest too short": lambda image: redescribe(image, digest="sha256:abc"),
    "a digest with a newline": lambda image: redescribe(image, digest=image.layers[0]["digest"] + "\n"),
    "a digest of another sort": lambda image: redescribe(image, digest="sha512:" + hashlib.sha512(HONEST).hexdigest()),
    "a digest of nothing": lambda image: redescribe(image, digest=images.digest(b"nothing")),
    "a wrong size": lambda image: redescribe(image, size=1),
    "a negative size": lambda image: redescribe(image, size=-1),
    "a size that is none": lambda image: redescribe(image, size="1"),
    "a layer of another type": lambda image: redescribe(image, mediaType="application/x-tar"),
    "a layer by address": lambda image: redescribe(image, digest=images.digest(b""), urls=["http://127.0.0.1/"]),
    "another tree": lambda image: redescribe(image, annotations={"org.alcove.layer.digest": images.digest(b"")}),
    "a tree digest that is none": lambda image: redescribe(image, annotations={"org.alcove.layer.digest": "../x"}),
    "another diff_id": lambda image: image.diff_ids.__setitem__(0, images.digest(b"")),
    "a diff_id that climbs": lambda image: image.diff_ids.__setitem__(0, "sha256:../x"),
    "a diff_id too many": lambda image: image.diff_ids.append(images.digest(b"")),
    "no layers": no_layers,
    "too many layers": too_many_layers,
    "a root of another type": lambda image: image.config.update(rootfs={"type": "x", "diff_ids": image.diff_ids}),
    "a format to come": lambda image: image.manifest.update(annotations={"org.alcove.format": "2"}),
    "a manifest of another version": lambda image: image.manifest.update(schemaVersion=1),
    "a manifest that calls itself an index": lambda image: image.manifest.update(mediaType="application/x"),
    "a manifest that is none": lambda image: image.index.update(manifests=[image.describe(b"[]", MANIFEST)]),
    "a manifest that is nested": lambda image: image.index.update(
        manifests=[image.describe(b'{"more":' + b"[" * 100_000, MANIFEST)]
    ),
    "an index of indexes": lambda image: image.index.update(manifests=[image.describe(b"{}", "application/x")]),
    "no image": lambda image: image.index.update(manifests=[]),
    "two images": two_images,
    "a layout of another version": lambda image: setattr(image, "layout", {"imageLayoutVersion": "2.0.0"}),
    "a layout that is none": lambda image: setattr(image, "layout", "x"),
    "a document too long": a_long_document,
    "a blob of another content": lambda image: image.blobs.update({"0" * 64: b"x"}),
    "a blob with a name that is none": lambda image: image.blobs.update({"x": b"x"}),
    "a blob with a name that climbs": lambda image: image.blobs.update({"../../../outside/new": b"x"}),
    "a blob twice": the_same_blob,
    "a blob that is a symlink": lambda image: image.extra.append(symlink("blobs/sha256/" + "0" * 64, "/etc/passwd")),
    "a blob that is a link": lambda image: image.extra.append(link("blobs/sha256/" + "0" * 64, "oci-layout")),
    "an index twice": lambda image: image.extra.append(file("index.json", b"{}")),
    "a stranger": lambda image: image.extra.append(file("etc/passwd")),
    "a directory of a stranger": lambda image: image.extra.append(directory("etc")),
    "too many members": lambda image: image.extra.extend([file("repositories", b"")] * 1000),
    "something after its end": lambda image: image.extra.append(END + b"x" * 512),
}


@pytest.mark.parametrize("probe", LAYOUTS)
def test_a_layout_that_is_refused(arena: Arena, probe: str) -> None:
    arena.refuses(spoil(LAYOUTS[probe]))


ALLOWED: dict[str, Callable[[Image], object]] = {
    "as it is": lambda image: None,
    "directories": lambda image: image.extra.append(directory("blobs") + directory("blobs/sha256")),
    "for older readers": lambda image: image.extra.append(file("manifest.json", b"[]") + file("repositories", b"{}")),
    "unknown fields": lambda image: image.manifest.update(more={"a": [1]}),
    "no media type": lambda image: image.manifest.pop("mediaType"),
    "a blob that nobody names": lambda image: image.describe(b"more", "application/x"),
    "more zeros": lambda image: image.extra.append(bytes(10240)),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_a_layout_that_comes_in(arena: Arena, case: str) -> None:
    back = arena.bring_in(spoil(ALLOWED[case]))
    assert (arena.layers()[0] / "workspace" / "a" / "b").read_bytes() == b"content" * 100
    assert back.layers[0].diff_id == images.digest(HONEST)
    assert back.layers[0].digest == digest_of(arena.layers()[0])


@pytest.mark.parametrize("missing", ["oci-layout", "index.json", "blobs/sha256/"])
def test_a_layout_that_is_not_whole(arena: Arena, missing: str) -> None:
    left = [part for part in Image(HONEST).members() if not part.startswith(missing.encode())]
    arena.refuses(io.BytesIO(b"".join(left) + END))


@pytest.mark.parametrize("data", [b"", b"x", b"PK\x03\x04" + bytes(2000), bytes(10240), b"\x1f\x8b\x08" + b"x" * 2000])
def test_what_is_no_archive(arena: Arena, data: bytes) -> None:
    arena.refuses(io.BytesIO(data))


def test_ap16_a_truncated_archive_is_refused_wherever_it_ends(arena: Arena) -> None:
    whole = Image(HONEST).file().getvalue()
    assert arena.bring_in(io.BytesIO(whole)).layers
    arena.set_aside()
    ends = len(whole) - len(END)
    for length in {*range(0, ends, 512), *range(1, ends, 509)}:
        arena.refuses(io.BytesIO(whole[:length]))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_is_seen(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """It is refused, or lies where it changes nothing that is used (an outer header's time, an unused field)."""
    arena = Arena(tmp_path_factory.mktemp("arena"))
    whole = Image(HONEST).file().getvalue()
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    flipped = bytearray(whole)
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        back = arena.bring_in(io.BytesIO(flipped))
    except InvalidRequest:
        assert [path for path in arena.layers() if os.listdir(path)] == []
    else:
        assert back.layers[0].diff_id == images.digest(HONEST)
        assert (arena.layers()[0] / "workspace" / "a" / "b").read_bytes() == b"content" * 100


@pytest.mark.parametrize("when", ["all is checked", "a layer is made"])
def test_a_file_that_is_changed_while_it_is_read_is_seen(tmp_path: Path, when: str) -> None:
    """Each blob was right when it was checked, and is another when it is unpacked."""
    whole = Image(HONEST).file().getvalue()
    at = whole.index(b"content" * 100)
    archive = io.BytesIO(whole)
    read = 0

    def change(moment: str) -> None:
        if moment == when:
            archive.getbuffer()[at : at + 7] = b"hostile"

    def progress(number: int) -> None:
        nonlocal read
        read += number
        if read == len(whole):
            change("all is checked")

    with directories([tmp_path]) as (fd,):

        def make_layer() -> int:
            change("a layer is made")
            return fd

        with pytest.raises(InvalidRequest, match="diff_id"):
            import_(archive, make_layer, progress=progress)
        assert os.listdir(fd) == []
        when = "never"
        archive = io.BytesIO(whole)
        assert import_(archive, make_layer, progress=progress).layers


# What fails on our side


def test_nothing_is_left_when_the_caller_stops_it(arena: Arena, tmp_path: Path) -> None:
    furnish_path = tmp_path / "outside" / "source"
    (furnish_path / "workspace").mkdir(parents=True)
    furnish(furnish_path)
    (furnish_path / "workspace" / "big").write_bytes(os.urandom(3 << 20))
    arena.before = listing(arena.path / "outside"), sorted(os.listdir(arena.path))
    archive, _ = exported(furnish_path)
    seen = 0

    def stop(number: int) -> None:
        nonlocal seen
        seen += number
        if seen > 2 * len(archive.getvalue()) + (1 << 20):
            raise KeyboardInterrupt

    archive.seek(0)
    with pytest.raises(KeyboardInterrupt):
        arena.bring_in(archive, progress=stop)
    assert os.listdir(arena.layers()[0]) == []


def test_nothing_is_left_when_the_disk_is_full(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(SandboxIoError, match="No space left on device"):
            arena.bring_in(Image(HONEST, HONEST).file())
    assert os.listdir(arena.layers()[0]) == []
    assert arena.bring_in(Image(HONEST, HONEST).file()).layers


def test_what_could_not_be_removed_is_said(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    def stuck(fd: int) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(importing, "empty", stuck)
    with pytest.raises(InvalidRequest) as refusal:
        arena.bring_in(spoil(LAYOUTS["another tree"]))
    assert "could not all be removed" in refusal.value.__notes__[0]


def test_a_directory_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "somebody's").touch()
    with directories([tmp_path]) as (fd,), pytest.raises(SandboxIoError, match="not empty"):
        import_(Image(HONEST).file(), lambda: fd)
    assert os.listdir(tmp_path) == ["somebody's"]


def test_ap09_nobody_is_asked_to_help(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fork", "posix_spawn", "execve"):
        monkeypatch.setattr(os, name, None)
    monkeypatch.setattr(subprocess, "Popen", None)
    assert arena.bring_in(Image(HONEST, media_type=LAYER + "+gzip").file()).layers


@pytest.mark.user(only=True)
def test_owners_that_cannot_be_given(arena: Arena) -> None:
    archive = Image(layer(file("workspace/a", uid=33, gid=33))).file()
    arena.refuses(archive, "belongs to 33:33")
    archive.seek(0)
    assert arena.bring_in(archive, policy=Policy(squash_owners=True)).layers[0].squashed
