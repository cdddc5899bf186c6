"""leaks: everything under /proc and in the environment that can be read, on stdout."""

import contextlib
import os
import sys

MOST = 1 << 20
SKIPPED = {
    "pagemap",
    "mem",
    "kmsg",
    "clear_refs",
    "kpageflags",
    "kpagecount",
    "kpagecgroup",
    "kcore",
    "smaps",
    "numa_maps",
}


def show(path: str) -> None:
    with contextlib.suppress(OSError):
        print(path, os.readlink(path))
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            sys.stdout.flush()
            sys.stdout.buffer.write(path.encode() + b"\n" + os.read(fd, MOST) + b"\n")
        finally:
            os.close(fd)


if __name__ == "__main__":
    print(os.environ)
    for top in sorted(os.listdir("/proc")):
        if top.isdigit() and int(top) == os.getpid():
            continue
        for where, directories, names in os.walk(f"/proc/{top}"):
            directories[:] = [name for name in directories if name not in {"task", "cwd", "root", "map_files"}]
            for name in names:
                if name not in SKIPPED and not where.endswith("/fd"):
                    show(f"{where}/{name}")
        if not os.path.isdir(f"/proc/{top}"):
            show(f"/proc/{top}")
    for name in ("mountinfo", "cgroup", "environ", "net/unix", "net/netlink", "maps", "status", "mountstats"):
        show(f"/proc/self/{name}")
