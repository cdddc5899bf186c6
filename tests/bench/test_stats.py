import random
import statistics

import pytest

from bench.stats import P95_SAMPLES, P99_SAMPLES, median, median_interval, percentile, ratio, summarize


def test_percentiles_are_interpolated_between_neighbours() -> None:
    assert percentile([10.0, 20.0, 30.0, 40.0], 0.5) == 25.0
    assert percentile([40.0, 10.0, 30.0, 20.0], 0.0) == 10.0
    assert percentile([40.0, 10.0, 30.0, 20.0], 1.0) == 40.0
    assert percentile([7.0], 0.99) == 7.0


def test_percentiles_agree_with_the_standard_library() -> None:
    source = random.Random(7)
    samples = [source.lognormvariate(0, 1) for _ in range(501)]
    cuts = statistics.quantiles(samples, n=100, method="inclusive")
    assert percentile(samples, 0.95) == pytest.approx(cuts[94])
    assert percentile(samples, 0.99) == pytest.approx(cuts[98])
    assert median(samples) == statistics.median(samples)


def test_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 0.5)
    with pytest.raises(ValueError, match="outside 0 to 1"):
        percentile([1.0], 95)


def test_a_summary_gives_no_percentile_that_its_count_does_not_support() -> None:
    assert summarize([1.0] * (P95_SAMPLES - 1)).p95 is None
    assert summarize([1.0] * P95_SAMPLES).p95 == 1.0
    assert summarize([1.0] * (P99_SAMPLES - 1)).p99 is None
    assert summarize([1.0] * P99_SAMPLES).p99 == 1.0
    found = summarize([3.0, 1.0, 2.0])
    assert (found.count, found.least, found.median, found.most) == (3, 1.0, 2.0, 3.0)


def test_a_ratio_is_taken_round_by_round() -> None:
    # One slow round hits both sides; the medians of the sides would say 1.5, each round says 2.
    baseline = [1.0, 1.0, 100.0, 2.0, 2.0]
    mine = [2.0 * value for value in baseline]
    assert ratio(mine, baseline).median == 2.0
    assert (ratio(mine, baseline).low, ratio(mine, baseline).high) == (2.0, 2.0)


def test_a_ratio_needs_the_same_rounds_and_a_baseline_above_zero() -> None:
    with pytest.raises(ValueError, match="same rounds"):
        ratio([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="zero"):
        ratio([1.0], [0.0])


def test_the_interval_holds_the_median_and_narrows_with_the_count() -> None:
    assert median_interval([5.0, 1.0, 3.0]) == (1.0, 5.0)
    low, high = median_interval([float(number) for number in range(1001)])
    assert low < 500 < high
    assert high - low < 70


def test_the_interval_covers_the_true_median_about_as_often_as_it_says() -> None:
    source = random.Random(11)
    covered = 0
    for _ in range(400):
        low, high = median_interval([source.gauss(0, 1) for _ in range(60)])
        covered += low <= 0 <= high
    assert covered / 400 > 0.92
