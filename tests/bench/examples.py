"""Documents for the tests, made of values that are easy to reckon with."""

from collections.abc import Mapping, Sequence

from bench.document import CaseRow, Document, Failure, HostFacts, MetricRow, PeerRow, SeriesRow
from bench.targets import compare


def case_row(
    case: str,
    metric: str,
    samples: Mapping[str, Sequence[float]],
    *,
    baseline: str | None = "subprocess.run",
    failures: Mapping[str, str] | None = None,
) -> CaseRow:
    return CaseRow(
        id=case,
        title=f"the case {case}",
        baseline=baseline,
        rounds=3,
        warmup=1,
        seed=1,
        metrics=[MetricRow(name=metric, unit="ms", better="lower")],
        series=[SeriesRow(contender=name, metric=metric, samples=list(values)) for name, values in samples.items()],
        failures=[Failure(contender=name, reason=reason) for name, reason in (failures or {}).items()],
    )


def document(cases: Sequence[CaseRow], *, absent: Sequence[str] = (), left_behind: Sequence[str] = ()) -> Document:
    peers = [PeerRow(name=name, how="", version=None, state="absent", reason="not installed") for name in absent]
    return Document(
        schema=1,
        started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T00:01:00+00:00",
        quick=True,
        host=HostFacts(
            kernel="6.1",
            machine="x86_64",
            processor="a processor",
            cpus=2,
            memory_mb=1000,
            distribution="a distribution",
            file_system="ext4",
            cgroups="v2",
            python="3.11.0",
            uid=0,
        ),
        isolation="userns,mountns",
        peers=peers,
        cases=list(cases),
        targets=compare(cases, set(absent)),
        left_behind=list(left_behind),
    )
