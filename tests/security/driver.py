"""A supervisor to be killed, starved or confused: run as `python -m tests.security.driver COMMAND STORE …`.

Its launcher is the one that ALCOVE_TEST_NATIVE names, as in the test run that starts it.
"""
# ruff: noqa: ASYNC221, ASYNC240 - a supervisor of the harness's may wait for the host

import asyncio
import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from alcove.contract import ExecRequest, FilesystemAccess, FilesystemMount, Limited, SandboxError, SandboxSpec
from alcove.local import LocalSandbox, LocalSandboxConfig, chores
from tests.security.corpus import PLACE

SESSION = "driven"
setattr(chores, "nudge", lambda _root: None)  # noqa: B010 - what comes by itself is none of a deed's


def open_backend(store: str) -> LocalSandbox:
    return LocalSandbox(LocalSandboxConfig(root_dir=store, native=os.environ.get("ALCOVE_TEST_NATIVE")))


def spec(corpus: str | None = None, **fields: Any) -> SandboxSpec:
    mounts = [FilesystemMount(source=corpus, target=PLACE, access=FilesystemAccess.READ_ONLY)] if corpus else []
    return SandboxSpec(network_policy=Limited(allowed_hosts=[]), mounts=mounts, **fields)


async def attack(store: str, corpus: str, name: str) -> None:
    """Run a hostile program to its end in a session of this process's."""
    backend = open_backend(store)
    session = await backend.provision(spec(corpus))
    request = ExecRequest("python3", ["-m", f"tests.security.hostile.{name}"], env={"PYTHONPATH": PLACE}, timeout=30)
    result = await backend.exec(session.id, request)
    await backend.terminate(session.id)
    sys.exit(result.exit_code)


async def flood(store: str, program: str) -> None:
    """Take part in a foreground exec until killed; say when its output flows."""
    backend = open_backend(store)
    session = await backend.provision(spec(session_id=SESSION))
    print(session.id, flush=True)
    await backend.exec(session.id, ExecRequest("sh", ["-c", program], timeout=60))


async def create(backend: LocalSandbox) -> None:
    await backend.provision(spec(session_id=SESSION))


async def create_disk(backend: LocalSandbox) -> None:
    await backend.provision(spec(session_id=SESSION, disk_mb=64))


async def use(backend: LocalSandbox) -> None:
    await backend.exec(SESSION, ExecRequest("true", timeout=20))


async def terminate(backend: LocalSandbox) -> None:
    await backend.terminate(SESSION)


async def fill(backend: LocalSandbox) -> None:
    """Make a session with something in every part of it, and a snapshot of that; then change some."""
    await backend.provision(spec(session_id=SESSION))
    await _run(backend, FIRST)
    await backend.snapshot(SESSION, name="before")
    await _run(backend, SECOND)


async def _run(backend: LocalSandbox, script: str) -> None:
    result = await backend.exec(SESSION, ExecRequest("sh", ["-ec", script], timeout=20))
    if not result.success:
        raise RuntimeError(result)


async def snapshot(backend: LocalSandbox) -> None:
    await backend.snapshot(SESSION, name="driven")


async def fork(backend: LocalSandbox) -> None:
    await backend.fork(SESSION, spec(session_id="forked"))


async def begin(backend: LocalSandbox) -> None:
    await backend.provision(spec(session_id="begun", rootfs="snapshot:before"))


async def come(backend: LocalSandbox) -> None:
    await backend.import_snapshot(archive_of(backend), name="came")


async def sleep(backend: LocalSandbox) -> None:
    await backend.suspend(SESSION)
    await backend.resume(SESSION)
    await use(backend)


async def rework(backend: LocalSandbox) -> None:
    """Make a session with a project by copy-on-write, and change some of it."""
    mount = FilesystemMount(str(project_of(backend)), PROJECT, copy_on_write=True)
    await backend.provision(SandboxSpec(SESSION, network_policy=Limited(allowed_hosts=[]), mounts=[mount]))
    await _run(backend, REWORK)


async def apply(backend: LocalSandbox) -> None:
    await backend.apply(SESSION)


def archive_of(backend: LocalSandbox) -> str:
    """Where a test of this store keeps an archive."""
    return f"{backend.config.root_dir}.tar"


def project_of(backend: LocalSandbox) -> Path:
    """Where a test of this store keeps a project."""
    return Path(f"{backend.config.root_dir}.project")


async def end(backend: LocalSandbox) -> None:
    await backend.delete_snapshot("before")
    await backend.terminate(SESSION)


PROJECT = "/mnt/project"
REWORK = f"cd {PROJECT}; echo new >changed; rm -r gone; mkdir -p made/deep; echo made >made/deep/f; mv moved elsewhere"

#: What `fill` does before its snapshot and after it, and what is there then.
FIRST = """
mkdir -p kept gone; echo one >kept/a; echo two >gone/b; chmod 750 kept
echo same >kept/c; ln kept/c link; ln -s kept soft
echo t >/tmp/t; echo out >/mnt/session/outputs/o
"""
SECOND = "rm -r gone; echo three >kept/a; echo four >new; rm /tmp/t; echo more >/mnt/session/outputs/m"
LOOK = "cd / && find workspace tmp mnt/session/outputs -printf '%p %y %m %l\n' | sort; "
LOOK += (
    "cat workspace/kept/a workspace/link; cat workspace/gone/b workspace/new tmp/t mnt/session/outputs/* 2>/dev/null; :"
)

