"""What an idle sandbox costs: its processes' pages, and what the kernel keeps for it."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from bench.contender import Case, Contender, Metric, Rounds, Sample
from bench.ground import Ground
from bench.processes import kernel_memory
from bench.runtime import Runtime

# Net namespaces and slabs are given back behind the caller's back; a reading waits until two agree to this many bytes.
_STEADY = 256 * 1024
_STEADY_PAUSE = 0.1
_STEADY_TRIES = 50


def steady_kernel_memory() -> int:
    """The kernel's memory once what ended before has been given back; the last reading if it never comes to rest."""
    last = kernel_memory()
    for _ in range(_STEADY_TRIES):
        time.sleep(_STEADY_PAUSE)
        now = kernel_memory()
        if abs(now - last) <= _STEADY:
            return now
        last = now
    return last


@contextmanager
def _memory(ground: Ground, runtime: Runtime, count: int) -> Iterator[Sample]:
    def sample() -> Mapping[str, float]:
        before = steady_kernel_memory()
        with runtime.idle(count) as pids:
            taken = {"pss": ground.pss.total(pids) / count / 1e6, "processes": len(pids) / count}
            # One sandbox's share drowns in what the rest of the machine does meanwhile.
            if count > 1:
                taken["kernel"] = (steady_kernel_memory() - before) / count / 1e6
        return taken

    yield sample


def _contenders(count: int, ground: Ground) -> Iterator[Contender]:
    for runtime in ground.runtimes():
        if runtime is not ground.bare:
            yield Contender(runtime.name, partial(_memory, ground, runtime, count))


def _case(count: int) -> Case:
    kernel = (Metric("kernel", "MB"),) if count > 1 else ()
    return Case(
        id=f"memory-{count}",
        title=f"memory of an idle sandbox, {count} alive",
        metrics=(Metric("pss", "MB"), *kernel, Metric("processes", "")),
        baseline="bubblewrap",
        rounds=Rounds(full=3, quick=1, warmup=1) if count > 1 else Rounds(full=9, quick=3, warmup=1),
        contenders=partial(_contenders, count),
    )


MEMORY_CASES = (_case(1), _case(100))
