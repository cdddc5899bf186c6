"""What runs inside a sandbox in the egress cases: a client that times itself. It needs the standard library alone.

``latency HOST GREETING HTTP COUNT`` and ``download HOST HTTP STREAMS SIZE`` print one JSON object; GREETING 0 leaves
the greetings out.
"""

import json
import socket
import statistics
import sys
import threading
import time

Address = tuple[str, int]

_PIECE = 1 << 20
_SMALL = 1000
_NAMES = 9


def greeting(address: Address) -> float:
    """Seconds from the first packet to the first byte of a server that speaks first."""
    start = time.perf_counter()
    with socket.socket() as connection:
        connection.connect(address)
        if connection.recv(1) != b"+":
            raise SystemExit("no greeting")
        return time.perf_counter() - start


def get(address: Address, name: str, size: int) -> float:
    """Seconds from the first packet to the last byte of a body."""
    buffer = memoryview(bytearray(_PIECE))
    request = f"GET /{size} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()
    start = time.perf_counter()
    with socket.socket() as connection:
        connection.connect(address)
        connection.sendall(request)
        head, got = b"", 0
        while got := connection.recv_into(buffer):
            head += buffer[:got]
            if b"\r\n\r\n" in head:
                break
        status, _, body = head.partition(b"\r\n\r\n")
        left = size - len(body)
        while left > 0 and (got := connection.recv_into(buffer)):
            left -= got
        taken = time.perf_counter() - start
    if left != 0 or not status.startswith(b"HTTP/1.1 200 "):
        raise SystemExit(f"{left} bytes are missing after {status[:80]!r}")
    return taken


def resolved(host: str, port: int) -> tuple[Address, float]:
    """The address, and the seconds that finding it took."""
    start = time.perf_counter()
    found = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)[0][4]
    return (str(found[0]), int(found[1])), time.perf_counter() - start


def latency(host: str, greeting_port: int, http_port: int, count: int) -> dict[str, float]:
    names = [resolved(host, http_port) for _ in range(_NAMES)]
    place = names[0][0][0]
    times = {"get": [get((place, http_port), host, _SMALL) for _ in range(count)]}
    if greeting_port:
        times["connect"] = [greeting((place, greeting_port)) for _ in range(count)]
    if place != host:
        times["resolve"] = [taken for _, taken in names]
    return {name: statistics.median(taken) * 1e3 for name, taken in times.items()}


def download(host: str, http_port: int, streams: int, size: int) -> dict[str, float]:
    address, _ = resolved(host, http_port)
    done: list[float] = []
    threads = [threading.Thread(target=lambda: done.append(get(address, host, size))) for _ in range(streams)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(done) != streams:
        raise SystemExit(f"{len(done)} of {streams} downloads came whole")
    return {"throughput": streams * size / 1e6 / (time.perf_counter() - start)}


def main(mode: str, host: str, *numbers: str) -> None:
    measure = {"latency": latency, "download": download}[mode]
    print(json.dumps(measure(host, *map(int, numbers))))


if __name__ == "__main__":
    main(*sys.argv[1:])
