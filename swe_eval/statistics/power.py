"""What a comparison could have shown, and what it would take."""

from __future__ import annotations

from bisect import bisect_left
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binom

ALPHA, POWER = 0.05, 0.8
"""The conventions: false alarms where nothing differs, and true ones where the detectable difference is there."""

MOST = 10_000
"""Pairs; who needs more has no benchmark for it."""


def detectable(n: int, discordance: float) -> float | None:
    """The smallest difference for which the exact McNemar test at ``ALPHA`` has power ``POWER``.

    The power is a sum over every outcome, no approximation (as Duffy 1984, Biometrics 40:1005).

    Args:
        n: pairs.
        discordance: the fraction of pairs in which the arms disagree, in [0, 1].

    Returns:
        A difference of rates in (0, discordance]; None if even the largest possible one would mostly be missed.
    """
    if not discordance or power(n, discordance, discordance) < POWER:
        return None
    return float(brentq(lambda difference: power(n, discordance, difference) - POWER, 0.0, discordance, xtol=1e-5))


def needed(difference: float, discordance: float) -> int | None:
    """The pairs with which the exact McNemar test at ``ALPHA`` has power ``POWER``; None for more than ``MOST``.

    One pair fewer has less. The exact power is a saw, so that some smaller number may have it too.

    Args:
        difference: of the rates; its sign does not matter.
        discordance: the fraction of pairs in which the arms disagree, at least that.
    """
    if not difference:
        return None
    found = bisect_left(range(MOST + 1), True, key=lambda n: power(n, discordance, abs(difference)) >= POWER)
    return found if found <= MOST else None


def power(n: int, discordance: float, difference: float) -> float:
    """How often the exact McNemar test at ``ALPHA`` finds a true difference, in [0, 1]; arguments as above."""
    fewest, most = binom.interval(1 - 1e-12, n, discordance)  # beyond, no outcome changes a digit that matters
    disagreeing = np.arange(fewest, most + 1)
    critical = _critical(max(n, MOST))[disagreeing.astype(int)]
    wins = (discordance + difference) / (2 * discordance)
    rejected = binom.cdf(critical, disagreeing, wins) + binom.sf(disagreeing - critical - 1, disagreeing, wins)
    return float(np.sum(binom.pmf(disagreeing, n, discordance) * rejected))


@cache
def _critical(most: int) -> NDArray[np.float64]:
    """By how many pairs disagree, 0 to ``most``: few enough wins of one arm that the test rejects.

    The largest k with 2 P(X <= k) <= ``ALPHA``, or -1.
    """
    disagreeing = np.arange(most + 1)
    critical = binom.ppf(ALPHA / 2, disagreeing, 0.5)
    return np.asarray(np.where(2 * binom.cdf(critical, disagreeing, 0.5) <= ALPHA, critical, critical - 1))
