"""Order statistics of a series of samples, and its ratio to another series taken in the same rounds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Below these counts the percentile would be the maximum under another name.
P95_SAMPLES = 20
P99_SAMPLES = 100


def percentile(samples: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0 to 1) of the samples lie, interpolated between neighbours."""
    if not samples:
        raise ValueError("no samples: a percentile needs at least one")
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share {share} is outside 0 to 1")
    ordered = sorted(samples)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = math.ceil(place)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median(samples: Sequence[float]) -> float:
    return percentile(samples, 0.5)


@dataclass(frozen=True)
class Summary:
    count: int
    least: float
    median: float
    p95: float | None
    p99: float | None
    most: float


def summarize(samples: Sequence[float]) -> Summary:
    """Percentiles that the number of samples supports; ``None`` where it is too small for one."""
    return Summary(
        count=len(samples),
        least=min(samples),
        median=median(samples),
        p95=percentile(samples, 0.95) if len(samples) >= P95_SAMPLES else None,
        p99=percentile(samples, 0.99) if len(samples) >= P99_SAMPLES else None,
        most=max(samples),
    )


@dataclass(frozen=True)
class Ratio:
    """Median of the per-round ratios, with a distribution-free interval of about 95 % around it."""

    median: float
    low: float
    high: float


def ratio(samples: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """Divide round by round, then take the median: what slows a whole round cancels out.

    Raises:
        ValueError: the series are not from the same rounds, or the baseline holds a zero.
    """
    if len(samples) != len(baseline):
        raise ValueError(f"{len(samples)} samples against {len(baseline)}: a ratio needs the same rounds on both sides")
    if any(value == 0.0 for value in baseline):
        raise ValueError("the baseline holds a zero")
    per_round = [mine / theirs for mine, theirs in zip(samples, baseline, strict=True)]
    low, high = median_interval(per_round)
    return Ratio(median=median(per_round), low=low, high=high)


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """The order statistics that hold the true median with a probability of about 95 %.

    The normal approximation of the binomial rank; with few samples it widens to the whole range.
    """
    ordered = sorted(samples)
    reach = 0.98 * math.sqrt(len(ordered))  # 1.96 / 2
    middle = (len(ordered) - 1) / 2
    low = max(0, math.floor(middle - reach))
    high = min(len(ordered) - 1, math.ceil(middle + reach))
    return ordered[low], ordered[high]
