"""Several samples per instance: the instance is what is independent, not the sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, comb, lcm, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, permutation_test

from swe_eval.statistics.interval import BATCH, RESAMPLES, SEED, Interval, over_instances
from swe_eval.statistics.power import ALPHA, POWER

FEWEST = 6
"""Instances that differ, below which no p-value reaches ``ALPHA``: 2 / 2**5 is 0.0625."""


@dataclass(frozen=True)
class Repeated:
    """Two arms on the same instances: how many samples of each A resolved, B did, and there are."""

    a: Sequence[int]
    b: Sequence[int]
    samples: Sequence[int]
    resamples: int = RESAMPLES
    """Draws of the interval and of the test."""

    @classmethod
    def of(cls, tries: Iterable[Sequence[tuple[bool, bool]]]) -> Repeated:
        """Count, for each instance, its samples (A's verdict, B's)."""
        found = list(tries)
        a, b = ([sum(pair[arm] for pair in pairs) for pairs in found] for arm in (0, 1))
        return cls(a, b, [len(pairs) for pairs in found])

    @property
    def n(self) -> int:
        return len(self.samples)

    @property
    def counts(self) -> dict[str, int]:
        """Instances that A resolved more often, that B did, and the others."""
        signs = np.sign(self._whole).tolist()
        return {"a_ahead": signs.count(-1), "b_ahead": signs.count(1), "even": signs.count(0)}

    @cached_property
    def differences(self) -> NDArray[np.float64]:
        """Resolved rate of B less that of A, for each instance."""
        a, b, samples = (np.asarray(counts, dtype=np.float64) for counts in (self.a, self.b, self.samples))
        return np.asarray((b - a) / samples)

    @property
    def difference(self) -> float:
        """The mean over the instances, in [-1, 1]; 0 without instances."""
        return float(np.mean(self.differences)) if self.n else 0.0

    @cached_property
    def interval(self) -> Interval:
        """95% interval of the difference, over instances; see ``over_instances``."""
        return over_instances(self.differences.tolist(), lowest=-1.0, resamples=self.resamples)

    @cached_property
    def p_value(self) -> float:
        """Two-sided sign-flip permutation test (Fisher 1935, The Design of Experiments, section 21).

        If the arms are equal, an instance's difference is as likely with the other sign. Exact where so few instances
        differ that their signs have no more than ``resamples`` combinations; drawn, it is 2 / (``resamples`` + 1) at
        least. Of one sample each it is McNemar's test.
        """
        return sign_flip(self._whole, self.resamples)

    @property
    def mid_p(self) -> None:
        """Only the test of one sample has it."""

    @property
    def detectable(self) -> float | None:
        """The difference that these instances, differing this much, show at ``ALPHA`` with ``POWER``.

        (z + z) sd / sqrt(n): Miller 2024 (arXiv:2411.00640), its sample sizes. None where the test could not show any.
        """
        return None if self._differing < FEWEST else _Z * float(np.std(self.differences, ddof=1)) / sqrt(self.n)

    def needed(self, difference: float) -> int | None:
        """Instances, with as many samples of each, for which ``difference`` is detectable; None for 0."""
        if not difference or not self._differing or self.n < 2:
            return None
        likely = _Z**2 * float(np.var(self.differences, ddof=1)) / difference**2
        return ceil(max(likely, FEWEST * self.n / self._differing))

    def samples_needed(self, difference: float) -> int | None:
        """Samples of each of these instances for which ``difference`` is detectable.

        Miller 2024: the variance of a difference is omega^2 + sigma^2 / K, and K shrinks the latter alone.

        Returns:
            None if no number of samples would do, or too few instances differ to tell.
        """
        k = np.asarray(self.samples, dtype=float)
        if self._differing < FEWEST or not np.any(k > 1):
            return None
        within = sum(_variance(np.asarray(wins, dtype=float), k) for wins in (self.a, self.b))
        between = max(float(np.var(self.differences, ddof=1)) - within * float(np.mean(1 / k)), 0.0)
        left = self.n * (difference / _Z) ** 2 - between
        return max(ceil(within / left), 1) if left > 0 else None

    @property
    def _differing(self) -> int:
        return int(np.count_nonzero(self._whole))

    @cached_property
    def _whole(self) -> NDArray[np.float64]:
        """The differences times what makes all of them whole: equal sums are equal, which thirds are not."""
        return np.rint(self.differences * lcm(*self.samples))


_Z = float(norm.ppf(1 - ALPHA / 2) + norm.ppf(POWER))


def _variance(wins: NDArray[np.float64], k: NDArray[np.float64]) -> float:
    """Of one sample of an instance about that instance's rate, unbiased, as a mean over the instances."""
    several = k > 1
    return float(np.mean(wins[several] * (k - wins)[several] / (k * (k - 1))[several]))


def sign_flip(differences: NDArray[np.float64], resamples: int) -> float:
    """The p-value of ``Repeated``; what does not differ has no sign to flip."""
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


def pass_at(k: int, n: int, c: int) -> float:
    """Probability that one of k samples is resolved, unbiased, from c resolved of n: 1 - C(n-c, k) / C(n, k).

    Chen et al. 2021 (arXiv:2107.03374), who call it pass@k.
    """
    return 1 - comb(n - c, k) / comb(n, k)


def pass_hat(k: int, n: int, c: int) -> float:
    """Probability that all of k samples are resolved, unbiased, from c resolved of n: C(c, k) / C(n, k).

    Yao et al. 2024 (arXiv:2406.12045), who call it pass^k.
    """
    return comb(c, k) / comb(n, k)
