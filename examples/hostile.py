"""A program that does its job, and then everything it should not. `demo.py` runs it in a session.

It counts the words of /data/input.txt, tries one attack after the other, and says of each what it got, a JSON line at a
time: {"attack": …, "got": …, "contained": true or false}.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

HOST_PORT, HOST_PID, MARK = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]


def say(**line: object) -> None:
    print(json.dumps(line), flush=True)


def attack(name: str, attempt: Callable[[], str]) -> None:
    """Try something; an attempt that returns has got what it wanted."""
    try:
        say(attack=name, got=attempt(), contained=False)
    except (OSError, MemoryError, subprocess.CalledProcessError, AssertionError) as error:
        say(attack=name, got=getattr(error, "strerror", None) or str(error) or type(error).__name__, contained=True)


def read_password_hashes() -> str:
    hashes = [line for line in Path("/etc/shadow").read_text().splitlines() if "$" in line]
    assert hashes, "a file without a single hash"
    return f"{len(hashes)} hashes"


def read_keys() -> str:
    found = [path for place in ("/root/.ssh", "/home") if os.path.isdir(place) for path in os.listdir(place)]
    assert found, "no such places here"
    return ", ".join(found)


def write_input() -> str:
    Path("/data/input.txt").write_text("overwritten")
    return "the file is ours"


def change_system() -> str:
    Path("/usr/bin/alcove-was-here").write_text("")
    return "a program of ours for everybody"


def call_home() -> str:
    with socket.create_connection(("1.1.1.1", 443), timeout=3):
        return "connected"


def reach_host() -> str:
    with socket.create_connection(("127.0.0.1", HOST_PORT), timeout=3):
        return "connected to the host's own port"


def kill_demo() -> str:
    with open(f"/proc/{HOST_PID}/cmdline", "rb") as file:
        assert b"demo.py" in file.read(), "that pid is somebody else here"
    os.kill(HOST_PID, signal.SIGKILL)
    return "killed it"


def mount_something() -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", b"/mnt", b"tmpfs", 0, None) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return "a mount"


def more_privileges() -> str:
    done = subprocess.run(["unshare", "--user", "--map-root-user", "true"], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr.strip().rpartition(": ")[2]
    return "a user namespace with every capability"


def eat_memory() -> str:
    eat = [sys.executable, "-c", "b'x' * (4 << 30)"]
    hog = subprocess.run(eat, capture_output=True, check=False, text=True)
    assert hog.returncode == 0, "killed" if hog.returncode < 0 else hog.stderr.strip().splitlines()[-1]
    return "4 GiB"


def fork_bomb() -> str:
    reading, writing = os.pipe()
    children: list[int] = []
    try:
        while len(children) < 5000:
            pid = os.fork()
            if pid == 0:
                os.close(writing)
                os.read(reading, 1)  # until the parent closes its end
                os._exit(0)
            children.append(pid)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} after {len(children)} processes") from None
    finally:
        os.close(writing)
        for pid in children:
            os.waitpid(pid, 0)
    return f"{len(children)} processes"


def kill_everybody() -> str:
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        raise AssertionError("nobody there to kill") from None
    raise AssertionError("its own session at most")


def stay() -> str:
    """Leave a process behind that belongs to nobody: a session of its own, its parent gone."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            null = os.open(os.devnull, os.O_RDWR)
            for fd in range(3):
                os.dup2(null, fd)
            os.execvp("sleep", [MARK, "100000"])
        os._exit(0)
    os.wait()
    raise AssertionError("it runs, until its session ends")


words = Counter(Path("/data/input.txt").read_text().lower().split())
say(words=words.total(), most=[word for word, _ in words.most_common(5)])

attack("read the host's password hashes", read_password_hashes)
attack("read somebody's keys", read_keys)
attack("overwrite its input", write_input)
attack("change the system", change_system)
attack("call home", call_home)
attack("connect to a service of the host", reach_host)
attack("kill who started it", kill_demo)
attack("mount a file system", mount_something)
attack("become root once more", more_privileges)
attack("take all memory", eat_memory)
attack("take all processes (a fork bomb)", fork_bomb)
attack("kill everything it can (kill -9 -1)", kill_everybody)
attack("stay when its time is over", stay)
