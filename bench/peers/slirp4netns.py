"""slirp4netns: a user-mode network for a namespace, as rootless containers have it. It knows no allow-list."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.contender import Finished, Run, WrongResultError
from bench.origin import Origin, Place
from bench.peers.unshare import Unshare
from bench.processes import descendants
from bench.runtime import Reach, end, first_line

# The address by which slirp4netns passes the host's 127.0.0.1 on
_HOST = "10.0.2.2"
_MTU = 65520


class Slirp4netns(Unshare):
    name = "slirp4netns"
    live_name = ""
    how = f"unshare -Urmpin --fork, slirp4netns --configure --mtu={_MTU}; commands by nsenter; no allow-list"
    joins = False
    reaches = True
    general = False

    def version(self) -> str | None:
        line = first_line(["slirp4netns", "--version"])
        return line.removeprefix("slirp4netns version ") if line else None

    def once(self, workspace: Path | None = None) -> Run:
        def go(command: Sequence[str]) -> Finished:
            with self.live(workspace) as run:
                return run(command)

        return go

    @contextmanager
    def live(self, workspace: Path | None = None) -> Iterator[Run]:
        with self.hold(workspace) as held, _network(min(descendants([held]) - {held})):
            yield self.joined(held, workspace)

    @contextmanager
    def reaching(self, origin: Origin) -> Iterator[Reach]:
        with self.live() as run:
            yield Reach(run, Place(_HOST, origin.loopback.greeting, origin.loopback.http))


@contextmanager
def _network(inside: int) -> Iterator[None]:
    """A slirp4netns for the namespace of the process ``inside``; it ends with our end of the pipe."""
    ready, tell = os.pipe()
    leave, held = os.pipe()
    try:
        argv = ["slirp4netns", "--configure", f"--mtu={_MTU}", f"--ready-fd={tell}", f"--exit-fd={leave}"]
        process = subprocess.Popen(
            [*argv, str(inside), "tap0"],
            pass_fds=(tell, leave),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(tell)
        tell = -1
        with process:
            try:
                if os.read(ready, 1) != b"1":
                    raise WrongResultError("slirp4netns ended before the network was there")
                yield
            finally:
                os.close(held)
                held = -1
                end(process)
    finally:
        for fd in (ready, tell, leave, held):
            if fd >= 0:
                os.close(fd)
