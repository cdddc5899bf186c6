"""NE: what a guest with an allow-list reaches, counted at the listeners and at the nameserver, not by its own word."""

import asyncio
import json
import os
import socket
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

import pytest

from alcove.contract import InvalidRequest, JsonError, Limited, SandboxSpec, from_json
from alcove.local import LocalSandbox, LocalSandboxConfig
from tests.egress.nameserver import alias, in_turn, reply
from tests.security.arena import (
    INTERNAL,
    PORT,
    PORTS,
    Arena,
    address_of,
    dial,
    dial_one,
    get,
    log,
    only,
    page,
    talk,
    told,
    until,
)
from tests.security.conftest import MakeCell
from tests.security.hellos import ECH, SNI, Hello, hello, records, server_names

pytestmark = [pytest.mark.security, pytest.mark.root]

HELLO = (b"", b"")  # say nothing, wait for whatever comes
UNREACHED = {"ENETUNREACH", "EHOSTUNREACH", "ECONNREFUSED", "EADDRNOTAVAIL", "EINVAL", "EACCES", "EPERM", "ENODEV"}

#: What an operator's zone may hold: each name of it at one port.
ZONE = f"*.zone.test:{PORT}"
_HEX = f"{int(IPv4Address(INTERNAL)) >> 16:x}:{int(IPv4Address(INTERNAL)) & 0xFFFF:x}"
#: Where a name may lead to, and what is said of it.
REASONS = {
    f"64:ff9b::{INTERNAL}": f"leads to {INTERNAL}",
    f"64:ff9b:1::{INTERNAL}": f"leads to {INTERNAL}",
    f"2002:{_HEX}::1": f"leads to {INTERNAL}",
    f"2001:0:{_HEX}::1": f"leads to {INTERNAL}",
    "::ffff:169.254.169.254": "metadata",
    "169.254.169.254": "metadata",
    "fd00:ec2::254": "metadata",
    "100.100.100.200": "metadata",
    "10.1.2.3": "private",
    "172.31.0.1": "private",
    "192.168.1.1": "private",
    "100.64.0.1": "carrier",
    "169.254.0.1": "link-local",
    "fe80::1": "link-local",
    "fc00::1": "unique local",
    "224.0.0.1": "multicast",
    "ff02::1": "multicast",
    "255.255.255.255": "broadcast",
    "198.18.1.1": "stand for names",
}


@pytest.fixture
def store(arena: Arena) -> Path:
    return arena.store


@pytest.fixture
def configuration(arena: Arena) -> dict[str, Any]:
    return {"egress": arena.config()}


def banner(name: str, port: int = PORT, **fields: Any) -> dict[str, Any]:
    """Return a conversation that waits for the first bytes of an origin."""
    return talk(name, port, HELLO, drain=False, **fields)


class TestNe01:
    async def test_ne01_an_empty_list_reaches_nothing(self, make_cell: MakeCell, arena: Arena) -> None:
        closed, control = await make_cell(**only()), await make_cell(**only("web.test"))
        targets = [page("web.test"), page(arena.web.address), banner(INTERNAL), banner("origin.test")]
        with arena.reached(), arena.asked():
            assert all(outcome.refused for outcome in await dial(closed, *targets))
        with arena.reached(web_test=1):
            assert b"this is web.test" in (await dial_one(control, page("web.test"))).got

    @pytest.mark.parametrize(
        "entries",
        [["*"], ["*.test"], ["*.co.uk"], ["**"], ["a*.test"], ["web.test", ""], ["http://web.test/"], ["web.test:0"]],
    )
    async def test_ne01_a_list_that_allows_too_much_is_refused_and_the_old_one_stays(
        self, make_cell: MakeCell, arena: Arena, entries: list[str]
    ) -> None:
        cell = await make_cell(**only("web.test"))
        policy = Limited(allowed_hosts=entries)
        with pytest.raises(InvalidRequest):
            await cell.backend.provision(SandboxSpec(network_policy=policy))
        with pytest.raises(InvalidRequest):
            await cell.backend.apply_network_policy(cell.id, policy)
        with arena.reached(web_test=1):
            allowed, denied = await dial(cell, page("web.test"), page("other.test"))
        assert (bool(allowed.got), denied.error) == (True, "EAI_NONAME")

    @pytest.mark.parametrize(
        "policy",
        [
            "null",
            '{"mode":"limited"}',
            '{"mode":"limited","allowed_hosts":null}',
            '{"mode":"open"}',
            "{}",
            "[]",
            '"*"',
            '{"mode":"limited","allowed_hosts":"*"}',
            '{"mode":"limited","allowed_hosts":[null]}',
        ],
    )
    async def test_ne01_what_is_no_policy_is_no_session(self, policy: str) -> None:
        good = json.dumps(
            {"network_policy": {"mode": "limited", "allowed_hosts": []}, "mounts": [], "limits": {}, "labels": {}}
        )
        spec = good.replace('{"mode": "limited", "allowed_hosts": []}', policy)
        assert from_json(good, SandboxSpec).network_policy == Limited(allowed_hosts=[])
        assert spec != good
        with pytest.raises(JsonError):
            from_json(spec, SandboxSpec)


