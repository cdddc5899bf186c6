"""What is the same in every session of a host, made once in the store: /dev with its nodes, and a stub of /sys.

A session then has each as one read-only bind, instead of two dozen files and mounts of its own.
"""

import os
import stat
from contextlib import suppress

from alcove.local.removal import remove_tree

#: Nodes of /dev by name, with the numbers that Linux gives them (Documentation/admin-guide/devices.txt).
DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
#: Links in /dev.
LINKS = {
    "ptmx": "pts/ptmx",
    "fd": "/proc/self/fd",
    **{name: f"/proc/self/fd/{number}" for number, name in enumerate(("stdin", "stdout", "stderr"))},
}
#: What C libraries and runtimes read in /sys to count processors.
CPUS = "devices/system/cpu"
CPU_FILES = ("online", "possible", "present")


def generate(store: str, cpus: int) -> str | None:
    """Return the directory that holds `dev` and `sys`, or None where no device node can be made that works."""
    directory = f"{store}/prepared/1-{cpus}"
    if os.path.isdir(directory):
        return directory
    temporary = f"{directory}.{os.getpid()}"
    try:
        _make_devices(f"{temporary}/dev")
        _make_stub(f"{temporary}/sys", cpus)
        os.rename(temporary, directory)
    except OSError:
        with suppress(OSError):
            remove_tree(temporary)
        return directory if os.path.isdir(directory) else None  # somebody else was first, with the same
    return directory


def _make_devices(directory: str) -> None:
    os.makedirs(directory, mode=0o755)
    for name, (major, minor) in DEVICES.items():
        path = f"{directory}/{name}"
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        os.chmod(path, 0o666)  # noqa: S103 - as on any host; the store above it is its owner's alone
    with open(f"{directory}/null", "wb") as null:  # not on a file system that is mounted nodev
        null.write(b"x")
    for name, target in LINKS.items():
        os.symlink(target, f"{directory}/{name}")
    for name in ("pts", "shm"):
        os.mkdir(f"{directory}/{name}", 0o755)


def _make_stub(directory: str, cpus: int) -> None:
    os.makedirs(f"{directory}/{CPUS}", mode=0o755)
    for name in CPU_FILES:
        path = f"{directory}/{CPUS}/{name}"
        with open(path, "w") as file:
            file.write(f"0-{cpus - 1}\n")
        os.chmod(path, 0o444)
