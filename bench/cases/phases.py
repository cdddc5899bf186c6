"""Where the time of a session goes: its creation, its first command, a later one, its end."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from bench.contender import COMMAND_SECONDS, Case, Contender, Metric, Rounds, Sample, WrongResultError
from bench.ground import Ground, remove
from bench.local import Alcove

_TRUE = ["/bin/true"]


@contextmanager
def _phases(alcove: Alcove) -> Iterator[Sample]:
    yield lambda: alcove.wait(_life(alcove))


async def _life(alcove: Alcove) -> Mapping[str, float]:
    start = time.perf_counter_ns()
    session = await alcove.provision()
    created = time.perf_counter_ns()
    try:
        first = (await alcove.exec(session.id, _TRUE)).checked()
        warm = (await alcove.exec(session.id, _TRUE)).checked()
    finally:
        ending = time.perf_counter_ns()
        await alcove.backend.terminate(session.id)
    ended = time.perf_counter_ns()
    return {
        "create": (created - start) / 1e6,
        "first exec": first.seconds * 1e3,
        "warm exec": warm.seconds * 1e3,
        "terminate": (ended - ending) / 1e6,
    }


@contextmanager
def _cold(ground: Ground) -> Iterator[Sample]:
    def sample() -> Mapping[str, float]:
        store = ground.workspace("cold")
        try:
            return cold_times(str(store / "s"))
        finally:
            remove(store)

    yield sample


def cold_times(store: str) -> Mapping[str, float]:
    """Run ``bench.cold`` in a fresh interpreter over a store that does not exist yet."""
    argv = [sys.executable, "-m", "bench.cold", store]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS)
    if done.returncode != 0:
        raise WrongResultError(f"bench.cold ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    times = json.loads(done.stdout)
    return {str(name): float(value) for name, value in times.items()}


def _phase_contenders(ground: Ground) -> Iterator[Contender]:
    if ground.alcove is not None:
        yield Contender(ground.alcove.name, partial(_phases, ground.alcove))


def _cold_contenders(ground: Ground) -> Iterator[Contender]:
    if ground.alcove is not None:
        yield Contender(ground.alcove.name, partial(_cold, ground))


PHASES = Case(
    id="phases",
    title="a session's phases, in a program that runs already",
    metrics=tuple(Metric(name, "ms") for name in ("create", "first exec", "warm exec", "terminate")),
    baseline=None,
    rounds=Rounds(full=200, quick=40, warmup=3),
    contenders=_phase_contenders,
)

COLD = Case(
    id="cold",
    title="the first session of a fresh interpreter over an empty store",
    metrics=tuple(Metric(name, "ms") for name in ("import", "create", "first exec", "terminate")),
    baseline=None,
    rounds=Rounds(full=30, quick=5, warmup=1),
    contenders=_cold_contenders,
)
