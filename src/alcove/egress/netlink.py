"""What a session's net namespace needs of the kernel, as netlink messages: bytes only, somebody else sends them.

Each `Message` is one datagram for one socket of its protocol, opened inside the namespace with CAP_NET_ADMIN over it.
The kernel has answered before `sendto` returns, and exactly one message of each datagram asks for an acknowledgement,
the last that does anything. So the sender needs no sequence numbers, no loop and no wait:

    send the datagram; recv(MSG_DONTWAIT) once; a reply is `struct nlmsghdr`, `int error`, and more that may be cut off
    error == 0          done, and no further reply is there
    error < 0           -errno, the first that was met: stop. A batch for nftables has then changed nothing
    EAGAIN, ENOBUFS     the kernel had no memory for its answer: whether it did anything is not known; stop as well

An error comes before the acknowledgement, whichever message of a batch it is about: errors are delivered in the order
of the messages, and those about the batch as a whole before them (net/netfilter/nfnetlink.c, nfnetlink_rcv_batch).

Layouts are from linux/netlink.h, rtnetlink.h, netfilter/nfnetlink.h and netfilter/nf_tables.h.
"""

import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from socket import AF_INET, AF_INET6, AF_UNSPEC, IPPROTO_TCP, IPPROTO_UDP

#: Protocols of AF_NETLINK.
NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

#: The table that holds the redirects, one in each of nftables' families `ip` and `ip6`.
TABLE = "alcove"

#: The protocol, and the datagram.
Message = tuple[int, bytes]
Network = IPv4Network | IPv6Network
# Type, flags, payload
_Part = tuple[int, int, bytes]

_NLMSGHDR = struct.Struct("=IHHII")
_NLATTR = struct.Struct("=HH")
_NLA_F_NESTED = 0x8000
_NLM_F_REQUEST = 0x001
_NLM_F_ACK = 0x004
_NLM_F_REPLACE = 0x100
_NLM_F_EXCL = 0x200
_NLM_F_CREATE = 0x400
_NLM_F_APPEND = 0x800

_RTM_NEWLINK = 16
_RTM_NEWADDR = 20
_RTM_NEWROUTE = 24
_RTM_DELROUTE = 25
_IFINFOMSG = struct.Struct("=BxHiII")
_IFADDRMSG = struct.Struct("=4BI")
_IFA_LOCAL = 2
_RTMSG = struct.Struct("=8BI")
_IFF_UP = 1
_LOOPBACK_IFINDEX = 1  # in every net namespace (include/net/flow.h)
_RT_TABLE_LOCAL = 255
_RTPROT_STATIC = 4
_RT_SCOPE_HOST = 254
_RTN_LOCAL = 2
_RTA_DST = 1
_RTA_OIF = 4

_NFGENMSG = struct.Struct("!BBH")
_NFNL_MSG_BATCH_BEGIN = 16
_NFNL_MSG_BATCH_END = 17
_NFNL_SUBSYS_NFTABLES = 10
_NFT_MSG_NEWTABLE = 0
_NFT_MSG_DELTABLE = 2
_NFT_MSG_NEWCHAIN = 3
_NFT_MSG_NEWRULE = 6
_NFTA_TABLE_NAME = 1
_NFTA_CHAIN_TABLE = 1
_NFTA_CHAIN_NAME = 3
_NFTA_CHAIN_HOOK = 4
_NFTA_CHAIN_TYPE = 7
_NFTA_HOOK_HOOKNUM = 1
_NFTA_HOOK_PRIORITY = 2
_NFTA_RULE_TABLE = 1
_NFTA_RULE_CHAIN = 2
_NFTA_RULE_EXPRESSIONS = 4
_NFTA_LIST_ELEM = 1
_NFTA_EXPR_NAME = 1
_NFTA_EXPR_DATA = 2
_NFTA_DATA_VALUE = 1
_NFTA_META_DREG = 1
_NFTA_META_KEY = 2
_NFTA_PAYLOAD_DREG = 1
_NFTA_PAYLOAD_BASE = 2
_NFTA_PAYLOAD_OFFSET = 3
_NFTA_PAYLOAD_LEN = 4
_NFTA_CMP_SREG = 1
_NFTA_CMP_OP = 2
_NFTA_CMP_DATA = 3
_NFTA_IMMEDIATE_DREG = 1
_NFTA_IMMEDIATE_DATA = 2
_NFTA_REDIR_REG_PROTO_MIN = 1
_NF_INET_LOCAL_OUT = 3
_NF_IP_PRI_NAT_DST = -100
_NFT_META_L4PROTO = 16
_NFT_PAYLOAD_NETWORK_HEADER = 1
_NFT_PAYLOAD_TRANSPORT_HEADER = 2
_NFT_CMP_EQ = 0
_NFT_CMP_NEQ = 1
_NFT_REG_1 = 1

