"""Messages for a namespace's network: sent as the native side sends them, and judged by what connections then do."""

import json
import shutil
import struct
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alcove.egress import netlink
from alcove.egress.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, Message, Network

FAKE = IPv4Network("198.18.0.0/15")
WRITTEN = IPv6Network("2001:db8:7::/48")
RESOLVER = IPv4Address("198.18.0.1")
TCP_PORT, DNS_PORT = 4000, 5300
NFT = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin")

# What runs inside: a sender as simple as the native one, and what a guest may try. Needs nothing that is installed
CHILD = """
import errno, json, os, socket, struct, subprocess, sys
from socket import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_STREAM

steps = [[(protocol, bytes.fromhex(data)) for protocol, data in step] for step in json.load(sys.stdin)]

def send(messages):
    "The error of each datagram, and how many further replies there were."
    return [send_one(protocol, data) for protocol, data in messages]

def send_one(protocol, data):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as to_kernel:
        to_kernel.sendto(data, (0, 0))
        replies = []
        while True:
            try:
                reply = to_kernel.recv(20, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            assert struct.unpack_from("=IH", reply)[1] == 2, "NLMSG_ERROR"
            replies.append(-struct.unpack_from("=i", reply, 16)[0])
        return [errno.errorcode.get(replies[0], 0), len(replies) - 1]

def family(address):
    return AF_INET6 if ":" in address else AF_INET

def listen(address, port, kind=SOCK_STREAM):
    server = socket.socket(family(address), kind)
    server.settimeout(10)
    server.bind((address, port))
    if kind == SOCK_STREAM:
        server.listen()
    return server

def connect(address, port, kind=SOCK_STREAM):
    client = socket.socket(family(address), kind)
    client.settimeout(10)
    client.connect((address, port))
    return client

def outcome(address, port, kind=SOCK_STREAM):
    "How a guest's attempt ends: an errno, or what the other side says."
    try:
        with connect(address, port, kind) as client:
            client.send(b"question")
            return client.recv(100).decode()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))

def original(connection):
    "Where a redirected connection was meant to go: SO_ORIGINAL_DST, IP6T_SO_ORIGINAL_DST."
    if connection.family == AF_INET:
        port, address = struct.unpack_from("!2xH4s", connection.getsockopt(socket.SOL_IP, 80, 16))
    else:
        port, address = struct.unpack_from("!2xH4x16s", connection.getsockopt(socket.IPPROTO_IPV6, 80, 28))
    return [socket.inet_ntop(connection.family, address), port]

def arrives(server, address, port):
    "Where a connection was meant to go that arrives at `server`."
    with connect(address, port):
        connection = server.accept()[0]
        with connection:
            return original(connection)
"""


def inside(
    probe: str, *steps: list[Message], how: tuple[str, ...] = ("-Urn",), wrap: tuple[str, ...] = ()
) -> dict[str, Any]:
    """What `probe` puts into `said`, run in a new net namespace that ends with it; `steps` are there as such."""
    code = f"{CHILD}\nsaid = {{}}\n{probe}\nprint(json.dumps(said))"
    done = subprocess.run(
        ["unshare", *how, *wrap, sys.executable, "-I", "-S", "-c", code],
        input=json.dumps([[(protocol, data.hex()) for protocol, data in step] for step in steps]),
        capture_output=True,
        check=False,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def redirects(*, tcp_port: int = TCP_PORT, ipv6: bool = True) -> Message:
    return netlink.redirects(tcp_port=tcp_port, dns_port=DNS_PORT, resolver=RESOLVER, ipv6=ipv6)


def prepare(*networks: Network, ipv6: bool = True, replace: bool = False) -> list[Message]:
    return netlink.prepare(
        networks, tcp_port=TCP_PORT, dns_port=DNS_PORT, resolver=RESOLVER, ipv6=ipv6, replace=replace
    )


# What is sent, and what the kernel answers


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(("-n",), marks=pytest.mark.root, id="root"),
        pytest.param(("-Urn",), marks=pytest.mark.user, id="user-namespace"),
    ],
)
def test_each_datagram_has_one_reply_and_a_connection_is_redirected(how: tuple[str, ...]) -> None:
    messages = prepare(FAKE, WRITTEN)
    assert [protocol for protocol, _ in messages] == [NETLINK_ROUTE] * 4 + [NETLINK_NETFILTER]
    said = inside(
        """
said["replies"] = send(steps[0])
said["v4"] = arrives(listen("127.0.0.1", 4000), "198.19.3.4", 443)
said["v6"] = arrives(listen("::1", 4000), "2001:db8:7::9", 22)
""",
        messages,
        how=how,
    )
    assert said == {"replies": [[0, 0]] * 5, "v4": ["198.19.3.4", 443], "v6": ["2001:db8:7::9", 22]}