class TestNe02:
    async def test_ne02_no_address_leads_out(self, make_cell: MakeCell, arena: Arena) -> None:
        cell = await make_cell(**only("web.test", f"origin.test:{PORT}"))
        literals = [INTERNAL, *arena.lan, arena.web.address, "169.254.169.254", "100.100.100.200", "192.0.2.1"]
        literals += ["10.0.0.1", "255.255.255.255", "224.0.0.1", "0.0.0.0", "127.0.0.1", "240.0.0.1", "8.8.8.8"]
        literals += ["::1", "::", "fd00:ec2::254", "2001:db8::1", "ff02::1", "fe80::1", "2606:4700::1111"]
        carried = [
            f"::ffff:{INTERNAL}",
            f"::{INTERNAL}",
            f"64:ff9b::{INTERNAL}",
            f"2002:{_HEX}::1",
            f"2001:0:{_HEX}::1",
        ]
        carried += [f"::ffff:{address}" for address in arena.lan if ":" not in address]
        targets = [talk(host, port, HELLO, drain=False) for host in [*literals, *carried] for port in (PORT, 80)]
        with arena.reached(), arena.asked():
            outcomes = await dial(cell, *targets)
        stray = {(t["host"], t["port"]): o for t, o in zip(targets, outcomes, strict=True) if o.connected or o.got}
        assert stray == {}
        assert {outcome.error for outcome in outcomes} <= UNREACHED | {"ECONNRESET"}
        with arena.reached(origin_test=1):
            assert (await dial_one(cell, banner("origin.test"))).got

    @pytest.mark.parametrize(
        "found",
        [INTERNAL, "127.0.0.1", "0.0.0.0", "::1", "::", f"::ffff:{INTERNAL}", f"::{INTERNAL}", "own"],
        ids=["internal", "loopback", "any", "loopback6", "any6", "mapped", "compatible", "own"],
    )
    async def test_ne02_a_name_that_leads_inside_is_not_dialled(
        self, make_cell: MakeCell, arena: Arena, found: str
    ) -> None:
        cell = await make_cell(**only(ZONE, f"origin.test:{PORT}"))
        names = arena.publish(*(reply(each) for each in (arena.lan if found == "own" else [found])))
        with arena.reached(origin_test=1):
            control, *inside = await dial(cell, banner("origin.test"), *map(banner, names))
        assert control.got
        assert {outcome.error for outcome in inside} <= {"ECONNRESET"}
        for name in names:
            assert "egress.allow_addresses" in (await told(cell, name, "")).reason

    async def test_ne02_the_reason_says_what_the_address_is(self, make_cell: MakeCell, arena: Arena) -> None:
        """There is no listener to reach at most of these: what is shown is that the filter refused, not the network."""
        cell = await make_cell(**only(ZONE))
        names = arena.publish(*map(reply, REASONS))
        with arena.reached():
            outcomes = await dial(cell, *map(banner, names))
        assert {outcome.error for outcome in outcomes} == {"ECONNRESET"}
        for name, (address, why) in zip(names, REASONS.items(), strict=True):
            record = await told(cell, name, why)
            assert ip_address(record.address) == ip_address(address)
            assert "not reached" not in record.reason

    async def test_ne02_mixed_answers_reach_the_open_one_only(self, make_cell: MakeCell, arena: Arena) -> None:
        cell = await make_cell(**only(ZONE))
        mixed = (INTERNAL, "127.0.0.1", arena.origin.place.address, f"::ffff:{INTERNAL}", "::1")
        names = arena.publish(*[reply(*mixed)] * 5)
        with arena.reached(origin_test=5):
            for outcome in await dial(cell, *map(banner, names)):
                assert b"speaks first" in outcome.got

    async def test_ne02_an_alias_into_the_inside_is_not_dialled(self, make_cell: MakeCell, arena: Arena) -> None:
        cell = await make_cell(**only(ZONE))
        (inside,) = arena.publish(reply(INTERNAL))
        (further,) = arena.publish(alias(inside))
        bad, good = arena.publish(alias(further), alias("origin.test"))
        with arena.reached(origin_test=1):
            refused, control = await dial(cell, banner(bad), banner(good))
        assert (refused.error, bool(control.got)) == ("ECONNRESET", True)

    async def test_ne02_an_address_that_changes_is_checked_each_time(self, make_cell: MakeCell, arena: Arena) -> None:
        """Rebinding: good and bad answers in turn; what is dialled is what was checked."""
        cell = await make_cell(**only(ZONE))
        good, bad = reply(arena.origin.place.address, ttl=0), reply(INTERNAL, ttl=0)
        names = arena.publish(*[in_turn(good, bad), in_turn(bad, good)] * 10)
        with arena.reached(origin_test=10):
            outcomes = await dial(cell, *map(banner, names))
        assert [bool(outcome.got) for outcome in outcomes] == [True, False] * 10
        before, served = arena.counts(), 0
        while arena.nameserver.count(names[0], "A") < 3:  # an answer is kept for a second, whatever its zone says
            outcome = await dial_one(cell, banner(names[0]))
            assert outcome.got or outcome.error == "ECONNRESET"
            served += bool(outcome.got)
        assert arena.counts() == before | {"origin.test": before["origin.test"] + served}


class TestNe03:
    @pytest.mark.parametrize(
        "command",
        [
            ["env", "-i", "/usr/bin/curl", "-s", "--noproxy", "*", "--max-time", "10"],
            ["env", "http_proxy=http://127.0.0.1:1", "no_proxy=*", "curl", "-s", "--max-time", "10"],
        ],
        ids=["none", "misled"],
    )
    async def test_ne03_no_variable_decides(self, make_cell: MakeCell, arena: Arena, command: list[str]) -> None:
        cell = await make_cell(**only("web.test"))
        with arena.reached(web_test=1), arena.asked(web_test=0):
            allowed = await cell.run(*command, "http://web.test/")
            denied = await cell.run(*command, "http://other.test/")
            literal = await cell.run(*command, f"http://{arena.other.address}/")
        assert allowed.stdout == "this is web.test\n"
        assert (denied.exit_code, literal.exit_code) == (6, 7)

    async def test_ne03_a_bare_socket_is_no_way_around(self, make_cell: MakeCell, arena: Arena) -> None:
        """An empty environment, no resolver, no library: an address of an allowed server, a port that is not listed."""
        cell = await make_cell(**only("web.test"))
        program = (
            "import socket, sys\n"
            "for port in map(int, sys.argv[1].split(',')):\n"
            "    for address in sys.argv[2:]:\n"
            "        end = socket.socket()\n"
            "        print(end.connect_ex((address, port)) and 'no', flush=True)\n"
        )
        addresses = [arena.web.address, arena.origin.place.address, *arena.lan[:1], INTERNAL]
        with arena.reached(), arena.asked():
            result = await cell.run(
                "env", "-i", "/usr/bin/python3", "-c", program, f"80,443,{PORT}", *filter(_is_v4, addresses)
            )
        assert set(result.stdout.split()) == {"no"}, result


