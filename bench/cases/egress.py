"""The network through an allow-list: connections, downloads, what a session with one costs, what the service keeps."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench import fetch
from bench.allowed import allowed, descriptors, entries, resident, service
from bench.contender import Case, Contender, Metric, Rounds, Run, Sample
from bench.ground import Ground
from bench.hostview import guest_python
from bench.local import Alcove
from bench.origin import NAME, WEB_PORT, Place, serving, web_port_is_free
from bench.runtime import Runtime
from bench.targets import CLOSED, DIRECT

Measure = Callable[[Run, Place], Sample]

DOWNLOAD = 200_000_000
STREAMS = 8
CONNECTIONS = 10_000

_LATENCY_COUNT = 40
# The first connections fill caches and pools, which is no growth.
_SETTLING = 1000


def client(run: Run, mode: str, host: str, *numbers: int) -> Mapping[str, float]:
    """What the client inside says of its own times."""
    source = Path(fetch.__file__).read_text()
    done = run([guest_python(), "-I", "-c", source, mode, host, *map(str, numbers)]).checked()
    return {str(name): float(value) for name, value in json.loads(done.stdout).items()}


def latency(count: int, run: Run, place: Place) -> Sample:
    return lambda: client(run, "latency", place.host, place.greeting, place.http, count)


def download(streams: int, size: int, run: Run, place: Place) -> Sample:
    return lambda: client(run, "download", place.host, place.http, streams, size)


def _contenders(measure: Measure, ground: Ground) -> Iterator[Contender]:
    for runtime in ground.reaching():
        yield Contender(DIRECT if runtime is ground.bare else runtime.name, partial(_reaching, measure, runtime))
    if ground.alcove is not None:
        yield Contender(ground.alcove.name, partial(_alcove, measure, ground))
        if web_port_is_free():
            yield Contender(f"{ground.alcove.name}, HTTP read", partial(_alcove_reading, measure, ground))


@contextmanager
def _reaching(measure: Measure, runtime: Runtime) -> Iterator[Sample]:
    with serving() as origin, runtime.reaching(origin) as reach:
        yield measure(reach.run, reach.place)


@contextmanager
def _alcove(measure: Measure, ground: Ground) -> Iterator[Sample]:
    with serving() as origin, allowed(store(ground), *entries(origin)) as alcove, alcove.reaching(origin) as reach:
        yield measure(reach.run, reach.place)


@contextmanager
def _alcove_reading(measure: Measure, ground: Ground) -> Iterator[Sample]:
    """By a rule for the web: each request that goes out is read first."""
    with serving(WEB_PORT) as origin, allowed(store(ground), NAME) as alcove, alcove.reaching(origin) as reach:
        yield measure(reach.run, replace(reach.place, greeting=0))


_stores = itertools.count()


def store(ground: Ground) -> Path:
    """A store of its own for each contender, and so an egress service."""
    return ground.scratch / f"egress-{next(_stores)}"


@contextmanager
def _created(alcove: Alcove) -> Iterator[Sample]:
    """The creation of a session beside one that is there, which keeps the service."""
    with alcove.sessions(1):
        yield lambda: {"create": alcove.wait(_creation(alcove)) * 1e3}


async def _creation(alcove: Alcove) -> float:
    await _one_creation(alcove)  # as `led_in` for commands
    return await _one_creation(alcove)


async def _one_creation(alcove: Alcove) -> float:
    start = time.perf_counter_ns()
    session = await alcove.provision()
    seconds = (time.perf_counter_ns() - start) / 1e9
    await alcove.backend.terminate(session.id)
    return seconds


@contextmanager
def _created_allowed(ground: Ground) -> Iterator[Sample]:
    with allowed(store(ground), f"{NAME}:443", "*.example.com") as alcove, _created(alcove) as sample:
        yield sample


def _creations(ground: Ground) -> Iterator[Contender]:
    if ground.alcove is not None:
        yield Contender(CLOSED, partial(_created, ground.alcove))
        yield Contender(ground.alcove.name, partial(_created_allowed, ground))


@contextmanager
def _kept(ground: Ground) -> Iterator[Sample]:
    place = store(ground)
    with serving() as origin, allowed(place, *entries(origin)) as alcove, alcove.reaching(origin) as reach:
        latency(_SETTLING, reach.run, reach.place)()
        pid = service(place)

        def sample() -> Mapping[str, float]:
            before, fds = resident(pid), descriptors(pid)
            latency(CONNECTIONS // 2, reach.run, reach.place)()
            after = resident(pid)
            return {
                "growth": (after - before) / 1e6,
                "resident": after / 1e6,
                "descriptors": float(descriptors(pid) - fds),
            }

        yield sample


def _memory_contenders(ground: Ground) -> Iterator[Contender]:
    if ground.alcove is not None:
        yield Contender(ground.alcove.name, partial(_kept, ground))


def _downloads(case: str, title: str, streams: int) -> Case:
    return Case(
        id=case,
        title=title,
        metrics=(Metric("throughput", "MB/s", "higher"),),
        baseline=DIRECT,
        rounds=Rounds(full=15, quick=3, warmup=1),
        contenders=partial(_contenders, partial(download, streams, DOWNLOAD)),
    )


EGRESS_CASES = (
    Case(
        id="egress-latency",
        title="a connection to an allowed server, and a GET of 1 kB",
        metrics=tuple(Metric(name, "ms") for name in ("connect", "get", "resolve")),
        baseline=DIRECT,
        rounds=Rounds(full=40, quick=10, warmup=2),
        contenders=partial(_contenders, partial(latency, _LATENCY_COUNT)),
    ),
    _downloads("egress-one", "one download of 200 MB", 1),
    _downloads("egress-eight", f"{STREAMS} downloads of 200 MB at once", STREAMS),
    Case(
        id="egress-new",
        title="the creation of a session with an allow-list",
        metrics=(Metric("create", "ms"),),
        baseline=CLOSED,
        rounds=Rounds(full=200, quick=40, warmup=3),
        contenders=_creations,
    ),
    Case(
        id="egress-memory",
        title=f"the egress service over {CONNECTIONS:,} connections",
        metrics=(Metric("growth", "MB"), Metric("resident", "MB"), Metric("descriptors", "")),
        baseline=None,
        rounds=Rounds(full=3, quick=1, warmup=0),
        contenders=_memory_contenders,
    ),
)
