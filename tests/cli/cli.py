"""The command line as a person runs it: the installed program, in a process of its own, over a store of the test's."""

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

#: For whatever is to end or to answer by itself: a test fails by it before the whole run hangs.
WITHIN = 30.0

Done = subprocess.CompletedProcess[bytes]


class Cli:
    """`alcove`, with its store."""

    def __init__(self, command: list[str], store: Path, cwd: Path) -> None:
        self.command = command
        self.store = store
        self.cwd = cwd
        # a terminal's habits do not reach the tests
        left_out = {"NO_COLOR", "COLUMNS", "LINES", "COLORTERM"}
        self.environment = {name: value for name, value in os.environ.items() if name not in left_out}
        self.environment |= {"ALCOVE_HOME": str(store), "TERM": "xterm"}

    def __call__(self, *words: str, stdin: bytes | IO[bytes] | int | None = None, **variables: str) -> Done:
        given: dict[str, Any] = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin or subprocess.DEVNULL}
        return subprocess.run(
            [*self.command, *words],
            capture_output=True,
            check=False,
            cwd=self.cwd,
            env=self.environment | variables,
            timeout=WITHIN,
            **given,
        )

    def out(self, *words: str, **options: Any) -> str:
        """Return what a command line printed, which must have succeeded in silence."""
        done = self(*words, **options)
        assert (done.returncode, done.stderr) == (0, b""), done
        return done.stdout.decode()

    def json(self, *words: str, **options: Any) -> Any:
        return json.loads(self.out(*words, "--json", **options))

    def refusal(self, *words: str, **options: Any) -> str:
        """Return the message of a command line that Alcove refused: no output, no traceback, exit code 125."""
        done = self(*words, **options)
        assert (done.returncode, done.stdout) == (125, b""), done
        message = done.stderr.decode()
        assert message.startswith("alcove: "), message
        assert "Traceback" not in message
        return message.removeprefix("alcove: ").rstrip("\n")

    def create(self, *words: str) -> str:
        return self.out("create", *words).strip()

    def ids(self) -> list[str]:
        return self.out("ls", "--quiet").split()

    @contextmanager
    def started(self, *words: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """Yield the running command line, with pipes unless `options` say otherwise."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(
            [*self.command, *words], cwd=self.cwd, env=self.environment, bufsize=0, **{**pipes, **options}
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(WITHIN)
                except subprocess.TimeoutExpired:
                    process.kill()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe:
                    pipe.close()
            process.wait(WITHIN)


def read_until(fd: int, end: bytes, ahead: bytearray | None = None) -> bytes:
    """Return what comes out of a pipe or terminal, up to and with `end`; what came after it is left in `ahead`."""
    deadline = time.monotonic() + WITHIN
    seen = bytes(ahead or b"")
    while end not in seen:
        ready, _, _ = select.select([fd], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"no {end!r} came after {seen!r}"
        try:
            data = os.read(fd, 65536)
        except OSError:  # EIO: the terminal's other side is closed
            data = b""
        assert data, f"the end came before {end!r}, after {seen!r}"
        seen += data
    past = seen.index(end) + len(end)
    if ahead is not None:
        ahead[:] = seen[past:]
    return seen[:past]