def _is_v4(address: str) -> bool:
    return ":" not in address


_A, _B, _C, _D = INTERNAL.split(".")
_NUMBER = int(IPv4Address(INTERNAL))
SPELLINGS = f"""
{INTERNAL} {_A}.{_B}.{int(_C) << 8 | int(_D)} {int(_A):#x}.{_B}.{_C}.{_D} {_NUMBER:#x} {_NUMBER} {INTERNAL}.
{INTERNAL}.. 0{int(_A):o}.0{int(_B):o}.{_C}.{_D} [{INTERNAL}] 127.0.0.1 127.1 0x7f.1 2130706433 0177.0.0.1 0 0.0.0.0
[::1] ::1 [::ffff:7f00:1] [::ffff:{INTERNAL}] [fe80::1%lo] [fe80::1%25lo] localhost LOCALHOST localhost.
localhost.localdomain ip6-localhost {INTERNAL}.nip.test 127.0.0.1%00web.test web.test.. .web.test web.test%00.other.test
other.test web.test@other.test web.test#other.test web.test,other.test web%2etest web。test ｗｅｂ.test web.test:443
web.test:81 web.test:080080 web.test: 1.2.3.4 host.alcove *.test * -
""".split()
#: Those that are no other way to write the name itself
WRONG = [spelling for spelling in SPELLINGS if spelling != "web.test:"]


class TestNe04:
    async def test_ne04_no_spelling_of_a_host_leads_elsewhere(self, make_cell: MakeCell, arena: Arena) -> None:
        """As what is dialled, as Host, as the target, and as TLS's server name; at an allowed name's address."""
        cell = await make_cell(**only("web.test", f"origin.test:{PORT}"))
        bare = [spelling.strip("[]") for spelling in SPELLINGS]
        dialled = [talk(host, port, HELLO, drain=False, patience=2) for host in bare for port in (*PORTS, PORT)]
        hosts = [talk("web.test", 80, get(spelling)) for spelling in WRONG]
        absolute = [spelling for spelling in WRONG if "#" not in spelling]  # behind it comes no part of a host
        targets = [talk("web.test", 80, get("web.test", f"http://{spelling}/")) for spelling in absolute]
        names = [
            talk("web.test", 443, (hello(None).having(server_names(spelling.encode())).wire(), b""), drain=False)
            for spelling in SPELLINGS
            if spelling != "web.test:"
        ]
        with arena.reached():
            for attempts in (dialled, hosts, targets, names):
                outcomes = await dial(cell, *attempts)
                served = [told["host"] for told, outcome in zip(attempts, outcomes, strict=True) if outcome.got]
                assert served == []
                if attempts is not dialled:
                    assert {outcome.error for outcome in outcomes} == {"ECONNRESET"}

    async def test_ne04_one_form_is_meant_by_all_good_ones(self, make_cell: MakeCell, arena: Arena) -> None:
        cell = await make_cell(**only("WEB.test"))
        good = ["web.test", "WEB.TEST", "web.test.", "Web.Test:80"]
        with arena.reached(web_test=6):
            outcomes = await dial(cell, *(talk("web.test", 80, get(host)) for host in good))
            outcomes += await dial(cell, page("WEB.test."), talk("web.test", 80, get("web.test", "http://web.test/")))
        assert all(b"this is" in outcome.got for outcome in outcomes)

    async def test_ne04_an_address_is_allowed_where_it_is_written_out(
        self, make_cell: MakeCell, store: Path, arena: Arena
    ) -> None:
        """An address of this host, since the harness has no other, which the operator has opened for one of two."""
        opened = LocalSandbox(LocalSandboxConfig(root_dir=str(store), egress=arena.config(*arena.lan)))
        try:
            for address in arena.lan:
                entry = f"[{address}]:{PORT}" if ":" in address else f"{address}:{PORT}"
                cell, closed = await make_cell(by=opened, **only(entry)), await make_cell(**only(entry))
                others = [
                    banner(INTERNAL),
                    banner("origin.test"),
                    banner("2001:db8::1"),
                    talk(address, PORT + 1, HELLO),
                ]
                before = arena.counts()
                control, *denied = await dial(cell, banner(address), *others)
                denied.append(await dial_one(closed, banner(address)))
                assert b"220" in control.got
                assert all(outcome.refused for outcome in denied), denied
                place = f"forbidden {(address, PORT)}"
                assert arena.counts() == before | {place: before[place] + 1}
                await cell.close()
        finally:
            await opened.aclose()


class TestNe06:
    async def test_ne06_a_wildcard_is_what_is_below_it(self, make_cell: MakeCell, arena: Arena) -> None:
        address = arena.origin.place.address
        names = ["tree.test", "leaf.tree.test", "far.leaf.tree.test", "xtree.test", "tree.test.test"]
        arena.nameserver.zones.update(dict.fromkeys(names, reply(address)))
        cell = await make_cell(**only(f"*.tree.test:{PORT}"))
        with arena.asked():
            resolved = await dial(cell, *({"kind": "resolve", "host": name, "port": 1} for name in names))
        assert [outcome.error for outcome in resolved] == ["EAI_NONAME", None, None, "EAI_NONAME", "EAI_NONAME"]
        with arena.reached(origin_test=2), arena.asked(leaf_tree_test=2, far_leaf_tree_test=2):
            assert [bool(outcome.got) for outcome in await dial(cell, *map(banner, names))] == [
                False, True, True, False, False,
            ]  # fmt: skip


