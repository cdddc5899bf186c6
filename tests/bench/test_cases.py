import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.cases import CASES
from bench.cases.io import Chore, do, git, untar
from bench.cases.output import throughput
from bench.cases.rates import enough_calls, rate, threads
from bench.contender import Case, Finished, Metric, Rounds, WrongResultError
from bench.document import decode, encode
from bench.ground import MARKER, Ground, left_behind, scratch
from bench.measure import Options, case_row, run_case, seed_of
from bench.peers.bare import Bare
from bench.pss import OwnEyes
from bench.rounds import Series


def ground(place: Path) -> Ground:
    return Ground(scratch=place, bare=Bare(), peers=[], alcove=None, pss=OwnEyes(), quick=True)


def silent(_done: int, _rounds: int) -> None:
    return


def test_case_names_are_unique_and_every_contender_has_its_own(tmp_path: Path) -> None:
    assert len({case.id for case in CASES}) == len(CASES)
    for case in CASES:
        names = [contender.name for contender in case.contenders(ground(tmp_path))]
        assert len(set(names)) == len(names), case.id


def test_a_case_measures_something() -> None:
    with pytest.raises(ValueError, match="measures nothing"):
        Case("x", "x", (), None, Rounds(1, 1, 0), lambda _ground: [])


@pytest.mark.parametrize("case", ["live", "new", "python"])
def test_a_case_runs_over_the_floor_alone(case: str, tmp_path: Path) -> None:
    chosen = next(known for known in CASES if known.id == case)
    options = Options(quick=True, rounds=2, parent=tmp_path)
    row = run_case(chosen, ground(tmp_path), options, silent)
    assert not row.failures
    found = row.find("subprocess.run", "time")
    assert found is not None
    assert len(found.samples) == 2
    assert all(value > 0 for value in found.samples)


@pytest.mark.parametrize("chore", [untar(12), git(12)])
def test_files_are_made_and_counted_and_none_is_deleted(chore: Chore, tmp_path: Path) -> None:
    go = Bare().once(tmp_path)
    for command in chore.once:
        go(command).checked()
    seen: set[int] = set()
    for number in range(3):
        assert do(chore, go, number) > 0
        inodes = {path.stat().st_ino for path in tmp_path.rglob("*") if path.is_file()}
        assert seen <= inodes
        seen = inodes


def test_the_proof_of_a_chore_fails_when_a_file_is_missing(tmp_path: Path) -> None:
    chore = untar(5)
    go = Bare().once(tmp_path)
    for command in chore.once:
        go(command).checked()
    short = Chore(
        before=chore.before, timed=f"{chore.timed.removeprefix('exec ')} && rm out{{n}}/d00/f0003", proof=chore.proof
    )
    with pytest.raises(WrongResultError, match="exit code 1"):
        do(short, go, 0)


def test_a_workspace_is_marked_so_that_a_peer_can_see_it_is_there(tmp_path: Path) -> None:
    place = ground(tmp_path).workspace("untar", "alcove, all in one/session")
    assert (place / MARKER).exists()
    assert place.parent == tmp_path / "work" / "untar"


def test_output_that_is_not_all_there_is_not_measured() -> None:
    def kept(size: int, omitted: int) -> Finished:
        return Finished(1.0, 0, b"x" * size, b"", omitted)

    assert throughput(lambda _command: kept(1000, 0), ["x"], 1000)() == {"throughput": 0.001}
    assert throughput(lambda _command: kept(10, 990), ["x"], 1000, whole=False)() == {"throughput": 0.001}
    for result, whole in ((kept(999, 0), True), (kept(10, 990), True), (kept(1000, 0), False), (kept(10, 989), False)):
        with pytest.raises(WrongResultError, match="out of 1000"):
            throughput(lambda _command, result=result: result, ["x"], 1000, whole=whole)()  # type: ignore[misc]


def test_a_burst_is_long_enough_and_never_empty() -> None:
    assert enough_calls(0.1, 4, 0.6) == 24
    assert enough_calls(100.0, 4, 0.6) == 4


def test_a_rate_counts_every_callers_calls() -> None:
    bursts: list[int] = []

    def burst(each: int) -> float:
        bursts.append(each)
        return 0.01 * each

    sample = rate(burst, 0.2)
    assert sample() == {"rate": pytest.approx(800)}
    assert bursts == [1, 4, 20, 20][: len(bursts)]


def test_threads_run_at_once_and_a_failure_is_raised() -> None:
    together = threading.Barrier(3, timeout=20)

    def meet(_command: Sequence[str]) -> Finished:
        together.wait()
        return Finished(0.0, 0)

    with threads([meet] * 3) as burst:
        assert burst(2) > 0
    wrong = pytest.raises(WrongResultError, match="exit code 9")
    with threads([lambda _command: Finished(0.0, 9)] * 2) as burst, wrong:
        burst(1)


def test_a_row_says_all_that_a_series_has() -> None:
    series = Series()
    series.add("a", {"time": 1.0})
    series.drop("b", "why")
    row = case_row(Case("x", "t", (Metric("time", "ms"),), "a", Rounds(1, 1, 0), lambda _ground: []), series, 1, 7)
    assert [(found.contender, found.samples) for found in row.series] == [("a", [1.0])]
    assert [(failure.contender, failure.reason) for failure in row.failures] == [("b", "why")]
    assert row.seed == 7


def test_the_seed_belongs_to_the_case() -> None:
    assert seed_of("live") == seed_of("live") != seed_of("new")


def test_scratch_is_gone_afterwards_even_when_a_directory_is_closed(tmp_path: Path) -> None:
    with scratch(tmp_path) as place:
        (place / "closed" / "below").mkdir(parents=True)
        (place / "closed").chmod(0)
    assert not place.exists()
    assert left_behind(place) == []


def test_what_is_left_is_told(tmp_path: Path) -> None:
    assert left_behind(tmp_path) == [f"directory {tmp_path}"]


def test_the_modules_agree_on_the_document(tmp_path: Path) -> None:
    from tests.bench.examples import document

    chosen = next(known for known in CASES if known.id == "new")
    row = run_case(chosen, ground(tmp_path), Options(quick=True, rounds=1, parent=tmp_path), silent)
    made = document([row])
    assert decode(encode(made)) == made