@pytest.mark.user
def test_all_of_it_can_be_sent_again() -> None:
    messages = prepare(FAKE, WRITTEN, replace=True)
    said = inside('said["replies"] = send(steps[0] + steps[0])', messages)
    assert said["replies"] == [[0, 0]] * 10


@pytest.mark.user
def test_tables_that_are_there_are_told_where_they_are_not_to_be_replaced() -> None:
    said = inside('said["replies"] = send(steps[0] + steps[0])', prepare(FAKE))
    *before, (last, _) = said["replies"]
    assert (before, last) == ([[0, 0]] * len(before), "EEXIST")


@pytest.mark.user
@pytest.mark.security
def test_without_the_capability_nothing_is_done() -> None:
    guest = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    probe = 'said["replies"] = send(steps[0])\nsaid["loopback"] = outcome("127.0.0.1", 80)'
    messages = prepare(FAKE)
    assert inside(probe, messages, wrap=guest) == {"replies": [["EPERM", 0]] * 4, "loopback": "ENETUNREACH"}
    assert inside(probe, messages) == {"replies": [[0, 0]] * 4, "loopback": "ECONNREFUSED"}


# Loopback and routes


@pytest.mark.user
def test_loopback_is_down_until_it_is_up() -> None:
    said = inside(
        """
said["down"] = outcome("127.0.0.1", 80)
said["replies"] = send(steps[0])
said["up"] = [outcome("127.0.0.1", 80), outcome("::1", 80)]
""",
        [netlink.loopback_up()],
    )
    assert said == {"down": "ENETUNREACH", "replies": [[0, 0]], "up": ["ECONNREFUSED", "ECONNREFUSED"]}


@pytest.mark.user
@pytest.mark.parametrize(
    ("network", "within", "beyond"),
    [
        ("198.18.0.0/15", "198.19.255.255", "198.20.0.0"),
        ("192.0.2.7/32", "192.0.2.7", "192.0.2.8"),
        ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1"),
        ("2001:db8::5/128", "2001:db8::5", "2001:db8::6"),
    ],
)
def test_a_network_is_local_from_its_route_on_until_it_is_deleted(network: str, within: str, beyond: str) -> None:
    target = ip_network(network)
    said = inside(
        f"""
both = lambda: [outcome({within!r}, 443), outcome({beyond!r}, 443)]
said["replies"] = send(steps[0])
said["before"] = both()
said["replies"] += send(steps[1])
said["routed"] = both()
said["replies"] += send(steps[2])
said["deleted"] = both()
said["missing"] = send(steps[2])
""",
        [netlink.loopback_up()],
        [netlink.add_route(target)],
        [netlink.delete_route(target)],
    )
    assert said == {
        "replies": [[0, 0]] * 3,
        "before": ["ENETUNREACH", "ENETUNREACH"],
        "routed": ["ECONNREFUSED", "ENETUNREACH"],
        "deleted": ["ENETUNREACH", "ENETUNREACH"],
        "missing": [["ESRCH", 0]],
    }