def tls(message: Hello | bytes, name: str = "web.test", port: int = 443, **fields: Any) -> dict[str, Any]:
    """Return a conversation that says a hello and waits for whatever comes."""
    return talk(name, port, (message if isinstance(message, bytes) else message.wire(), b""), drain=False, **fields)


class TestNe07:
    async def test_ne07_only_the_name_that_was_resolved(self, make_cell: MakeCell, arena: Arena) -> None:
        """`other.test` is allowed too, and even so it is not reached by the address of `web.test`."""
        cell = await make_cell(**only("web.test", "other.test"))
        good = hello("web.test")
        twice = good.having(server_names(b"other.test"))
        inner = good.named(b"other.test").having((ECH, bytes(200)))
        bad: list[Hello | bytes] = [
            good.named(b"other.test"), good.named(b"evil.test"), good.named(b"sub.web.test"), good.named(b"web.test\0"),
            good.named(b"web.test", b"other.test"), good.named(b"other.test", b"web.test"), good.named(b""), twice,
            good.without(SNI), good.named(b"127.0.0.1"), good.named(b"xn--web-.test"), good.named("wéb.test".encode()),
            inner, good.named(b"web.test.."), good.named(b"a" * 16_000),
            good.without(SNI).having((SNI, b"")), good.without(SNI).having((SNI, b"\0\3\1\0\0")),
            records(good.message() + hello("other.test").message()),
            b"\x16\x03\x01\x00\x05" + good.message()[:4] + b"\x03" + good.wire()[5:],
            b"\x80\x2e\x01\x03\x01" + bytes(80), b"\x15\x03\x01\x00\x02\x01\x00" + good.wire(),
            b"\x14\x03\x03\x00\x01\x01" + good.wire(), b"\x16\x03\x01\x00\x00" + good.wire(),
            b"\x16\x03\x01\xff\xff" + bytes(66_000), b"\x16\x02\x00" + good.wire()[3:],
            good.padded(65_000).wire(100),
            b"GET / HTTP/1.1\r\nHost: web.test\r\n\r\n", b"SSH-2.0-x\r\n", b"\0", b"EHLO web.test\r\n",
        ]  # fmt: skip
        with arena.reached():
            outcomes = await dial(cell, *map(tls, bad))
        assert [number for number, outcome in enumerate(outcomes) if outcome.error != "ECONNRESET"] == []

    async def test_ne07_a_good_hello_passes_however_it_is_cut(self, make_cell: MakeCell, arena: Arena) -> None:
        cell = await make_cell(**only("web.test"))
        good = hello("web.test")
        whole = [
            tls(good), tls(good, pieces=1), tls(good.wire(1)), tls(good.wire(3), pieces=7),
            tls(good.padded(16_000).wire(1000)), tls(good.padded(60_000).wire()),
            tls(good.having((ECH, bytes(200)))), tls(good.named(b"WEB.TEST")),
        ]  # fmt: skip
        with arena.reached(web_test=len(whole) + 1):
            outcomes = await dial(cell, *whole, page("web.test", 443, kind="tls", sni="web.test"))
        assert [outcome.got[:1] for outcome in outcomes] == [
            *(b"\x16" if message["say"][0][0] else b"" for message in whole), b"H",
        ]  # fmt: skip
        assert set(arena.web.hellos) <= {"web.test", "WEB.TEST"}

    async def test_ne07_tls_on_80_and_http_on_443_are_refused(self, make_cell: MakeCell, arena: Arena) -> None:
        cell = await make_cell(**only("web.test"))
        with arena.reached():
            outcomes = await dial(cell, tls(hello("web.test"), port=80), page("web.test", 443))
        assert [outcome.error for outcome in outcomes] == ["ECONNRESET"] * 2
        await told(cell, "web.test", "no TLS on this port")

    async def test_ne07_an_opaque_origin_that_is_asked_in_tls_must_be_meant(
        self, make_cell: MakeCell, arena: Arena
    ) -> None:
        cell = await make_cell(**only(f"origin.test:{PORT}"))
        good = hello("origin.test")
        bad: list[Hello | bytes] = [
            good.named(b"second.test"),
            good.wire(1)[:6] + good.named(b"second.test").wire(1)[6:],
            good.named(b"a", b"b"),
        ]
        quiet = await make_cell(**only(f"quiet.test:{PORT}"))
        before = len(arena.quiet.received)
        refused = await dial(quiet, *(tls(each, "quiet.test", PORT) for each in bad))
        assert [outcome.error for outcome in refused] == ["ECONNRESET"] * 3
        assert list(arena.quiet.received)[before:] == []  # the server may have been reached; no byte of the hello was
        passed = await dial_one(cell, tls(good, "origin.test", PORT))
        assert passed.got
        until(lambda: b"\x16\x03\x01" in b"".join(arena.origin.received))


def http(*requests: bytes | tuple[bytes, bytes | None], **fields: Any) -> dict[str, Any]:
    return talk("web.test", 80, *requests, **fields)


FIRST = get("web.test", last=False)
SECOND = get("other.test")
CHUNKED = "Transfer-Encoding: chunked"


