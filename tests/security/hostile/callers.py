"""callers PATH…: connect to each unix socket, by stream, datagram and sequenced packets, and send to it."""

import glob
import os
import socket
import stat
import sys

from tests.security.hostile.raw import attempt


def call(path: str, kind: int) -> None:
    with socket.socket(socket.AF_UNIX, kind) as end:
        end.settimeout(2)
        end.connect(path)
        end.send(b"from inside")


def is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


if __name__ == "__main__":
    found = [path for pattern in ("/run/**", "/var/run/**", "/tmp/**") for path in glob.glob(pattern, recursive=True)]
    for path in [*sys.argv[1:], *filter(is_socket, found)]:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
            attempt(f"{path}:{kind}", lambda: call(path, kind))  # noqa: B023
