"""A thousand sessions alive at once, each answering a command with its own number."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from bench.contender import Case, Contender, Metric, Rounds, Sample, WrongResultError
from bench.ground import Ground
from bench.local import Alcove
from bench.processes import kernel_memory, native

if TYPE_CHECKING:
    from alcove import SandboxSessionId

SESSIONS = 1000


@contextmanager
def _density(ground: Ground, alcove: Alcove) -> Iterator[Sample]:
    def sample() -> Mapping[str, float]:
        taken: dict[str, float] = {}
        made: list[SandboxSessionId] = []
        kernel, before = kernel_memory(), native()
        try:
            taken["create"], _ = _timed(lambda: alcove.wait(alcove.make(SESSIONS, made)))
            taken["answer"], taken["answered"] = _timed(lambda: alcove.wait(alcove.all_answer(made)))
            taken["kernel"] = (kernel_memory() - kernel) / 1e6
            with suppress(WrongResultError):  # a plain user alone cannot read it; the memory cases say so
                taken["pss"] = ground.pss.total(alcove.processes_since(before, SESSIONS)) / 1e6
        finally:
            taken["terminate"], _ = _timed(lambda: alcove.wait(alcove.end(made)))
        return taken

    yield sample


def _timed(action: Callable[[], float | None]) -> tuple[float, float]:
    start = time.perf_counter_ns()
    result = action()
    return (time.perf_counter_ns() - start) / 1e9, result or 0.0


def _contenders(ground: Ground) -> Iterator[Contender]:
    if ground.alcove is not None:
        yield Contender(ground.alcove.name, partial(_density, ground, ground.alcove))


DENSITY = Case(
    id="density",
    title=f"{SESSIONS:,} sessions alive at once",
    metrics=(
        Metric("answered", "sessions", "higher"),
        Metric("create", "s"),
        Metric("answer", "s"),
        Metric("terminate", "s"),
        Metric("pss", "MB"),
        Metric("kernel", "MB"),
    ),
    baseline=None,
    rounds=Rounds(full=3, quick=1, warmup=0),
    contenders=_contenders,
)
