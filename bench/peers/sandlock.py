"""sandlock through its own Python package, the way it is used from Python; it has no program to start."""

import importlib
import importlib.metadata
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.contender import Finished, Run, WrongResultError
from bench.hostview import host_view
from bench.origin import Origin
from bench.processes import await_exec, descendants
from bench.runtime import Reach, Runtime

_IDLE_SECONDS = "600"

# /dev/null and its like are opened for writing by ordinary programs, git among them.
_DEVICES = ("/dev/null", "/dev/zero", "/dev/tty")


class Sandlock(Runtime):
    name = "sandlock"
    live_name = "sandlock (parked)"
    how = "Sandbox(host directories readable, /tmp writable, no network).run; live: create() before, start() + wait()"
    joins = True
    reaches = True

    def version(self) -> str | None:
        try:
            return importlib.metadata.version("sandlock")
        except importlib.metadata.PackageNotFoundError:
            return None

    def once(self, workspace: Path | None = None) -> Run:
        def go(command: Sequence[str]) -> Finished:
            start = time.perf_counter_ns()
            result = self._sandbox(workspace).run(list(command))
            return _finished(start, result)

        return go

    @contextmanager
    def live(self, workspace: Path | None = None) -> Iterator[Run]:
        """A parked sandbox takes one command, so each call parks a new one before its clock starts."""

        def go(command: Sequence[str]) -> Finished:
            sandbox = self._sandbox(workspace)
            sandbox.create(list(command))
            start = time.perf_counter_ns()
            sandbox.start()
            return _finished(start, sandbox.wait())

        yield go

    @contextmanager
    def idle(self, count: int) -> Iterator[frozenset[int]]:
        with ExitStack() as stack:
            yield descendants([stack.enter_context(self._sleeping()) for _ in range(count)])

    @contextmanager
    def reaching(self, origin: Origin) -> Iterator[Reach]:
        """A sandbox for each command: what is timed is timed by the command itself."""
        place = origin.own
        allowed = [f"{place.host}:{place.greeting}", f"{place.host}:{place.http}"]

        def go(command: Sequence[str]) -> Finished:
            start = time.perf_counter_ns()
            return _finished(start, self._sandbox(None, allowed).run(list(command)))

        yield Reach(go, place)

    @contextmanager
    def _sleeping(self) -> Iterator[int]:
        # Running, not parked: until its exec a parked child shares the pages of the whole calling program.
        sandbox = self._sandbox(None)
        sandbox.spawn(["/bin/sleep", _IDLE_SECONDS])
        try:
            pid = sandbox.pid
            if not isinstance(pid, int):
                raise WrongResultError("a running sandbox has no pid")
            await_exec(pid, "sleep")
            yield pid
        finally:
            sandbox.kill()
            sandbox.wait()

    def _sandbox(self, workspace: Path | None, allowed: Sequence[str] = ()) -> Any:
        readable = [str(path) for path in host_view().binds]
        readable += [str(path) for path, _ in host_view().links]
        writable = ["/tmp", *_DEVICES, *([str(workspace)] if workspace is not None else [])]
        return importlib.import_module("sandlock").Sandbox(
            fs_readable=[*readable, "/proc", "/dev"],
            fs_writable=[path for path in writable if Path(path).exists()],
            net_allow=list(allowed),
            cwd=str(workspace) if workspace is not None else None,
        )


def _finished(start: int, result: Any) -> Finished:
    seconds = (time.perf_counter_ns() - start) / 1e9
    stderr = result.stderr or (result.error or "").encode()
    return Finished(seconds, result.exit_code, result.stdout or b"", stderr)
