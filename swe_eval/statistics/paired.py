"""Two arms with one sample per instance: a two-by-two table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from math import sqrt
from typing import ClassVar

from scipy.stats import binom, binomtest

from swe_eval.statistics.interval import Interval, wilson
from swe_eval.statistics.power import detectable, needed


@dataclass(frozen=True)
class Paired:
    """Two arms on the same instances: how many were resolved by both, by A alone, by B alone, by neither."""

    both: int
    only_a: int
    only_b: int
    neither: int
    test: ClassVar[str] = "exact"
    """What kind of p-value ``p_value`` is."""

    @classmethod
    def of(cls, a: Mapping[str, bool], b: Mapping[str, bool]) -> Paired:
        """Count the instances for which both arms have a verdict."""
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
    def resolved_a(self) -> int:
        return self.both + self.only_a

    @property
    def resolved_b(self) -> int:
        return self.both + self.only_b

    @property
    def discordant(self) -> int:
        """Instances on which the arms disagree."""
        return self.only_a + self.only_b

    @property
    def discordance(self) -> float:
        """The part of the instances on which the arms disagree; 0 without instances."""
        return self.discordant / self.n if self.n else 0.0

    @property
    def difference(self) -> float:
        """Resolved rate of B minus that of A, in [-1, 1]; 0 without instances."""
        return (self.only_b - self.only_a) / self.n if self.n else 0.0

    @cached_property
    def interval(self) -> Interval:
        """95% interval of the difference: Newcombe 1998 (Statistics in Medicine 17:2635), method 10.

        It squares and adds the distances to the ends of both Wilson intervals, with the correlation of the pairs.
        """
        if not self.n:
            return Interval(-1.0, 1.0)
        a, b = wilson(self.resolved_a, self.n), wilson(self.resolved_b, self.n)
        rate_a, rate_b = self.resolved_a / self.n, self.resolved_b / self.n
        low = _square_and_add(rate_b - b.low, a.high - rate_a, self._phi)
        high = _square_and_add(b.high - rate_b, rate_a - a.low, self._phi)
        return Interval(self.difference - low, self.difference + high)

    @property
    def _phi(self) -> float:
        """The correlation of the pairs, with Newcombe's continuity correction."""
        products = self.both * self.neither - self.only_a * self.only_b
        corrected = max(products - self.n / 2, 0) if products > 0 else products
        margins = self.resolved_a * (self.n - self.resolved_a) * self.resolved_b * (self.n - self.resolved_b)
        return corrected / sqrt(margins) if margins else 0.0

    @cached_property
    def p_value(self) -> float:
        """Two-sided exact McNemar test (McNemar 1947, Psychometrika 12:153): the discordant pairs are a fair coin's."""
        return float(binomtest(self.only_b, self.discordant).pvalue) if self.discordant else 1.0

    @property
    def mid_p(self) -> float:
        """McNemar mid-p: less conservative, at the price of an error rate that can slightly exceed 5%.

        It counts the probability of the table that was seen half (Fagerland, Lydersen and Laake 2013, BMC Medical
        Research Methodology 13:91).
        """
        seen = float(binom.pmf(self.only_b, self.discordant, 0.5))
        if self.only_a == self.only_b:
            return 1 - seen / 2 if self.discordant else 1.0
        return self.p_value - seen

    @cached_property
    def detectable(self) -> float | None:
        """The smallest difference that as many pairs, disagreeing as often, would show; see ``power.detectable``."""
        return detectable(self.n, self.discordance)

    def needed(self, difference: float) -> int | None:
        """How many pairs, disagreeing as often, would show ``difference``; see ``power.needed``."""
        return needed(difference, self.discordance)


def _square_and_add(one: float, other: float, correlation: float) -> float:
    return sqrt(max(one**2 - 2 * correlation * one * other + other**2, 0.0))
