"""Members of a tar archive as values, and their headers: POSIX ustar with pax records, in bytes throughout.

Written and read here, and not by `tarfile`, because that reads a pax header of any size into memory, takes names for
text, and resolves what it unpacks by path. Sources: POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar manual,
"Sparse Formats", PAX 1.0; and the SCHILY.xattr records that every container engine writes.
"""

import re
from enum import Enum
from typing import Final

from msgspec import Struct

from alcove.state.limits import refused
from alcove.state.walk import shown

BLOCK: Final = 512

XATTR_PREFIX: Final = b"SCHILY.xattr."
_SPARSE_PREFIX: Final = b"GNU.sparse."
_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*")
_DECIMAL = re.compile(rb"[0-9]{1,19}")
_TIME = re.compile(rb"(-?[0-9]{1,19})(?:\.([0-9]{1,30}))?")
# What ext4 can store; a time is nobody's secret, so one beyond is moved and not refused
_EARLIEST, _LATEST = -(1 << 31), (1 << 34) - 1
_MAX_ID = (1 << 32) - 2  # the last one means "leave it as it is" to chown


class Kind(Enum):
    """What a member is; the value is the type flag."""

    FILE = b"0"
    HARD_LINK = b"1"
    SYMLINK = b"2"
    DIRECTORY = b"5"
    FIFO = b"6"


class Header(Struct, frozen=True):
    """The fixed header of a member as it stands, before pax records have their say."""

    path: bytes
    flag: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    target: bytes


class Segment(Struct, frozen=True):
    """A stretch of a sparse file that is data; between them are holes."""

    offset: int
    size: int


class Member(Struct, frozen=True, kw_only=True):
    """One member: `size` is the file's, holes included; `segments` is None where it has none."""

    path: bytes
    kind: Kind
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    target: bytes = b""
    xattrs: dict[bytes, bytes] = {}
    segments: tuple[Segment, ...] | None = None


# Reading


