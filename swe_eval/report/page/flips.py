"""Which instances one arm resolved and the other did not, by repository and difficulty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup

from swe_eval.report.comparison import Comparison, Findings, repository_of
from swe_eval.report.page import svg
from swe_eval.report.rows import Row
from swe_eval.report.subject import Subject
from swe_eval.scheduling.order import DIFFICULTIES

FEW = 6
"""With as many comparisons, only one of them is shown."""


@dataclass(frozen=True)
class Flips:
    """Where the two arms of a comparison differ."""

    comparison: Comparison
    bar: Markup
    groups: Sequence[tuple[str, Sequence[Group]]]
    """By what the instances are grouped, and the groups."""


@dataclass(frozen=True)
class Group:
    """The instances of one repository or difficulty."""

    name: str
    n: int
    a: float
    """The resolved rate of A; ``b`` that of B."""
    b: float
    lost: int
    """Instances that A resolved more often; ``gained``: that B did."""
    gained: int
    drawing: Markup


def flips(subject: Subject, findings: Findings) -> list[Flips]:
    """Each comparison. Of many, only the one with the best arm; without a best arm, the one with the largest gain."""
    told = [each for each in findings.comparisons if each.paired.n]
    if len(told) >= FEW:
        best = findings.best.name if findings.best else None
        named = [each for each in told if each.b == best]
        told = named or [max(told, key=lambda each: (each.has_verdict, each.paired.difference))]
    rows = {row.name: row for row in findings.rows}
    return [_flips(each, rows[each.a], rows[each.b], subject.difficulties) for each in told]


def _flips(comparison: Comparison, a: Row, b: Row, difficulties: Mapping[str, str]) -> Flips:
    kinds = ("both", "gained", "lost", "neither")
    found = comparison.paired.counts
    counts = (found["both"], found["only_b"], found["only_a"], found["neither"]) if "both" in found else ()
    repositories = _grouped(comparison, a, b, _short({key: repository_of(key) for key in comparison.differences}))
    by_size = sorted(repositories, key=lambda group: -group.n)
    rated = {key: difficulties[key] for key in comparison.differences if key in difficulties}
    ranked = sorted(_grouped(comparison, a, b, rated), key=lambda group: _rank(group.name))
    groups = [("Repository", by_size), ("Difficulty", ranked)]
    bar = svg.stacked(list(zip(kinds, counts, strict=False)))
    return Flips(comparison, bar, [(name, each) for name, each in groups if 1 < len(each) < comparison.paired.n])


def _grouped(comparison: Comparison, a: Row, b: Row, group_of: Mapping[str, str]) -> list[Group]:
    members: dict[str, list[str]] = {}
    for key, group in group_of.items():
        members.setdefault(group, []).append(key)
    differences = {group: [comparison.differences[key] for key in keys] for group, keys in members.items()}
    lost = {group: sum(each < 0 for each in found) for group, found in differences.items()}
    gained = {group: sum(each > 0 for each in found) for group, found in differences.items()}
    most = max([*lost.values(), *gained.values()], default=0)
    return [
        Group(
            group,
            len(keys),
            fmean(a.rates[key] for key in keys),
            fmean(b.rates[key] for key in keys),
            lost[group],
            gained[group],
            svg.balance(lost[group], gained[group], most),
        )
        for group, keys in members.items()
    ]


def _short(repositories: Mapping[str, str]) -> Mapping[str, str]:
    """``django`` for ``django__django``, unless two owners have a repository of the same name."""
    names = {name: name.rpartition("__")[2] for name in set(repositories.values())}
    is_unique = len({*names.values()}) == len(names)
    return {key: names[name] for key, name in repositories.items()} if is_unique else repositories


def _rank(difficulty: str) -> int:
    return DIFFICULTIES.index(difficulty) if difficulty in DIFFICULTIES else len(DIFFICULTIES)
