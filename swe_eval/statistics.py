"""How sure a number is. Intervals and tests for binary outcomes, on scipy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scipy.stats import binomtest


@dataclass(frozen=True)
class Interval:
    """A confidence interval of a proportion, both ends in [0, 1]."""

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
    def p_value(self) -> float:
        """Exact two-sided McNemar test (McNemar 1947): a fair coin on the pairs in which the arms disagree."""
        discordant = self.only_a + self.only_b
        return float(binomtest(self.only_b, discordant).pvalue) if discordant else 1.0