class TestNe08:
    async def test_ne08_each_request_names_its_own_host(self, make_cell: MakeCell, arena: Arena) -> None:
        """What is refused at once: before the server is even dialled."""
        cell = await make_cell(**only("web.test", "other.test"))
        line = b"GET / HTTP/1.1\r\n"
        bad = [
            SECOND, get("web.test", "http://other.test/"), get("other.test", "http://web.test/"),
            get("web.test", "https://web.test/"),
            get("web.test", "/", "Host: other.test"), get("web.test", "/", "Host: web.test"),
            get("web.test", "/", "host : other.test"), get("web.test", "/", " folded: yes"), get("web.test:443"),
            line + b"Host: web.test\r\n other.test\r\n\r\n", line + b"\r\n", line + b"Host:\r\n\r\n",
            b"GET / HTTP/1.0\r\n\r\n", b"GET /\r\n\r\n", b"GET http://other.test/ HTTP/1.0\r\n\r\n",
            b"GET / HTTP/1.1\nHost: web.test\n\n", line + b"Host: web.test\n\r\n",
            line + b"Host: web.test\rHost: other.test\r\n\r\n", line + b"Host: web.test\0\r\n\r\n",
            b"CONNECT other.test:80 HTTP/1.1\r\nHost: web.test\r\n\r\n",
            b"CONNECT web.test:80 HTTP/1.1\r\nHost: web.test\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
            get("web.test", "/", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQ"),
            get("web.test", "/", "Upgrade: TLS/1.0", last=False), get("web.test", "/", "Connection: host"),
            get("web.test", "/", "Content-Length: 5", CHUNKED),
            get("web.test", "/", "Content-Length: 5", "Content-Length: 6"),
            get("web.test", "/", "Content-Length: +5"), get("web.test", "/", "Content-Length: 0x5"),
            get("web.test", "/", "Transfer-Encoding: xchunked"),
            get("web.test", "/", "Transfer-Encoding: chunked, identity"),
            get("web.test", "/", "Transfer_Encoding: chunked"), get("web.test", "/", "Transfer-Encoding : chunked"),
            get("web.test", "/", "X: " + "a" * 70_000), get("web.test", "/", *["X: y"] * 200),
            b"\r\n" + FIRST, b" " + FIRST, b"GET  / HTTP/1.1\r\nHost: web.test\r\n\r\n", b"G\xc9T / HTTP/1.1\r\n\r\n",
            b"OPTIONS other.test:80 HTTP/1.1\r\nHost: web.test\r\n\r\n", get("web.test", "*"),
        ]  # fmt: skip
        with arena.reached():
            outcomes = await dial(cell, *map(http, bad))
            cut = await dial(cell, *(http(each, pieces=1) for each in bad if len(each) < 200))
        assert [bad[n] for n, outcome in enumerate(outcomes) if outcome.error != "ECONNRESET"] == []
        assert {outcome.error for outcome in cut} == {"ECONNRESET"}

    @pytest.mark.parametrize(
        "second",
        [
            SECOND,
            get("web.test", "http://other.test/"),
            b"CONNECT other.test:443 HTTP/1.1\r\nHost: web.test\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            get("web.test", "/websocket", "Upgrade: websocket", "Connection: Upgrade", last=False),
        ],
        ids=["host", "absolute", "connect", "hostless", "h2c", "upgrade"],
    )
    async def test_ne08_a_later_request_is_looked_at_as_well(
        self, make_cell: MakeCell, arena: Arena, second: bytes
    ) -> None:
        """On a connection that is kept, behind a body, behind chunks, and in the same segment."""
        cell = await make_cell(**only("web.test", "other.test"))
        body = b"POST /upload HTTP/1.1\r\nHost: web.test\r\nContent-Length: 5\r\n\r\nhello"
        chunks = b"POST /upload HTTP/1.1\r\nHost: web.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        before = len(arena.web.requests)
        outcomes = await dial(
            cell,
            http((FIRST, b"this is web.test\n"), second),
            http((body, b"sha256"), second),
            http((chunks, b"sha256"), second),
            http((body + second, b"never")),
            http((FIRST, b"this is web.test\n"), second, pieces=1),
        )
        assert {outcome.error for outcome in outcomes} == {"ECONNRESET"}
        assert [outcome.got.count(b"HTTP/1.1 200") for outcome in outcomes[:3]] == [1, 1, 1]
        seen = list(arena.web.requests)[before:]
        assert {(request.method, request.path) for request in seen} <= {("GET", "/"), ("POST", "/upload")}
        assert {host for request in seen for host in request.hosts} == {"web.test"}
        assert {request.target for request in seen} <= {"/", "/upload"}
        control = await dial_one(cell, http((FIRST, b"this is web.test\n"), get("web.test")))
        assert control.got.count(b"this is web.test") == 2

    async def test_ne08_what_is_smuggled_never_becomes_a_request(self, make_cell: MakeCell, arena: Arena) -> None:
        cell = await make_cell(**only("web.test"))
        hidden = b"GET /hidden HTTP/1.1\r\nHost: other.test\r\n\r\n"
        head = b"POST /upload HTTP/1.1\r\nHost: web.test\r\n"
        size = f"Content-Length: {len(hidden)}\r\n".encode()
        bad = [
            head + size + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
            head + b"Transfer-Encoding: chunked\r\n" + size + b"\r\n0\r\n\r\n" + hidden,
            head + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n" + hidden,
            head + b"Transfer-Encoding:\x0bchunked\r\n" + size + b"\r\n" + hidden,
            head + b"Transfer-Encoding: chunked\r\n\r\n0;ext=\n" + hidden,
            head + b"Transfer-Encoding: chunked\r\n\r\n0\r\nHost: other.test\r\n\r\n" + hidden,
            head + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" + hidden,
            head + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff0\r\n" + hidden,
            head + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n" + hidden,
            head + b"Content-Length: 0, 5\r\n\r\n" + hidden,
            head + b"Content-Length: 0\r\ncontent-length: 44\r\n\r\n" + hidden,
            b"GET / HTTP/1.1\r\nHost: web.test\r\n" + size + b"\r\n" + hidden,
        ]
        await dial(cell, *(http(each, patience=2) for each in bad))
        await dial(cell, *(http(each, pieces=1, patience=2) for each in bad))
        assert [request for request in arena.web.requests if request.path == "/hidden"] == []
        framed = await dial_one(cell, http(head + size + b"Connection: close\r\n\r\n" + hidden))
        assert json.loads(framed.got.partition(b"\r\n\r\n")[2])["length"] == len(hidden)  # the control: as a body


class TestNe09:
    async def test_ne09_connect_is_no_proxy_and_an_inner_name_is_not_believed(
        self, make_cell: MakeCell, arena: Arena
    ) -> None:
        cell = await make_cell(**only("web.test"))
        connect = b"CONNECT web.test:443 HTTP/1.1\r\nHost: web.test:443\r\n\r\n"
        inner = hello("other.test").wire()
        with arena.reached():
            outcomes = await dial(
                cell,
                http((connect, b""), inner),
                http(connect + inner),
                talk("web.test", 443, connect + inner),
                tls(hello("other.test")),
            )
        assert [outcome.error for outcome in outcomes] == ["ECONNRESET"] * 4


class TestNe14:
    async def test_ne14_an_address_that_stands_for_nothing_is_refused(self, make_cell: MakeCell, arena: Arena) -> None:
        cell = await make_cell(**only("web.test", f"origin.test:{PORT}"))
        known = {await address_of(cell, "web.test"), await address_of(cell, "origin.test")}
        issued = int(max(known))
        near = [IPv4Address(issued + step) for step in (1, 2, 3, -5, 256)]
        strange = [*near, *map(IPv4Address, ("198.18.0.1", "198.18.0.0", "198.18.0.2", "198.19.255.255", "198.18.1.0"))]
        targets = [
            talk(str(each), port, HELLO, drain=False)
            for each in strange
            if each not in known
            for port in (*PORTS, PORT)
        ]
        with arena.reached(), arena.asked():
            outcomes = await dial(cell, *targets)
        assert {outcome.error for outcome in outcomes} <= {"ECONNRESET", "ECONNREFUSED", "EACCES"}
        assert not any(outcome.got for outcome in outcomes)
        reasons = {record.reason for record in log(cell) if not record.name}
        assert reasons == {"an address that stands for no name here"}

    async def test_ne14_an_address_of_another_session_is_refused(self, make_cell: MakeCell, arena: Arena) -> None:
        """Both sessions may reach the name; but what was told to one means nothing in the other."""
        first, second = await make_cell(**only(f"origin.test:{PORT}")), await make_cell(**only(f"origin.test:{PORT}"))
        theirs = str(await address_of(second, "origin.test"))
        with arena.reached():
            assert (await dial_one(first, banner(theirs))).error == "ECONNRESET"
        with arena.reached(origin_test=1):
            assert (await dial_one(second, banner(theirs))).got

    async def test_ne14_only_listed_ports(self, make_cell: MakeCell, arena: Arena) -> None:
        cell = await make_cell(**only("web.test", f"origin.test:{PORT}"))
        web = (1, 2, 22, 53, 79, 81, 442, 444, 853, 3128, 8080, 8443, PORT, 65535)
        denied = [talk("web.test", port, HELLO, drain=False) for port in web]
        denied += [talk("origin.test", port, HELLO, drain=False) for port in (*PORTS, PORT - 1, PORT + 1)]
        with arena.reached(web_test=1, origin_test=1), arena.asked(web_test=0, origin_test=0):
            outcomes = await dial(cell, *denied)
            control = await dial(cell, page("web.test"), banner("origin.test"))
        assert {outcome.error for outcome in outcomes} == {"ECONNRESET"}
        assert all(outcome.got for outcome in control)
        assert f"--allow web.test:{PORT}" in (await told(cell, "web.test", f":{PORT}")).reason

    async def test_ne14_nothing_but_tcp_and_the_sessions_own_resolver(self, make_cell: MakeCell, arena: Arena) -> None:
        cell = await make_cell(**only("web.test"))
        listeners = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
        addresses = [arena.web.address, INTERNAL, "127.0.0.1"]
        for listener, address in zip(listeners, addresses, strict=True):
            listener.setblocking(False)
            listener.bind((address, 443))
        allowed = str(await address_of(cell, "web.test"))
        initial = b"\xc0\0\0\0\1" + bytes(1195)
        hosts = ["web.test", allowed, *addresses, arena.nameserver.address, "8.8.8.8", "255.255.255.255", "ff02::1"]
        ports = (443, 53, 123, arena.nameserver.port)
        with arena.reached(), arena.asked():
            outcomes = await dial(
                cell,
                *(talk(host, port, initial, kind="udp") for host in hosts for port in ports),
                *({"kind": "ping", "host": host, "port": 0} for host in hosts),
            )
        got = [listener.recv for listener in listeners]
        for receive in got:
            with pytest.raises(BlockingIOError):
                receive(1)
        listeners[0].sendto(b"control", (addresses[1], 443))
        assert listeners[1].recv(10) == b"control"
        for listener in listeners:
            listener.close()
        assert not any(outcome.got for outcome in outcomes)


HIJACK = """
import json, os, socket, sys, threading
def serve(end):
    while True:
        try:
            if end.type == socket.SOCK_STREAM:
                end.accept()[0].close()
            else:
                end.recvfrom(512)
        except OSError:
            return
got = []
for address in ("127.0.0.1", "0.0.0.0", "::", "::1", "198.18.0.1", sys.argv[1], "127.0.0.53"):
    for port in (1, 2, 53, 80, 443, int(sys.argv[2])):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            end = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                end.setsockopt(socket.SOL_SOCKET, option, 1)
            try:
                end.bind((address, port))
                if kind == socket.SOCK_STREAM:
                    end.listen()
            except OSError:
                continue
            got.append([address, port, kind.name])
            threading.Thread(target=serve, args=(end,), daemon=True).start()
print("stays", os.getpid(), flush=True)
print(json.dumps(got), flush=True)
threading.Event().wait()
"""


class TestNe15:
    async def test_ne15_taking_ports_of_the_namespace_gives_nothing(self, make_cell: MakeCell, arena: Arena) -> None:
        """Every port that matters is taken by the guest first; what is allowed goes on, what is not stays away."""
        cell, other = await make_cell(**only("web.test", f"origin.test:{PORT}")), await make_cell(**only("web.test"))
        address = str(await address_of(cell, "origin.test"))
        await cell.stay_command(["python3", "-c", HIJACK, address, str(PORT)])
        with arena.reached(web_test=2, origin_test=1):
            allowed = await dial(cell, page("web.test"), banner("origin.test"))
            denied = await dial(cell, page("other.test"), banner("web.test"), banner("second.test"), banner(INTERNAL))
            theirs = await dial_one(other, page("web.test"))
        assert all(outcome.got for outcome in allowed)
        assert theirs.got
        assert not any(outcome.got for outcome in denied)

    async def test_ne15_the_services_own_ports_lead_nowhere(self, make_cell: MakeCell, arena: Arena) -> None:
        """Whoever dials the listener itself was not redirected, so there is nothing that was meant."""
        cell = await make_cell(**only("web.test", f"origin.test:{PORT}"))
        await address_of(cell, "origin.test")
        targets = [talk(host, 1, HELLO, drain=False) for host in ("127.0.0.1", "::1", "127.0.0.1", "::ffff:127.0.0.1")]
        targets += [talk("127.0.0.1", 1, get("web.test")), tls(hello("web.test"), "127.0.0.1", 1)]
        targets += [talk("127.0.0.2", 1, HELLO, drain=False)]
        with arena.reached(), arena.asked():
            outcomes = await dial(cell, *targets)
        assert {outcome.error for outcome in outcomes} <= {"ECONNRESET", "ECONNREFUSED"}
        await told(cell, "", "not redirected")

    async def test_ne15_own_resolvers_and_files_do_not_change_what_an_address_means(
        self, make_cell: MakeCell, arena: Arena
    ) -> None:
        cell = await make_cell(**only(f"origin.test:{PORT}", f"second.test:{PORT}"))
        origin, second = str(await address_of(cell, "origin.test")), str(await address_of(cell, "second.test"))
        hosts = f"{origin} evil.test second.test\\n{INTERNAL} origin.test\\n{arena.web.address} web.test\\n"
        await cell.sh(f"printf '{hosts}' > /etc/hosts; echo nameserver {arena.nameserver.address} > /etc/resolv.conf")
        with arena.reached(origin_test=2, second_test=1), arena.asked(origin_test=0, second_test=0):
            outcomes = await dial(
                cell, banner(origin), banner(origin), banner(second), banner(INTERNAL), page(arena.web.address),
            )  # fmt: skip
        assert [bool(outcome.got) for outcome in outcomes] == [True, True, True, False, False]
        records = [record for record in log(cell) if record.allowed]
        assert {(record.name, record.address) for record in records} == {
            ("origin.test", arena.origin.place.address), ("second.test", arena.second.place.address),
        }  # fmt: skip

    async def test_ne15_a_source_port_that_was_used_before_is_another_connection(
        self, make_cell: MakeCell, arena: Arena
    ) -> None:
        """What the kernel remembers of one connection says nothing of the next from the same port."""
        cell = await make_cell(**only(f"origin.test:{PORT}", f"second.test:{PORT}"))
        names = ["origin.test", "second.test"] * 6
        source = ["127.0.0.1", 40_001]
        served = []
        for name in names:
            outcome = await dial_one(
                cell, talk(name, PORT, (b"", b""), (name.encode(), name.encode()), drain=False, source=source)
            )
            served.append(outcome.got.count(name.encode()) if outcome.got else None)
        assert served.count(1) >= 2
        assert b"second.test" not in b"".join(arena.origin.received)
        assert b"origin.test" not in b"".join(arena.second.received)


class TestNe16:
    async def test_ne16_nothing_of_the_hosts_answers(self, make_cell: MakeCell, arena: Arena) -> None:
        """Its loopback by name and address, its own addresses, its abstract sockets, the service's own socket."""
        abstract = f"alcove-test-{os.getpid()}"
        with socket.socket(socket.AF_UNIX) as listener, socket.create_server(("127.0.0.1", 0)) as service:
            listener.bind("\0" + abstract)
            listener.listen()
            listener.setblocking(False)
            service.setblocking(False)
            port = service.getsockname()[1]
            cell = await make_cell(**only("web.test", "host.alcove:1", f"*.nip.test:{port}"))
            (name,) = arena.publish(reply("127.0.0.1"))
            arena.nameserver.zones["127-0-0-1.nip.test"] = reply("127.0.0.1")
            hosts = ["localhost", socket.gethostname(), "host.alcove", "127-0-0-1.nip.test", "127.0.0.1", "::1", name]
            with arena.reached():
                outcomes = await dial(cell, *(talk(host, port, HELLO, drain=False) for host in [*hosts, *arena.lan]))
            assert not any(outcome.got for outcome in outcomes)
            with pytest.raises(BlockingIOError):
                service.accept()
            script = (
                "import os, socket, sys\n"
                "for path in sys.argv[1:]:\n"
                "    end = socket.socket(socket.AF_UNIX)\n"
                "    print(end.connect_ex(path.replace('@', chr(0))), flush=True)\n"
                "try:\n    socket.socket(40, socket.SOCK_STREAM); print('vsock')\nexcept OSError: print('no')\n"
                "print(sum('egress.sock' in files for _, _, files in os.walk('/')))\n"
            )
            paths = [f"@{abstract}", str(arena.store / "egress.sock"), f"/proc/1/root{arena.store}/egress.sock"]
            said = (await cell.run("python3", "-c", script, *paths)).stdout.split()
            assert "0" not in said[:3], said
            assert said[3:] == ["no", "0"]
            with pytest.raises(BlockingIOError):
                listener.accept()
            # the controls: what is written out is reached, from the same session; the sockets can be reached
            await cell.backend.apply_network_policy(cell.id, Limited(allowed_hosts=[f"host.alcove:{port}"]))
            assert (await dial_one(cell, talk("host.alcove", port, drain=False))).connected
            await _accepted(service)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect("\0" + abstract)
                listener.accept()[0].close()
            assert arena.service is not None


async def _accepted(listener: socket.socket) -> None:
    connection, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(listener), 10)
    connection.close()


