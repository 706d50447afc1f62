"""Adapter against adapter: how large the difference is, how sure that is, and how far it depends on one repository."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from swe_eval.report.results import Arm
from swe_eval.report.rows import UNEVEN, Rate, Row, rows_of
from swe_eval.statistics import ALPHA, Paired, Repeated, benjamini_hochberg, holm, leave_one_out, select

Pairs = Mapping[str, Sequence[tuple[bool, bool]]]
"""By instance: whether A and whether B resolved it, for each sample that both have a verdict for; at least one."""


@dataclass(frozen=True)
class Comparison:
    """Adapter B against adapter A, on the trials that both have a verdict for."""

    a: str
    b: str
    paired: Paired | Repeated
    differences: Mapping[str, float]
    """By instance: the resolved rate of B minus that of A."""
    p_holm: float
    """The p-value adjusted for all comparisons of the report (Holm); ``p_bh`` by Benjamini-Hochberg."""
    p_bh: float
    uneven: float
    """By how much the infra rates of the two differ."""
    intention_to_treat: Paired | Repeated | None
    """The comparison with what is owed counted as unresolved; None if nothing is owed."""

    @property
    def is_refused(self) -> bool:
        """Whether too much of one adapter alone is missing for a verdict."""
        return self.uneven > UNEVEN

    @property
    def has_verdict(self) -> bool:
        """Whether its difference may be told."""
        return bool(self.paired.n) and not self.is_refused

    @cached_property
    def without(self) -> dict[str, float]:
        """By repository: the difference on all other repositories; empty if there is only one."""
        return leave_one_out(self.differences, repository_of)

    @property
    def turned_by(self) -> list[str]:
        """The repositories that decide which adapter is ahead: without any one of them, it is the other."""
        return [repository for repository, left in self.without.items() if left * self.paired.difference < 0]

    def as_json(self) -> dict[str, Any]:
        found = self.paired
        samples = {"samples": found.samples_needed(found.difference)} if isinstance(found, Repeated) else {}
        return {
            "a": self.a,
            "b": self.b,
            **_as_json(found),
            "p_holm": self.p_holm,
            "p_bh": self.p_bh,
            "detectable": found.detectable,
            "needed": {"instances": found.needed(found.difference), **samples},
            "infra_rates_differ_by": self.uneven,
            "is_refused": self.is_refused,
            "intention_to_treat": _as_json(self.intention_to_treat) if self.intention_to_treat else None,
            "leave_one_repository_out": self._sensitivity(),
            "only_a_ids": [key for key, difference in self.differences.items() if difference < 0],
            "only_b_ids": [key for key, difference in self.differences.items() if difference > 0],
        }

    def _sensitivity(self) -> dict[str, Any] | None:
        if not self.without:
            return None
        most = max(self.without, key=lambda repository: abs(self.without[repository] - self.paired.difference))
        ends = {"lowest": min(self.without.values()), "highest": max(self.without.values())}
        return {**ends, "most": most, "without_most": self.without[most]}


@dataclass(frozen=True)
class Best:
    """The best of several adapters, chosen on one half of the instances and measured on the other."""

    name: str
    of: int
    """How many adapters it was chosen from."""
    chosen: Rate
    """Its rate on the half that it was chosen on: flattered by the choice."""
    confirmed: Rate
    """Its rate on the other half."""
    against: str
    """The first adapter."""
    paired: Paired | Repeated | None
    """It against the first adapter, on the other half; None if it is the first."""

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "of": self.of,
            "chosen": self.chosen.as_json(),
            "confirmed": self.confirmed.as_json(),
            "against": self.against,
            "comparison": _as_json(self.paired) if self.paired else None,
        }


@dataclass(frozen=True)
class Findings:
    """Everything that a report says, in ``comparison.json``, tables and pages."""

    rows: Sequence[Row]
    comparisons: Sequence[Comparison]
    best: Best | None

    def as_json(self) -> dict[str, Any]:
        return {
            "adapters": {row.name: row.as_json() for row in self.rows},
            "comparisons": [comparison.as_json() for comparison in self.comparisons],
            "best": self.best.as_json() if self.best else None,
        }


def find(arms: Iterable[Arm], pairs: Iterable[tuple[str, str]]) -> Findings:
    """Compare the named pairs of adapters, as one family of tests."""
    found = rows_of(arms)
    comparisons = compare(found, pairs)
    return Findings(found, comparisons, best(found) if comparisons else None)


def compare(rows: Sequence[Row], pairs: Iterable[tuple[str, str]]) -> list[Comparison]:
    """Compare the named pairs, with p-values adjusted for all of them."""
    by_name = {row.name: row for row in rows}
    chosen = [(by_name[a], by_name[b]) for a, b in pairs]
    paired = [_between(a, b) for a, b in chosen]
    ps = [found.p_value for found in paired]
    family = zip(chosen, paired, holm(ps), benjamini_hochberg(ps), strict=True)
    return [_compare(a, b, found, p_holm, p_bh) for (a, b), found, p_holm, p_bh in family]


def best(rows: Sequence[Row]) -> Best | None:
    """The best of the first adapter and those that may be compared with it; None if these are fewer than three."""
    even = [row for row in rows if abs(row.infra_rate - rows[0].infra_rate) <= UNEVEN]
    if len(even) < 3 or not (halves := select({row.name: row.rates for row in even})):
        return None
    first, found = rows[0], next(row for row in rows if row.name == halves.name)
    chosen, confirmed = (
        Rate.of([found.scored[key] for key in half]) for half in (halves.chosen_on, halves.confirmed_on)
    )
    paired = None if found is first else _between(first, found, only=halves.confirmed_on)
    return Best(found.name, len(even), chosen, confirmed, first.name, paired)


def is_shown(found: Paired | Repeated) -> bool:
    """Whether the difference that was seen is significant, or zero, or one that a run of this size would detect."""
    seen = abs(found.difference)
    return not seen or found.p_value <= ALPHA or (found.detectable is not None and found.detectable <= seen)


def _compare(a: Row, b: Row, paired: Paired | Repeated, p_holm: float, p_bh: float) -> Comparison:
    return Comparison(
        a.name,
        b.name,
        paired,
        {key: fmean(by_b - by_a for by_a, by_b in tries) for key, tries in _pairs(a, b).items()},
        p_holm,
        p_bh,
        uneven=abs(a.infra_rate - b.infra_rate),
        intention_to_treat=_between(a, b, owed=False) if a.infra_rate or b.infra_rate else None,
    )


def _pairs(a: Row, b: Row, owed: bool | None = None) -> Pairs:
    ours, theirs = a.tries(owed), b.tries(owed)
    found = {
        key: [(x, y) for x, y in zip(ours[key], theirs[key], strict=False) if x is not None and y is not None]
        for key in ours
        if key in theirs
    }
    return {key: tries for key, tries in found.items() if tries}


def _between(a: Row, b: Row, owed: bool | None = None, only: Collection[str] | None = None) -> Paired | Repeated:
    pairs = {key: tries for key, tries in _pairs(a, b, owed).items() if only is None or key in only}
    if len(a.arms) > 1:
        return Repeated.of(pairs.values())
    one, other = ({key: tries[0][arm] for key, tries in pairs.items()} for arm in (0, 1))
    return Paired.of(one, other)


def _as_json(found: Paired | Repeated) -> dict[str, Any]:
    return {
        "n": found.n,
        **found.counts,
        "difference": found.difference if found.n else None,
        "interval": [found.interval.low, found.interval.high],
        "p_value": found.p_value,
        "mid_p": found.mid_p,
    }


def repository_of(instance_id: str) -> str:
    """``django__django`` for ``django__django-11099``: SWE-bench's names end with the number of the pull request."""
    return instance_id.rpartition("-")[0] or instance_id
