"""NE: the resolver of a session as an attacker uses it; what goes upstream is counted at the nameserver."""

import random
import struct
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.reversename
import pytest

from tests.local import outside
from tests.security.arena import PORT, Arena, address_of, dial, dial_one, log, only, page, talk
from tests.security.cells import Cell
from tests.security.conftest import MakeCell

pytestmark = [pytest.mark.security, pytest.mark.root]

RESOLVER = "198.18.0.1"
FAKE = IPv4Network("198.18.0.0/15")
TYPES = "AAAA MX TXT SRV HTTPS SVCB CAA NS SOA CNAME NAPTR DS DNSKEY SSHFP TLSA URI NULL".split()


@pytest.fixture
def store(arena: Arena) -> Path:
    return arena.store


@pytest.fixture
def configuration(arena: Arena) -> dict[str, Any]:
    return {"egress": arena.config()}


def datagram(query: dns.message.Message, server: str = RESOLVER) -> dict[str, Any]:
    return talk(server, 53, query.to_wire(), kind="udp", patience=5 if server == RESOLVER else 0.3)


def stream(*queries: dns.message.Message | bytes, server: str = RESOLVER) -> dict[str, Any]:
    wires = [query if isinstance(query, bytes) else query.to_wire() for query in queries]
    return talk(server, 53, *((struct.pack("!H", len(wire)) + wire, b"") for wire in wires), drain=False)


def question(name: str, kind: str = "A") -> dns.message.Message:
    return dns.message.make_query(name, kind, use_edns=0)


async def ask(cell: Cell, *questions: dns.message.Message) -> list[dns.message.Message]:
    outcomes = await dial(cell, *map(datagram, questions))
    answers = [dns.message.from_wire(outcome.got) for outcome in outcomes]
    assert all(query.is_response(answer) for query, answer in zip(questions, answers, strict=True))
    return answers


class TestNe06:
    async def test_ne06_a_denied_name_is_never_asked_upstream(self, make_cell: MakeCell, arena: Arena) -> None:
        """No name leaves by a question: nothing is asked at all, of whatever type, before a connection is allowed."""
        cell = await make_cell(**only("web.test", "*.zone.test", f"*.tree.test:{PORT}"))
        names = [
            "other.test",
            "evil.other.test",
            "zone.test",
            "secret-0123456789.evil.test",
            "test",
            "com",
            "www.web.test",
        ]
        with arena.asked(), arena.reached():
            answers = await ask(cell, *(question(name, kind) for name in names for kind in ("A", "AAAA", "TXT", "MX")))
            allowed = await ask(cell, *(question(name) for name in ("web.test", "any.zone.test", "a.b.tree.test")))
        assert {answer.rcode() for answer in answers} == {dns.rcode.NXDOMAIN}
        for answer in answers:
            assert [rrset.rdtype.name for rrset in answer.authority] == ["SOA"]
            assert [option.code for option in answer.options if isinstance(option, dns.edns.EDEOption)] == [15]
        assert {answer.rcode() for answer in allowed} == {dns.rcode.NOERROR}
        assert all(IPv4Address(str(answer.answer[0][0])) in FAKE for answer in allowed)
        record = await _dns_record(cell, "evil.other.test")
        assert "--allow" in record.reason

    async def test_ne06_only_the_connection_that_is_allowed_asks(self, make_cell: MakeCell, arena: Arena) -> None:
        cell = await make_cell(**only(f"*.zone.test:{PORT}"))
        (name,) = arena.publish(arena.nameserver.zones["origin.test"])
        with arena.asked(), arena.reached():
            denied = await dial(cell, *(talk(name, port, (b"", b""), drain=False) for port in (80, 443, PORT + 1)))
        assert all(outcome.refused for outcome in denied)
        with arena.asked(**{name: 2}), arena.reached(origin_test=1):
            assert (await dial_one(cell, talk(name, PORT, (b"", b""), drain=False))).got

    async def test_ne06_other_types_of_an_allowed_name_are_empty(self, make_cell: MakeCell, arena: Arena) -> None:
        """NXDOMAIN would say that the name is not there at all: clients that ask for AAAA first believe it."""
        cell = await make_cell(**only("web.test"))
        with arena.asked():
            answers = await ask(cell, *(question("web.test", kind) for kind in TYPES))
        for answer in answers:
            assert (answer.rcode(), answer.answer) == (dns.rcode.NOERROR, [])
            assert [rrset.rdtype.name for rrset in answer.authority] == ["SOA"]

    async def test_ne06_reverse_names_tell_of_this_session_only(self, make_cell: MakeCell, arena: Arena) -> None:
        cell, other = await make_cell(**only("web.test")), await make_cell(**only("other.test"))
        mine, theirs = await address_of(cell, "web.test"), await address_of(other, "other.test")
        addresses = [str(mine), str(theirs), RESOLVER, arena.web.address, "8.8.8.8", "2001:db8::1"]
        queries = [dns.message.make_query(dns.reversename.from_address(address), "PTR") for address in addresses]
        with arena.asked():
            answers = await ask(cell, *queries)
        assert str(answers[0].answer[0][0]) == "web.test."
        assert {answer.rcode() for answer in answers[1:]} == {dns.rcode.NXDOMAIN}


