"""What a comparison of one sample per instance could have shown, and how many instances it takes to show more."""

from __future__ import annotations

from bisect import bisect_left
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binom

ALPHA, POWER = 0.05, 0.8
"""By convention: how often a test may find a difference where there is none, and how often it should find one."""

MOST_PAIRS = 10_000
"""No benchmark has more."""


def detectable(n: int, discordance: float) -> float | None:
    """The minimum detectable difference: the smallest that the exact McNemar test at ``ALPHA`` finds with ``POWER``.

    The power is a sum over every outcome, not an approximation (as in Duffy 1984, Biometrics 40:1005).

    Args:
        n: pairs.
        discordance: the part of the pairs in which the arms disagree, in [0, 1].

    Returns:
        A difference of rates in (0, ``discordance``]; None if even the largest one would be missed too often.
    """
    if not discordance or power(n, discordance, discordance) < POWER:
        return None
    return float(brentq(lambda difference: power(n, discordance, difference) - POWER, 0.0, discordance, xtol=1e-5))


def needed(difference: float, discordance: float) -> int | None:
    """How many pairs it takes until the exact McNemar test at ``ALPHA`` finds the difference with ``POWER``.

    One pair fewer has less power. As a function of the number of pairs, the exact power is a sawtooth: now and then
    a smaller number has enough, too.

    Args:
        difference: of the rates, with either sign.
        discordance: the part of the pairs in which the arms disagree; at least ``difference``.

    Returns:
        None if the difference is 0, or more than ``MOST_PAIRS`` are needed.
    """
    if not difference:
        return None
    found = bisect_left(range(MOST_PAIRS + 1), True, key=lambda n: power(n, discordance, abs(difference)) >= POWER)
    return found if found <= MOST_PAIRS else None


def power(n: int, discordance: float, difference: float) -> float:
    """How often the exact McNemar test at ``ALPHA`` finds a true difference, in [0, 1]; arguments as above."""
    fewest, most = binom.interval(1 - 1e-12, n, discordance)  # what lies beyond changes no digit that matters
    discordant = np.arange(fewest, most + 1)
    critical = _critical(max(n, MOST_PAIRS))[discordant.astype(int)]
    wins = (discordance + difference) / (2 * discordance)
    rejected = binom.cdf(critical, discordant, wins) + binom.sf(discordant - critical - 1, discordant, wins)
    return float(np.sum(binom.pmf(discordant, n, discordance) * rejected))


@cache
def _critical(most: int) -> NDArray[np.float64]:
    """For 0 to ``most`` discordant pairs: the most wins of one arm with which the test still rejects; -1 if it cannot.

    That is the largest k with 2 P(X <= k) <= ``ALPHA``.
    """
    discordant = np.arange(most + 1)
    critical = binom.ppf(ALPHA / 2, discordant, 0.5)
    return np.asarray(np.where(2 * binom.cdf(critical, discordant, 0.5) <= ALPHA, critical, critical - 1))
