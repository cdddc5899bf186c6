"""Bombs (RX09): each stops at the limit that is meant for it, and what is within the limits comes in."""

import gzip
import io
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from alcove.state.limits import ImportLimits
from tests.state import images
from tests.state.arena import Arena
from tests.state.images import DIRECTORY, END, LAYER, Image, header, layer, member, pax, record
from tests.state.probes import HONEST_SPARSE, SPARSE_PROBES, file

pytestmark = [pytest.mark.security, pytest.mark.user, pytest.mark.usefixtures("no_descriptor_stays")]


def gigabyte_of_zeros() -> bytes:
    return gzip_of((member("workspace", DIRECTORY), big_header(1 << 30)), 1 << 30)


def big_header(size: int) -> bytes:
    return header(b"0", size, name=b"workspace/zeros")


def gzip_of(beginning: tuple[bytes, ...], zeros: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [packer.compress(part) for part in beginning]
    parts += [packer.compress(bytes(1 << 20)) for _ in range(zeros >> 20)]
    return b"".join([*parts, packer.compress(END), packer.flush()])


def compressed(data: bytes, media_type: str, diff_id: str = images.digest(b"")) -> io.BytesIO:
    image = Image()
    image.layers.append(image.describe(data, media_type))
    image.diff_ids.append(diff_id)
    return image.file()


def test_rx09_a_gzip_bomb_stops_at_the_bytes(arena: Arena) -> None:
    bomb = gigabyte_of_zeros()
    arena.defuses(compressed(bomb, LAYER + "+gzip"), "unpacks to more", limits=ImportLimits(total_bytes=16 << 20))


def test_rx09_a_gzip_bomb_stops_at_the_ratio(arena: Arena) -> None:
    bomb = gigabyte_of_zeros()
    arena.defuses(compressed(bomb, LAYER + "+gzip"), "times its size", limits=ImportLimits(ratio_floor=16 << 20))


def test_rx09_a_zstd_bomb_stops_at_the_ratio(arena: Arena) -> None:
    packer = zstandard.ZstdCompressor(level=3).compressobj()
    bomb = packer.compress(member("workspace", DIRECTORY) + big_header(1 << 28))
    bomb += b"".join(packer.compress(bytes(1 << 20)) for _ in range(1 << 8)) + packer.flush()
    arena.defuses(compressed(bomb, LAYER + "+zstd"), "times its size", limits=ImportLimits(ratio_floor=16 << 20))


def test_rx09_the_archive_around_it_is_no_bomb_either(arena: Arena) -> None:
    bomb = gzip_of((header(b"0", 1 << 30, name=b"blobs/sha256/" + b"0" * 64),), 1 << 30)
    arena.defuses(io.BytesIO(bomb), "times its size", limits=ImportLimits(ratio_floor=16 << 20))
    arena.defuses(io.BytesIO(bomb), "unpacks to more", limits=ImportLimits(total_bytes=16 << 20))


def test_rx09_what_is_within_the_limits_comes_in(arena: Arena) -> None:
    """The same archive, allowed."""
    size = 24 << 20
    plain = member("workspace", DIRECTORY) + big_header(size) + bytes(size) + END
    archive = compressed(gzip.compress(plain), LAYER + "+gzip", images.digest(plain))
    limits = ImportLimits(ratio_floor=16 << 20, ratio=2000, total_bytes=size + (1 << 20))
    arena.bring_in(archive, limits=limits)
    assert (arena.layers()[0] / "workspace" / "zeros").stat().st_size == size


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_what_expands_is_told_of_all_the_time(arena: Arena, compression: str) -> None:
    """Whoever is told can end it: few bytes are read while many are written."""
    size = 24 << 20
    plain = member("workspace", DIRECTORY) + big_header(size) + bytes(size) + END
    pack = {"gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress}[compression]
    archive = compressed(pack(plain), f"{LAYER}+{compression}", images.digest(plain))
    told: list[int] = []
    arena.bring_in(archive, limits=ImportLimits(ratio=100_000), progress=told.append)
    assert told.count(0) >= 2 * (size >> 20)


def test_rx09_a_zstd_window_is_bounded(arena: Arena) -> None:
    plain = layer(file("workspace/a", os.urandom(1 << 20)))

    def windowed(log: int) -> io.BytesIO:
        parameters = zstandard.ZstdCompressionParameters(window_log=log, enable_ldm=False)
        packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        return compressed(packer.compress(plain) + packer.flush(), LAYER + "+zstd", images.digest(plain))

    arena.bring_in(windowed(25))
    arena.set_aside()
    arena.defuses(windowed(27), "too much memory", ImportLimits())


def test_rx09_entries_are_counted(arena: Arena) -> None:
    many = [file(f"workspace/{number}", b"") for number in range(1000)]
    arena.defuses(Image(layer(*many)).file(), "more than 1000 entries", limits=ImportLimits(entries=1000))
    arena.bring_in(Image(layer(*many)).file(), limits=ImportLimits(entries=1001))


def test_rx09_parents_that_are_only_spoken_of_are_counted_too(arena: Arena) -> None:
    many = [file(f"workspace/{number}/a/b/c", b"") for number in range(300)]
    arena.refuses(Image(layer(*many)).file(), "more than 1000 entries", limits=ImportLimits(entries=1000))
    arena.bring_in(Image(layer(*many)).file(), limits=ImportLimits(entries=1201))


def test_rx09_layers_share_the_limits(arena: Arena) -> None:
    one, two = (layer(file(f"workspace/{name}", bytes(1 << 20))) for name in "ab")
    limits = ImportLimits(total_bytes=3 << 19)
    arena.bring_in(Image(one, media_type=LAYER + "+gzip").file(), limits=limits)
    arena.set_aside()
    arena.defuses(Image(one, two, media_type=LAYER + "+gzip").file(), "unpacks to more", limits=limits)


def test_rx09_a_pax_header_of_two_gigabytes_is_not_read(arena: Arena) -> None:
    arena.defuses(Image(layer(pax(b"", declared=2 << 30) + bytes(1 << 20))).file(), "header is longer", ImportLimits())
    arena.defuses(Image(layer(header(b"L", 2 << 30) + bytes(1 << 20))).file(), "header is longer", ImportLimits())
    arena.bring_in(Image(layer(pax(record(b"comment", b"x" * 1_000_000)) + header(b"0", 0))).file())


@pytest.mark.parametrize("probe", SPARSE_PROBES)
def test_rx09_a_sparse_file_that_is_refused(arena: Arena, probe: str) -> None:
    arena.bring_in(Image(layer(HONEST_SPARSE)).file())
    expected = b"a" * 512 + bytes(512) + b"b" * 512 + bytes(512)
    assert (arena.layers()[0] / "workspace" / "s").read_bytes() == expected
    arena.set_aside()
    arena.refuses(Image(layer(SPARSE_PROBES[probe])).file())


MEASURED = """
import os, resource, sys, tempfile
from alcove.contract import InvalidRequest
from alcove.state.importing import import_
from alcove.state.limits import ImportLimits
fd = os.open(sys.argv[2], os.O_RDONLY | os.O_DIRECTORY)
import zstandard
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    import_(open(sys.argv[1], "rb"), lambda: fd, limits=ImportLimits(total_bytes=256 << 20))
except InvalidRequest as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""


@pytest.mark.parametrize("kind", ["gzip", "pax", "plain"])
def test_rx09_memory_stays_flat(tmp_path: Path, kind: str) -> None:
    """The peak of a process of its own, in KiB: a gigabyte of zeros, a pax header of it, and 300 MB of a plain file."""
    archives: dict[str, Callable[[], io.BytesIO]] = {
        "gzip": lambda: compressed(gigabyte_of_zeros(), LAYER + "+gzip"),
        "pax": lambda: compressed(gzip_of((pax(b"", declared=1 << 30),), 1 << 30), LAYER + "+gzip"),
        "plain": lambda: io.BytesIO(header(b"0", 300 << 20, name=b"blobs/sha256/" + b"0" * 64) + bytes(300 << 20)),
    }
    (tmp_path / "archive").write_bytes(archives[kind]().getvalue())
    (tmp_path / "layer").mkdir()
    arguments = [sys.executable, "-c", MEASURED, str(tmp_path / "archive"), str(tmp_path / "layer")]
    said = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    assert "archive refused" in said
    assert int(said.split()[0]) < 32 << 10
    assert os.listdir(tmp_path / "layer") == []
