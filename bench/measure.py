"""One run: find the runtimes that work here, measure the cases, and write down what was seen."""

import hashlib
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.contender import Case, RefusedError
from bench.document import CaseRow, Document, Failure, MetricRow, PeerRow, SeriesRow
from bench.ground import Ground, left_behind, scratch
from bench.host import host_facts
from bench.local import Alcove
from bench.peers import peers
from bench.peers.bare import Bare
from bench.progress import ProgressLine
from bench.pss import PssReader
from bench.rounds import Series, interleave
from bench.runtime import Runtime
from bench.targets import compare


@dataclass(frozen=True)
class Options:
    quick: bool
    rounds: int | None
    parent: Path


def measure(cases: Sequence[Case], options: Options, pss: PssReader, progress: ProgressLine) -> Document:
    """Run the cases and return everything that was measured; the host is as it was before."""
    started = _now()
    _raise_open_files()
    with scratch(options.parent) as place, store_of_our_own(place):
        facts = host_facts(place)
        ground, rows = survey(place, options, pss)
        with ExitStack() as stack:
            for runtime in (*ground.runtimes(), *ground.networks):
                stack.callback(runtime.close)
            measured = _all_cases(cases, ground, options, progress)
    return Document(
        schema=1,
        started=started,
        finished=_now(),
        quick=options.quick,
        host=facts,
        isolation=ground.alcove.isolation if ground.alcove is not None else None,
        peers=rows,
        cases=measured,
        targets=compare(measured, {row.name for row in rows if row.state != "measured" and row.name != "alcove"}),
        left_behind=left_behind(place),
    )


@contextmanager
def store_of_our_own(place: Path) -> Iterator[None]:
    """The command line finds its store by this name; the user's own store takes no part."""
    before = os.environ.get("ALCOVE_HOME")
    os.environ["ALCOVE_HOME"] = str(place / "store")
    try:
        yield
    finally:
        if before is None:
            del os.environ["ALCOVE_HOME"]
        else:
            os.environ["ALCOVE_HOME"] = before


def survey(place: Path, options: Options, pss: PssReader) -> tuple[Ground, list[PeerRow]]:
    """Try every runtime once; what is missing or does not work here is named with the reason and left out."""
    bare, alcove = Bare(), Alcove(place / "store")
    runtimes: list[Runtime] = [bare, *peers(place / "peers"), alcove]
    rows = [_try(runtime) for runtime in runtimes]
    works = [runtime for runtime, row in zip(runtimes, rows, strict=True) if row.state == "measured"]
    ground = Ground(
        scratch=place,
        bare=bare,
        peers=[runtime for runtime in works if runtime.general and runtime not in (bare, alcove)],
        networks=[runtime for runtime in works if not runtime.general],
        alcove=alcove if alcove in works else None,
        pss=pss,
        quick=options.quick,
    )
    return ground, rows


def _try(runtime: Runtime) -> PeerRow:
    version = runtime.version()
    if version is None:
        return PeerRow(name=runtime.name, how=runtime.how, version=None, state="absent", reason="not installed")
    try:
        runtime.probe()
    except RefusedError as error:
        return PeerRow(name=runtime.name, how=runtime.how, version=version, state="refused", reason=str(error))
    return PeerRow(name=runtime.name, how=runtime.how, version=version, state="measured", reason=None)


def _all_cases(cases: Sequence[Case], ground: Ground, options: Options, progress: ProgressLine) -> list[CaseRow]:
    rows = []
    for number, case in enumerate(cases, 1):
        progress.case(case.id, number, len(cases))
        rows.append(run_case(case, ground, options, progress.rounds))
    return rows


def run_case(case: Case, ground: Ground, options: Options, progress: Callable[[int, int], None]) -> CaseRow:
    rounds = options.rounds or (case.rounds.quick if options.quick else case.rounds.full)
    contenders = list(case.contenders(ground))
    seed = seed_of(case.id)
    series = interleave(contenders, rounds, case.rounds.warmup, seed, progress)
    return case_row(case, series, rounds, seed)


def seed_of(case: str) -> int:
    """The same order of contenders in every run of a case, whatever other cases run."""
    return int.from_bytes(hashlib.sha256(case.encode()).digest()[:4])


def case_row(case: Case, series: Series, rounds: int, seed: int) -> CaseRow:
    return CaseRow(
        id=case.id,
        title=case.title,
        baseline=case.baseline,
        rounds=rounds,
        warmup=case.rounds.warmup,
        seed=seed,
        metrics=[MetricRow(name=metric.name, unit=metric.unit, better=metric.better) for metric in case.metrics],
        series=[
            SeriesRow(contender=contender, metric=metric, samples=samples)
            for contender, metrics in series.samples.items()
            for metric, samples in metrics.items()
        ],
        failures=[Failure(contender=name, reason=reason) for name, reason in series.failures.items()],
    )


def _raise_open_files() -> None:
    # A thousand sessions in one program need more descriptors than the usual soft limit; every server raises it.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
