"""What a guest's questions get, whatever their bytes are."""

import socket
import struct
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from alcove.egress.dns_messages import LONGEST_QUERY, NEGATIVE_TTL, TTL
from tests.egress.guest import LONG, Guest, query_wire, values

pytestmark = pytest.mark.user


@pytest.fixture
def guest() -> Guest:
    return Guest()


def has_soa(response: dns.message.Message) -> bool:
    return [(rrset.rdtype, rrset.ttl) for rrset in response.authority] == [(dns.rdatatype.SOA, NEGATIVE_TTL)]


def is_no_data(response: dns.message.Message) -> bool:
    return response.rcode() == dns.rcode.NOERROR and not response.answer and has_soa(response)


def is_no_such_name(response: dns.message.Message) -> bool:
    return response.rcode() == dns.rcode.NXDOMAIN and not response.answer and has_soa(response)


# Names


def test_an_allowed_name_is_its_fake_address(guest: Guest) -> None:
    response = guest.ask("api.example.org")
    assert response.rcode() == dns.rcode.NOERROR
    assert values(response) == [str(guest.pool.address("api.example.org"))]
    assert response.answer[0].ttl == TTL <= 60
    assert response.flags & dns.flags.RA
    assert not response.flags & (dns.flags.TC | dns.flags.AA | dns.flags.AD)
    assert response.edns == 0
    assert response.options == ()
    assert guest.denied == []


def test_every_spelling_of_a_name_is_the_one_name_and_comes_back_as_it_was_spelled(guest: Guest) -> None:
    response = guest.ask("aPi.ExamPle.ORG.")
    assert values(response) == values(guest.ask("api.example.org"))
    assert response.answer[0].name.to_text() == "aPi.ExamPle.ORG."  # clients check that (0x20)
    assert set(guest.looked_up) == {"api.example.org"}
    assert len(guest.pool) == 1


@pytest.mark.parametrize("kind", ["AAAA", "HTTPS", "SVCB", "MX", "TXT", "NS", "SOA", "CNAME", "PTR", "DS", "TYPE65280"])
def test_other_types_of_an_allowed_name_have_no_data(guest: Guest, kind: str) -> None:
    assert is_no_data(guest.ask("api.example.org", kind))
    assert len(guest.pool) == 0
    assert guest.denied == []


@pytest.mark.parametrize("kind", ["A", "AAAA", "TXT", "ANY"])
def test_a_denied_name_does_not_exist_and_is_told_of(guest: Guest, kind: str) -> None:
    response = guest.ask("Evil.Example.org", kind)
    assert is_no_such_name(response)
    (error,) = response.extended_errors()
    assert error.code == dns.edns.EDECode.BLOCKED
    assert guest.denied == [("evil.example.org", "no rule allows it")]
    assert len(guest.pool) == 0


def test_an_extended_error_is_only_for_clients_that_speak_edns(guest: Guest) -> None:
    response = guest.ask("evil.example.org", edns=-1)
    assert is_no_such_name(response)
    assert response.edns == -1
    assert response.extended_errors() == []


def test_any_gets_one_record(guest: Guest) -> None:
    assert values(guest.ask("api.example.org", "ANY")) == values(guest.ask("api.example.org", "A"))
    assert values(guest.ask("localhost", "ANY")) == ["127.0.0.1"]


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST.", "a.b.localhost"])
def test_localhost_is_the_guests_own(guest: Guest, name: str) -> None:
    assert values(guest.ask(name, "A")) == ["127.0.0.1"]
    assert values(guest.ask(name, "AAAA")) == ["::1"]
    assert is_no_data(guest.ask(name, "TXT"))
    assert guest.looked_up == []


def test_the_hosts_name_is_an_address_like_others_if_it_is_allowed(guest: Guest) -> None:
    (address,) = values(guest.ask("host.alcove"))
    assert guest.pool.name(IPv4Address(address)) == "host.alcove"
    assert is_no_such_name(guest.ask("other.alcove"))


def test_the_root_exists_and_has_nothing(guest: Guest) -> None:
    assert is_no_data(guest.ask(".", "NS"))


