"""A row of the tables: what is known of one adapter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from statistics import fmean
from typing import Any

from swe_eval.report.results import Arm, Verdict
from swe_eval.statistics import Interval, over_instances, pass_at, pass_hat, wilson

UNEVEN = 0.01
"""Adapters whose infra rates differ by more are not compared: what is missing may not be missing by chance."""


@dataclass(frozen=True)
class Rate:
    """A mean over n instances, None of none, with its 95% interval."""

    mean: float | None
    n: int
    interval: Interval

    @classmethod
    def of(cls, tries: Iterable[Sequence[bool]]) -> Rate:
        """Resolved, of each instance's samples: Wilson's interval of one each, else over instances."""
        found = list(tries)
        if any(len(each) > 1 for each in found):
            return cls.over([fmean(each) for each in found])
        resolved, n = sum(each[0] for each in found), len(found)
        return cls(resolved / n if n else None, n, wilson(resolved, n))

    @classmethod
    def over(cls, values: Sequence[float]) -> Rate:
        return cls(fmean(values) if values else None, len(values), over_instances(values))

    def as_json(self) -> dict[str, Any]:
        return {"mean": self.mean, "n": self.n, "interval": [self.interval.low, self.interval.high]}


@dataclass(frozen=True)
class Row:
    """An adapter, as a row of the tables: its arms, one for each sample per instance."""

    name: str
    arms: Sequence[Arm]

    @property
    def verdicts(self) -> list[Verdict]:
        return list(chain.from_iterable(arm.verdicts.values() for arm in self.arms))

    def count(self, outcome: str) -> int:
        return sum(verdict.outcome == outcome for verdict in self.verdicts)

    @property
    def exits(self) -> list[tuple[str, int]]:
        """How the rollouts ended, and how many did; the most frequent first."""
        return Counter(verdict.exit_status for verdict in self.verdicts if verdict.exit_status).most_common()

    @property
    def rescued(self) -> int:
        return sum(verdict.rescued for verdict in self.verdicts)

    @property
    def megatokens(self) -> float:
        """Read and written, in millions."""
        return sum(verdict.prompt_tokens + verdict.completion_tokens for verdict in self.verdicts) / 1e6

    @property
    def hours(self) -> float:
        """Of all rollouts together."""
        return sum(verdict.seconds for verdict in self.verdicts) / 3600

    @property
    def infra_rate(self) -> float:
        return self.count("infra") / len(self.verdicts) if self.verdicts else 0.0

    @property
    def is_complete(self) -> bool:
        """Whether so little is owed that what comes will hardly move its rate; the first verdicts are no sample."""
        return self.infra_rate <= UNEVEN

    def tries(self, owed: bool | None = None) -> dict[str, list[bool | None]]:
        """By instance: whether each sample is resolved; ``owed`` where there is no verdict."""
        resolved = [arm.resolved for arm in self.arms]
        ids = sorted({key for arm in self.arms for key in arm.verdicts})
        return {key: [found.get(key, owed) for found in resolved] for key in ids}

    @cached_property
    def scored(self) -> dict[str, list[bool]]:
        """By instance: whether each scored sample is resolved; one sample at least."""
        found = {key: [tried for tried in tries if tried is not None] for key, tries in self.tries().items()}
        return {key: tries for key, tries in found.items() if tries}

    @cached_property
    def rates(self) -> dict[str, float]:
        """By instance: the fraction of the scored samples that is resolved."""
        return {key: fmean(tries) for key, tries in self.scored.items()}

    @cached_property
    def rate(self) -> Rate:
        """Resolved of scored."""
        return Rate.of(self.scored.values())

    @cached_property
    def intention_to_treat(self) -> Rate:
        """Resolved of all: what is owed counts as unresolved."""
        return Rate.of([[bool(tried) for tried in tries] for tries in self.tries().values()])

    @cached_property
    def passes(self) -> dict[str, Rate]:
        """By at least one of the k samples, and by all of them; over the instances that have k. Empty for k = 1."""
        k = len(self.arms)
        wins = [sum(tries) for tries in self.scored.values() if len(tries) == k]
        if k == 1 or not wins:
            return {}
        kinds = {f"pass@{k}": pass_at, f"pass^{k}": pass_hat}
        return {name: Rate.over([unbiased(k, k, c) for c in wins]) for name, unbiased in kinds.items()}

    def as_json(self) -> dict[str, Any]:
        rates = {"resolved": self.rate, **self.passes, "intention_to_treat": self.intention_to_treat}
        return {"samples": len(self.arms), **{name: rate.as_json() for name, rate in rates.items()}}


def rows_of(arms: Iterable[Arm]) -> list[Row]:
    """The arms by adapter, in their order."""
    by_adapter: dict[str, list[Arm]] = {}
    for arm in arms:
        by_adapter.setdefault(arm.adapter, []).append(arm)
    return [Row(name, samples) for name, samples in by_adapter.items()]
