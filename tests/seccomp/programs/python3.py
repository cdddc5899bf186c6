"""What a Python program asks of the kernel: processes, threads, loops, sockets, files."""

import asyncio
import concurrent.futures
import hashlib
import multiprocessing
import os
import socket
import sqlite3
import ssl
import subprocess
import tempfile
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"served")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Nothing: standard error is compared."""


async def run_echo() -> tuple[str, int]:
    process = await asyncio.create_subprocess_exec("echo", "asynchronous", stdout=subprocess.PIPE)
    return (await process.communicate())[0].decode().strip(), await process.wait()


def serve_and_fetch() -> bytes:
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{server.server_port}") as answer:
            body = bytes(answer.read())
        server.shutdown()
    return body


def use_database(directory: str) -> list[object]:
    database = sqlite3.connect(f"{directory}/db")
    said = [*database.execute("pragma journal_mode=wal"), *database.execute("select 1")]
    database.close()
    return said


def main() -> None:
    print(subprocess.run("echo piped | cat", shell=True, capture_output=True, text=True, check=True).stdout)
    for method in ("fork", "spawn", "forkserver"):  # fork before there are threads
        with multiprocessing.get_context(method).Pool(2) as pool:
            print(pool.map(abs, [-1, -2, -3]))
    print(asyncio.run(run_echo()))
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        print(sum(threads.map(len, ["a", "bc"])))
    print(serve_and_fetch())
    print(socket.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)[0][4], bool(socket.if_nameindex()))
    print(ssl.create_default_context().verify_mode, hashlib.sha256(b"").hexdigest())
    with tempfile.TemporaryDirectory() as directory:
        print(use_database(directory))
    left, right = socket.socketpair()
    socket.send_fds(left, [b"x"], [0])
    print(len(socket.recv_fds(right, 1, 1)[1]))
    print(len(os.getrandom(8)), os.memfd_create("x") > 0, os.pidfd_open(os.getpid()) > 0, bool(os.sched_getaffinity(0)))


if __name__ == "__main__":
    main()
