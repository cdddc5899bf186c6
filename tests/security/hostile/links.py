"""links FROM TO: aliases of a file below TO, to write to it or read it by another name."""

import contextlib
import os
import shutil
import sys

from tests.security.hostile.raw import attempt


def write(path: str) -> None:
    os.write(os.open(path, os.O_WRONLY), b"!")


if __name__ == "__main__":
    source, place = sys.argv[1:]
    attempt("link", lambda: os.link(source, f"{place}/linked"))
    attempt("link-fd", lambda: os.link(f"/proc/self/fd/{os.open(source, os.O_RDONLY)}", f"{place}/by-fd"))
    attempt("rename", lambda: os.rename(source, f"{place}/renamed"))
    attempt("rename-over", lambda: os.rename(shutil.copy(source, f"{place}/copy"), source))
    os.symlink(source, f"{place}/symbolic")
    attempt("symlink-write", lambda: write(f"{place}/symbolic"))
    for name in ("linked", "by-fd", "renamed"):
        with contextlib.suppress(OSError):
            write(f"{place}/{name}")