DEEDS: dict[str, Callable[[LocalSandbox], Coroutine[Any, Any, None]]] = {
    "create": create,
    "create with a disk": create_disk,
    "use": use,
    "terminate": terminate,
    "fill": fill,
    "snapshot": snapshot,
    "fork": fork,
    "begin": begin,
    "come": come,
    "sleep": sleep,
    "rework": rework,
    "apply": apply,
    "end": end,
}


class Events:
    """Count what the interpreter audits (files, sockets, processes, the database), and strike at one of them."""

    def __init__(self, strike_at: int, strike: Callable[[], None]) -> None:
        self.count = 0
        self.on = False
        self.struck = ""
        self._strike_at = strike_at
        self._strike = strike
        sys.addaudithook(self._hook)

    def _hook(self, name: str, arguments: tuple[Any, ...]) -> None:
        if not self.on or name.startswith(("object.", "sys.", "import", "compile", "exec", "gc.", "code.", "marshal.")):
            return
        self.count += 1
        if self.count == self._strike_at:
            self.on = False
            self.struck = f"{name}{arguments[:1]}"
            self._strike()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(number: int) -> Callable[[], None]:
    def strike() -> None:
        raise OSError(number, os.strerror(number))

    return strike


def one(store: str, deed: str, strike_at: int, strike: Callable[[], None]) -> dict[str, Any]:
    """Do one deed in this process, struck at the n-th event; tell how it ended."""
    backend = open_backend(store)
    events = Events(strike_at, strike)
    told: dict[str, Any] = {"error": None}

    async def doing() -> None:
        events.on = True
        try:
            await DEEDS[deed](backend)
        except SandboxError as error:
            told["error"] = type(error).__name__
        finally:
            events.on = False

    try:
        asyncio.run(doing())
    except Exception as error:  # noqa: BLE001 - what is not ours is what is looked for
        frames = " < ".join(frame.name for frame in reversed(traceback.extract_tb(error.__traceback__)))
        told["error"] = f"!{type(error).__name__} at {events.struck}: {frames}"
    return {**told, "events": events.count}


def struck(store: str, deed: str, strike_at: int, kind: str) -> dict[str, Any]:
    """Do `one` in a child, which may be killed; this one has imported all there is, so a child costs little."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if kind.startswith("after:"):
                signal.setitimer(signal.ITIMER_REAL, float(kind.partition(":")[2]))  # and SIGALRM kills
            strike = die if kind == "kill" else fail(getattr(errno, kind, errno.EIO))
            os.write(writer, json.dumps(one(store, deed, strike_at, strike)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    status = os.waitpid(child, 0)[1]
    killed = os.WIFSIGNALED(status)
    return {"killed": killed, **(json.loads(said) if said else {})}


def orphans() -> list[str]:
    """Return what was left to this process, the live ones' titles, after reaping the dead."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in children]


def serve() -> None:
    """Answer requests from standard input, one a line: [store, deed, event, kind], or [] for `orphans`."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: what a killed supervisor leaves comes to us
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(struck(*request) if request else orphans()), flush=True)


def limited(store: str, deed: str, descriptors: str) -> None:
    """Do one deed with only so many descriptors free."""
    import resource

    used = len(os.listdir("/proc/self/fd")) - 1
    backend = open_backend(store)
    used = max(used, len(os.listdir("/proc/self/fd")) - 1)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + int(descriptors), hard))
    told: dict[str, Any] = {"error": None}
    try:
        asyncio.run(DEEDS[deed](backend))
    except SandboxError as error:
        told["error"] = type(error).__name__
    except Exception as error:  # noqa: BLE001 - what is not ours is what is looked for
        told["error"] = f"!{type(error).__name__}: {error}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(json.dumps(told))


async def propagation(store: str, shown: str, mirror: str) -> None:
    """Mount below a directory that a session sees, when it sees it already; for a mount namespace of one's own."""
    backend = LocalSandbox(
        LocalSandboxConfig(root_dir=store, native=os.environ.get("ALCOVE_TEST_NATIVE"), visible=(shown,))
    )
    session = await backend.provision(spec())
    mount = FilesystemMount(source=shown, target="/mnt/attached", access=FilesystemAccess.READ_ONLY)
    await backend.attach_filesystem(session.id, mount)
    subprocess.run(["mount", "-t", "tmpfs", "none", f"{shown}/below"], check=True)
    Path(shown, "below", "later").touch()
    print("control:", *os.listdir(f"{mirror}/below"))
    request = ExecRequest("sh", ["-c", 'ls "$0/below" /mnt/attached/below | grep -x later; :', shown], timeout=20)
    print("inside:", (await backend.exec(session.id, request)).stdout.split())
    subprocess.run(["umount", f"{shown}/below"], check=True)
    await backend.terminate(session.id)


async def full(store: str) -> None:
    """Make and end a session where little can be written; nothing may be left, whichever way it goes."""
    told = "made and gone"
    try:
        backend = open_backend(store)
        try:
            session = await backend.provision(spec())
            await backend.exec(session.id, ExecRequest("true", timeout=20))
            await backend.terminate(session.id)
        finally:
            left = os.listdir(f"{store}/sessions")
            if backend.sessions():
                left.append("a row")
            if left:
                told = f"left: {left}"
    except SandboxError as error:
        told = told if told.startswith("left") else "refused and gone"
        print(error, file=sys.stderr)
    print(told)


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    if command == "attack":
        asyncio.run(attack(*rest))
    elif command == "flood":
        asyncio.run(flood(*rest))
    elif command == "propagation":
        asyncio.run(propagation(*rest))
    elif command == "full":
        asyncio.run(full(*rest))
    elif command == "serve":
        serve()
    elif command == "limited":
        limited(*rest)