def test_the_resolver_never_waits_for_anybody(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_socket(*arguments: object, **more: object) -> None:
        raise AssertionError("a question of a guest's went on to somebody")

    monkeypatch.setattr(socket, "socket", no_socket)
    assert is_no_such_name(guest.ask("data-to-take-out.evil.example"))
    assert values(guest.ask("api.example.org"))


# Addresses


def test_a_fake_address_has_its_name_and_no_other_has_one(guest: Guest) -> None:
    address = guest.pool.address("api.example.org")
    reverse = dns.reversename.from_address(str(address))
    assert values(guest.ask(reverse, "PTR")) == ["api.example.org."]
    assert is_no_data(guest.ask(reverse, "TXT"))
    for other in (address + 1, "198.18.0.1", "192.0.2.1", "2001:db8::1"):
        assert is_no_such_name(guest.ask(dns.reversename.from_address(str(other)), "PTR"))
    assert guest.denied == []


def test_loopback_addresses_are_localhost(guest: Guest) -> None:
    for address in ("127.0.0.1", "::1"):
        assert values(guest.ask(dns.reversename.from_address(address), "PTR")) == ["localhost."]


@pytest.mark.parametrize("name", ["18.198.in-addr.arpa", "999.0.18.198.in-addr.arpa", "a.b.c.d.in-addr.arpa"])
def test_half_a_reverse_name_is_a_name_like_others(guest: Guest, name: str) -> None:
    assert is_no_such_name(guest.ask(name, "PTR"))
    assert [denied for denied, _ in guest.denied] == [name]


@pytest.mark.security
def test_a_full_pool_is_a_failure_of_the_server_for_new_names_alone() -> None:
    guest = Guest(limit=1)
    first = values(guest.ask("a.wild.example"))
    response = guest.ask("b.wild.example")
    assert response.rcode() == dns.rcode.SERVFAIL
    (error,) = response.extended_errors()
    assert "1 hosts" in (error.text or "")
    assert [name for name, _ in guest.denied] == ["b.wild.example"]
    assert values(guest.ask("a.wild.example")) == first


# Bad questions


@pytest.mark.security
@pytest.mark.parametrize(
    "labels",
    [
        (b"api.example", b"org"),
        (b"api.example.org",),
        (b"api\0", b"example", b"org"),
        (b"api\n", b"example", b"org"),
        (b"\xe2\x84\xaa", b"example", b"org"),
        (b"127", b"1"),
        (b"0x7f", b"1"),
        (b"2130706433",),
        (b"-a", b"example", b"org"),
        (b"a b", b"wild", b"example"),
        (b"*", b"wild", b"example"),
        (b"\xff" * 63, b"\xff" * 63, b"\xff" * 63, b"\xff" * 61),
    ],
    ids=repr,
)
def test_what_is_no_host_name_does_not_exist_whatever_it_looks_like(guest: Guest, labels: tuple[bytes, ...]) -> None:
    response = guest.ask(dns.name.Name([*labels, b""]))
    assert is_no_such_name(response)
    assert guest.looked_up == []
    ((name, reason),) = guest.denied
    assert name.isascii()
    assert name.isprintable()
    assert len(name) <= 1024
    assert "no host name" in reason


@pytest.mark.parametrize("kind", ["AXFR", "IXFR"])
def test_there_are_no_transfers(guest: Guest, kind: str) -> None:
    assert guest.ask("example.org", kind).rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize("rdclass", ["CH", "HS", "ANY", "NONE"])
def test_other_classes_are_refused(guest: Guest, rdclass: str) -> None:
    query = dns.message.make_query("version.bind", "TXT", rdclass)
    assert guest.send(query).rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize("kind", ["OPT", "TKEY", "MAILA", "TYPE128"])
def test_types_that_are_no_data_are_not_implemented(guest: Guest, kind: str) -> None:
    assert guest.ask("api.example.org", kind).rcode() == dns.rcode.NOTIMP


@pytest.mark.parametrize("opcode", [1, 2, 3, 4, 5, 6, 15])
def test_other_opcodes_are_not_implemented(guest: Guest, opcode: int) -> None:
    wire = bytearray(dns.message.make_query("api.example.org", "A").to_wire())
    wire[2] = (wire[2] & 0x87) | opcode << 3
    answer = guest.answerer.answer(bytes(wire))
    assert answer is not None
    assert len(answer) == 12
    assert (answer[:2], answer[2] >> 3 & 15, answer[3] & 15) == (bytes(wire[:2]), opcode, int(dns.rcode.NOTIMP))


def test_a_later_edns_is_told_which_version_there_is(guest: Guest) -> None:
    response = guest.ask("api.example.org", edns=1)
    assert response.rcode() == dns.rcode.BADVERS
    assert response.edns == 0
    assert response.answer == []


def counts(*numbers: int) -> Callable[[bytes], bytes]:
    return lambda wire: wire[:4] + struct.pack("!HHHH", *numbers) + wire[12:]


@pytest.mark.security
@pytest.mark.parametrize(
    "spoil",
    [
        counts(0, 0, 0, 1),
        counts(2, 0, 0, 1),
        counts(65_535, 0, 0, 1),
        counts(1, 1, 0, 0),
        counts(1, 0, 1, 0),
        counts(1, 0, 0, 2),
        counts(1, 65_535, 65_535, 65_535),
        counts(1, 0, 0, 0),
        lambda wire: wire[:-1],
        lambda wire: wire + b"\0",
        lambda wire: wire[:12],
        lambda wire: wire[:12] + b"\xc0\x0c" + wire[-15:],
        lambda wire: wire[:12] + b"\xc0\x04" + wire[-15:],  # to a zero in the header: the root
        lambda wire: wire[:12] + b"\x40" + wire[13:],
        lambda wire: wire[:12] + b"\x3f" * 300,
        lambda wire: wire + bytes(LONGEST_QUERY),
        lambda wire: wire[:-1] + b"\x04" + b"\0\x0f\0",
        lambda wire: wire[:-11] + b"\1" + wire[-10:],
        lambda wire: wire[:-11] + b"\0\0\1" + wire[-8:],
    ],
)
def test_what_cannot_be_read_is_a_format_error_and_no_name(guest: Guest, spoil: Callable[[bytes], bytes]) -> None:
    wire = query_wire()
    assert guest.answerer.answer(wire) != guest.answerer.answer(spoil(wire))
    assert guest.looked_up == ["api.example.org"]
    guest.looked_up.clear()
    answer = guest.answerer.answer(spoil(wire))
    assert answer is not None
    assert answer[:2] == wire[:2]
    assert answer[3] & 15 == dns.rcode.FORMERR
    assert len(answer) == 12
    assert guest.looked_up == []


@pytest.mark.security
def test_answers_and_scraps_get_silence(guest: Guest) -> None:
    wire = query_wire()
    answer = guest.answerer.answer(wire)
    assert answer is not None
    assert guest.answerer.answer(answer) is None  # two servers would talk for ever
    for length in range(12):
        assert guest.answerer.answer(wire[:length]) is None


@pytest.mark.security
def test_a_signed_question_is_a_format_error(guest: Guest) -> None:
    query = dns.message.make_query("api.example.org", "A")
    query.use_tsig({dns.name.from_text("key."): b"secret"})
    assert guest.send(query).rcode() == dns.rcode.FORMERR


# Sizes


@pytest.mark.parametrize("edns", [-1, 0])
@pytest.mark.parametrize("name", [LONG, f"e{LONG[1:]}", ".".join("e" * 127)])
def test_the_longest_answers_fit_in_what_every_client_takes(guest: Guest, name: str, edns: int) -> None:
    reverse = dns.reversename.from_address(str(guest.pool.address(LONG)))
    for asked, kind in ((name, "A"), (name, "AAAA"), (reverse, "PTR")):
        wire = guest.answerer.answer(dns.message.make_query(asked, kind, use_edns=edns, payload=512).to_wire())
        assert wire is not None
        assert len(wire) <= 512
        response = dns.message.from_wire(wire)
        assert not response.flags & dns.flags.TC
        assert response.payload == (LONGEST_QUERY if edns == 0 else 0)


@pytest.mark.security
def test_a_question_may_be_as_long_as_it_is_told_and_no_longer(guest: Guest) -> None:
    empty = len(
        dns.message.make_query(
            "api.example.org", "A", options=[dns.edns.GenericOption(dns.edns.OptionType.PADDING, b"")]
        ).to_wire()
    )
    for length, rcode in ((LONGEST_QUERY, dns.rcode.NOERROR), (LONGEST_QUERY + 1, dns.rcode.FORMERR)):
        padding = dns.edns.GenericOption(dns.edns.OptionType.PADDING, bytes(length - empty))
        query = dns.message.make_query("api.example.org", "A", options=[padding], payload=4096)
        assert len(query.to_wire()) == length
        assert guest.send(query).rcode() == rcode


def test_options_of_edns_change_nothing(guest: Guest) -> None:
    plain = dns.message.make_query("evil.example", "A", use_edns=0, want_dnssec=True)
    more = dns.message.make_query("evil.example", "A", use_edns=0, want_dnssec=True, options=[dns.edns.NSIDOption(b"")])
    more.id = plain.id
    answer = guest.answerer.answer(more.to_wire())
    assert answer == guest.answerer.answer(plain.to_wire())
    assert answer is not None
    assert dns.message.from_wire(answer).ednsflags == dns.flags.DO  # RFC 3225, 3: it is repeated


# Any bytes

REAL = [
    query_wire(),
    dns.message.make_query("www.wild.example", "AAAA").to_wire(),
    dns.message.make_query("1.0.18.198.in-addr.arpa", "PTR", use_edns=0, want_dnssec=True).to_wire(),
    dns.message.make_query(
        "evil.example",
        "HTTPS",
        use_edns=0,
        options=[dns.edns.ECSOption("192.0.2.0"), dns.edns.CookieOption(b"8" * 8, b"")],
    ).to_wire(),
    dns.message.make_query(LONG, "ANY").to_wire(),
]


def check_any(wire: bytes) -> None:
    """Nothing is raised; an answer is a message of DNS that repeats the id, within what UDP may carry."""
    guest = Guest()
    answer = guest.answerer.answer(wire)
    if answer is None:
        return
    assert answer[:2] == wire[:2]
    assert answer[2] & 0x80
    assert len(answer) <= 512
    if answer[2] >> 3 & 15 == dns.opcode.QUERY:
        for address in values(dns.message.from_wire(answer)):
            assert address in {"127.0.0.1", "::1", "localhost."} or guest.looked_up
    for name in guest.looked_up:
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-.")


@pytest.mark.security
@given(st.binary(max_size=600))
@example(bytes(12))
@example(b"\xff" * 12)
@settings(max_examples=300)
def test_any_bytes_are_answered_or_not_and_never_raise(wire: bytes) -> None:
    check_any(wire)


@pytest.mark.security
@given(
    st.sampled_from(REAL),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255), st.sampled_from("sid")), max_size=6),
)
@settings(max_examples=500)
def test_questions_with_bytes_changed_are_answered_or_not_and_never_raise(
    wire: bytes, changes: list[tuple[int, int, str]]
) -> None:
    spoilt = bytearray(wire)
    for place, value, what in changes:
        at = place % (len(spoilt) + 1)
        spoilt[at : at if what == "i" else at + 1] = b"" if what == "d" else bytes([value])
    check_any(bytes(spoilt))


