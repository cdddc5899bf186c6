"""Nameservers as they are written, and answers of theirs as bytes: whatever they are, reading them ends soon."""

import struct
import time
from collections.abc import Iterator
from contextlib import suppress

import dns.exception
import dns.message
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alcove.contract import InvalidRequest
from alcove.egress.upstream import MOST_RECORDS, _cut_down, _response
from alcove.egress.upstream import server as read_server

pytestmark = pytest.mark.user


@pytest.mark.parametrize(
    ("spelled", "meant"),
    [
        ("192.0.2.53", ("192.0.2.53", 53)),
        ("192.0.2.53:5353", ("192.0.2.53", 5353)),
        ("2001:db8::53", ("2001:db8::53", 53)),
        ("[2001:DB8::53]:5353", ("2001:db8::53", 5353)),
        ("[fe80::1%eth0]:53", ("fe80::1%eth0", 53)),
    ],
)
def test_nameservers_as_they_are_spelled(spelled: str, meant: tuple[str, int]) -> None:
    assert read_server(spelled) == meant


@pytest.mark.parametrize(
    "spelled",
    [
        "",
        "dns.example.org",
        "192.0.2.53:",
        "192.0.2.53:0",
        "192.0.2.53:65536",
        "192.0.2.53:5 3",
        "[192.0.2.53]:53",
        "[2001:db8::53]",
        "[::1]:x",
        "192.0.2.53:٥٣",
        "192.0.2.053",
        "tcp://192.0.2.53",
        "192.0.2.53\n",
    ],
)
def test_a_nameserver_that_is_none_is_refused_with_the_way_to_write_it(spelled: str) -> None:
    with pytest.raises(InvalidRequest, match=r"\[2001:db8::53\]:5353"):
        read_server(spelled)


# Answers

REQUEST = dns.message.make_query("www.example.org", "A")
REQUEST.id = 0x1234


def real_answers() -> Iterator[bytes]:
    answer = dns.message.make_response(REQUEST)
    yield answer.to_wire()
    answer.answer.append(dns.rrset.from_text("www.example.org.", 60, "IN", "CNAME", "a.cdn.example."))
    answer.answer.append(dns.rrset.from_text("a.cdn.example.", 60, "IN", "A", "192.0.2.1", "192.0.2.2"))
    yield answer.to_wire()
    answer.authority.append(dns.rrset.from_text("example.org.", 9, "IN", "SOA", "ns.a. root.a. 1 2 3 4 5"))
    answer.additional.append(dns.rrset.from_text("ns.a.", 9, "IN", "AAAA", "2001:db8::1"))
    answer.use_edns(0)
    yield answer.to_wire()


REAL = list(real_answers())


def test_the_answer_to_the_request_is_read_and_no_other() -> None:
    for wire in REAL:
        assert _response(REQUEST, wire) is not None
        assert _response(REQUEST, b"\x12\x35" + wire[2:]) is None
        assert _response(REQUEST, wire.replace(b"\x03www", b"\x03wwx", 1)) is None
        assert _response(REQUEST, wire[:2] + bytes([wire[2] & 0x7F]) + wire[3:]) is None
    assert _response(REQUEST, REQUEST.to_wire()) is None


def test_aliases_and_addresses_are_kept_and_what_comes_after_them_is_not_read() -> None:
    response = _response(REQUEST, REAL[-1])
    assert response is not None
    assert {f"{rrset.name} {record}" for rrset in response.answer for record in rrset} == {
        "www.example.org. a.cdn.example.",
        "a.cdn.example. 192.0.2.1",
        "a.cdn.example. 192.0.2.2",
    }
    assert response.authority == response.additional == []


@pytest.mark.security
@given(
    st.sampled_from(REAL),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255), st.sampled_from("sid")), max_size=6),
)
@settings(max_examples=500)
def test_answers_with_bytes_changed_are_read_or_not_and_never_raise(
    wire: bytes, changes: list[tuple[int, int, str]]
) -> None:
    spoilt = bytearray(wire)
    for place, value, what in changes:
        at = place % (len(spoilt) + 1)
        spoilt[at : at if what == "i" else at + 1] = b"" if what == "d" else bytes([value])
    with suppress(dns.message.Truncated):
        _response(REQUEST, bytes(spoilt))


@pytest.mark.security
@given(st.binary(max_size=300), st.integers(0, 300), st.integers(0, 2), st.sampled_from([1, 254, 255, 3]))
@settings(max_examples=300)
def test_records_of_any_bytes_are_read_or_not_and_never_raise(
    data: bytes, kind: int, section: int, rdclass: int
) -> None:
    numbers = [0, 0, 0]
    numbers[section] = 1
    header = b"\x12\x34\x81\x80" + struct.pack("!HHHH", 1, *numbers)
    record = b"\xc0\x0c" + struct.pack("!HHIH", kind, rdclass, 60, len(data)) + data
    with suppress(dns.message.Truncated):
        _response(REQUEST, header + REQUEST.to_wire()[12:] + record)


QUESTION = b"\x01a" * 126 + b"\0" + struct.pack("!HH", 1, 1)
NAME = b"\xc0\x0c"  # a pointer to 126 labels


def answer_of(kind: int, data: bytes, *, counts: tuple[int, ...] | None = None) -> bytes:
    """The longest message of records with one long name, each of them with `data`."""
    record = NAME + struct.pack("!HHIH", kind, 1, 60, len(data)) + data
    number = (65_535 - 12 - len(QUESTION)) // len(record)
    return b"\x12\x34\x81\x80" + struct.pack("!HHHH", *(counts or (1, number, 0, 0))) + QUESTION + record * number


@pytest.mark.security
@pytest.mark.parametrize(("kind", "kept"), [(1, MOST_RECORDS), (5, 16), (39, 16), (2, 0), (46, 0)])
def test_so_many_records_are_read_and_no_more(kind: int, kept: int) -> None:
    numbers = struct.unpack_from("!HHHH", _cut_down(answer_of(kind, NAME, counts=(1, 4000, 4000, 4000))), 4)
    assert numbers == (1, kept, 0, 0)


@pytest.mark.security
@pytest.mark.parametrize(
    "wire",
    [
        answer_of(1, b"\xc0\0\2\1"),
        answer_of(5, NAME),
        answer_of(39, NAME),
        answer_of(2, NAME),
        answer_of(2, NAME, counts=(1, 0, 4000, 0)),
        answer_of(2, NAME, counts=(1, 0, 0, 4000)),
        b"\x12\x34\x81\x80" + struct.pack("!HHHH", 10_000, 0, 0, 0) + QUESTION + (NAME + bytes(4)) * 9999,
        answer_of(6, NAME * 2 + bytes(20)),
        answer_of(55, b"\0\1\0\0" + NAME * 30_000),
        answer_of(5, b"\x01" * 60_000),
    ],
    ids="a cname dname ns authority additional questions soa hip labels".split(),
)
def test_no_answer_costs_much(wire: bytes) -> None:
    request = dns.message.make_query("a." * 126, "A")
    request.id = 0x1234
    with suppress(dns.exception.DNSException):
        _response(request, answer_of(5, NAME)[:400])  # imports what reading takes
    started = time.process_time()
    _response(request, wire)
    assert time.process_time() - started < 0.15
