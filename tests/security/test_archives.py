"""A3, AP14, AP16: strangers' archives, layers that somebody tampers with, and siblings, through the product's own door.

The oracle is the store, of which nothing may be left, and a canary beside it; each probe has an honest twin that is as
like it as can be and comes in, and is held off by one control: with that switched off the probe is noticed.
"""

import asyncio
import io
import os
import random
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from alcove.contract import FilesystemAccess, FilesystemMount, InvalidRequest, SandboxSnapshot
from alcove.local import ImportLimits, LocalSandbox, LocalSandboxConfig
from alcove.local.snapshots import transfer
from alcove.state.tree import digest
from alcove.state.unpacking import Policy
from tests.security.cells import Cell
from tests.state.images import END, Image, directories, layer, listing
from tests.state.probes import HONEST_SPARSE, PROBES, SPARSE_PROBES, UPPER_PROBES, directory, file
from tests.state.test_importing import HONEST, LAYOUTS
from tests.state.test_importing_controls import LAYOUT_CONTROLS, MEMBERS, Patch, nothing, without_digests

pytestmark = [pytest.mark.security, pytest.mark.user]

MakeCell = Callable[..., Awaitable[Cell]]
Out = dict[str, Any]

OWNED = "leaves by a place of the owned root"
AS_ROOT = os.geteuid() == 0


def image(*layers: bytes, **told: str) -> Image:
    """Return an archive of a snapshot, as a stranger makes it."""
    made = Image(*layers)
    metadata = {"root": "host:shared", "session": "s-stranger", "created": "1", "set_id": "false", **told}
    made.manifest["annotations"] = {
        "org.alcove.format": "1",
        **{f"org.alcove.metadata.{key}": value for key, value in metadata.items()},
    }
    return made


def probe_image(probe: str, members: bytes) -> Image:
    told = {"root": "host:owned", "host": transfer._host()} if probe == OWNED else {}
    return image(layer(members), **told)


class Door:
    """The import of a backend, and what may not change around its store."""

    def __init__(self, backend: LocalSandbox) -> None:
        self.backend = backend
        self.store = Path(backend.config.root_dir or "")
        self.outside = self.store / "outside"  # where the probes' links and names lead to
        self.outside.mkdir()
        (self.outside / "canary").write_text("canary")
        self.before = listing(self.outside)

    def left(self) -> list[str]:
        return sorted(os.listdir(self.store / "layers"))

    async def lets_in(self, archive: io.BytesIO, **options: Any) -> SandboxSnapshot:
        """See an archive come in, and delete what it made."""
        archive.seek(0)
        made = await self.backend.import_snapshot(archive, **options)
        assert self.left() != []
        await self.backend.delete_snapshot(made.snapshot_id)
        assert self.left() == []
        return made

    async def refuses(self, archive: io.BytesIO, match: str = "archive refused", **options: Any) -> None:
        """See an archive refused, and nothing of it anywhere."""
        archive.seek(0)
        try:
            with pytest.raises(InvalidRequest, match=match) as refusal:
                await self.backend.import_snapshot(archive, **options)
            assert str(refusal.value).isprintable()
            assert self.left() == []
        finally:
            for snapshot in self.backend.snapshots():
                await self.backend.delete_snapshot(snapshot.snapshot_id)
            assert listing(self.outside) == self.before


@pytest.fixture
def door(backend: LocalSandbox) -> Door:
    return Door(backend)


# A stranger's members and documents


@pytest.mark.parametrize("probe", [probe for probe in PROBES if AS_ROOT or probe != OWNED])
async def test_a3_a_member_that_no_layer_may_have(door: Door, probe: str) -> None:
    hostile, honest = PROBES[probe]
    await door.refuses(probe_image(probe, hostile).file())
    await door.lets_in(probe_image(probe, honest).file())


@pytest.mark.parametrize("probe", UPPER_PROBES)
async def test_a3_a_member_over_another_layer(door: Door, probe: str) -> None:
    below = layer(file("workspace/below"))
    hostile, honest = UPPER_PROBES[probe]
    await door.refuses(image(below, layer(hostile)).file())
    await door.lets_in(image(below, layer(honest)).file())


