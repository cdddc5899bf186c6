"""halfopen HOST PORT COUNT: as many connections that never say a word. Stays with them."""

import select
import socket
import sys

from tests.security.hostile.raw import stay


def main(host: str, port: str, count: str) -> None:
    kept = []
    for _ in range(int(count)):
        end = socket.socket()
        end.setblocking(False)
        end.connect_ex((host, int(port)))
        kept.append(end)
    poll = select.poll()
    for end in kept:
        poll.register(end, select.POLLOUT)
    waiting = {end.fileno() for end in kept}
    while waiting and (ready := poll.poll(5000)):
        for fd, _ in ready:
            waiting.discard(fd)
            poll.unregister(fd)
    print("open", len(kept) - len(waiting), flush=True)
    stay()


if __name__ == "__main__":
    main(*sys.argv[1:])