def test_changes_add_before_they_delete_and_leave_the_rest_alone() -> None:
    one, two, three = (ip_network(f"10.{number}.0.0/16") for number in (1, 2, 3))
    added, deleted = netlink.add_route(three), netlink.delete_route(one)
    assert netlink.change_routes([one, two], [two, three, three]) == [added, deleted]
    assert netlink.change_routes([one], [one]) == []


def networks() -> st.SearchStrategy[Network]:
    def network(address: IPv4Address | IPv6Address, length: int) -> Network:
        return ip_network((address, min(length, address.max_prefixlen)), strict=False)

    return st.builds(network, st.ip_addresses(), st.integers(1, 128))


@given(networks())
def test_a_route_is_of_exactly_its_network(network: Network) -> None:
    for (protocol, data), kind in ((netlink.add_route(network), 24), (netlink.delete_route(network), 25)):
        length, found, flags = struct.unpack_from("=IHH", data)
        family, prefix, _, _, table, _, scope, of_kind = data[16:24]
        assert (protocol, length, found, flags & 5) == (NETLINK_ROUTE, len(data), kind, 5)
        assert (table, scope, of_kind, family) == (255, 254, 2, {4: 2, 6: 10}[network.version])
        size, attribute = struct.unpack_from("=HH", data, 28)
        assert (attribute, prefix) == (1, network.prefixlen)
        assert data[32 : 28 + size] == network.network_address.packed


# Redirects


@pytest.mark.user
def test_without_redirects_nobody_answers() -> None:
    said = inside(
        'send(steps[0])\nserver = listen("127.0.0.1", 4000)\nsaid["tcp"] = outcome("198.19.3.4", 443)',
        [netlink.loopback_up(), netlink.add_route(FAKE)],
    )
    assert said == {"tcp": "ECONNREFUSED"}


@pytest.mark.user
def test_servers_of_the_guest_keep_their_ports() -> None:
    said = inside(
        """
send(steps[0])
redirected = listen("127.0.0.1", 4000)
for number, place in enumerate((("127.0.0.1", 443), ("127.9.8.7", 4000), ("::1", 4000))):
    own = listen(*place)
    client = connect(*place)
    said[str(number)] = own.accept()[1] == client.getsockname()
redirected.setblocking(False)
try:
    redirected.accept()
except BlockingIOError:
    said["redirected"] = False
""",
        prepare(FAKE),
    )
    assert said == {"0": True, "1": True, "2": True, "redirected": False}


@pytest.mark.user
def test_questions_to_the_resolver_are_redirected_and_the_answers_come_from_it() -> None:
    said = inside(
        """
send(steps[0])
udp, tcp = listen("127.0.0.1", 5300, SOCK_DGRAM), listen("127.0.0.1", 5300)
asker = connect("198.18.0.1", 53, SOCK_DGRAM)
asker.send(b"question")
question, sender = udp.recvfrom(100)
udp.sendto(b"answer to " + question, sender)
said["udp"] = asker.recv(100).decode()
stranger = socket.socket(AF_INET, SOCK_DGRAM)
stranger.settimeout(10)
stranger.sendto(b"question", ("198.18.0.1", 53))
udp.sendto(b"answer", udp.recvfrom(100)[1])
said["from"] = stranger.recvfrom(100)[1]
said["tcp"] = arrives(tcp, "198.18.0.1", 53)
""",
        prepare(FAKE),
    )
    assert said == {"udp": "answer to question", "from": ["198.18.0.1", 53], "tcp": ["198.18.0.1", 53]}


@pytest.mark.user
@pytest.mark.security
def test_only_questions_to_the_resolver_go_there() -> None:
    said = inside(
        """
send(steps[0])
udp, tcp = listen("127.0.0.1", 5300, SOCK_DGRAM), listen("127.0.0.1", 5300)
general = listen("127.0.0.1", 4000)
said["udp"] = [outcome("198.18.0.2", 53, SOCK_DGRAM), outcome("198.18.0.1", 443, SOCK_DGRAM)]
said["tcp"] = [arrives(general, "198.18.0.2", 53), arrives(general, "198.18.0.1", 54)]
""",
        prepare(FAKE),
    )
    assert said == {"udp": ["ECONNREFUSED"] * 2, "tcp": [["198.18.0.2", 53], ["198.18.0.1", 54]]}