@pytest.mark.security
@given(st.binary(max_size=300), st.integers(0, 1), st.integers(0, 255), st.integers(0, 255))
@settings(max_examples=300)
def test_any_body_after_a_plausible_header_never_raises(body: bytes, additional: int, kind: int, rest: int) -> None:
    question = b"\x03api\x07example\x03org\0" + struct.pack("!HH", kind, 1)
    opt = b"\0" + struct.pack("!HHIH", 41, 1232, rest, len(body)) + body if additional else body
    check_any(b"\x12\x34\x01\0" + struct.pack("!HHHH", 1, 0, 0, additional) + question + opt)


def worst_queries() -> Iterator[bytes]:
    """Yield the most expensive messages that anybody could make of the longest size."""
    header = b"\x12\x34\x01\0" + struct.pack("!HHHH", 1, 0, 0, 1)
    question = b"\x01a" * 126 + b"\0" + struct.pack("!HH", 1, 1)
    room = LONGEST_QUERY - len(header) - len(question) - 11
    for option in (b"\xfd\xe9\0\0", b"\0\x03\0\0", b"\0\x0f\0\x02\0\0", b"\0\x08\0\x04\0\x01\0\0"):
        options = option * (room // len(option))
        yield header + question + b"\0" + struct.pack("!HHIH", 41, 1232, 0, len(options)) + options
    yield b"\x12\x34\x01\0" + struct.pack("!HHHH", *(65_535,) * 4) + b"\xc0\x0c" * 32_000
    yield header + question[:-4] + b"\xff" * (LONGEST_QUERY - len(header) - len(question))


@pytest.mark.security
def test_no_message_costs_much() -> None:
    guest = Guest()
    guest.ask("api.example.org")
    for wire in worst_queries():
        started = time.process_time()
        guest.answerer.answer(wire)
        assert time.process_time() - started < 0.01
