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
"""Of them at a time: a table that stays in the processor's cache."""
SEED = 0
"""What is drawn is the same each time: a report made again says the same."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval: of a proportion, both ends in [0, 1]; of a difference of two, in [-1, 1]."""

    low: float
    high: float


@cache
def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of a proportion (Wilson 1927): right near 0 and 1, where resolved rates of small runs live.

    ``n`` = 0 says nothing: [0, 1].
    """
    if n == 0:
        return Interval(0.0, 1.0)
    found = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Interval(float(found.low), float(found.high))


def over_instances(
    values: Sequence[float], lowest: float = 0.0, highest: float = 1.0, resamples: int = RESAMPLES
) -> Interval:
    """95% interval of the mean of one value per instance: BCa bootstrap (Efron 1987, JASA 82:171) over instances.

    It asks for more than 95% where instances are few, by as much as a t interval is wider than one that takes the
    deviation for known (Hesterberg 2015, The American Statistician 69:371).

    Args:
        values: what is a mean over the samples of an instance; they are not independent, instances are.
        lowest: the least that a value can be; ``highest`` the most.
        resamples: of the bootstrap.
    """
    if len(set(values)) < 2:
        return _of_equals(values, lowest, highest)
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


def _of_equals(values: Sequence[float], lowest: float, highest: float) -> Interval:
    """Where nothing varies a bootstrap sees no doubt; what never occurred in n may still be as often as 3 in n.

    (Hanley and Lippman-Hand 1983, JAMA 249:1743; here by Wilson's interval of 0 of n), and be any value at all.
    """
    if not values:
        return Interval(lowest, highest)
    value, unseen = values[0], wilson(0, len(values)).high
    return Interval(value - unseen * (value - lowest), value + unseen * (highest - value))


def _level(n: int) -> float:
    level = float(2 * norm.cdf(sqrt(n / (n - 1)) * t.ppf(0.975, n - 1)) - 1)
    return min(level, 1 - 1e-6)  # of two instances it is 1 to the last digit, which scipy answers with NaN
