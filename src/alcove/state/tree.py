"""A layer as a whole: walked through, merged with others, digested, measured."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from struct import Struct as Packing
from typing import TYPE_CHECKING

from msgspec import Struct

from alcove.contract import LifecycleError
from alcove.state.descent import directories
from alcove.state.walk import Entry, Kind, Walk, shown

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = ["Entry", "Kind", "Size", "Walk", "digest", "measure", "merge", "shown", "walk"]

# What is digested, and how: another way to do it is another first line
_FORMAT = b"alcove tree 1\n"
_HEAD = Packing(">c??IIIQI")
_LENGTH = Packing(">Q")
_CHUNK = 1 << 20
_ZEROS = bytes(_CHUNK)


def walk(layer: int) -> Walk:
    """Walk through one layer, with the whiteouts and opaque directories that it has.

    Raises:
        OSError: its directory cannot be read.
    """
    return Walk([layer], merged=False)


def merge(layers: Sequence[int], *, over: bool = False) -> Walk:
    """Walk through a chain of layers, the lowest first, as an overlay of them would look.

    `over`: they lie over something else, and what they delete and hide there is among the entries.

    Raises:
        OSError: a layer's directory cannot be read.
    """
    return Walk(layers[::-1], merged=True, over=over)


class Size(Struct, frozen=True):
    """How large a layer is: regular files, the bytes in them, and the bytes that these take on disk."""

    files: int
    bytes: int
    allocated: int


def measure(layer: int) -> Size:
    """Measure a layer; a file with several names counts once.

    Raises:
        OSError: a directory cannot be read.
        LifecycleError: the tree changed meanwhile.
    """
    files = size = allocated = 0
    seen: set[tuple[int, int]] = set()
    for _, entries in directories(layer):
        for item in entries:
            if not item.is_file(follow_symlinks=False):
                continue
            found = item.stat(follow_symlinks=False)
            if found.st_nlink > 1:
                inode = (found.st_dev, found.st_ino)
                if inode in seen:
                    continue
                seen.add(inode)
            files += 1
            size += found.st_size
            allocated += found.st_blocks * 512
    return Size(files, size, allocated)


def digest(layer: int, *, owners: bool = True, progress: Callable[[int], object] | None = None) -> str:
    """Digest what a layer has, as `sha256:` and 64 hexadecimal digits; `owners` off leaves out whose each entry is.

    Of every name: type, mode, owner, size, content, link target, extended attributes of the guest's, what it is a hard
    link to, whether it is opaque. Not times, not holes, not the order on disk, not the topmost directory itself. The
    digest of a directory is one of the digests of what it has; zeros are not digested, so that holes cost nothing.
    `progress` is called for every name, with the size of its content where it has one, and may raise.

    Raises:
        OSError: something cannot be read.
        LifecycleError: the tree changed meanwhile.
    """
    hashes = [sha256(_FORMAT)]
    heads: list[bytes] = []
    buffer = memoryview(bytearray(_CHUNK))
    with walk(layer) as entries:
        for entry in entries:
            if progress is not None:
                progress(0 if entry.linked else entry.size)
            while len(hashes) > entry.depth:
                _fold(hashes, heads)
            head = _head(entry, owners=owners)
            if entry.kind is Kind.DIRECTORY:
                hashes.append(sha256())
                heads.append(head)
                continue
            hashes[-1].update(head)
            if entry.size and not entry.linked:
                hashes[-1].update(_content(entries.fd, entry, buffer))
    while heads:
        _fold(hashes, heads)
    return f"sha256:{hashes[0].hexdigest()}"


def _fold(hashes: "list[_Hash]", heads: list[bytes]) -> None:
    """Make a directory that is through an entry of the one it is in."""
    inner = hashes.pop().digest()
    hashes[-1].update(heads.pop() + inner)


def _head(entry: Entry, *, owners: bool) -> bytes:
    """All of an entry but its content: every part has a fixed size or tells its length, so that no two are alike."""
    number = entry.first if entry.linked else entry.device or entry.size
    uid, gid = (entry.uid, entry.gid) if owners else (0, 0)
    pairs = len(entry.xattrs)
    parts = [entry.name, entry.target, *(part for pair in entry.xattrs for part in pair)]
    head = _HEAD.pack(entry.kind.value, entry.linked, entry.opaque, entry.mode, uid, gid, number, pairs)
    return head + b"".join(_LENGTH.pack(len(part)) + part for part in parts)


def _content(file: int, entry: Entry, buffer: memoryview) -> bytes:
    """Digest a file's content: where each chunk that is not all zeros lies, and the chunk's own digest."""
    whole = sha256()
    for offset in _offsets(file, entry):
        chunk = buffer[: min(_CHUNK, entry.size - offset)]
        _read(file, chunk, offset, entry)
        if not _ZEROS.startswith(chunk):
            whole.update(_LENGTH.pack(offset) + sha256(chunk).digest())
    return whole.digest()


def _offsets(file: int, entry: Entry) -> Iterator[int]:
    """Yield where the chunks of a file begin, without those that are holes."""
    offset = 0
    while offset < entry.size:
        if entry.sparse:
            try:
                offset = os.lseek(file, offset, os.SEEK_DATA) // _CHUNK * _CHUNK
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
        yield offset
        offset += _CHUNK


def _read(file: int, chunk: memoryview, offset: int, entry: Entry) -> None:
    done = 0
    while done < len(chunk):
        count = os.preadv(file, [chunk[done:]], offset + done)
        if count == 0:
            raise LifecycleError(f"{shown(entry.path)} became shorter while it was read: try again")
        done += count