_CHAIN = "output"
_DNS = 53
_DADDR: dict[int, int] = {AF_INET: 16, AF_INET6: 24}  # offset in the header: RFC 791 3.1, RFC 8200 3
# As much of a destination as says that it is the namespace's own, never anybody's outside: 127.0.0.0/8 and ::1
_OWN: dict[int, bytes] = {AF_INET: b"\x7f", AF_INET6: IPv6Address("::1").packed}


def prepare(
    networks: Iterable[Network],
    *,
    tcp_port: int,
    dns_port: int,
    resolver: IPv4Address,
    ipv6: bool = True,
    replace: bool = False,
) -> list[Message]:
    """All that a new namespace needs: `lo`, an address on it, the networks local on it, and what `redirects` makes.

    `ipv6=False` is for a kernel without IPv6; a network of IPv6 among `networks` then fails with the kernel's errno.
    """
    made = redirects(tcp_port=tcp_port, dns_port=dns_port, resolver=resolver, ipv6=ipv6, replace=replace)
    return [loopback_up(), add_address(resolver), *map(add_route, networks), made]


def change_routes(before: Iterable[Network], after: Iterable[Network]) -> list[Message]:
    """From one set of local networks to another: what is new first, so that a failure leaves no hole."""
    old, new = dict.fromkeys(before), dict.fromkeys(after)
    added = [add_route(network) for network in new if network not in old]
    return added + [delete_route(network) for network in old if network not in new]


def loopback_up() -> Message:
    """`ip link set lo up`: the kernel gives it 127.0.0.1 and ::1."""
    link = _IFINFOMSG.pack(AF_UNSPEC, 0, _LOOPBACK_IFINDEX, _IFF_UP, _IFF_UP)
    return NETLINK_ROUTE, _message(_RTM_NEWLINK, _NLM_F_ACK, link)


def add_address(address: IPv4Address) -> Message:
    """`ip address replace ADDRESS/32 dev lo scope host`. Needs `lo` up.

    Where nothing but 127.0.0.1 is configured, the C library finds no IPv4 address of any name for those who ask for
    what is configured only (getaddrinfo(3), AI_ADDRCONFIG with AF_INET).
    """
    place = _IFADDRMSG.pack(AF_INET, 32, 0, _RT_SCOPE_HOST, _LOOPBACK_IFINDEX)
    flags = _NLM_F_CREATE | _NLM_F_REPLACE | _NLM_F_ACK
    return NETLINK_ROUTE, _message(_RTM_NEWADDR, flags, place + _attribute(_IFA_LOCAL, address.packed))


def add_route(network: Network) -> Message:
    """`ip route replace local NETWORK dev lo`: every address in it is the namespace's own. Needs `lo` up."""
    return _route(_RTM_NEWROUTE, _NLM_F_CREATE | _NLM_F_REPLACE, network)


def delete_route(network: Network) -> Message:
    """`ip route del local NETWORK dev lo`; one that is not there is ESRCH."""
    return _route(_RTM_DELROUTE, 0, network)


