"""How sure a number is. Intervals and tests for binary outcomes, on scipy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom, binomtest

ALPHA, POWER = 0.05, 0.8
"""The conventions: false alarms where nothing differs, and true ones where the detectable difference is there."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval: of a proportion, both ends in [0, 1]; of a difference of two, in [-1, 1]."""

    low: float
    high: float


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of a proportion (Wilson 1927): right near 0 and 1, where resolved rates of small runs live.

    ``n`` = 0 says nothing: [0, 1].
    """
    if n == 0:
        return Interval(0.0, 1.0)
    found = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Interval(float(found.low), float(found.high))


@dataclass(frozen=True)
class Paired:
    """Two arms on the same trials: how many were resolved by both, only by A, only by B, by neither."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @classmethod
    def of(cls, a: Mapping[str, bool], b: Mapping[str, bool]) -> Paired:
        """Count over the keys that both arms have a verdict for."""
        pairs = [(a[key], b[key]) for key in a.keys() & b.keys()]
        return cls(*(pairs.count(pair) for pair in [(True, True), (True, False), (False, True), (False, False)]))

    @property
    def n(self) -> int:
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def difference(self) -> float:
        """Resolved rate of B less that of A, in [-1, 1]; 0 without pairs."""
        return (self.only_b - self.only_a) / self.n if self.n else 0.0

    @property
    def interval(self) -> Interval:
        """95% interval of the difference: square-and-add of Wilson intervals with the pairs' correlation.

        Newcombe 1998 (Statistics in Medicine 17:2635), method 10.
        """
        a, b = wilson(self.both + self.only_a, self.n), wilson(self.both + self.only_b, self.n)
        rate_a, rate_b = (self.both + self.only_a) / max(self.n, 1), (self.both + self.only_b) / max(self.n, 1)
        low = _square_and_add(rate_b - b.low, a.high - rate_a, self._correlation)
        high = _square_and_add(b.high - rate_b, rate_a - a.low, self._correlation)
        return Interval(self.difference - low, self.difference + high) if self.n else Interval(-1.0, 1.0)

    @property
    def _correlation(self) -> float:
        """Phi, with Newcombe's continuity correction."""
        products = self.both * self.neither - self.only_a * self.only_b
        corrected = max(products - self.n / 2, 0) if products > 0 else products
        resolved = (self.both + self.only_a, self.both + self.only_b)
        margins = np.prod([count * (self.n - count) for count in resolved], dtype=float)
        return float(corrected / sqrt(margins)) if margins else 0.0

    @property
    def detectable(self) -> float | None:
        """The difference that this many pairs, disagreeing this often, would have shown; see ``detectable``."""
        return detectable(self.n, (self.only_a + self.only_b) / self.n) if self.n else None

    @property
    def p_value(self) -> float:
        """Exact two-sided McNemar test (McNemar 1947): a fair coin on the pairs in which the arms disagree."""
        discordant = self.only_a + self.only_b
        return float(binomtest(self.only_b, discordant).pvalue) if discordant else 1.0


def detectable(n: int, discordance: float) -> float | None:
    """The smallest difference for which the exact McNemar test at ``ALPHA`` has power ``POWER``.

    The power is a sum over every outcome, no approximation (as Duffy 1984, Biometrics 40:1005).

    Args:
        n: pairs.
        discordance: the fraction of pairs in which the arms disagree, in [0, 1].

    Returns:
        A difference of rates in (0, discordance]; None if even the largest possible one would mostly be missed.
    """
    if not discordance or _power(n, discordance, discordance) < POWER:
        return None
    return float(brentq(lambda difference: _power(n, discordance, difference) - POWER, 0.0, discordance, xtol=1e-5))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of a family of tests, in the order given (Holm 1979, Scand. J. Statist. 6:65)."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(np.sort(p_values) * np.arange(len(p_values), 0, -1))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]


def _square_and_add(one: float, other: float, correlation: float) -> float:
    return sqrt(max(one**2 - 2 * correlation * one * other + other**2, 0.0))


def _power(n: int, discordance: float, difference: float) -> float:
    disagreeing = np.arange(n + 1)
    # few enough wins of one arm that the test rejects: the largest k with 2 P(X <= k) <= ALPHA, or -1
    critical = binom.ppf(ALPHA / 2, disagreeing, 0.5)
    critical = np.where(2 * binom.cdf(critical, disagreeing, 0.5) <= ALPHA, critical, critical - 1)
    wins = (discordance + difference) / (2 * discordance)
    rejected = binom.cdf(critical, disagreeing, wins) + binom.sf(disagreeing - critical - 1, disagreeing, wins)
    return float(np.sum(binom.pmf(disagreeing, n, discordance) * rejected))
