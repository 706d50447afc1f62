"""Several comparisons at once: adjusted p-values, the best of several, what hangs on one group of instances."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy.stats import false_discovery_control

from swe_eval.statistics.interval import SEED


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of a family of tests, in the order given (Holm 1979, Scand. J. Statist. 6:65)."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(np.sort(p_values) * np.arange(len(p_values), 0, -1))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted for the rate of false discoveries (Benjamini and Hochberg 1995, J. R. Statist. Soc. B 57:289)."""
    return [float(value) for value in false_discovery_control(p_values)] if p_values else []


@dataclass(frozen=True)
class Selected:
    """The arm with the highest mean on half of the instances, and the half that had no part in the choice."""

    name: str
    chosen_on: list[str]
    confirmed_on: list[str]


def select(rates: Mapping[str, Mapping[str, float]]) -> Selected | None:
    """Choose the best arm, the first of equals, on a seeded half of the instances that all arms have.

    Where it was chosen, the best of several looks better than it is; on the other half it does not (Cox 1975,
    Biometrika 62:441, on splitting data for this).

    Args:
        rates: by arm and instance, in [0, 1].

    Returns:
        None if fewer than two instances are there to be split.
    """
    shared = sorted(set.intersection(*(set(found) for found in rates.values()))) if rates else []
    if len(shared) < 2:
        return None
    shuffled = [shared[index] for index in np.random.default_rng(SEED).permutation(len(shared))]
    choosing, confirming = sorted(shuffled[: len(shared) // 2]), sorted(shuffled[len(shared) // 2 :])
    best = max(rates, key=lambda name: fmean(rates[name][key] for key in choosing))
    return Selected(best, choosing, confirming)


def leave_one_out(differences: Mapping[str, float], group: Callable[[str], str]) -> dict[str, float]:
    """The mean difference without each group of instances in turn: the delete-a-group jackknife's replicates.

    (Kott 2001, J. Official Statistics 17:521). Empty for fewer than two groups.
    """
    groups = {group(key) for key in differences}
    if len(groups) < 2:
        return {}
    return {left: fmean(d for key, d in differences.items() if group(key) != left) for left in sorted(groups)}
