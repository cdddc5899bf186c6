"""network: changes to the network and to sockets that only an administrator may make. Stays afterwards."""

import ctypes
import os
import socket
import struct

from tests.security.hostile.raw import attempt, stay

NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE = 1, 4, 0x400
RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE = 16, 20, 24
SO_ATTACH_BPF, SO_MARK, SO_BINDTODEVICE, TCP_ULP = 50, 36, 25, 31


def ask(kind: int, body: bytes) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as end:
        end.settimeout(5)
        head = struct.pack("=IHHII", 16 + len(body), kind, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, 1, 0)
        end.send(head + body)
        error = struct.unpack_from("=i", end.recv(4096), 16)[0]
        if error:
            raise OSError(-error, os.strerror(-error))


def attribute(kind: int, value: bytes) -> bytes:
    size = 4 + len(value)
    return struct.pack("=HH", size, kind) + value + bytes(-size % 4)


def new_link() -> None:
    ask(RTM_NEWLINK, bytes(16) + attribute(3, b"hostile0\0") + attribute(18, attribute(1, b"dummy")))


def new_address() -> None:
    local = socket.inet_aton("10.9.8.7")
    ask(RTM_NEWADDR, struct.pack("=BBBBi", 2, 32, 0, 0, 1) + attribute(2, local) + attribute(1, local))


def new_route() -> None:
    route = struct.pack("=BBBBBBBBI", 2, 24, 0, 0, 254, 3, 0, 1, 0)
    ask(RTM_NEWROUTE, route + attribute(1, socket.inet_aton("10.9.9.0")) + attribute(4, struct.pack("=i", 1)))


def connected() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0))
    return socket.create_connection(listener.getsockname())


def down() -> None:
    import fcntl

    with socket.socket() as end:
        fcntl.ioctl(end, 0x8914, struct.pack("16sh14x", b"lo", 0))


if __name__ == "__main__":
    end = connected()
    attempt("link", new_link)
    attempt("address", new_address)
    attempt("route", new_route)
    attempt("down", down)
    attempt("ulp", lambda: end.setsockopt(socket.SOL_TCP, TCP_ULP, b"tls"))
    attempt("bpf", lambda: end.setsockopt(socket.SOL_SOCKET, SO_ATTACH_BPF, 0))
    attempt("mark", lambda: end.setsockopt(socket.SOL_SOCKET, SO_MARK, 1))
    attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
    attempt("packet", lambda: socket.socket(17, socket.SOCK_RAW, 3))
    attempt("netfilter", lambda: socket.socket(16, socket.SOCK_RAW, 12))
    attempt("xfrm", lambda: socket.socket(16, socket.SOCK_RAW, 6))
    attempt("low-port", lambda: socket.create_server(("127.0.0.1", 80)))
    ctypes.CDLL(None)
    stay()
