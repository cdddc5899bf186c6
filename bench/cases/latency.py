"""One command at a time: in a sandbox that is there, and with a sandbox's whole life around it."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from bench.contender import Case, Contender, Finished, Metric, Rounds, Run, Sample, led_in
from bench.ground import Ground
from bench.runtime import Runtime
from bench.targets import BARE

_TRUE = ["/bin/true"]


def milliseconds(run: Run) -> Sample:
    def sample() -> Mapping[str, float]:
        return {"time": led_in(run, _TRUE).seconds * 1e3}

    return sample


@contextmanager
def _live(runtime: Runtime) -> Iterator[Sample]:
    with runtime.live() as run:
        yield milliseconds(run)


@contextmanager
def _new(runtime: Runtime) -> Iterator[Sample]:
    yield milliseconds(runtime.once())


@contextmanager
def _asyncio_subprocess() -> Iterator[Sample]:
    """What the standard library's own asyncio costs for the same: the other floor for an async caller."""
    with asyncio.Runner() as runner:
        yield milliseconds(lambda command: runner.run(_exec(list(command))))


async def _exec(command: list[str]) -> Finished:
    start = time.perf_counter_ns()
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    stdout, stderr = await process.communicate()
    seconds = (time.perf_counter_ns() - start) / 1e9
    return Finished(seconds, -1 if process.returncode is None else process.returncode, stdout, stderr)


def _live_contenders(ground: Ground) -> Iterator[Contender]:
    yield Contender("asyncio subprocess", _asyncio_subprocess)
    for runtime in ground.runtimes():
        if runtime.joins:
            yield Contender(runtime.live_name or runtime.name, partial(_live, runtime))


def _new_contenders(ground: Ground) -> Iterator[Contender]:
    for runtime in ground.runtimes():
        yield Contender(runtime.name, partial(_new, runtime))


LIVE = Case(
    id="live",
    title="/bin/true in a sandbox that is there",
    metrics=(Metric("time", "ms"),),
    baseline=BARE,
    rounds=Rounds(full=300, quick=60, warmup=5),
    contenders=_live_contenders,
)

NEW = Case(
    id="new",
    title="new sandbox, /bin/true, its end",
    metrics=(Metric("time", "ms"),),
    baseline=BARE,
    rounds=Rounds(full=200, quick=40, warmup=5),
    contenders=_new_contenders,
)
