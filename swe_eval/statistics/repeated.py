"""Two arms with several samples per instance: instances are independent, samples of the same instance are not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, comb, lcm, sqrt
from statistics import fmean
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, permutation_test

from swe_eval.statistics.interval import BATCH, RESAMPLES, SEED, Interval, bca
from swe_eval.statistics.power import ALPHA, POWER

FEWEST = 6
"""With fewer discordant instances no p-value reaches ``ALPHA``: with five the least is 2 / 2**5 = 0.0625."""


@dataclass(frozen=True)
class Repeated:
    """Two arms on the same instances. By instance: how many samples A resolved, how many B did, of how many."""

    a: Sequence[int]
    b: Sequence[int]
    samples: Sequence[int]
    resamples: int = RESAMPLES
    """How many are drawn for the interval, and for the test."""
    test: ClassVar[str] = "sign-flip"
    """What kind of p-value ``p_value`` is."""
    mid_p: ClassVar[None] = None
    """Only the test of a two-by-two table has one."""

    @classmethod
    def of(cls, tries: Iterable[Sequence[tuple[bool, bool]]]) -> Repeated:
        """Count the samples of each instance, each as whether A and whether B resolved it."""
        found = list(tries)
        a, b = ([sum(pair[arm] for pair in pairs) for pairs in found] for arm in (0, 1))
        return cls(a, b, [len(pairs) for pairs in found])

    @property
    def n(self) -> int:
        return len(self.samples)

    @property
    def counts(self) -> dict[str, int]:
        """Instances that A resolved more often than B, less often, and as often."""
        signs = np.sign(self._scaled).tolist()
        return {"a_ahead": signs.count(-1), "b_ahead": signs.count(1), "even": signs.count(0)}

    @property
    def discordant(self) -> int:
        """Instances that the arms did not resolve equally often."""
        return int(np.count_nonzero(self._scaled))

    def rate_of(self, resolved: Sequence[int]) -> float:
        """The mean over the instances of the part of its samples that ``a`` or ``b`` resolved."""
        return fmean(of / k for of, k in zip(resolved, self.samples, strict=True))

    @cached_property
    def differences(self) -> NDArray[np.float64]:
        """By instance: resolved rate of B minus that of A."""
        a, b, samples = (np.asarray(counts, dtype=np.float64) for counts in (self.a, self.b, self.samples))
        return np.asarray((b - a) / samples)

    @property
    def difference(self) -> float:
        """The mean over the instances, in [-1, 1]; 0 without instances."""
        return float(np.sum(self._scaled)) / (self.n * lcm(*self.samples)) if self.n else 0.0

    @cached_property
    def interval(self) -> Interval:
        """95% interval of the difference, by the bootstrap over instances; see ``bca``."""
        return bca(self.differences.tolist(), lowest=-1.0, resamples=self.resamples)

    @cached_property
    def p_value(self) -> float:
        """Two-sided sign-flip permutation test (Fisher 1935, The Design of Experiments, section 21).

        If the arms are equal, the difference of an instance is as likely with the opposite sign. The test is exact if
        the discordant instances have at most ``resamples`` combinations of signs; otherwise combinations are drawn,
        and p is at least 2 / (``resamples`` + 1). With one sample per instance it is the exact McNemar test.
        """
        return sign_flip(self._scaled, self.resamples)

    @property
    def detectable(self) -> float | None:
        """The difference that these instances, varying as much, show at ``ALPHA`` with ``POWER``.

        (z_alpha/2 + z_beta) sd / sqrt(n), after the sample sizes of Miller 2024 (arXiv:2411.00640). None where too few
        instances are discordant for any p-value to reach ``ALPHA``, where it is more than the largest difference, and
        where all differences are the same, which does not say that others would be.
        """
        if self.discordant < FEWEST or not np.ptp(self._scaled):
            return None
        least = _Z * float(np.std(self.differences, ddof=1)) / sqrt(self.n)
        return least if least <= 1 else None

    def needed(self, difference: float) -> int | None:
        """How many instances, with as many samples each, would show ``difference``; None for 0."""
        if not difference or not self.discordant or self.n < 2:
            return None
        likely = _Z**2 * float(np.var(self.differences, ddof=1)) / difference**2
        return ceil(max(likely, FEWEST * self.n / self.discordant))

    def samples_needed(self, difference: float) -> int | None:
        """How many samples of each of these instances would show ``difference``.

        The variance of an instance's difference is omega^2 + sigma^2 / K, and K samples reduce only the second part
        (Miller 2024).

        Returns:
            None if no number of samples is enough, or too few instances are discordant to tell.
        """
        k = np.asarray(self.samples, dtype=float)
        if self.discordant < FEWEST or not np.any(k > 1):
            return None
        within = sum(_variance(np.asarray(wins, dtype=float), k) for wins in (self.a, self.b))
        between = max(float(np.var(self.differences, ddof=1)) - within * float(np.mean(1 / k)), 0.0)
        left = self.n * (difference / _Z) ** 2 - between
        return max(ceil(within / left), 1) if left > 0 else None

    @cached_property
    def _scaled(self) -> NDArray[np.float64]:
        """The differences, multiplied to be whole: as floats, sums of thirds that should be equal are not."""
        return np.rint(self.differences * lcm(*self.samples))


_Z = float(norm.ppf(1 - ALPHA / 2) + norm.ppf(POWER))


def _variance(wins: NDArray[np.float64], k: NDArray[np.float64]) -> float:
    """Of one sample about its instance's rate: unbiased, averaged over the instances with several samples."""
    several = k > 1
    return float(np.mean(wins[several] * (k - wins)[several] / (k * (k - 1))[several]))


def sign_flip(differences: NDArray[np.float64], resamples: int) -> float:
    """The p-value of ``Repeated``; differences of 0 have no sign to flip."""
    some = differences[differences != 0]
    if some.size < 2:
        return 1.0
    found = permutation_test(
        (some,),
        np.sum,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=BATCH,
        rng=np.random.default_rng(SEED),
    )
    return float(found.pvalue)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased pass@k (Chen et al. 2021, arXiv:2107.03374): the probability that any of k samples is resolved.

    Estimated from ``c`` resolved of ``n`` samples: 1 - C(n-c, k) / C(n, k).
    """
    return 1 - comb(n - c, k) / comb(n, k)


def pass_hat_k(n: int, c: int, k: int) -> float:
    """Unbiased pass^k (Yao et al. 2024, arXiv:2406.12045): the probability that all of k samples are resolved.

    Estimated from ``c`` resolved of ``n`` samples: C(c, k) / C(n, k).
    """
    return comb(c, k) / comb(n, k)
