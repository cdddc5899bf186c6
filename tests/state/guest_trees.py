"""Trees like those a guest leaves, made by name, and real overlays over them in namespaces that are thrown away."""

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Bytes that are no text in any encoding of ours.
ODD_NAME = b"odd-\xff\xfe-\n\x1b[2J"

_MOUNT = """
import os, subprocess, sys
lowers, upper, work, merged, script, *arguments = sys.argv[1:]
options = f"lowerdir={lowers},upperdir={upper},workdir={work},userxattr"
subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], check=True)
os.chdir(merged)
sys.argv = ["script", *arguments]
exec(compile(script, "script", "exec"), {"__name__": "__main__"})
"""


@contextmanager
def opened(*paths: Path) -> Iterator[list[int]]:
    """Open directories by name, for reading."""
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in paths]
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def descriptors() -> int:
    """Count this process's open descriptors."""
    return len(os.listdir("/proc/self/fd"))


def in_overlay(lowers: list[Path], upper: Path, script: str, *arguments: str) -> str:
    """Run a Python script in an overlay's merged directory; the first of `lowers` is the lowest."""
    work, merged = upper.with_name(f"{upper.name}.work"), upper.with_name(f"{upper.name}.merged")
    for path in (upper, work, merged):
        path.mkdir(exist_ok=True)
    places = [":".join(str(path) for path in reversed(lowers)), str(upper), str(work), str(merged)]
    done = in_user_namespace("m", _MOUNT, *places, script, *arguments)
    (work / "work").chmod(0o700)  # the kernel's own, without a right; it may not be left to those who tidy up
    return done


def in_user_namespace(more: str, script: str, *arguments: str) -> str:
    """Run a Python script as root of a user namespace, and of the kinds of namespaces in `more`."""
    done = subprocess.run(
        ["unshare", f"-Ur{more}", sys.executable, "-c", script, *arguments],
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def bind_socket(path: Path) -> None:
    """Leave a socket that nobody listens at; by a short name, as an address has 108 bytes."""
    with opened(path.parent) as [fd], socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{fd}/{path.name}")


def white_out(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))


def of_everything(top: Path) -> None:
    """Make a tree with every kind of entry that a guest can make, and the same one every time."""
    inner = top / "directory" / "inner"
    inner.mkdir(parents=True)
    (inner / "file").write_bytes(b"content\0" * 1000)
    (inner / "empty").touch()
    (top / "script").write_text("#!/bin/sh\n")
    os.close(os.open(os.fsencode(top) + b"/" + ODD_NAME, os.O_CREAT | os.O_WRONLY, 0o600))
    (top / "link").symlink_to("/etc/passwd")
    (top / "dangling").symlink_to("../../nowhere")
    os.link(inner / "file", top / "zz-same")
    os.link(top / "link", top / "zz-same-link", follow_symlinks=False)
    os.mkfifo(top / "fifo")
    bind_socket(top / "socket")
    with (top / "sparse").open("wb") as file:
        file.seek(3 << 20)
        file.write(b"in between")
        file.truncate(8 << 20)
    os.setxattr(inner / "file", "user.note", b"a\0b")
    os.setxattr(inner, "user.of-directory", b"")
    modes = {"directory": 0o755, "directory/inner": 0o1777, "fifo": 0o640, "script": 0o755, "socket": 0o755}
    for name in ("directory/inner/empty", "directory/inner/file", "sparse"):
        modes[name] = 0o644
    for name, mode in modes.items():
        (top / name).chmod(mode)
    for path in (top / "script", top / "fifo", top / "link", inner, top):
        os.utime(path, ns=(1, 1_000_000_000_123_456_789), follow_symlinks=False)


def deep(top: Path, depth: int, name: str = "d") -> None:
    """Make directories within one another, with a file of two names in the last; no path to it need exist."""
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("last", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.link("last", "last-again", src_dir_fd=fd, dst_dir_fd=fd)
    os.close(fd)
