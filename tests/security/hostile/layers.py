"""layers DIRECTORY NAME: what makes an overlay lie, where a guest can write it: marks, redirections, whiteouts of NAME.

Stays, so that the host can look.
"""

import os
import stat
import sys

from tests.security.hostile.raw import attempt, stay

PREFIXES = ("user.overlay.", "user.overlay.overlay.", "trusted.overlay.")
MARKS = {
    "opaque": b"y",
    "whiteout": b"y",
    "metacopy": b"",
    "origin": b"\0" * 20,
    "impure": b"y",
    "nlink": b"U+1",
}


def mark(path: str, name: str, value: bytes) -> None:
    os.setxattr(path, name, value)


def forge(top: str, name: str) -> None:
    forged = f"{top}/forged"
    with open(forged, "w") as file:
        file.write("forged\n")
    for prefix in PREFIXES:
        for kind, value in {**MARKS, "redirect": f"/{name}".encode()}.items():
            attempt(f"{prefix}{kind}", lambda: mark(forged, prefix + kind, value))  # noqa: B023
            attempt(f"{prefix}{kind}:directory", lambda: mark(top, prefix + kind, value))  # noqa: B023
    attempt("ordinary", lambda: mark(forged, "user.ordinary", b"1"))


if __name__ == "__main__":
    top, name = sys.argv[1:]
    forge(top, name)
    attempt("whiteout", lambda: os.mknod(f"{top}/whiteout", stat.S_IFCHR | 0o666, os.makedev(0, 0)))
    attempt("fifo", lambda: os.mkfifo(f"{top}/fifo"))
    attempt("read", lambda: open(f"{top}/{name}").close())
    stay()
