"""The JSON file of a run: every sample, so that other statistics can be made of it later."""

from pathlib import Path
from typing import Literal

import msgspec

from bench.stats import Ratio, Summary, ratio, summarize

SCHEMA = 1

Verdict = Literal["pass", "miss", "not measured", "peer absent"]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A frozen row of the document; an unknown field is an error when reading."""


class HostFacts(Record, frozen=True):
    kernel: str
    machine: str
    processor: str
    cpus: int
    memory_mb: int
    distribution: str
    file_system: str
    cgroups: str
    python: str
    uid: int


class PeerRow(Record, frozen=True):
    name: str
    how: str
    version: str | None
    state: Literal["measured", "absent", "refused"]
    reason: str | None


class MetricRow(Record, frozen=True):
    name: str
    unit: str
    better: Literal["lower", "higher"]


class SeriesRow(Record, frozen=True):
    contender: str
    metric: str
    samples: list[float]

    def summary(self) -> Summary:
        return summarize(self.samples)


class Failure(Record, frozen=True):
    contender: str
    reason: str


class CaseRow(Record, frozen=True):
    id: str
    title: str
    baseline: str | None
    rounds: int
    warmup: int
    seed: int
    metrics: list[MetricRow]
    series: list[SeriesRow]
    failures: list[Failure]

    def find(self, contender: str, metric: str) -> SeriesRow | None:
        for row in self.series:
            if (row.contender, row.metric) == (contender, metric):
                return row
        return None

    def ratio(self, contender: str, metric: str, baseline: str | None = None) -> Ratio | None:
        """Against the named baseline, else the case's own; ``None`` where one side was not measured."""
        mine = self.find(contender, metric)
        theirs = self.find(baseline or self.baseline or "", metric)
        if mine is None or theirs is None or len(mine.samples) != len(theirs.samples):
            return None
        return None if 0.0 in theirs.samples else ratio(mine.samples, theirs.samples)


class TargetRow(Record, frozen=True):
    id: str
    words: str
    limit: float
    unit: str
    measured: float | None
    verdict: Verdict
    reason: str | None


class Document(Record, frozen=True):
    schema: Literal[1]
    started: str
    finished: str
    quick: bool
    host: HostFacts
    isolation: str | None
    peers: list[PeerRow]
    cases: list[CaseRow]
    targets: list[TargetRow]
    left_behind: list[str]


def encode(document: Document) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def decode(data: bytes) -> Document:
    """Raises:
    ValueError: not a document of this schema; the message names the place.
    """
    try:
        return msgspec.json.decode(data, type=Document)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a benchmark document: {error}") from error


def read(path: Path) -> Document:
    return decode(path.read_bytes())
