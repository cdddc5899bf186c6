"""Programs that a server runs for a connection, as somebody without privileges, and what becomes of them."""

import asyncio
import os
import pwd
import secrets
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TREE = Path(__file__).parents[3]
#: In the environment of everything that a world runs
MARK = "ALCOVE_TEST_WORLD"


@dataclass(frozen=True)
class Account:
    """Who the programs run as: for root the user made for tests, else whoever runs these."""

    name: str
    uid: int
    gid: int

    @classmethod
    def unprivileged(cls) -> "Account":
        uid = os.geteuid()
        if uid == 0:
            made = subprocess.run(
                [TREE / "scripts" / "plain-user.sh"], capture_output=True, check=True, text=True, timeout=60
            )
            uid = pwd.getpwnam(made.stdout.strip()).pw_uid
        entry = pwd.getpwuid(uid)
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)

    @property
    def identity(self) -> dict[str, Any]:
        """What makes subprocess start something as this user."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if os.geteuid() == 0 else {}

    def own(self, *paths: Path) -> None:
        for path in paths:
            os.chown(path, self.uid, self.gid)


def kill(pid: int) -> None:
    """Kill a process that is not ours to reap and wait a second at most until it has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        ended = select.poll()
        ended.register(pidfd, select.POLLIN)
        ended.poll(1000)
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)


class Children:
    """What the programs of one world have in common; `end` leaves none of them or of their descendants."""

    def __init__(self, directory: Path) -> None:
        self.account = Account.unprivileged()
        self.directory = directory
        self.log = directory / "children.log"
        self._mark = secrets.token_hex(16)

    @property
    def mark(self) -> str:
        return f"{MARK}={self._mark}"

    def start(self, argv: Sequence[str], env: Mapping[str, str] | None = None, **files: Any) -> "Child":
        """Start a program whose standard files are given as for Popen; what it says on stderr is kept in `log`."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.directory), MARK: self._mark, **(env or {})}
        with self.log.open("ab") as log:
            started = subprocess.Popen(
                argv,
                cwd=self.directory,
                env=environment,
                start_new_session=True,
                **{"stderr": log, **files},
                **self.account.identity,
            )
        return Child(started)

    def marked(self) -> list[int]:
        """Return the processes that were started by a program of this world, however far away from it they went."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                environment = Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:
                continue
            if self.mark.encode() in environment.split(b"\0"):
                found.append(int(pid))
        return found

    def end(self) -> None:
        deadline = time.monotonic() + 10
        while pids := self.marked():
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes {pids} of a test server did not end within 10 s")
            for pid in pids:
                kill(pid)


class Child:
    """A process that is waited for by its pidfd."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self._pidfd = os.pidfd_open(process.pid)

    async def exited(self) -> int:
        """Wait for its end and return its status, negative for a signal."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._pidfd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._pidfd)
        return self.process.wait()

    async def end(self, patience: float) -> None:
        """Give it that many seconds, then end it with its whole process group."""
        try:
            if patience and self.process.poll() is None:
                await asyncio.wait_for(self.exited(), patience)
        except TimeoutError:
            pass
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
                if pipe:
                    pipe.close()
            os.close(self._pidfd)
