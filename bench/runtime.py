"""A runtime that can be measured, and the base of those that are a program put before the command."""

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.contender import COMMAND_SECONDS, Finished, RefusedError, Run, WrongResultError, run
from bench.origin import Origin, Place
from bench.processes import descendants


@dataclass(frozen=True)
class Reach:
    """A way to run commands that can talk to the benchmarks' server, and where the server is for them."""

    run: Run
    place: Place


class Runtime(ABC):
    """One way to run a command; every method may be called from several threads."""

    name: str
    how: str
    joins = False  # whether a command can be run in a sandbox that is there already
    live_name = ""  # what the live variant is called where it needs a word of explanation
    reaches = False  # whether its commands can be let talk to the benchmarks' server
    general = True  # whether it takes part in cases other than those of the network

    @abstractmethod
    def version(self) -> str | None:
        """The installed version; ``None`` where it is not installed."""

    @abstractmethod
    def once(self, workspace: Path | None = None) -> Run:
        """Run each command in a sandbox of its own, from nothing to gone."""

    def live(self, workspace: Path | None = None) -> AbstractContextManager[Run]:
        """Run commands in one sandbox that stays."""
        raise NotImplementedError(f"{self.name} cannot run a command in a sandbox that is there already")

    def idle(self, count: int) -> AbstractContextManager[frozenset[int]]:
        """Keep ``count`` sandboxes that do nothing; yields all of their processes."""
        raise NotImplementedError(f"{self.name} keeps no sandbox")

    def reaching(self, origin: Origin) -> AbstractContextManager[Reach]:
        """Run commands that may talk to ``origin``; where the runtime knows allow-lists, to nothing else."""
        raise NotImplementedError(f"{self.name} has no network")

    def close(self) -> None:  # noqa: B027  most keep nothing from call to call
        """Give back what the runtime keeps; called once, at the end of a run, interrupted or not."""

    def probe(self) -> None:
        """See that it works here, and that it tells a failed command from one that went well.

        Raises:
            RefusedError: it does not, with its own message.
        """
        try:
            self.once()(["/bin/true"]).checked()
            self.once()(["/bin/false"]).checked(1)
        except Exception as error:  # whatever it is, it is why this runtime takes no part
            raise RefusedError(str(error)) from error


class Prefix(Runtime):
    """A program whose arguments come before the command's."""

    @abstractmethod
    def prefix(self, workspace: Path | None) -> list[str]: ...

    def join(self, held: int, workspace: Path | None) -> list[str]:
        """The program and arguments that enter the sandbox whose first process on the host is ``held``."""
        raise NotImplementedError(f"{self.name} has no way into the sandbox of {held} for {workspace}")

    def once(self, workspace: Path | None = None) -> Run:
        before = self.prefix(workspace)

        def go(command: Sequence[str]) -> Finished:
            return run([*before, *command], cwd=workspace)

        return go

    @contextmanager
    def live(self, workspace: Path | None = None) -> Iterator[Run]:
        with self.hold(workspace) as held:
            yield self.joined(held, workspace)

    def joined(self, held: int, workspace: Path | None) -> Run:
        before = self.join(held, workspace)
        return lambda command: run([*before, *command], cwd=workspace)

    @contextmanager
    def idle(self, count: int) -> Iterator[frozenset[int]]:
        with ExitStack() as stack:
            roots = [stack.enter_context(self.hold(None)) for _ in range(count)]
            yield descendants(roots)

    @contextmanager
    def hold(self, workspace: Path | None) -> Iterator[int]:
        """A sandbox kept open by a ``cat``; it ends with our end of the pipe, whatever becomes of us."""
        held = subprocess.Popen(
            [*self.prefix(workspace), "/bin/cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=workspace,
        )
        with held:
            try:
                await_echo(held)
                yield held.pid
            finally:
                end(held)


def await_echo(held: "subprocess.Popen[bytes]") -> None:
    """Wait until the ``cat`` inside answers: from then on the sandbox stands."""
    if held.stdin is None or held.stdout is None:
        raise ValueError("the process was started without pipes")
    held.stdin.write(b"\n")
    held.stdin.flush()
    if held.stdout.readline() != b"\n":
        raise WrongResultError("the sandbox ended before its first command ran")


def end(held: "subprocess.Popen[bytes]") -> None:
    if held.stdin is not None:
        held.stdin.close()
    try:
        held.wait(timeout=COMMAND_SECONDS / 10)
    except subprocess.TimeoutExpired:
        held.kill()


def first_line(argv: Sequence[str]) -> str | None:
    """The first line a program prints; ``None`` where there is no such program."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS)
    except FileNotFoundError:
        return None
    lines = (done.stdout or done.stderr).splitlines()
    return lines[0].strip() if lines else "unknown"
