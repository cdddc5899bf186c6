"""Tar archives as streams of members: read from a stranger within limits, written so that every reader agrees.

A reader sees each byte once and holds one buffer, one header and one map. What readers are known to make different
things of is refused: global pax headers, records that come twice, headers that contradict each other, old sparse
formats, content where there can be none, anything but zeros after the end.
"""

from collections.abc import Iterable, Iterator
from typing import Final, Protocol, TypeAlias

from msgspec.structs import replace

from alcove.contract import SandboxIoError
from alcove.state import names
from alcove.state.limits import Meter, refused
from alcove.state.members import (
    BLOCK,
    Header,
    Kind,
    Member,
    Segment,
    checked_id,
    decimal,
    header_of,
    is_sparse,
    nanoseconds,
    padded,
    parse_header,
    parse_pax,
    sparse_map,
    xattrs_of,
)
from alcove.state.walk import shown

#: A stretch of content; a view is of a buffer that nobody changes.
Data: TypeAlias = bytes | memoryview

CHUNK: Final = 1 << 20

_KINDS = {kind.value: kind for kind in Kind}
_LONG = {b"L": b"path", b"K": b"linkpath"}
_OTHER = {b"3": "a character device", b"4": "a block device", b"g": "a global header", b"S": "an old sparse file"}


class Readable(Protocol):
    """What bytes come from; nothing means the end."""

    def read(self, size: int, /) -> Data:
        """Return some bytes, `size` at most."""


class Writable(Protocol):
    """What takes bytes, all of them or none."""

    def write(self, data: Data, /) -> object:
        """Take bytes."""


class Archive:
    """An archive to be read once, member by member, each one's content before the next member."""

    def __init__(self, stream: Readable, meter: Meter) -> None:
        self._source = _Source(stream, meter)
        self._limits = meter.limits
        self._meter = meter
        self._segments: tuple[Segment, ...] = ()
        self._left = 0
        self._padding = 0

    @property
    def position(self) -> int:
        """How far the next content lies from the archive's beginning."""
        return self._source.position

    def members(self) -> Iterator[tuple[tuple[bytes, ...], Member]]:
        """Yield every member, with the names that lead to it.

        Raises:
            InvalidRequest: this is no archive, or not one to unpack.
        """
        records: dict[bytes, bytes] = {}
        before: set[bytes] = set()
        while any(block := self._source.take(BLOCK)):
            header = parse_header(block)
            if header.flag == b"x" or header.flag in _LONG:
                if header.flag in before:
                    raise refused("a member has two headers of one kind")
                before.add(header.flag)
                self._extend(records, header)
                continue
            self._meter.add_entry()
            member = self._member(header, records)
            yield names.components(member.path, member.kind, self._limits), member
            self._skip()
            records = {}
            before.clear()
        if before:
            raise refused("it ends with the header of a member that is not there")
        self._source.check_end()

    def count_entry(self) -> None:
        """Count a directory that the archive asks for without a member of its own."""
        self._meter.add_entry()

    def split(self, path: bytes, kind: Kind) -> tuple[bytes, ...]:
        """Split a name that a member refers to."""
        return names.components(path, kind, self._limits)

    def content(self) -> Iterator[tuple[int, Data]]:
        """Yield the content of the member that was yielded last: where in the file it belongs, and what it is."""
        for segment in self._segments:
            offset, end = segment.offset, segment.offset + segment.size
            while offset < end:
                data = self._source.some(end - offset)
                self._left -= len(data)
                yield offset, data
                offset += len(data)

    def _extend(self, records: dict[bytes, bytes], header: Header) -> None:
        if header.size > self._limits.header_bytes:
            raise refused(f"a member's header is longer than {self._limits.header_bytes} bytes")
        data = self._source.take(header.size + -header.size % BLOCK)[: header.size]
        more = parse_pax(data) if header.flag == b"x" else {_LONG[header.flag]: data.rstrip(b"\0")}
        if not more.keys().isdisjoint(records):
            raise refused("a member's headers contradict each other")
        records.update(more)

    def _member(self, header: Header, records: dict[bytes, bytes]) -> Member:
        path = records.get(b"path", header.path)
        kind = _KINDS.get(header.flag)
        if kind is None:
            raise refused(f"{shown(path)} is {_OTHER.get(header.flag, 'of a type that nobody knows')}")
        stored = decimal(records[b"size"], "a size") if b"size" in records else header.size
        if stored and kind is not Kind.FILE:
            raise refused(f"{shown(path)} has content and is no file")
        self._left, self._padding = stored, -stored % BLOCK
        member = Member(
            path=path,
            kind=kind,
            mode=header.mode & 0o7777,
            uid=checked_id(decimal(records[b"uid"], "an id") if b"uid" in records else header.uid, path),
            gid=checked_id(decimal(records[b"gid"], "an id") if b"gid" in records else header.gid, path),
            size=stored,
            mtime_ns=nanoseconds(records, header),
            target=records.get(b"linkpath", header.target),
            xattrs=xattrs_of(records),
        )
        self._segments = (Segment(0, stored),)
        return self._sparse(member, records) if is_sparse(records) else member

    def _sparse(self, member: Member, records: dict[bytes, bytes]) -> Member:
        path = records.get(b"GNU.sparse.name", b"")
        if member.kind is not Kind.FILE:
            raise refused(f"{shown(path)} is sparse and no file")
        size = decimal(records.get(b"GNU.sparse.realsize", b""), "a sparse file's size")
        self._segments = self._map(path, size)
        self._meter.add_bytes(max(0, size - self._left))
        return replace(member, path=path, size=size, segments=self._segments)

    def _map(self, path: bytes, size: int) -> tuple[Segment, ...]:
        numbers = self._numbers(path)
        segments = tuple(map(Segment, numbers[::2], numbers[1::2]))
        end = 0
        for segment in segments:
            if segment.offset < end:
                raise refused(f"{shown(path)} is sparse by a map that goes backwards")
            end = segment.offset + segment.size
        if end > size or sum(segment.size for segment in segments) != self._left:
            raise refused(f"{shown(path)} is sparse by a map that does not fit its content")
        return segments

    def _numbers(self, path: bytes) -> list[int]:
        """Read the map that begins a sparse file's content: how many stretches, then offset and size of each."""
        text, lines, wanted = bytearray(), 0, 1
        while lines < wanted:
            if len(text) >= self._limits.header_bytes or self._left < BLOCK:
                raise refused(f"{shown(path)} is sparse by a map that has no end")
            block = self._source.take(BLOCK)
            self._left -= BLOCK
            text += block
            lines += block.count(b"\n")
            if wanted == 1 and lines:
                wanted = 1 + 2 * decimal(bytes(text[: text.index(b"\n")]), "a sparse file's map")
        return [decimal(line, "a sparse file's map") for line in bytes(text).split(b"\n", wanted)[1:wanted]]

    def _skip(self) -> None:
        while self._left:
            self._left -= len(self._source.some(self._left))
        self._source.take(self._padding)