class TestNe17:
    async def test_ne17_a_session_is_the_socket_it_came_in_on(self, make_cell: MakeCell, arena: Arena) -> None:
        """Neither names nor headers nor addresses make a session another one."""
        first, second = (
            await make_cell(**only("web.test")),
            await make_cell(**only("other.test", f"origin.test:{PORT}")),
        )
        theirs = str(await address_of(second, "other.test"))
        origin = str(await address_of(second, "origin.test"))
        mine = str(await address_of(first, "web.test"))
        forged = [f"X-Session: {second.id}", f"Proxy-Authorization: Basic {second.id}", "Forwarded: for=198.18.0.1"]
        with arena.reached(), arena.asked():
            outcomes = await dial(
                first, page("other.test"), banner("origin.test"), talk(theirs, 80, get("other.test")), banner(origin),
                talk(mine, 80, get("other.test", "/", *forged)), tls(hello("other.test"), mine),
                talk("127.0.0.1", 1, get("other.test", "/", *forged)),
            )  # fmt: skip
        assert not any(outcome.got for outcome in outcomes)
        with arena.reached(web_test=1, other_test=1, origin_test=1):
            assert (await dial_one(first, talk(mine, 80, get("web.test", "/", *forged)))).got
            assert (await dial_one(second, page("other.test"))).got
            assert (await dial_one(second, banner("origin.test"))).got
        assert {record.session for record in log(first)} == {first.id}
        assert {record.session for record in log(second)} == {second.id}

    async def test_ne17_a_relay_of_the_guests_own_changes_nothing(self, make_cell: MakeCell, arena: Arena) -> None:
        """A server inside the namespace that forwards is still the same session's."""
        cell = await make_cell(**only("web.test"))
        relay = (
            "import socket, threading, os\n"
            "server = socket.create_server(('127.0.0.1', 8080))\n"
            "print('stays', os.getpid(), flush=True)\n"
            "while True:\n"
            "    end, _ = server.accept()\n"
            "    line = end.recv(65536)\n"
            "    host = line.split()[1].decode()\n"
            "    out = socket.socket(); out.settimeout(5)\n"
            "    try:\n"
            "        out.connect((socket.gethostbyname(host), 80)); out.sendall(line.partition(b'\\n')[2])\n"
            "        while data := out.recv(65536): end.sendall(data)\n"
            "    except OSError: pass\n"
            "    end.close()\n"
        )
        await cell.stay_command(["python3", "-c", relay])
        with arena.reached(web_test=1):
            control = await dial_one(cell, talk("127.0.0.1", 8080, b"CONNECT web.test\n" + get("web.test")))
            denied = await dial_one(cell, talk("127.0.0.1", 8080, b"CONNECT other.test\n" + get("other.test")))
            fronted = await dial_one(cell, talk("127.0.0.1", 8080, b"CONNECT web.test\n" + get("other.test")))
        assert b"this is web.test" in control.got
        assert (denied.got, fronted.got) == (b"", b"")


