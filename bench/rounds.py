"""Interleaved rounds: each runs every contender once, in an order of its own, so that noise hits all alike."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from bench.contender import Contender, Sample

Progress = Callable[[int, int], None]


@dataclass
class Series:
    """Samples by contender and metric, aligned by round, and the reason of each contender that dropped out."""

    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, contender: str, sample: Mapping[str, float]) -> None:
        metrics = self.samples.setdefault(contender, {})
        for metric, value in sample.items():
            metrics.setdefault(metric, []).append(value)

    def drop(self, contender: str, reason: str) -> None:
        """Forget all of its samples: a half series would not be aligned with the others."""
        self.samples.pop(contender, None)
        self.failures[contender] = reason


def orders(names: Sequence[str], rounds: int, seed: int) -> Iterator[list[str]]:
    """One shuffled order a round; the same seed gives the same orders."""
    shuffler = random.Random(seed)  # reproducible order, not a secret
    for _ in range(rounds):
        order = list(names)
        shuffler.shuffle(order)
        yield order


def interleave(contenders: Sequence[Contender], rounds: int, warmup: int, seed: int, progress: Progress) -> Series:
    """Run ``warmup`` rounds unrecorded, then ``rounds`` recorded ones.

    A contender that fails is named with its reason and takes no further part; the others go on.
    """
    if rounds < 1:
        raise ValueError(f"{rounds} rounds: at least one is needed")
    series = Series()
    with ExitStack() as stack:
        ready = _open(contenders, stack, series)
        for number, order in enumerate(orders(list(ready), warmup + rounds, seed)):
            progress(number, warmup + rounds)
            for name in order:
                if name not in series.failures:
                    _take(name, ready[name], series, recorded=number >= warmup)
        progress(warmup + rounds, warmup + rounds)
    return series


def _open(contenders: Sequence[Contender], stack: ExitStack, series: Series) -> dict[str, Sample]:
    ready: dict[str, Sample] = {}
    for contender in contenders:
        if contender.name in ready:
            raise ValueError(f"two contenders are named {contender.name}")
        try:
            ready[contender.name] = stack.enter_context(contender.open())
        except Exception as error:  # noqa: BLE001  one runtime's failure must not end the others' measurement
            series.drop(contender.name, _reason(error))
    return ready


def _take(name: str, sample: Sample, series: Series, *, recorded: bool) -> None:
    try:
        taken = sample()
    except Exception as error:  # noqa: BLE001  as above
        series.drop(name, _reason(error))
        return
    if recorded:
        series.add(name, taken)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
