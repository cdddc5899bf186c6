import pytest

from bench.cases import CASES
from bench.targets import BARE, TARGETS, compare, missed
from tests.bench.examples import case_row

PROMISED = {
    "live": ("<=", 1.3),
    "new-bubblewrap": ("<", 1.0),
    "new-sandlock": ("<", 1.0),
    "live-rate": (">=", 0.7),
    "new-rate": (">=", 1.0),
    "memory-1": ("<=", 0.8),
    "memory-100": ("<=", 0.8),
    "untar": ("<=", 1.1),
    "git": ("<=", 1.1),
    "python": ("<=", 1.1),
    "output-head": (">=", 0.6),
    "output-cat": (">=", 0.6),
    "output-1g": (">=", 0.6),
    "program": ("<=", 2.5),
    "density": (">=", 1000),
    "egress-connect": ("<=", 0.5),
    "egress-one": (">=", 0.5),
    "egress-new": ("<=", 1.3),
    "egress-memory": ("<=", 1.0),
    "egress-descriptors": ("<=", 0),
    "snapshot-small": ("<=", 10),
    "snapshot-large": ("<=", 10),
    "fork-small": ("<=", 1.3),
    "fork-large": ("<=", 1.3),
    "resume": ("<=", 1.5),
    "forks": (">=", 1000),
    "reopen": ("<=", 2),
}


def test_the_table_holds_what_was_promised() -> None:
    assert {target.id: (target.compare, target.limit) for target in TARGETS} == PROMISED


def test_every_target_points_at_a_metric_of_a_case() -> None:
    metrics = {case.id: {metric.name for metric in case.metrics} for case in CASES}
    for target in TARGETS:
        assert target.metric in metrics[target.case], target.id


def test_a_case_that_measures_rates_is_better_when_higher() -> None:
    better = {(case.id, metric.name): metric.better for case in CASES for metric in case.metrics}
    for target in TARGETS:
        assert (target.compare == ">=") == (better[target.case, target.metric] == "higher"), target.id


@pytest.mark.parametrize(("mine", "verdict"), [(1.3, "pass"), (1.31, "miss")])
def test_a_limit_that_may_be_reached(mine: float, verdict: str) -> None:
    (row,) = compare([case_row("live", "time", {"alcove": [mine] * 3, BARE: [1.0] * 3})], set())
    assert (row.verdict, row.measured) == (verdict, mine)
    assert row.words.endswith("<= 1.3 × subprocess.run")


def test_a_limit_that_must_not_be_reached() -> None:
    samples = {"alcove": [4.0] * 3, "bubblewrap": [4.0] * 3, "sandlock": [5.0] * 3}
    rows = {row.id: row for row in compare([case_row("new", "time", samples)], set())}
    assert rows["new-bubblewrap"].verdict == "miss"
    assert rows["new-sandlock"].verdict == "pass"


def test_what_is_added_is_the_median_of_the_differences_round_by_round() -> None:
    samples = {"alcove": [1.0, 5.0, 3.5], "direct": [0.5, 4.9, 3.0]}
    (row,) = compare([case_row("egress-latency", "connect", samples)], set())
    assert (row.measured, row.verdict, row.unit) == (0.5, "pass", "ms")
    assert row.words == "a connection <= 0.5 ms over direct"
    assert compare([case_row("egress-latency", "connect", {"alcove": [1.0]})], set())[0].verdict == "not measured"


def test_a_target_without_a_rival_is_the_median_itself() -> None:
    (row,) = compare([case_row("memory-1", "pss", {"alcove": [0.7, 0.9, 0.75]}, baseline=None)], set())
    assert (row.measured, row.verdict) == (0.75, "pass")


def test_a_peer_that_the_host_lacks_is_said_and_is_no_miss() -> None:
    rows = compare([case_row("new", "time", {"alcove": [4.0], "bubblewrap": [5.0]})], {"sandlock"})
    verdicts = {row.id: row.verdict for row in rows}
    assert verdicts == {"new-bubblewrap": "pass", "new-sandlock": "peer absent"}
    assert missed(rows) == []


def test_what_should_have_been_measured_and_was_not_is_a_miss_with_its_reason() -> None:
    case = case_row("live", "time", {BARE: [1.0]}, failures={"alcove": "WrongResultError: exit code 125"})
    rows = compare([case], set())
    assert rows[0].verdict == "not measured"
    assert rows[0].reason == "alcove: WrongResultError: exit code 125"
    assert missed(rows) == rows


def test_an_absent_alcove_is_never_a_pass() -> None:
    rows = compare([case_row("live", "time", {BARE: [1.0]})], set())
    assert [row.verdict for row in missed(rows)] == ["not measured"]


def test_only_the_cases_that_took_part_are_judged() -> None:
    assert compare([], set()) == []