@pytest.mark.parametrize("probe", LAYOUTS)
async def test_a3_a_layout_that_does_not_hold_together(door: Door, probe: str) -> None:
    spoilt = image(HONEST)
    LAYOUTS[probe](spoilt)
    await door.refuses(spoilt.file())
    await door.lets_in(image(HONEST).file())


# a place that is none is met by a second line: test_a3_a_shared_root_has_no_parts_of_a_root
HELD_BY_ONE = [(p, off) for p, off in MEMBERS if p != "has no place" and (AS_ROOT or p != OWNED)]


@pytest.mark.parametrize(("probe", "switch_off"), HELD_BY_ONE)
async def test_a3_a_member_is_noticed_without_its_control(
    door: Door, monkeypatch: pytest.MonkeyPatch, probe: str, switch_off: Patch
) -> None:
    switch_off(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await door.refuses(probe_image(probe, PROBES[probe][0]).file())


@pytest.mark.parametrize(("probe", "switch_off"), LAYOUT_CONTROLS)
async def test_a3_a_layout_is_noticed_without_its_control(
    door: Door, monkeypatch: pytest.MonkeyPatch, probe: str, switch_off: Patch
) -> None:
    spoilt = image(HONEST)
    LAYOUTS[probe](spoilt)
    switch_off(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await door.refuses(spoilt.file())


# What only the product knows of a snapshot


FOREIGN: dict[str, tuple[Out, str]] = {
    "is no snapshot": ({"root": ""}, "no snapshot of Alcove's"),
    "has a root of no kind": ({"root": "host:other"}, "no snapshot of Alcove's"),
    "is of a session that cannot be": ({"session": "../../etc"}, "session id"),
    "is of no session": ({"session": ""}, "session id"),
    "lies over another system": (
        {"root": "host:owned", "host": "other-1-x86_64"},
        "made of changes to 'other-1-x86_64'" if AS_ROOT else "needs Alcove run as root",
    ),
}


@pytest.mark.parametrize("probe", FOREIGN)
async def test_a3_a_snapshot_that_is_none_of_ours(door: Door, probe: str) -> None:
    told, match = FOREIGN[probe]
    await door.refuses(image(HONEST, **told).file(), match)
    await door.lets_in(image(HONEST).file())


@pytest.mark.parametrize("probe", sorted(FOREIGN.keys() - {"is of no session"}))
async def test_a3_a_snapshot_that_is_none_of_ours_is_noticed(
    door: Door, probe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, match = FOREIGN[probe]
    monkeypatch.setattr(transfer.Transfer, "_policy", lambda *_, **__: Policy())
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await door.refuses(image(HONEST, **told).file(), match)


async def test_a3_a_shared_root_has_no_parts_of_a_root(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = layer(directory("root"), directory("root/usr"), file("root/usr/evil"))
    await door.refuses(image(hostile).file(), "has no place in a layer")
    monkeypatch.setattr("alcove.state.unpacking._Unpacking._check_place", nothing)
    await door.refuses(image(hostile).file(), "this machine has no place for 'root/usr'")  # the second line


@pytest.mark.skipif(not AS_ROOT, reason="an owned root is root's")
async def test_a3_an_owned_root_has_only_places_that_there_are(door: Door) -> None:
    told = {"root": "host:owned", "host": transfer._host()}
    nowhere = layer(directory("root"), directory("root/nowhere"))
    await door.refuses(image(nowhere, **told).file(), "this machine has no place for 'root/nowhere'")
    await door.lets_in(image(layer(directory("root"), directory("root/usr")), **told).file())


async def test_a3_an_owner_that_no_session_has(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    await door.lets_in(image(layer(file("workspace/a", uid=65_535, gid=65_535))).file())
    hostile = image(layer(file("workspace/a", uid=65_536)))
    await door.refuses(hostile.file(), "belongs to 65536:0, and a session has 65536 ids")
    monkeypatch.setattr(transfer, "_IDS", 1 << 20)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await door.refuses(hostile.file())


async def test_a3_outputs_hide_nothing(door: Door) -> None:
    hostile = layer(directory("outputs"), file("outputs/.wh.report", b""))
    await door.refuses(image(HONEST, hostile).file(), "hides something in what each layer has whole")
    await door.lets_in(image(HONEST, layer(directory("outputs"), file("outputs/.wh..wh..opq", b""))).file())


async def test_a3_what_an_archive_says_of_itself_is_neutral(door: Door, backend: LocalSandbox) -> None:
    for name, parent, created in (
        ("../../etc", "x" * 1000, "nan"),
        ("", "../x", "1e400"),
        ("-rf", "\x1b[2J", "99999999999999"),
        ("a b", "", "-5"),
    ):
        made = await backend.import_snapshot(image(HONEST, name=name, parent=parent, created=created).file())
        assert "name" not in made.metadata
        assert made.metadata["parent"] == ""
        assert "1970" <= made.metadata["created"][:4] <= "2100"
        assert made.snapshot_id.startswith("snap-")
        await backend.delete_snapshot(made.snapshot_id)
    assert door.left() == []


# Bombs


BOMBS: dict[str, tuple[Callable[[], bytes], dict[str, int]]] = {
    "zeros": (lambda: layer(file("workspace/a", bytes(8 << 20))), {"ratio": 20, "ratio_floor": 1 << 20}),
    "many bytes": (lambda: layer(file("workspace/a", bytes(2 << 20))), {"total_bytes": 1 << 20}),
    "many entries": (lambda: layer(*(file(f"workspace/{n}", b"") for n in range(50))), {"entries": 50}),
    "depth": (lambda: layer(directory("workspace/" + "/".join("d" * 60))), {"depth": 50}),
}


@pytest.mark.parametrize("bomb", BOMBS)
async def test_a3_a_bomb_takes_no_room(door: Door, bomb: str) -> None:
    make, limits = BOMBS[bomb]
    archive = image_packed(make())
    await door.refuses(archive, limits=ImportLimits(**limits))
    await door.lets_in(archive)


def image_packed(data: bytes) -> io.BytesIO:
    made = Image(data, media_type="application/vnd.oci.image.layer.v1.tar+gzip")
    made.manifest["annotations"] = image(HONEST).manifest["annotations"]
    return made.file()


@pytest.mark.parametrize("bomb", SPARSE_PROBES)
async def test_a3_a_sparse_bomb_takes_no_room(door: Door, bomb: str) -> None:
    await door.refuses(image(layer(SPARSE_PROBES[bomb])).file())
    await door.lets_in(image(layer(HONEST_SPARSE)).file())


# A real snapshot's archive, changed on the way


async def archived(backend: LocalSandbox, make_cell: MakeCell, **options: Any) -> bytes:
    """Return the archive of a session that is no more, nor its snapshots."""
    cell = await make_cell()
    script = "mkdir d && seq 3000 > d/numbers && ln d/numbers same && ln -s /etc d/link && touch old && chmod 751 d"
    assert (await cell.run("sh", "-c", script)).success
    await backend.snapshot(cell.id)
    assert (await cell.run("sh", "-c", "rm old && seq 9 > d/more && echo out > /mnt/session/outputs/out")).success
    made = await backend.snapshot(cell.id)
    out = io.BytesIO()
    await backend.export_snapshot(made.snapshot_id, out, **options)
    await cell.close()
    for snapshot in backend.snapshots():
        await backend.delete_snapshot(snapshot.snapshot_id)
    return out.getvalue()


async def trees(backend: LocalSandbox, snapshot: SandboxSnapshot) -> list[str]:
    """The digests of what a snapshot's layers have now."""
    chain = backend._snapshots.find(snapshot.snapshot_id).layers
    with directories(Path(backend.config.root_dir or "") / "layers" / key for key in chain) as opened:
        return [digest(fd) for fd in opened]


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
async def test_a3_a_flipped_bit_changes_nothing_unseen(
    door: Door, backend: LocalSandbox, make_cell: MakeCell, compression: str
) -> None:
    whole = await archived(backend, make_cell, compression=compression)
    honest = await backend.import_snapshot(io.BytesIO(whole))
    wanted, told = await trees(backend, honest), {key: honest.metadata[key] for key in ("created", "parent", "root")}
    await backend.delete_snapshot(honest.snapshot_id)
    chance = random.Random(7)
    refused = 0
    for _ in range(150):
        flipped = bytearray(whole)
        flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        try:
            made = await backend.import_snapshot(io.BytesIO(flipped))
        except InvalidRequest:
            refused += 1
        else:  # in the padding of the outer archive, say
            assert await trees(backend, made) == wanted
            assert {key: made.metadata[key] for key in told} == told
            await backend.delete_snapshot(made.snapshot_id)
        assert door.left() == []
    assert refused > 50


async def test_a3_a_flipped_bit_is_noticed_without_digests(
    backend: LocalSandbox, make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = await archived(backend, make_cell, compression="none")
    changed = whole.replace(b"1001\n1002\n", b"1001\n9002\n")
    assert changed != whole
    with pytest.raises(InvalidRequest, match="archive refused"):
        await backend.import_snapshot(io.BytesIO(changed))
    without_digests(monkeypatch)
    with pytest.raises(InvalidRequest, match="does not make the tree that it was"):  # the second line
        await backend.import_snapshot(io.BytesIO(changed))
    monkeypatch.setattr("alcove.state.oci.TREE_KEY", "nothing")
    made = await backend.import_snapshot(io.BytesIO(changed))
    await backend.delete_snapshot(made.snapshot_id)


async def test_a3_an_archive_cut_short(door: Door, backend: LocalSandbox, make_cell: MakeCell) -> None:
    whole = await archived(backend, make_cell)
    for length in (0, 1, 511, 512, 513, *range(1000, len(whole) - 1024, max(1, len(whole) // 40))):
        await door.refuses(io.BytesIO(whole[:length]))
    await door.lets_in(io.BytesIO(whole))


# AP16: the same one twice, and at once


async def test_ap16_sessions_of_one_archive_are_strangers(
    backend: LocalSandbox, make_cell: MakeCell, door: Door
) -> None:
    whole = await archived(backend, make_cell)
    made = await asyncio.gather(*(backend.import_snapshot(io.BytesIO(whole)) for _ in range(3)))
    assert len({snapshot.snapshot_id for snapshot in made}) == 3
    references = [f"snapshot:{snapshot.snapshot_id}" for snapshot in (*made, made[0])]
    cells = await asyncio.gather(*(make_cell(rootfs=reference) for reference in references))
    for number, cell in enumerate(cells):
        assert (await cell.run("sh", "-c", f"echo {number} > mine; echo {number} >> d/numbers; rm same")).success
    for number, cell in enumerate(cells):
        seen = await cell.run("sh", "-c", "cat mine; tail -1 d/numbers; ls; ls /mnt/session/outputs")
        assert seen.stdout.split() == [str(number), str(number), "d", "mine", "out"]
        await cell.close()
    for snapshot in made:
        await backend.delete_snapshot(snapshot.snapshot_id)
    assert door.left() == []


# Sealed layers, and siblings


ATTACK = """
import contextlib, mmap, os, sys
for directory, names, files in os.walk(sys.argv[1]):
    for name in files + names:
        path = os.path.join(directory, name)
        for act in (
            lambda: os.truncate(path, 1),
            lambda: open(path, 'r+b').write(b'overwritten'),
            lambda: mmap.mmap(os.open(path, os.O_RDWR), 1).__setitem__(0, 88),
            lambda: os.chmod(path, 0o777),
            lambda: os.utime(path, (1, 1)),
            lambda: os.setxattr(path, 'user.attack', b'1'),
            lambda: os.link(path, path + '-link'),
            lambda: os.rename(path, path + '-moved'),
            lambda: open(path + '-moved', 'ab').write(b'appended'),
        ):
            with contextlib.suppress(OSError, ValueError):
                act()
"""


async def test_ap16_a_sealed_layer_is_out_of_its_sessions_reach(
    backend: LocalSandbox, make_cell: MakeCell, tmp_path: Path
) -> None:
    made = await backend.import_snapshot(io.BytesIO(await archived(backend, make_cell)))
    before = await trees(backend, made)
    cell = await make_cell(rootfs=f"snapshot:{made.snapshot_id}")
    for place in ("/workspace", "/mnt/session/outputs"):
        assert (await cell.run("python3", "-c", ATTACK, place)).success
    assert (await cell.run("ls", "d/numbers-moved")).success  # it did all that in its own
    assert await trees(backend, made) == before
    await cell.close()
    await backend.delete_snapshot(made.snapshot_id)

    plain = tmp_path / "plain"
    plain.mkdir()
    plain.chmod(0o777)
    shown = FilesystemMount(source=str(plain), target="/mnt/plain", access=FilesystemAccess.READ_WRITE)
    other = LocalSandbox(LocalSandboxConfig(root_dir=backend.config.root_dir, allow_root_owned=AS_ROOT))
    cell = await make_cell(shown, by=other)
    assert (await cell.run("sh", "-c", "seq 9 > /mnt/plain/numbers")).success
    with directories([plain]) as [fd]:
        untouched = digest(fd)
        assert (await cell.run("python3", "-c", ATTACK, "/mnt/plain")).success
        assert digest(fd) != untouched  # what the attack does to a file that it does reach
    await cell.close()
    await other.aclose()


SEARCH = "find / -xdev -name {0} 2>/dev/null; find /mnt /workspace /tmp /dev -name {0} 2>/dev/null; true"


async def test_ap16_a_session_does_not_reach_a_siblings_layers(
    backend: LocalSandbox, make_cell: MakeCell, door: Door, tmp_path: Path
) -> None:
    mine, theirs = (
        await backend.import_snapshot(image(layer(file("workspace/my-marker"))).file()),
        await backend.import_snapshot(image(layer(file("workspace/their-marker"))).file()),
    )
    lying = list((door.store / "layers").rglob("their-marker"))
    assert len(lying) == 1
    cell = await make_cell(rootfs=f"snapshot:{mine.snapshot_id}")
    assert "/workspace/my-marker" in (await cell.run("sh", "-c", SEARCH.format("my-marker"))).stdout
    assert (await cell.run("sh", "-c", SEARCH.format("their-marker"))).stdout == ""
    key = backend._snapshots.find(theirs.snapshot_id).layers[0]
    for path in (*lying, door.store, f"/dev/{key}", f"/proc/1/root/dev/{key}", f"/workspace/../dev/{key}"):
        assert not (await cell.run("ls", str(path))).success
    assert key not in (await cell.run("cat", "/proc/self/mountinfo")).stdout
    await cell.close()

    shutil.copytree(lying[0].parent, tmp_path / "shown")  # the search finds one that is there
    shown = FilesystemMount(source=str(tmp_path / "shown"), target="/mnt/shown", access=FilesystemAccess.READ_ONLY)
    cell = await make_cell(shown, rootfs=f"snapshot:{mine.snapshot_id}")
    assert "/mnt/shown/their-marker" in (await cell.run("sh", "-c", SEARCH.format("their-marker"))).stdout
    await cell.close()
    for snapshot in (mine, theirs):
        await backend.delete_snapshot(snapshot.snapshot_id)


@pytest.mark.parametrize("below", ["the same directory", "nothing"])
async def test_ap14_a_stranger_cannot_poison_what_lies_above(
    backend: LocalSandbox, make_cell: MakeCell, below: str
) -> None:
    """Whiteouts of a layer over nothing, and of a name that comes again, hide nothing of what a session makes."""
    odd = layer(directory("workspace/d"), file("workspace/d/.wh.x", b""), file("workspace/.wh.y", b""))
    lowest = layer(file("workspace/a")) if below != "nothing" else directory("tmp") + END
    made = await backend.import_snapshot(image(lowest, odd).file())
    cell = await make_cell(rootfs=f"snapshot:{made.snapshot_id}")
    seen = await cell.run("sh", "-c", "ls -a d; touch a d/x y && ls . d && rm d/x y && ls")
    assert seen.success, seen
    assert seen.stdout.split() == [".", "..", ".:", "a", "d", "y", "d:", "x", "a", "d"]
    await cell.close()
    for _ in range(2):
        await backend.export_snapshot(made.snapshot_id, io.BytesIO())
    await backend.delete_snapshot(made.snapshot_id)
