"""nodes: device nodes made everywhere, and devices of the host opened. Stays with what it got."""

import os
import stat

from tests.security.hostile.raw import attempt, stay

MADE = {
    "mem": (stat.S_IFCHR, 1, 1),
    "null": (stat.S_IFCHR, 1, 3),
    "disk": (stat.S_IFBLK, 254, 0),
    "whiteout": (stat.S_IFCHR, 0, 0),
    "fifo": (stat.S_IFIFO, 0, 0),
}
OPENED = "mem kmem port kvm fuse net/tun loop-control loop0 vda sda vsock vhost-net userfaultfd kmsg mapper/control"


def make(path: str, kind: int, major: int, minor: int) -> None:
    os.mknod(path, kind | 0o666, os.makedev(major, minor))


if __name__ == "__main__":
    for place in ("/workspace", "/tmp", "/dev/shm", "/run", "/mnt/session/outputs"):
        for name, (kind, major, minor) in MADE.items():
            attempt(f"mknod:{place}:{name}", lambda: make(f"{place}/{name}", kind, major, minor))  # noqa: B023
    for name in OPENED.split():
        attempt(f"open:{name}", lambda: os.open(f"/dev/{name}", os.O_RDWR))  # noqa: B023
    for root in ("/dev", "/workspace"):
        attempt(f"create:{root}", lambda: os.mkdir(f"{root}/made"))  # noqa: B023
    stay()
