"""A row of the tables: one adapter, with all its samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from statistics import fmean
from typing import Any

from swe_eval.report.results import Arm, Verdict
from swe_eval.statistics import Interval, bca, pass_at_k, pass_hat_k, wilson

UNEVEN = 0.01 + 1e-9
"""Adapters whose infra rates differ by more get no verdict: what is missing may not be missing at random.

It is a point, and what floats add to it: 0.07 - 0.06 is more than 0.01.
"""


@dataclass(frozen=True)
class Rate:
    """A mean over n instances with its 95% interval; the mean of no instances is None."""

    mean: float | None
    n: int
    interval: Interval

    @classmethod
    def of(cls, tries: Iterable[Sequence[bool]]) -> Rate:
        """The resolved rate, from each instance's samples: with Wilson's interval if all have one sample, else BCa."""
        found = list(tries)
        if any(len(each) > 1 for each in found):
            return cls.over([fmean(each) for each in found])
        resolved, n = sum(each[0] for each in found), len(found)
        return cls(resolved / n if n else None, n, wilson(resolved, n))

    @classmethod
    def over(cls, values: Sequence[float]) -> Rate:
        """The mean of one value per instance, each in [0, 1]."""
        return cls(fmean(values) if values else None, len(values), bca(values))

    def as_json(self) -> dict[str, Any]:
        return {"mean": self.mean, "n": self.n, "interval": [self.interval.low, self.interval.high]}


@dataclass(frozen=True)
class Row:
    """An adapter as a row of the tables. It has an arm for each sample (``agent.samples``), most often one."""

    name: str
    arms: Sequence[Arm]

    @property
    def verdicts(self) -> list[Verdict]:
        return list(chain.from_iterable(arm.verdicts.values() for arm in self.arms))

    def count(self, outcome: str) -> int:
        return sum(verdict.outcome == outcome for verdict in self.verdicts)

    @property
    def exits(self) -> list[tuple[str, int]]:
        """How the rollouts ended, each with how many did; the most frequent first."""
        return Counter(verdict.exit_status for verdict in self.verdicts if verdict.exit_status).most_common()

    @property
    def rescued(self) -> int:
        return sum(verdict.rescued for verdict in self.verdicts)

    @property
    def megatokens(self) -> float:
        """Tokens read and written by all rollouts together, in millions."""
        return sum(verdict.prompt_tokens + verdict.completion_tokens for verdict in self.verdicts) / 1e6

    @property
    def hours(self) -> float:
        """Spent by all rollouts together."""
        return sum(verdict.seconds for verdict in self.verdicts) / 3600

    @property
    def infra_rate(self) -> float:
        return self.count("infra") / len(self.verdicts) if self.verdicts else 0.0

    @property
    def is_complete(self) -> bool:
        """Whether so little is owed that it will hardly move the rate.

        Until then the rate is not to be trusted: the first verdicts are not a random sample of all.
        """
        return self.infra_rate <= UNEVEN

    def tries(self, owed: bool | None = None) -> dict[str, list[bool | None]]:
        """By instance: whether each of its samples was resolved; ``owed`` stands for a missing verdict."""
        resolved = [arm.resolved for arm in self.arms]
        ids = sorted({key for arm in self.arms for key in arm.verdicts})
        return {key: [found.get(key, owed) for found in resolved] for key in ids}

    @cached_property
    def scored(self) -> dict[str, list[bool]]:
        """By instance: whether each of its scored samples was resolved. Instances without one are left out."""
        found = {key: [tried for tried in tries if tried is not None] for key, tries in self.tries().items()}
        return {key: tries for key, tries in found.items() if tries}

    @cached_property
    def rates(self) -> dict[str, float]:
        """By instance: the fraction of its scored samples that were resolved."""
        return {key: fmean(tries) for key, tries in self.scored.items()}

    @cached_property
    def rate(self) -> Rate:
        """Resolved, of what is scored."""
        return Rate.of(self.scored.values())

    @cached_property
    def intention_to_treat(self) -> Rate:
        """Resolved, of everything: what is owed counts as unresolved."""
        return Rate.of([[bool(tried) for tried in tries] for tries in self.tries().values()])

    @cached_property
    def passes(self) -> dict[str, Rate]:
        """pass@k and pass^k, over the instances with all k samples; empty for k = 1."""
        k = len(self.arms)
        wins = [sum(tries) for tries in self.scored.values() if len(tries) == k]
        if k == 1 or not wins:
            return {}
        kinds = {f"pass@{k}": pass_at_k, f"pass^{k}": pass_hat_k}
        return {name: Rate.over([unbiased(k, c, k) for c in wins]) for name, unbiased in kinds.items()}

    def as_json(self) -> dict[str, Any]:
        rates = {"resolved": self.rate, **self.passes, "intention_to_treat": self.intention_to_treat}
        return {"samples": len(self.arms), **{name: rate.as_json() for name, rate in rates.items()}}


def rows_of(arms: Iterable[Arm]) -> list[Row]:
    """The arms by adapter, in their order."""
    by_adapter: dict[str, list[Arm]] = {}
    for arm in arms:
        by_adapter.setdefault(arm.adapter, []).append(arm)
    return [Row(name, samples) for name, samples in by_adapter.items()]
