"""A layer becomes the members of an image layer's archive, in an order and form that are the same each time."""

import os
from collections.abc import Iterator
from typing import Final

from msgspec.structs import replace

from alcove.contract import LifecycleError
from alcove.state import members, names
from alcove.state.archive import CHUNK, ArchiveWriter, Data
from alcove.state.members import Member, Segment
from alcove.state.tree import walk
from alcove.state.walk import Entry, Kind, shown

# Holes smaller than this are written as zeros; twice that, each time that a map has grown too long for a reader's limit
_SMALLEST_HOLE: Final = 1 << 16
_LONGEST_MAP: Final = 30_000

_KINDS: Final = {
    Kind.DIRECTORY: members.Kind.DIRECTORY,
    Kind.FILE: members.Kind.FILE,
    Kind.SYMLINK: members.Kind.SYMLINK,
    Kind.FIFO: members.Kind.FIFO,
    Kind.WHITEOUT: members.Kind.FILE,
}


def pack(layer: int, writer: ArchiveWriter) -> bool:
    """Write what the directory `layer` has in it; tell whether that is all of it.

    Sockets are left out: nobody listens on them any more. Only files are told to be hard links, since many readers know
    of no other: a symbolic link or a FIFO with several names becomes several, and that is not the same tree.

    Raises:
        LifecycleError: it has something that no image layer has, or changed meanwhile.
        OSError: it cannot be read.
    """
    whole = True
    firsts: dict[int, bytes] = {}
    with walk(layer) as entries:
        for entry in entries:
            if entry.kind is Kind.SOCKET:
                whole = False
                continue
            _check(entry)
            if entry.linked and entry.kind is not Kind.FILE:
                whole = False
            if entry.links > 1 and not entry.linked:
                firsts[entry.position] = entry.path
            member = _member(entry, firsts.get(entry.first, b""))
            if entry.kind is Kind.FILE and not entry.linked:
                _add_file(writer, member, entries.fd, sparse=entry.sparse)
            else:
                writer.add(member)
            if entry.opaque:
                writer.add(Member(path=entry.path + b"/" + names.OPAQUE, kind=members.Kind.FILE))
    return whole


def _check(entry: Entry) -> None:
    if entry.kind not in _KINDS:
        raise LifecycleError(f"{shown(entry.path)} is a device, which no snapshot takes along: remove it")
    if entry.name.startswith(names.WHITEOUT):
        raise LifecycleError(f"{shown(entry.path)} has a name that in an image means something is gone: rename it")


def _member(entry: Entry, first: bytes) -> Member:
    """Return the member for an entry; `first` is the path that a hard link is another name of."""
    if entry.kind is Kind.WHITEOUT:
        return Member(path=entry.path[: -len(entry.name)] + names.WHITEOUT + entry.name, kind=members.Kind.FILE)
    linked = entry.linked and entry.kind is Kind.FILE
    return Member(
        path=entry.path + b"/" if entry.kind is Kind.DIRECTORY else entry.path,
        kind=members.Kind.HARD_LINK if linked else _KINDS[entry.kind],
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        size=0 if linked else entry.size,
        mtime_ns=entry.mtime_ns,
        target=first if linked else entry.target,
        xattrs={} if linked else dict(entry.xattrs),
    )


def _add_file(writer: ArchiveWriter, member: Member, fd: int, *, sparse: bool) -> None:
    segments = _data_segments(fd, member.size) if sparse else None
    if segments is None:
        writer.add(member, _content(fd, (Segment(0, member.size),)))
    else:
        writer.add(replace(member, segments=segments), _content(fd, segments))


def _content(fd: int, segments: tuple[Segment, ...]) -> Iterator[Data]:
    for segment in segments:
        offset, end = segment.offset, segment.offset + segment.size
        while offset < end:
            data = os.pread(fd, min(CHUNK, end - offset), offset)
            if not data:
                return
            yield data
            offset += len(data)


def _data_segments(fd: int, size: int) -> tuple[Segment, ...] | None:
    """Return the stretches of a file that are data, or None if that is all of it."""
    hole = _SMALLEST_HOLE
    found: list[Segment] = []
    for segment in _extents(fd, size):
        _append(found, segment, hole)
        while len(found) > _LONGEST_MAP:
            hole *= 2
            found = _merged(found, hole)
    if found == [Segment(0, size)]:
        return None
    if not found or found[-1].offset + found[-1].size < size:
        found.append(Segment(size, 0))  # what GNU tar ends a map with where a hole ends the file
    return tuple(found)


def _merged(segments: list[Segment], hole: int) -> list[Segment]:
    merged: list[Segment] = []
    for segment in segments:
        _append(merged, segment, hole)
    return merged


def _append(segments: list[Segment], segment: Segment, hole: int) -> None:
    last = segments[-1] if segments else None
    if last is not None and segment.offset - (last.offset + last.size) < hole:
        segments[-1] = Segment(last.offset, segment.offset + segment.size - last.offset)
    else:
        segments.append(segment)


def _extents(fd: int, size: int) -> Iterator[Segment]:
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole from here on
            return
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if start >= size:
            return
        yield Segment(start, end - start)