class _Source:
    """A stream whose bytes are counted as they come, and asked for in exact numbers."""

    def __init__(self, stream: Readable, meter: Meter) -> None:
        self._stream = stream
        self._meter = meter
        self._buffer = memoryview(b"")
        self.position = 0

    def take(self, size: int) -> bytes:
        """Return exactly `size` bytes."""
        parts = []
        while size:
            part = self.some(size)
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def some(self, size: int) -> memoryview:
        """Return 1 to `size` bytes."""
        if not self._buffer and not self._refill():
            raise refused("it ends in the middle: get it, or export it, again")
        part, self._buffer = self._buffer[:size], self._buffer[size:]
        self.position += len(part)
        return part

    def check_end(self) -> None:
        """Read what follows the end, which may be padding and nothing else."""
        while self._buffer or self._refill():
            if self._buffer.tobytes().strip(b"\0"):
                raise refused("something follows its end")
            self._buffer = memoryview(b"")

    def _refill(self) -> bool:
        data = self._stream.read(CHUNK)
        self._meter.add_bytes(len(data))
        self._buffer = memoryview(data)
        return len(data) > 0


class ArchiveWriter:
    """An archive being written to `out`."""

    def __init__(self, out: Writable) -> None:
        self._out = out

    def add(self, member: Member, content: Iterable[Data] = ()) -> None:
        """Write a member and its content: of a sparse file, the data of its segments one after the other.

        Raises:
            SandboxIoError: the content is not as long as the member says, so the file changed meanwhile.
        """
        segments = member.segments
        beginning = b"" if segments is None else sparse_map(segments)
        data_size = member.size if segments is None else sum(segment.size for segment in segments)
        stored = len(beginning) + data_size
        self._out.write(header_of(member, stored) + beginning)
        for data in content:
            data_size -= len(data)
            self._out.write(data)
        if data_size:
            raise SandboxIoError(f"{shown(member.path)} changed while it was read; export from a sealed layer")
        self._out.write(bytes(-stored % BLOCK))

    def finish(self) -> None:
        """Write the end."""
        self._out.write(padded(bytes(BLOCK + 1)))
