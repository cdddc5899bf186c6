"""The figures Alcove promises, as one table, and their comparison with what a run measured."""

import operator
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from bench.document import CaseRow, TargetRow, Verdict
from bench.stats import median

Compare = Literal["<=", "<", ">="]

_COMPARE: dict[Compare, Callable[[float, float], bool]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Target:
    """``alcove``'s metric in a case: its ratio to ``against``, or its own median where that is ``None``."""

    id: str
    case: str
    metric: str
    against: str | None
    compare: Compare
    limit: float
    words: str
    unit: str = "×"
    contender: str = "alcove"
    added: bool = False  # what it takes more than ``against``, in place of their ratio

    def sentence(self) -> str:
        rival = f"over {self.against}" if self.added else self.against or ""
        return f"{self.words} {self.compare} {self.limit:g} {self.unit} {rival}".rstrip()

    def holds(self, measured: float) -> bool:
        return _COMPARE[self.compare](measured, self.limit)


BARE = "subprocess.run"
IMPORT_ASYNCIO = "python -c 'import asyncio'"
DIRECT = "direct"
CLOSED = "alcove, no network"
FRESH = "fresh session"
_LARGE = "1 GB in 10,000 files"

TARGETS: tuple[Target, ...] = (
    Target("live", "live", "time", BARE, "<=", 1.3, "/bin/true in a live session"),
    Target("new-bubblewrap", "new", "time", "bubblewrap", "<", 1.0, "new session, first exec and end, to a one-shot"),
    Target("new-sandlock", "new", "time", "sandlock", "<", 1.0, "new session, first exec and end, to a one-shot"),
    Target("live-rate", "live-rate", "rate", BARE, ">=", 0.7, "live execs per second, 8 tasks to 8 threads"),
    Target("new-rate", "new-rate", "rate", "bubblewrap", ">=", 1.0, "new sessions per second, 8 tasks to 8 threads"),
    Target("memory-1", "memory-1", "pss", None, "<=", 0.8, "PSS of a lone idle session", unit="MB"),
    Target("memory-100", "memory-100", "pss", None, "<=", 0.8, "PSS per idle session, 100 alive", unit="MB"),
    Target("untar", "untar", "time", BARE, "<=", 1.1, "untar of 3,000 files in /workspace"),
    Target("git", "git", "time", BARE, "<=", 1.1, "git add and commit of 2,000 files in /workspace"),
    Target("python", "python", "time", BARE, "<=", 1.1, "a Python start in a live session"),
    Target("output-head", "output-head", "throughput", BARE, ">=", 0.6, "200 MB of head -c captured"),
    Target("output-cat", "output-cat", "throughput", BARE, ">=", 0.6, "200 MB of cat captured"),
    Target("output-1g", "output-1g", "throughput", BARE, ">=", 0.6, "1 GB of head -c captured"),
    Target("program", "program", "time", IMPORT_ASYNCIO, "<=", 2.5, "alcove run -- true as a whole process"),
    Target("density", "density", "answered", None, ">=", 1000, "sessions alive at once that answer", unit="sessions"),
    Target("egress-connect", "egress-latency", "connect", DIRECT, "<=", 0.5, "a connection", unit="ms", added=True),
    Target("egress-one", "egress-one", "throughput", DIRECT, ">=", 0.5, "one download of 200 MB"),
    Target("egress-new", "egress-new", "create", CLOSED, "<=", 1.3, "a new session with an allow-list"),
    Target("egress-memory", "egress-memory", "growth", None, "<=", 1.0, "10,000 connections' memory", unit="MB"),
    Target("snapshot-small", "snapshot", "time", None, "<=", 10, "a snapshot of 1 MB", unit="ms", contender="1 MB"),
    Target("snapshot-large", "snapshot", "time", None, "<=", 10, "a snapshot of 1 GB", unit="ms", contender=_LARGE),
    Target("fork-small", "fork", "time", FRESH, "<=", 1.3, "a fork of 1 MB", contender="fork of 1 MB"),
    Target("fork-large", "fork", "time", FRESH, "<=", 1.3, "a fork of 1 GB", contender=f"fork of {_LARGE}"),
    Target("resume", "resume", "time", FRESH, "<=", 1.5, "a suspended session's exec", contender="resumed session"),
    Target("forks", "forks", "answered", None, ">=", 1000, "forks alive at once that answer", unit="sessions"),
    Target("reopen", "reopen", "open", None, "<=", 2, "1,000 sessions and 1,000 snapshots opened", unit="s"),
    Target("egress-descriptors", "egress-memory", "descriptors", None, "<=", 0, "descriptors left", unit=""),
)


def compare(cases: Sequence[CaseRow], absent: Collection[str], targets: Sequence[Target] = TARGETS) -> list[TargetRow]:
    """One row for each target whose case took part; ``absent`` names the peers this host does not have."""
    by_id = {case.id: case for case in cases}
    return [_row(target, by_id[target.case], absent) for target in targets if target.case in by_id]


def missed(rows: Sequence[TargetRow]) -> list[TargetRow]:
    """The rows that make a check fail: a miss, and what ought to have been measured and was not."""
    return [row for row in rows if row.verdict in ("miss", "not measured")]


def _row(target: Target, case: CaseRow, absent: Collection[str]) -> TargetRow:
    measured = _measure(target, case)
    verdict: Verdict
    reason = None
    if measured is not None:
        verdict = "pass" if target.holds(measured) else "miss"
    elif target.against in absent:
        verdict, reason = "peer absent", f"{target.against} does not run here"
    else:
        verdict, reason = "not measured", _why(target, case)
    return TargetRow(
        id=target.id,
        words=target.sentence(),
        limit=target.limit,
        unit=target.unit,
        measured=measured,
        verdict=verdict,
        reason=reason,
    )


def _measure(target: Target, case: CaseRow) -> float | None:
    if target.against is not None and target.added:
        mine, theirs = (case.find(name, target.metric) for name in (target.contender, target.against))
        if mine is None or theirs is None or len(mine.samples) != len(theirs.samples):
            return None
        return median([one - other for one, other in zip(mine.samples, theirs.samples, strict=True)])
    if target.against is not None:
        found = case.ratio(target.contender, target.metric, target.against)
        return None if found is None else found.median
    row = case.find(target.contender, target.metric)
    return None if row is None else median(row.samples)


def _why(target: Target, case: CaseRow) -> str:
    for failure in case.failures:
        if failure.contender in (target.contender, target.against):
            return f"{failure.contender}: {failure.reason}"
    return f"{target.contender} took no part"
