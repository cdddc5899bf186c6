"""dial: the conversations that are told on stdin as JSON, many at a time; tells how each went, as JSON.

A conversation has `host` and `port`; `say` is what to send in hex, and what to read up to then (null: nothing, "":
any byte); `pieces` cuts what is sent; `drain` reads to the end afterwards. `kind` is tcp, udp, tls (`sni`), ping or
resolve.
"""

import errno
import json
import socket
import ssl
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

AT_ONCE = 24
PATIENCE = 8.0
MOST = 1 << 20
NO_NAMES = {-2: "EAI_NONAME", -3: "EAI_AGAIN", -4: "EAI_FAIL", -5: "EAI_NODATA"}


def name_of(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return NO_NAMES.get(error.errno or 0, str(error.errno))
    if isinstance(error, ssl.SSLError):
        return f"ssl: {error.reason}"
    if isinstance(error, TimeoutError):
        return "timeout"
    return errno.errorcode.get(error.errno or 0, str(error))


class Conversation:
    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told
        self.got = b""
        self.connected = False
        self.addresses: list[str] = []
        self.took = 0.0

    def hold(self) -> dict[str, Any]:
        error = None
        began = time.monotonic()
        try:
            getattr(self, self.told.get("kind", "tcp"))()
        except OSError as failure:
            error = name_of(failure)
        except (ValueError, UnicodeError, OverflowError) as failure:
            error = f"refused here: {type(failure).__name__}"
        self.took = time.monotonic() - began
        return {
            "error": error,
            "got": self.got.hex(),
            "connected": self.connected,
            "addresses": self.addresses,
            "took": self.took,
        }

    def tcp(self) -> None:
        with self.connect() as end:
            self.converse(end)

    def tls(self) -> None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with self.connect() as end, context.wrap_socket(end, server_hostname=self.told.get("sni")) as secure:
            self.converse(secure)

    def connect(self) -> socket.socket:
        found = self.find(socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        end = socket.socket(family, socket.SOCK_STREAM)
        try:
            end.settimeout(self.told.get("patience", PATIENCE))
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if source := self.told.get("source"):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                end.bind(tuple(source))
            end.connect(address)
        except BaseException:
            end.close()
            raise
        self.connected = True
        return end

    def find(self, kind: int) -> list[Any]:
        family = {"4": socket.AF_INET, "6": socket.AF_INET6}.get(self.told.get("family", ""), 0)
        found = socket.getaddrinfo(self.told["host"], self.told["port"], family, kind)
        self.addresses = sorted({str(entry[4][0]) for entry in found})
        return found

    def resolve(self) -> None:
        self.find(socket.SOCK_STREAM)

    def converse(self, end: socket.socket) -> None:
        for sent, until in self.told.get("say", []):
            data = bytes.fromhex(sent)
            size = self.told.get("pieces") or len(data) or 1
            for at in range(0, len(data), size):
                end.sendall(data[at : at + size])
            if until is not None:
                self.read_until(end, bytes.fromhex(until))
        if self.told.get("drain", True):
            while len(self.got) < MOST and (data := end.recv(65536)):
                self.got += data

    def read_until(self, end: socket.socket, token: bytes) -> None:
        fresh = b""
        while not fresh or token not in fresh:
            data = end.recv(65536)
            if not data:
                return
            fresh += data
            self.got += data

    def udp(self) -> None:
        family, _, _, _, address = self.find(socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as end:
            end.settimeout(self.told.get("patience", 0.5))
            end.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            for sent, _ in self.told["say"]:
                end.sendto(bytes.fromhex(sent), address)
                self.got += end.recvfrom(65536)[0]

    def ping(self) -> None:
        family, _, _, _, address = self.find(socket.SOCK_DGRAM)[0]
        protocol = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
        with socket.socket(family, socket.SOCK_DGRAM, protocol) as end:
            end.settimeout(0.5)
            end.sendto(struct.pack("!BBHHH", 8, 0, 0, 1, 1), address)
            self.got += end.recvfrom(65536)[0]


if __name__ == "__main__":
    told = json.load(sys.stdin)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        json.dump(list(pool.map(lambda one: Conversation(one).hold(), told)), sys.stdout)
