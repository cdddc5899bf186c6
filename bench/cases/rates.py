"""Eight callers at once, as operations per second: threads for what blocks, asyncio tasks for Alcove."""

import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial

from bench.contender import Case, Contender, Finished, Metric, Rounds, Run, Sample
from bench.ground import CALLERS, Ground
from bench.local import Alcove, together
from bench.runtime import Runtime
from bench.targets import BARE

_TRUE = ["/bin/true"]

# A burst of this many calls each gives the first estimate of the rate.
_FIRST_EACH = 4

Burst = Callable[[int], float]  # calls of each caller -> seconds for all


def enough_calls(seconds: float, each: int, wanted: float) -> int:
    """Calls of each caller that take about ``wanted`` seconds, judged by a burst of ``each`` that took ``seconds``."""
    return max(_FIRST_EACH, round(each * wanted / seconds))


def rate(burst: Burst, wanted: float) -> Sample:
    burst(1)
    each = enough_calls(burst(_FIRST_EACH), _FIRST_EACH, wanted)

    def sample() -> Mapping[str, float]:
        return {"rate": CALLERS * each / burst(each)}

    return sample


@contextmanager
def threads(runs: Sequence[Run]) -> Iterator[Burst]:
    """One thread for each of ``runs``, started before the clock is."""
    with ThreadPoolExecutor(len(runs)) as pool:

        def burst(each: int) -> float:
            gate = threading.Barrier(len(runs) + 1)
            calls = [pool.submit(_caller, run, each, gate) for run in runs]
            gate.wait()
            start = time.perf_counter_ns()
            for call in calls:
                call.result()
            return (time.perf_counter_ns() - start) / 1e9

        yield burst


def _caller(run: Run, each: int, gate: threading.Barrier) -> None:
    gate.wait()
    for _ in range(each):
        run(_TRUE).checked()


def tasks(alcove: Alcove, calls: Sequence[Callable[[], Awaitable[Finished]]]) -> Burst:
    async def caller(call: Callable[[], Awaitable[Finished]], each: int) -> None:
        for _ in range(each):
            (await call()).checked()

    async def all_callers(each: int) -> float:
        start = time.perf_counter_ns()
        await together([caller(call, each) for call in calls])
        return (time.perf_counter_ns() - start) / 1e9

    return lambda each: alcove.wait(all_callers(each))


@contextmanager
def _threads_live(runtime: Runtime, wanted: float) -> Iterator[Sample]:
    with ExitStack() as stack:
        runs = [stack.enter_context(runtime.live()) for _ in range(CALLERS)]
        yield rate(stack.enter_context(threads(runs)), wanted)


@contextmanager
def _threads_new(runtime: Runtime, wanted: float) -> Iterator[Sample]:
    with threads([runtime.once()] * CALLERS) as burst:
        yield rate(burst, wanted)


@contextmanager
def _tasks_live(alcove: Alcove, sessions: int, wanted: float) -> Iterator[Sample]:
    with alcove.sessions(sessions) as made:
        calls = [partial(alcove.exec, made[number % sessions], _TRUE) for number in range(CALLERS)]
        yield rate(tasks(alcove, calls), wanted)


@contextmanager
def _tasks_new(alcove: Alcove, wanted: float) -> Iterator[Sample]:
    yield rate(tasks(alcove, [partial(alcove.whole, _TRUE)] * CALLERS), wanted)


def _live_contenders(ground: Ground) -> Iterator[Contender]:
    wanted = ground.burst_seconds()
    for runtime in (ground.bare, *ground.peers):
        if runtime.joins:
            yield Contender(runtime.live_name or runtime.name, partial(_threads_live, runtime, wanted))
    if ground.alcove is not None:
        yield Contender(ground.alcove.name, partial(_tasks_live, ground.alcove, CALLERS, wanted))
        yield Contender("alcove, all in one session", partial(_tasks_live, ground.alcove, 1, wanted))


def _new_contenders(ground: Ground) -> Iterator[Contender]:
    wanted = ground.burst_seconds()
    for runtime in (ground.bare, *ground.peers):
        yield Contender(runtime.name, partial(_threads_new, runtime, wanted))
    if ground.alcove is not None:
        yield Contender(ground.alcove.name, partial(_tasks_new, ground.alcove, wanted))


LIVE_RATE = Case(
    id="live-rate",
    title=f"{CALLERS} callers, /bin/true in sandboxes that are there",
    metrics=(Metric("rate", "per s", "higher"),),
    baseline=BARE,
    rounds=Rounds(full=15, quick=5, warmup=1),
    contenders=_live_contenders,
)

NEW_RATE = Case(
    id="new-rate",
    title=f"{CALLERS} callers, new sandboxes with /bin/true and their end",
    metrics=(Metric("rate", "per s", "higher"),),
    baseline="bubblewrap",
    rounds=Rounds(full=15, quick=5, warmup=1),
    contenders=_new_contenders,
)
