"""Confidence intervals of a proportion, and of a mean over instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import sqrt

import numpy as np
from scipy.stats import binomtest, bootstrap, norm, t

RESAMPLES = 9_999
BATCH = 250
"""Resamples that are drawn at a time: their table then fits into the processor's cache."""
SEED = 0
"""Of everything that is drawn, so that a report made again says the same."""


@dataclass(frozen=True)
class Interval:
    """A 95% confidence interval: of a proportion within [0, 1], of a difference of two within [-1, 1]."""

    low: float
    high: float


@cache
def wilson(successes: int, n: int) -> Interval:
    """Score interval of a proportion (Wilson 1927, JASA 22:209); [0, 1] for ``n`` = 0.

    Unlike the normal approximation it holds near 0 and 1, where the resolved rates of small runs are.
    """
    if n == 0:
        return Interval(0.0, 1.0)
    found = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return Interval(float(found.low), float(found.high))


def bca(values: Sequence[float], lowest: float = 0.0, resamples: int = RESAMPLES) -> Interval:
    """Interval of the mean of one value per instance, by the BCa bootstrap (Efron 1987, JASA 82:171).

    Instances are independent, the samples of one instance are not: its value is the mean over them. With few instances
    a bootstrap interval is too narrow, so that a higher level is asked for (Hesterberg 2015, The American Statistician
    69:371).

    Args:
        values: each in [``lowest``, 1].
        lowest: the least possible value.
        resamples: how many are drawn.

    Returns:
        [``lowest``, 1] without values; if all values are equal, see ``_of_equals``.
    """
    if len(set(values)) < 2:
        return _of_equals(values, lowest)
    found = bootstrap(
        (np.asarray(values, dtype=float),),
        np.mean,
        n_resamples=resamples,
        confidence_level=_level(len(values)),
        method="BCa",
        batch=BATCH,
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return Interval(float(found.low), float(found.high))


def _of_equals(values: Sequence[float], lowest: float) -> Interval:
    """Allow for values that were not seen, where those that were are all equal: a bootstrap would find no doubt.

    What did not occur in n instances may still have a frequency of about 3 in n (Hanley and Lippman-Hand 1983, JAMA
    249:1743; here the upper end of Wilson's interval of 0 in n), and be anything from ``lowest`` to 1.
    """
    if not values:
        return Interval(lowest, 1.0)
    value, unseen = values[0], wilson(0, len(values)).high
    return Interval(value - unseen * (value - lowest), value + unseen * (1.0 - value))


def _level(n: int) -> float:
    """The level at which an interval by the normal distribution is as wide as a 95% one by Student's t."""
    level = float(2 * norm.cdf(sqrt(n / (n - 1)) * t.ppf(0.975, n - 1)) - 1)
    return min(level, 1 - 1e-6)  # for two instances it is 1 to the last digit, which scipy answers with NaN