class TestNe18:
    async def test_ne18_redirects_are_the_guests_to_follow(self, make_cell: MakeCell, arena: Arena) -> None:
        cell = await make_cell(**only("web.test"))
        inside = [f"http://{INTERNAL}/", "http://other.test/", "http://localhost/", "http://169.254.169.254/latest/"]
        with arena.reached(web_test=len(inside)):
            outcomes = await dial(cell, *(talk("web.test", 80, get("web.test", f"/redirect?to={to}")) for to in inside))
            for to, outcome in zip(inside, outcomes, strict=True):
                assert f"location: {to}".encode() in outcome.got.lower()
        with arena.reached(web_test=1):
            result = await cell.run("curl", "-sL", "--max-time", "10", "http://web.test/redirect?to=http://other.test/")
        assert result.exit_code == 6

    async def test_ne18_other_protocols_pass_only_where_a_port_is_written(
        self, make_cell: MakeCell, arena: Arena
    ) -> None:
        cell = await make_cell(**only("web.test", f"origin.test:{PORT}"))
        spoken = [
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"EHLO x\r\n",
            b"USER x\r\n",
            b"\x12\1\0\x2f\0\0\1\0",
            b"\x03\0\0\x13\x0e\xe0",
            b"*1\r\n$4\r\n",
        ]
        with arena.reached(origin_test=len(spoken)):
            web = await dial(cell, *(talk("web.test", port, words) for words in spoken for port in PORTS))
            opaque = await dial(cell, *(talk("origin.test", PORT, (b"", b""), (w, w[:2]), drain=False) for w in spoken))
        assert {outcome.error for outcome in web} == {"ECONNRESET"}
        assert all(b"speaks first" in outcome.got for outcome in opaque)

    async def test_ne18_an_answer_without_an_end_is_passed_as_it_is(self, make_cell: MakeCell, arena: Arena) -> None:
        cell = await make_cell(**only("web.test"))
        outcome = await dial_one(cell, talk("web.test", 80, get("web.test", "/until-close?size=300000")))
        assert len(outcome.got.partition(b"\r\n\r\n")[2]) == 300_000
