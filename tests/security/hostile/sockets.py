"""sockets: one of every family, type and protocol; stays with those that it got."""

import contextlib
import itertools
import socket

from tests.security.hostile.raw import stay

FAMILIES = range(47)
KINDS = (1, 2, 3, 4, 5, 6, 10)
PROTOCOLS = (0, 1, 6, 12, 15, 16, 17, 33, 58, 132, 136, 255, 262)
HIGH = 1 << 32


def main() -> None:
    kept = []
    for family, kind, protocol in itertools.product(FAMILIES, KINDS, PROTOCOLS):
        with contextlib.suppress(OSError):
            kept.append(socket.socket(family, kind, protocol))
            print(f"{family}:{kind}:{protocol} ok")
            if family not in {1, 16}:
                continue
            kept.pop().close()  # of these, only that they can be had; the host counts the others
    stay()


if __name__ == "__main__":
    main()
