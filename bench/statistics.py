"""``python -m bench.statistics``: how often the report's intervals hold the truth, and its tests raise a false alarm.

Experiments are simulated, so that the truth is known. For each instance, arm A's probability of resolving it is drawn
from a beta distribution with mean 0.3, such that two equal arms disagree on 23% of the instances. Arm B is

- **equal**: it has the same probability on every instance;
- **equal on average**: on half of the instances it fails a quarter less often, on the others it resolves less, by as
  much on average;
- **better**: the same gain, but it resolves only a quarter less on the others, which makes it better by 5 points.

The report's own functions are then applied: with one sample per instance the intervals of Wilson and Newcombe and the
McNemar test, with three samples the bootstrap and the sign-flip test (with 999 draws here, 9,999 in a report).

- ``coverage_50``, ``coverage_500``: how often a 95% interval held the truth, with 50 and 500 instances. There are
  intervals of arm A's rate and of the better arm's difference, each with one and with three samples; the figure is the
  one furthest from 0.95.
- ``false_positive_50``, ``false_positive_500``: how often p <= 0.05 for equal arms. The figure is the worst of both
  kinds of equal arms, each with one and with three samples.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import sqrt
from statistics import fmean
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.table import Table

from bench.output import print_result
from swe_eval.statistics import ALPHA, Interval, Paired, Repeated, bca, wilson

MEAN, DISAGREEMENT = 0.3, 0.23
"""Of arm A's probabilities; of two equal arms with one sample each."""
QUARTER = 0.25
SIZES, SAMPLES = (50, 500), (1, 3)
RESAMPLES = 999
BETTER = QUARTER * (1 - MEAN) / 2 - QUARTER * MEAN / 2
"""The true difference of the better arm."""
TINY = 1e-9
"""For rounding."""

Chances: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.int64]
Arm: TypeAlias = Callable[[np.random.Generator, Chances], Chances]


@dataclass(frozen=True)
class Experiment:
    """By instance: how many of its samples each arm resolved."""

    a: Counts
    b: Counts
    samples: int

    @property
    def compared(self) -> Paired | Repeated:
        """The comparison, as the report makes it."""
        n, both, a, b = len(self.a), *(int(np.sum(wins)) for wins in (self.a * self.b, self.a, self.b))
        if self.samples == 1:
            return Paired(both, a - both, b - both, n - a - b + both)
        return Repeated(self.a.tolist(), self.b.tolist(), [self.samples] * n, RESAMPLES)

    @property
    def rate(self) -> Interval:
        """The interval of arm A's rate, as the report makes it."""
        if self.samples == 1:
            return wilson(int(np.sum(self.a)), len(self.a))
        return bca((self.a / self.samples).tolist(), resamples=RESAMPLES)


def equal(random: np.random.Generator, a: Chances) -> Chances:
    """Arm B's probabilities, given arm A's."""
    return a


def equal_on_average(random: np.random.Generator, a: Chances) -> Chances:
    """As ``equal``."""
    return _moved(random, a, loss=QUARTER * (1 - MEAN) / MEAN)


def better(random: np.random.Generator, a: Chances) -> Chances:
    """As ``equal``, but better by ``BETTER``."""
    return _moved(random, a, loss=QUARTER)


def _moved(random: np.random.Generator, a: Chances, loss: float) -> Chances:
    return np.where(random.random(len(a)) < 0.5, a + QUARTER * (1 - a), a - loss * a)


def experiments(arm: Arm, times: int, n: int, samples: int) -> Iterator[Experiment]:
    """So many experiments on n instances, the same ones each time."""
    random = np.random.default_rng([SIZES.index(n), samples])
    spread = DISAGREEMENT / (2 * MEAN * (1 - MEAN))  # 2 E[p (1 - p)] of a beta is 2 m (1 - m) s / (s + 1)
    size = spread / (1 - spread)
    for _ in range(times):
        a = random.beta(MEAN * size, (1 - MEAN) * size, n)
        yield Experiment(random.binomial(samples, a), random.binomial(samples, arm(random, a)), samples)


@dataclass(frozen=True)
class Found:
    """In which fraction of the experiments of one size something was found."""

    difference: float
    """The interval held the true difference of the better arm."""
    rate: float
    """The interval held the true rate of arm A."""
    equal: float
    """A difference was significant though the arms are equal; likewise ``equal_on_average``."""
    equal_on_average: float

    @property
    def coverage(self) -> float:
        return max(self.difference, self.rate, key=lambda found: abs(found - 0.95))

    @property
    def false_positive(self) -> float:
        return max(self.equal, self.equal_on_average)


def simulate(times: int, n: int, samples: int) -> Found:
    """Run the experiments and count."""
    kept = list(experiments(better, times, n, samples))
    return Found(
        fmean(_holds(experiment.compared.interval, BETTER) for experiment in kept),
        fmean(_holds(experiment.rate, MEAN) for experiment in kept),
        *(
            fmean(experiment.compared.p_value <= ALPHA for experiment in experiments(arm, times, n, samples))
            for arm in (equal, equal_on_average)
        ),
    )


def _holds(interval: Interval, truth: float) -> bool:
    return interval.low <= truth + TINY and truth - TINY <= interval.high


def table_of(found: Mapping[tuple[int, int], Found]) -> Table:
    """A column for each number of instances and of samples."""
    table = Table("", *(f"{n} x {samples}" for n, samples in found), box=SIMPLE)
    rows = {
        "interval holds the difference": "difference",
        "interval holds the rate": "rate",
        "p <= 0.05: equal arms": "equal",
        "  equal on average": "equal_on_average",
    }
    for label, name in rows.items():
        table.add_row(label, *(f"{getattr(each, name):.1%}" for each in found.values()))
    return table


def figures_of(found: Mapping[tuple[int, int], Found]) -> dict[str, float]:
    """The worst of each size, as one object for programs."""
    worst = {n: [each for (size, _), each in found.items() if size == n] for n in SIZES}
    coverage = {
        f"coverage_{n}": max((each.coverage for each in worst[n]), key=lambda held: abs(held - 0.95)) for n in SIZES
    }
    return coverage | {f"false_positive_{n}": max(each.false_positive for each in worst[n]) for n in SIZES}


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.statistics")
    parser.add_argument("--quick", action="store_true", help="100 experiments of each kind: whether it runs")
    times = 100 if parser.parse_args().quick else 2_000
    started = time.perf_counter()
    found = {(n, samples): simulate(times, n, samples) for n in SIZES for samples in SAMPLES}
    took = f"{times} experiments of each kind in {time.perf_counter() - started:.0f} s; a fraction is sure to about"
    print_result(figures_of(found), table_of(found), f"{took} +-{196 * sqrt(0.05 * 0.95 / times):.1f} points")


if __name__ == "__main__":
    main()
