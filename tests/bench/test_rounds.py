from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from bench.contender import Contender, Sample
from bench.rounds import Series, interleave, orders


def silent(_done: int, _rounds: int) -> None:
    return


def contender(name: str, log: list[str], *, fails_at: int | None = None) -> Contender:
    @contextmanager
    def open_() -> Iterator[Sample]:
        log.append(f"open {name}")
        taken = 0

        def sample() -> Mapping[str, float]:
            nonlocal taken
            taken += 1
            if taken == fails_at:
                raise RuntimeError(f"{name} broke")
            log.append(name)
            return {"time": float(taken)}

        try:
            yield sample
        finally:
            log.append(f"close {name}")

    return Contender(name, open_)


def test_every_round_has_every_name_once_in_changing_order() -> None:
    names = ["a", "b", "c", "d"]
    made = list(orders(names, 200, seed=1))
    assert all(Counter(order) == Counter(names) for order in made)
    firsts = Counter(order[0] for order in made)
    assert min(firsts.values()) > 25
    assert names == ["a", "b", "c", "d"]


def test_the_same_seed_gives_the_same_orders() -> None:
    assert list(orders(["a", "b", "c"], 20, seed=5)) == list(orders(["a", "b", "c"], 20, seed=5))
    assert list(orders(["a", "b", "c"], 20, seed=5)) != list(orders(["a", "b", "c"], 20, seed=6))


def test_rounds_are_interleaved_and_warm_up_is_not_recorded() -> None:
    log: list[str] = []
    series = interleave([contender(name, log) for name in "abc"], rounds=4, warmup=2, seed=3, progress=silent)
    body = [entry for entry in log if " " not in entry]
    assert [sorted(body[start : start + 3]) for start in range(0, 18, 3)] == [["a", "b", "c"]] * 6
    assert series.samples["a"]["time"] == [3.0, 4.0, 5.0, 6.0]
    assert not series.failures
    assert log[-3:] == ["close c", "close b", "close a"]


def test_a_contender_that_fails_drops_out_whole_and_the_others_go_on() -> None:
    log: list[str] = []
    some = [contender("a", log), contender("b", log, fails_at=3)]
    series = interleave(some, rounds=5, warmup=0, seed=1, progress=silent)
    assert len(series.samples["a"]["time"]) == 5
    assert "b" not in series.samples
    assert series.failures == {"b": "RuntimeError: b broke"}
    assert "close b" in log


def test_a_contender_that_cannot_be_made_ready_is_named() -> None:
    log: list[str] = []

    @contextmanager
    def broken() -> Iterator[Sample]:
        if not log:
            raise OSError("no such program")
        yield dict

    series = interleave([Contender("x", broken), contender("a", log)], 1, 0, 1, silent)
    assert series.failures == {"x": "OSError: no such program"}
    assert series.samples["a"] == {"time": [1.0]}


def test_everything_is_closed_when_the_run_is_interrupted() -> None:
    log: list[str] = []

    def interrupt(done: int, _rounds: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interleave([contender("a", log), contender("b", log)], 3, 0, 1, interrupt)
    assert log[-2:] == ["close b", "close a"]


def test_progress_goes_from_nothing_to_all() -> None:
    seen: list[tuple[int, int]] = []
    interleave([contender("a", [])], 2, 1, 1, lambda done, rounds: seen.append((done, rounds)))
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_no_rounds_and_two_of_a_name_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        interleave([], 0, 0, 1, silent)
    with pytest.raises(ValueError, match="two contenders"):
        interleave([contender("a", []), contender("a", [])], 1, 0, 1, silent)


def test_a_series_keeps_metrics_apart() -> None:
    series = Series()
    series.add("a", {"pss": 1.0, "kernel": 2.0})
    series.add("a", {"pss": 3.0, "kernel": 4.0})
    assert series.samples == {"a": {"pss": [1.0, 3.0], "kernel": [2.0, 4.0]}}
