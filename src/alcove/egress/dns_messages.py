"""Messages of DNS as a session's resolver reads and writes them: one question, and at most one record to answer it.

Written here and not by dnspython, whose time for a name grows with the square of its labels: a guest chooses the names,
and every session waits meanwhile.
"""

import struct

import dns.exception
import dns.flags
import dns.name
from dns.edns import EDECode, OptionType
from dns.rcode import Rcode
from dns.rdataclass import RdataClass
from dns.rdatatype import RdataType
from msgspec import Struct

#: Seconds for which a guest may keep an address; it goes on standing for its name after that.
TTL = 60
#: Seconds for which a guest may keep a refusal: a policy that is widened is felt soon.
NEGATIVE_TTL = 5
#: The longest message that is read; what EDNS says of us, so an honest client sends no more.
LONGEST_QUERY = 1232
#: The header of every message: id, flags and four counts.
HEADER = struct.Struct("!HHHHHH")

_QUESTION = struct.Struct("!HH")
_RECORD = struct.Struct("!HHIH")
_OPT = struct.Struct("!BHHBBHH")
_OPTION = struct.Struct("!HHH")
_THE_QUESTIONS_NAME = b"\xc0\x0c"  # a pointer (RFC 1035, 4.1.4)


class Query(Struct, frozen=True):
    """What was asked; `question` as it came, `edns` its version if the client speaks it."""

    ident: int
    flags: int
    question: bytes
    name: dns.name.Name
    kind: int
    rdclass: int
    edns: int | None
    dnssec_ok: int


class Told(Struct, frozen=True):
    """What is said to that: one record, or none of the type or of the name, or an error; and why, in RFC 8914's way."""

    rcode: Rcode = Rcode.NOERROR
    record: tuple[int, bytes] | None = None
    code: EDECode = EDECode.OTHER
    why: str = ""


def read(wire: bytes) -> Query:
    """Read one question and, after it, EDNS's record or nothing. EDNS's options are not looked at: none changes ours.

    Raises:
        dns.exception.DNSException: it is not of that form.
    """
    ident, flags, questions, answers, authorities, additional = HEADER.unpack_from(wire)
    if (questions, answers, authorities) != (1, 0, 0) or additional > 1 or len(wire) > LONGEST_QUERY:
        raise dns.exception.FormError
    name, used = dns.name.from_wire(wire, HEADER.size)
    end = HEADER.size + used + _QUESTION.size
    # a name that is compressed points into the header, since nothing else comes before it
    if end > len(wire) or used != sum(len(label) + 1 for label in name.labels):
        raise dns.exception.FormError
    kind, rdclass = _QUESTION.unpack_from(wire, end - _QUESTION.size)
    edns, dnssec_ok = _read_edns(wire[end:], there=bool(additional))
    return Query(ident, flags, wire[HEADER.size : end], name, kind, rdclass, edns, dnssec_ok)


def _read_edns(rest: bytes, *, there: bool) -> tuple[int | None, int]:
    """EDNS's version, and its flag DO."""
    if not there and not rest:
        return None, 0
    if not there or len(rest) < _OPT.size:
        raise dns.exception.FormError
    root, kind, _, _, version, flags, length = _OPT.unpack_from(rest)
    if root or kind != RdataType.OPT or len(rest) != _OPT.size + length:
        raise dns.exception.FormError
    return version, flags & dns.flags.DO


def header(ident: int, flags: int, rcode: int, *counts: int) -> bytes:
    """The header of an answer; with no counts it is all of an answer to what was not understood."""
    kept = flags & (0x7800 | dns.flags.RD)  # the opcode, and whether recursion was desired
    return HEADER.pack(ident, dns.flags.QR | dns.flags.RA | kept | rcode & 15, *(counts or (0, 0, 0, 0)))


def written(query: Query, told: Told) -> bytes:
    """The answer to a query: at most 512 bytes, so that it fits any client and is never truncated."""
    answer = authority = edns = b""
    if told.record is not None:
        kind, data = told.record
        answer = _THE_QUESTIONS_NAME + _RECORD.pack(kind, RdataClass.IN, TTL, len(data)) + data
    elif told.rcode in {Rcode.NOERROR, Rcode.NXDOMAIN}:
        authority = _SOA
    if query.edns is not None:
        why = told.why.encode()
        option = _OPTION.pack(OptionType.EDE, 2 + len(why), told.code) + why if why else b""
        edns = _OPT.pack(0, RdataType.OPT, LONGEST_QUERY, told.rcode >> 4, 0, query.dnssec_ok, len(option)) + option
    counts = 1, bool(answer), bool(authority), bool(edns)
    return header(query.ident, query.flags, told.rcode, *counts) + query.question + answer + authority + edns


def name_bytes(name: str) -> bytes:
    """A canonical name as DNS writes it."""
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def _soa() -> bytes:
    """The root's, as everything that is refused has it (RFC 2308, 3)."""
    data = name_bytes("resolver.alcove") + name_bytes("nobody.invalid")
    data += struct.pack("!IIIII", 1, 3600, 600, 86_400, NEGATIVE_TTL)
    return b"\0" + _RECORD.pack(RdataType.SOA, RdataClass.IN, NEGATIVE_TTL, len(data)) + data


_SOA = _soa()
