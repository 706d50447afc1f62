"""One sample per instance and arm: a table of two by two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from math import sqrt

import numpy as np
from scipy.stats import binom, binomtest

from swe_eval.statistics.interval import Interval, wilson
from swe_eval.statistics.power import detectable, needed


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
    def counts(self) -> dict[str, int]:
        """The cells by name."""
        return asdict(self)

    @property
    def difference(self) -> float:
        """Resolved rate of B less that of A, in [-1, 1]; 0 without pairs."""
        return (self.only_b - self.only_a) / self.n if self.n else 0.0

    @cached_property
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

    @cached_property
    def detectable(self) -> float | None:
        """The difference that this many pairs, disagreeing this often, would have shown; see ``detectable``."""
        return detectable(self.n, (self.only_a + self.only_b) / self.n) if self.n else None

    def needed(self, difference: float) -> int | None:
        """Pairs, disagreeing this often, that would show ``difference``; see ``needed``."""
        return needed(difference, (self.only_a + self.only_b) / self.n) if self.n else None

    @cached_property
    def p_value(self) -> float:
        """Exact two-sided McNemar test (McNemar 1947): a fair coin on the pairs in which the arms disagree."""
        discordant = self.only_a + self.only_b
        return float(binomtest(self.only_b, discordant).pvalue) if discordant else 1.0

    @property
    def mid_p(self) -> float:
        """McNemar's test with half of the probability of what was seen; may err slightly more often than 5 in 100.

        Fagerland, Lydersen and Laake 2013 (BMC Medical Research Methodology 13:91).
        """
        discordant = self.only_a + self.only_b
        seen = float(binom.pmf(self.only_b, discordant, 0.5))
        if self.only_a == self.only_b:
            return 1 - seen / 2 if discordant else 1.0
        return self.p_value - seen


def _square_and_add(one: float, other: float, correlation: float) -> float:
    return sqrt(max(one**2 - 2 * correlation * one * other + other**2, 0.0))