@pytest.mark.user
@pytest.mark.security
def test_what_has_no_route_is_unreachable() -> None:
    said = inside(
        """
send(steps[0])
servers = [listen("127.0.0.1", 4000), listen("::1", 4000)]
for address in ("192.0.2.1", "169.254.169.254", "10.0.0.1", "2001:db8:8::1", "64:ff9b::7f00:1"):
    said[address] = {outcome(address, 80), outcome(address, 53, SOCK_DGRAM)} == {"ENETUNREACH"}
""",
        prepare(FAKE, WRITTEN),
    )
    assert len(said) == 5
    assert all(said.values()), said


@pytest.mark.user
def test_redirects_sent_again_replace_the_old_and_leave_open_connections() -> None:
    said = inside(
        """
send(steps[0])
old, new = listen("127.0.0.1", 4000), listen("127.0.0.1", 4001)
client = connect("198.19.3.4", 443)
server = old.accept()[0]
said["replies"] = send(steps[1])
said["new"] = arrives(new, "198.19.3.4", 443)
client.send(b"still open")
said["old"] = server.recv(100).decode()
""",
        prepare(FAKE),
        [redirects(tcp_port=4001)],
    )
    assert said == {"replies": [[0, 0]], "new": ["198.19.3.4", 443], "old": "still open"}


@pytest.mark.user
def test_a_batch_with_an_error_says_it_first_and_changes_nothing() -> None:
    protocol, data = redirects(tcp_port=4001)
    table, chain, *rules = data.partition(b"output\0")
    broken = table + chain + b"".join(rules).replace(b"output\0", b"outpux\0", 1)
    assert len(broken) == len(data)
    said = inside(
        """
send(steps[0])
servers = [listen("127.0.0.1", 4000), listen("127.0.0.1", 4001)]
said["error"] = send(steps[1])[0][0]
said["still"] = arrives(servers[0], "198.19.3.4", 443)
""",
        prepare(FAKE),
        [(protocol, broken)],
    )
    assert said == {"error": "ENOENT", "still": ["198.19.3.4", 443]}


@pytest.mark.user
def test_ipv6_can_be_left_out() -> None:
    said = inside(
        """
said["replies"] = send(steps[0])
servers = [listen("127.0.0.1", 4000), listen("::1", 4000)]
said["v4"] = arrives(servers[0], "198.19.3.4", 443)
said["v6"] = outcome("2001:db8:7::9", 443)
""",
        prepare(FAKE, WRITTEN, ipv6=False),
    )
    assert said == {"replies": [[0, 0]] * 5, "v4": ["198.19.3.4", 443], "v6": "ECONNREFUSED"}


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none_is_never_cut_to_one(port: int) -> None:
    with pytest.raises(struct.error):
        redirects(tcp_port=port)


LISTED = """
table ip alcove {
    chain output {
        type nat hook output priority -100; policy accept;
        ip daddr 198.18.0.1 udp dport 53 redirect to :5300
        ip daddr 198.18.0.1 tcp dport 53 redirect to :5300
        ip daddr != 127.0.0.0/8 meta l4proto tcp redirect to :4000
    }
}
table ip6 alcove {
    chain output {
        type nat hook output priority -100; policy accept;
        ip6 daddr != ::1 meta l4proto tcp redirect to :4000
    }
}
"""


@pytest.mark.user
@pytest.mark.skipif(NFT is None, reason="needs nft, to read back what the kernel understood")
def test_nft_reads_back_what_was_meant() -> None:
    listing = f'subprocess.run([{NFT!r}, "-y", "list", "ruleset"], check=True, capture_output=True, text=True)'
    said = inside(f'send(steps[0])\nsend(steps[0])\nsaid["rules"] = {listing}.stdout', prepare(FAKE))
    assert said["rules"].split() == LISTED.split()