class TestNe15:
    async def test_ne15_tcp_says_the_same_as_udp(self, make_cell: MakeCell, arena: Arena) -> None:
        cell = await make_cell(**only("web.test"))
        with arena.asked():
            good, bad, many = await dial(
                cell,
                stream(question("web.test")),
                stream(question("other.test")),
                stream(*(question(name) for name in ("web.test", "other.test", "web.test"))),
            )
        assert dns.message.from_wire(good.got[2:]).answer
        assert dns.message.from_wire(bad.got[2:]).rcode() == dns.rcode.NXDOMAIN
        assert len(many.got) > 2 * len(good.got)

    async def test_ne15_other_nameservers_are_not_there(self, make_cell: MakeCell, arena: Arena) -> None:
        """Whatever a guest writes into resolv.conf: a nameserver outside cannot be asked, over UDP or TCP."""
        cell = await make_cell(**only("web.test"))
        servers = [arena.nameserver.address, "8.8.8.8", "9.9.9.9", arena.web.address, *arena.lan]
        with arena.asked(), arena.reached():
            udp = await dial(cell, *(datagram(question("web.test"), server) for server in servers))
            tcp = await dial(cell, *(stream(question("web.test"), server=server) for server in servers))
            outside_port = await dial_one(
                cell, talk(arena.nameserver.address, arena.nameserver.port, b"x", kind="udp", patience=1)
            )
        assert not any(outcome.got for outcome in [*udp, *tcp, outside_port])

    async def test_ne15_garbage_gets_dns_words_or_none(self, make_cell: MakeCell, arena: Arena) -> None:
        cell = await make_cell(**only("web.test"))
        choice = random.Random(15)
        good = question("web.test").to_wire()
        wires = [bytes(size) for size in (0, 1, 11, 12, 13, 512)] + [b"\xff" * 300, good[:-1], good + b"x", good * 30]
        wires += [good[:12] + b"\xc0\x0c" + good[12:], good[:12] + b"\x3f" * 200, good[:4] + b"\xff" * 8 + good[12:]]
        for _ in range(60):
            mutated = bytearray(good)
            for _ in range(choice.randrange(1, 6)):
                mutated[choice.randrange(len(mutated))] = choice.randrange(256)
            wires.append(bytes(mutated))
        with arena.asked():
            outcomes = await dial(cell, *(talk(RESOLVER, 53, wire, kind="udp", patience=0.2) for wire in wires))
            await dial(cell, *(talk(RESOLVER, 53, wire, patience=1) for wire in wires[:20]))
        for outcome in outcomes:
            if outcome.got:
                assert len(outcome.got) <= 512
                assert outcome.got[2] & 0x80  # an answer
        assert (await dial_one(cell, page("web.test"))).got

    async def test_ne15_a_flood_is_bounded(self, make_cell: MakeCell, arena: Arena) -> None:
        """Neither memory nor descriptors nor the log grow with it, and another session is answered meanwhile."""
        cell, other = await make_cell(**only("web.test")), await make_cell(**only("other.test"))
        await dial_one(cell, page("web.test"))
        service = await arena.served()
        before = _memory(service)
        program = (
            "import os, socket, random\n"
            "print('stays', os.getpid(), flush=True)\n"
            "ends = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(64)]\n"
            "tcp = []\n"
            "for _ in range(200):\n"
            "    end = socket.socket(); end.setblocking(False); end.connect_ex(('198.18.0.1', 53)); tcp.append(end)\n"
            "for end in ends: end.setblocking(False); end.connect(('198.18.0.1', 53))\n"
            "head = bytes.fromhex('000001000001000000000000')\n"
            "while True:\n"
            "    for end in ends:\n"
            "        label = os.urandom(15).hex().encode()\n"
            "        name = bytes([30]) + label + bytes.fromhex('04746573740000010001')\n"
            "        try: end.send(os.urandom(2) + head[2:] + name)\n"
            "        except OSError: pass\n"
        )
        flood = await cell.stay_command(["python3", "-c", program])
        with arena.asked(other_test=0), arena.reached(other_test=40):
            for _ in range(4):
                assert all(outcome.got for outcome in await dial(other, *[page("other.test")] * 10))
        await outside.until(lambda: _datagrams(flood.pid) > 5000, "no flood")
        assert _memory(service) - before < 64 << 20
        assert outside_sockets(service) < 400
        assert _size_of_log(cell) < 10 << 20


def _datagrams(pid: int) -> int:
    """Return how many were read in a process' net namespace, as its kernel counts."""
    rows = [line.split() for line in outside.read(pid, "net/snmp").splitlines() if line.startswith("Udp:")]
    return int(dict(zip(*rows, strict=True))["InDatagrams"])


def _size_of_log(cell: Cell) -> int:
    return sum(path.stat().st_size for path in cell.directory.glob("egress.log*"))


def _memory(pid: int) -> int:
    return int(outside.status(pid)["VmRSS"].split()[0]) * 1024


def outside_sockets(pid: int) -> int:
    return sum(name.startswith("socket:") for name in outside.descriptors(pid).values())


async def _dns_record(cell: Cell, name: str) -> Any:
    await outside.until(lambda: log(cell, name, "dns"), f"no record of {name}", 5)
    return log(cell, name, "dns")[0]
