"""What a session does, from inside: run as a script in a user and mount namespace, over a real overlay.

`python inside.py LOWER UPPER WORK MERGED` runs the Python text on its standard input in MERGED, and then tells what the
kernel shows there.
"""

import json
import os
import stat
import subprocess
import sys

#: Of each path its type, mode (0 for a link) and content or target, as `latin-1`.
Look = dict[str, tuple[int, int, str]]


def look(top: bytes) -> Look:
    """Everything beneath a directory."""
    found = {}
    for at, directories, files in os.walk(top):
        for name in directories + files:
            path = os.path.join(at, name)
            entry = os.lstat(path)
            mode, content = stat.S_IMODE(entry.st_mode), b""
            if stat.S_ISLNK(entry.st_mode):
                mode, content = 0, os.readlink(path)
            elif stat.S_ISREG(entry.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            found[os.path.relpath(path, top).decode("latin-1")] = (
                stat.S_IFMT(entry.st_mode),
                mode,
                content.decode("latin-1"),
            )
    return found


if __name__ == "__main__":
    lower, upper, work, merged = sys.argv[1:]
    # userxattr alone turns metacopy and redirect_dir off, and takes neither by name
    options = f"lowerdir={lower},upperdir={upper},workdir={work},userxattr"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], check=True)
    os.umask(0o022)
    os.chdir(merged)
    exec(sys.stdin.read(), {})
    sys.stdout.write(json.dumps(look(b".")))
