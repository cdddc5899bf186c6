"""What takes part in a benchmark: cases, their contenders, and the checked result of one command."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from bench.ground import Ground

Better = Literal["lower", "higher"]
Sample = Callable[[], Mapping[str, float]]

COMMAND_SECONDS = 300.0


class WrongResultError(Exception):
    """A command did not do what is being measured; its time means nothing."""


class RefusedError(Exception):
    """A runtime is installed and cannot work on this host."""


@dataclass(frozen=True)
class Finished:
    """One command that has ended: the wall time the caller waited, and what the caller got."""

    seconds: float
    code: int
    stdout: bytes | str = b""
    stderr: bytes | str = b""
    omitted: int = 0

    def checked(self, code: int = 0) -> Finished:
        """Itself.

        Raises:
            WrongResultError: the exit code is another one.
        """
        if self.code != code:
            raise WrongResultError(f"exit code {self.code} instead of {code}: {self.complaint()}")
        return self

    def complaint(self) -> str:
        text = self.stderr if isinstance(self.stderr, str) else self.stderr.decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1][:200] if lines else "no message"


Run = Callable[[Sequence[str]], Finished]


def run(argv: Sequence[str], cwd: Path | None = None) -> Finished:
    """The floor itself and the way to every peer: ``subprocess.run(argv, capture_output=True)``, timed."""
    start = time.perf_counter_ns()
    done = subprocess.run(argv, capture_output=True, cwd=cwd, check=False, timeout=COMMAND_SECONDS)
    seconds = (time.perf_counter_ns() - start) / 1e9
    return Finished(seconds, done.returncode, done.stdout, done.stderr)


def led_in(go: Run, command: Sequence[str]) -> Finished:
    """Run the command twice and return the second.

    What the contender before left to the kernel (namespaces to take down, caches full of its pages) would
    otherwise be paid by whoever comes next; measured, that made the floor of a mixed round 2.4 times itself.
    """
    go(command).checked()
    return go(command).checked()


@dataclass(frozen=True)
class Metric:
    name: str
    unit: str
    better: Better = "lower"


@dataclass(frozen=True)
class Contender:
    """A name, and a context that makes ready what it needs and yields the function that takes one sample."""

    name: str
    open: Callable[[], AbstractContextManager[Sample]]


@dataclass(frozen=True)
class Rounds:
    full: int
    quick: int
    warmup: int


@dataclass(frozen=True)
class Case:
    id: str
    title: str
    metrics: tuple[Metric, ...]
    baseline: str | None
    rounds: Rounds
    contenders: Callable[[Ground], Iterable[Contender]]
    quick: bool = True

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ValueError(f"case {self.id} measures nothing")