def _route(kind: int, flags: int, network: Network) -> Message:
    family = AF_INET if isinstance(network, IPv4Network) else AF_INET6
    attributes = (
        _RTMSG.pack(family, network.prefixlen, 0, 0, _RT_TABLE_LOCAL, _RTPROT_STATIC, _RT_SCOPE_HOST, _RTN_LOCAL, 0)
        + _attribute(_RTA_DST, network.network_address.packed)
        + _attribute(_RTA_OIF, struct.pack("=I", _LOOPBACK_IFINDEX))
    )
    return NETLINK_ROUTE, _message(kind, flags | _NLM_F_ACK, attributes)


def redirects(
    *, tcp_port: int, dns_port: int, resolver: IPv4Address, ipv6: bool = True, replace: bool = True
) -> Message:
    """Send what leaves the namespace to ports on its 127.0.0.1 and ::1; one batch, so all of it or none.

    Questions to `resolver`, port 53, go to `dns_port` (UDP and TCP); any other TCP goes to `tcp_port`, except to
    127.0.0.0/8 and ::1. With `replace`, tables that are there are replaced in one step, and connections that are open
    stay as they are; the socket's `close` then waits for an RCU grace period, milliseconds at least (nft_rcv_nl_event
    in net/netfilter/nf_tables_api.c). Without, they are EEXIST.

    What has no route is refused before any rule is asked, and UDP to another port or address meets no rule.
    """
    rules = [_dns_rule(protocol, resolver, dns_port) for protocol in (IPPROTO_UDP, IPPROTO_TCP)]
    messages = [
        *_table(AF_INET, replace=replace),
        *(_rule(AF_INET, rule) for rule in (*rules, _tcp_rule(AF_INET, tcp_port))),
    ]
    if ipv6:
        messages += [*_table(AF_INET6, replace=replace), _rule(AF_INET6, _tcp_rule(AF_INET6, tcp_port))]
    return NETLINK_NETFILTER, _batch(messages)


# What one rule does: expressions over registers, as `nft --debug=netlink` shows them


def _dns_rule(protocol: int, resolver: IPv4Address, port: int) -> bytes:
    return (
        _match_daddr(AF_INET, _NFT_CMP_EQ, resolver.packed)
        + _match_protocol(protocol)
        + _payload(_NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2)
        + _compare(_NFT_CMP_EQ, struct.pack("!H", _DNS))
        + _redirect(port)
    )


def _tcp_rule(family: int, port: int) -> bytes:
    return _match_daddr(family, _NFT_CMP_NEQ, _OWN[family]) + _match_protocol(IPPROTO_TCP) + _redirect(port)


def _match_daddr(family: int, operator: int, leading: bytes) -> bytes:
    return _payload(_NFT_PAYLOAD_NETWORK_HEADER, _DADDR[family], len(leading)) + _compare(operator, leading)


def _match_protocol(protocol: int) -> bytes:
    # not the header's own field: in IPv6 extension headers may stand before TCP's
    meta = _expression("meta", _number(_NFTA_META_DREG, _NFT_REG_1) + _number(_NFTA_META_KEY, _NFT_META_L4PROTO))
    return meta + _compare(_NFT_CMP_EQ, bytes([protocol]))


def _payload(base: int, offset: int, length: int) -> bytes:
    return _expression(
        "payload",
        _number(_NFTA_PAYLOAD_DREG, _NFT_REG_1)
        + _number(_NFTA_PAYLOAD_BASE, base)
        + _number(_NFTA_PAYLOAD_OFFSET, offset)
        + _number(_NFTA_PAYLOAD_LEN, length),
    )


def _compare(operator: int, value: bytes) -> bytes:
    data = _nest(_NFTA_CMP_DATA, _attribute(_NFTA_DATA_VALUE, value))
    return _expression("cmp", _number(_NFTA_CMP_SREG, _NFT_REG_1) + _number(_NFTA_CMP_OP, operator) + data)


