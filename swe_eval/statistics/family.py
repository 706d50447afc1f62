"""Several comparisons at once: adjusted p-values, the best of several arms, and what one group of instances changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy.stats import false_discovery_control

from swe_eval.statistics.interval import SEED


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for the family-wise error rate, in the order given (Holm 1979, Scand. J. Statist. 6:65)."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(np.sort(p_values) * np.arange(len(p_values), 0, -1))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for the false discovery rate (Benjamini and Hochberg 1995, J. R. Statist. Soc. B 57:289)."""
    return [float(value) for value in false_discovery_control(p_values)] if p_values else []


@dataclass(frozen=True)
class Selected:
    """The arm that did best on one half of the instances, and the other half, which had no part in the choice."""

    name: str
    chosen_on: list[str]
    confirmed_on: list[str]


def select(rates: Mapping[str, Mapping[str, float]]) -> Selected | None:
    """Choose the best arm on a random half of the instances that all arms share; of equals, the first.

    The best of several arms looks better than it is on the instances it was chosen by, but not on others, so data are
    split for this (Cox 1975, Biometrika 62:441). The split is seeded.

    Args:
        rates: resolved rate in [0, 1], by arm and instance.

    Returns:
        None if the arms share fewer than two instances.
    """
    shared = sorted(set.intersection(*(set(found) for found in rates.values()))) if rates else []
    if len(shared) < 2:
        return None
    shuffled = [shared[index] for index in np.random.default_rng(SEED).permutation(len(shared))]
    choosing, confirming = sorted(shuffled[: len(shared) // 2]), sorted(shuffled[len(shared) // 2 :])
    best = max(rates, key=lambda name: fmean(rates[name][key] for key in choosing))
    return Selected(best, choosing, confirming)


def leave_one_out(differences: Mapping[str, float], group: Callable[[str], str]) -> dict[str, float]:
    """By group of instances: the mean difference over all other groups; empty if there is only one group.

    These are the replicates of the delete-a-group jackknife (Kott 2001, J. Official Statistics 17:521).
    """
    groups = {group(key) for key in differences}
    if len(groups) < 2:
        return {}
    left_in = {left: [d for key, d in differences.items() if group(key) != left] for left in sorted(groups)}
    return {left: round(fmean(kept), 12) for left, kept in left_in.items()}  # thirds that cancel leave 1e-17