def parse_header(block: bytes) -> Header:
    """Read a fixed header.

    Raises:
        InvalidRequest: it is none.
    """
    if len(block) != BLOCK or _number(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * ord(" "):
        raise refused("a member's header is damaged")
    path = _text(block[0:100])
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else b""
    return Header(
        path=prefix + b"/" + path if prefix else path,
        flag=block[156:157].replace(b"\0", b"0").replace(b"7", b"0"),
        mode=_number(block[100:108]),
        uid=_number(block[108:116]),
        gid=_number(block[116:124]),
        size=_number(block[124:136]),
        mtime=_signed(block[136:148]),
        target=_text(block[157:257]),
    )


def parse_pax(data: bytes) -> dict[bytes, bytes]:
    """Read the records of a pax header.

    Raises:
        InvalidRequest: they are malformed, or one comes twice.
    """
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        length = decimal(data[position:space], "a pax record's length") if space > 0 else 0
        end = position + length
        equals = data.find(b"=", space, end)
        if equals < 0 or end > len(data) or data[end - 1 : end] != b"\n":
            raise refused("a pax header is malformed")
        key = data[space + 1 : equals]
        if key in records:
            raise refused(f"a pax header has {shown(key)} twice")
        records[key] = data[equals + 1 : end - 1]
        position = end
    return records


def xattrs_of(records: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Pick the extended attributes out of pax records."""
    cut = len(XATTR_PREFIX)
    return {key[cut:]: value for key, value in records.items() if key.startswith(XATTR_PREFIX)}


def is_sparse(records: dict[bytes, bytes]) -> bool:
    """Tell whether the records are of a sparse file.

    Raises:
        InvalidRequest: it is so in an older manner, of which readers differ in what they make.
    """
    keys = {key for key in records if key.startswith(_SPARSE_PREFIX)}
    if not keys:
        return False
    if records.get(b"GNU.sparse.major") != b"1" or records.get(b"GNU.sparse.minor") != b"0":
        raise refused("a sparse file is in another format than pax 1.0")
    return True


def decimal(text: bytes, what: str) -> int:
    """Read a decimal number.

    Raises:
        InvalidRequest: it is none, or longer than any that has a use.
    """
    if not _DECIMAL.fullmatch(text):
        raise refused(f"{what} is no number: {shown(text)}")
    return int(text)


def checked_id(number: int, path: bytes) -> int:
    """Return a user or group id that the kernel would take as one.

    Raises:
        InvalidRequest: it would not.
    """
    if not 0 <= number <= _MAX_ID:
        raise refused(f"{shown(path)} belongs to an id that cannot be: {number}")
    return number


def nanoseconds(records: dict[bytes, bytes], header: Header) -> int:
    """Return the time of a member's last change, from its pax record where it has one, within what can be stored.

    Raises:
        InvalidRequest: the record is no time.
    """
    text = records.get(b"mtime")
    if text is None:
        return min(max(header.mtime, _EARLIEST), _LATEST) * 10**9
    match = _TIME.fullmatch(text)
    if match is None:
        raise refused(f"a time is none: {shown(text)}")
    fraction = int((match[2] or b"0")[:9].ljust(9, b"0"))
    whole = int(match[1])
    if not _EARLIEST <= whole <= _LATEST:
        return min(max(whole, _EARLIEST), _LATEST) * 10**9
    return whole * 10**9 + (-fraction if text.startswith(b"-") else fraction)


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    number = _signed(field)
    if number < 0:
        raise refused("a member's header has a negative number")
    return number


def _signed(field: bytes) -> int:
    if field[0] & 0x80:  # base 256, of GNU's making and read by all
        return int.from_bytes(bytes([field[0] & 0x7F | (field[0] & 0x40) << 1]) + field[1:], "big", signed=True)
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise refused("a member's header has a number that is none")
    return int(match[1] or b"0", 8)


# Writing


def header_of(member: Member, stored: int) -> bytes:
    """Return the headers of a member of which `stored` bytes of content follow."""
    records = _records(member)
    written = _fixed(member, member.kind.value, stored)
    if not records:
        return written
    body = b"".join(pax_record(key, value) for key, value in sorted(records.items()))
    carrier = Member(path=b"PaxHeaders/" + member.path.rsplit(b"/", 1)[-1][:80], kind=Kind.FILE)
    return _fixed(carrier, b"x", len(body)) + padded(body) + written


def pax_record(key: bytes, value: bytes) -> bytes:
    """Return one pax record, whose length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


def sparse_map(segments: tuple[Segment, ...]) -> bytes:
    """Return the map that precedes the data of a sparse file."""
    lines = [b"%d\n" % len(segments)]
    lines += [b"%d\n%d\n" % (segment.offset, segment.size) for segment in segments]
    return padded(b"".join(lines))


def padded(data: bytes) -> bytes:
    """Return `data` to the next whole block."""
    return data + bytes(-len(data) % BLOCK)


def _records(member: Member) -> dict[bytes, bytes]:
    records = {XATTR_PREFIX + key: value for key, value in member.xattrs.items()}
    if len(member.path) > 100:
        records[b"path"] = member.path
    if len(member.target) > 100:
        records[b"linkpath"] = member.target
    for key, number in ((b"uid", member.uid), (b"gid", member.gid)):
        if number >= 1 << 21:
            records[key] = b"%d" % number
    if member.mtime_ns % 10**9 or not 0 <= member.mtime_ns < (1 << 33) * 10**9:
        records[b"mtime"] = _time(member.mtime_ns)
    if member.segments is not None:
        records[b"GNU.sparse.major"], records[b"GNU.sparse.minor"] = b"1", b"0"
        records[b"GNU.sparse.name"] = member.path
        records[b"GNU.sparse.realsize"] = b"%d" % member.size
    return records


def _time(nanoseconds: int) -> bytes:
    whole, fraction = divmod(abs(nanoseconds), 10**9)
    sign = b"-" if nanoseconds < 0 else b""
    return b"%b%d.%09d" % (sign, whole, fraction) if fraction else b"%b%d" % (sign, whole)


def _fixed(member: Member, flag: bytes, size: int) -> bytes:
    seconds = member.mtime_ns // 10**9
    fields = (
        member.path[:100].ljust(100, b"\0"),
        b"%07o\0" % member.mode,
        b"%07o\0" % (member.uid if member.uid < 1 << 21 else 0),
        b"%07o\0" % (member.gid if member.gid < 1 << 21 else 0),
        # base 256 where octal digits do not suffice, so that a size never takes another header
        b"%011o\0" % size if size < 1 << 33 else b"\x80" + size.to_bytes(11, "big"),
        b"%011o\0" % (seconds if 0 <= seconds < 1 << 33 else 0),
        b" " * 8,
        flag,
        member.target[:100].ljust(100, b"\0"),
        b"ustar\x0000",
        bytes(64),
        b"%07o\0" * 2 % (0, 0),
    )
    block = b"".join(fields).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