def _redirect(port: int) -> bytes:
    data = _nest(_NFTA_IMMEDIATE_DATA, _attribute(_NFTA_DATA_VALUE, struct.pack("!H", port)))
    immediate = _expression("immediate", _number(_NFTA_IMMEDIATE_DREG, _NFT_REG_1) + data)
    return immediate + _expression("redir", _number(_NFTA_REDIR_REG_PROTO_MIN, _NFT_REG_1))


def _expression(name: str, data: bytes) -> bytes:
    return _nest(_NFTA_LIST_ELEM, _text(_NFTA_EXPR_NAME, name) + _nest(_NFTA_EXPR_DATA, data))


# Tables, chains and rules: numbered where they become a batch


def _table(family: int, *, replace: bool) -> list[_Part]:
    name = _text(_NFTA_TABLE_NAME, TABLE)
    hook = _number(_NFTA_HOOK_HOOKNUM, _NF_INET_LOCAL_OUT) + _number(_NFTA_HOOK_PRIORITY, _NF_IP_PRI_NAT_DST)
    chain = (
        _text(_NFTA_CHAIN_TABLE, TABLE)
        + _text(_NFTA_CHAIN_NAME, _CHAIN)
        + _nest(_NFTA_CHAIN_HOOK, hook)
        + _text(_NFTA_CHAIN_TYPE, "nat")
    )
    # made first for its deletion not to fail
    old = [_nftables(_NFT_MSG_NEWTABLE, _NLM_F_CREATE, family, name), _nftables(_NFT_MSG_DELTABLE, 0, family, name)]
    return [
        *(old if replace else []),
        _nftables(_NFT_MSG_NEWTABLE, _NLM_F_CREATE | _NLM_F_EXCL, family, name),
        _nftables(_NFT_MSG_NEWCHAIN, _NLM_F_CREATE, family, chain),
    ]


def _rule(family: int, expressions: bytes) -> _Part:
    place = _text(_NFTA_RULE_TABLE, TABLE) + _text(_NFTA_RULE_CHAIN, _CHAIN)
    payload = place + _nest(_NFTA_RULE_EXPRESSIONS, expressions)
    return _nftables(_NFT_MSG_NEWRULE, _NLM_F_CREATE | _NLM_F_APPEND, family, payload)


def _nftables(kind: int, flags: int, family: int, attributes: bytes) -> _Part:
    return _NFNL_SUBSYS_NFTABLES << 8 | kind, flags, _NFGENMSG.pack(family, 0, 0) + attributes


def _batch(parts: list[_Part]) -> bytes:
    edge = _NFGENMSG.pack(AF_UNSPEC, 0, _NFNL_SUBSYS_NFTABLES)
    kind, flags, payload = parts[-1]
    numbered = enumerate(
        [
            (_NFNL_MSG_BATCH_BEGIN, 0, edge),
            *parts[:-1],
            (kind, flags | _NLM_F_ACK, payload),  # not BATCH_END, which only newer kernels acknowledge
            (_NFNL_MSG_BATCH_END, 0, edge),
        ]
    )
    return b"".join(_message(kind, flags, payload, sequence) for sequence, (kind, flags, payload) in numbered)


# Messages and attributes


def _message(kind: int, flags: int, payload: bytes, sequence: int = 0) -> bytes:
    header = _NLMSGHDR.pack(_NLMSGHDR.size + len(payload), kind, _NLM_F_REQUEST | flags, sequence, 0)
    return header + payload


def _attribute(kind: int, value: bytes) -> bytes:
    return _NLATTR.pack(_NLATTR.size + len(value), kind) + value + bytes(-len(value) % 4)


def _nest(kind: int, attributes: bytes) -> bytes:
    return _attribute(_NLA_F_NESTED | kind, attributes)


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("!i", value))
