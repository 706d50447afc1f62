"""The table of every instance: what became of it in each arm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swe_eval.report.comparison import Findings, repository_of
from swe_eval.report.results import Verdict
from swe_eval.report.rows import Row
from swe_eval.report.subject import Subject

SIGNS = {
    "resolved": "\N{CHECK MARK}",
    "unresolved": "\N{MULTIPLICATION X}",
    "empty_patch": "\N{EMPTY SET}",
    "infra": "!",
}
FEW = 6
"""More arms than that have no column each."""
KINDS = {
    "gained": "only {b} resolved it",
    "lost": "only {a} resolved it",
    "some": "some arms resolved it",
    "all": "every arm resolved it",
    "none": "no arm resolved it",
    "owed": "without a verdict in some arm",
}
"""How the verdicts of the arms on an instance compare."""
OF_SEVERAL = {"gained": "{b} resolved it more often", "lost": "{a} resolved it more often"}
"""The same, of several samples."""


@dataclass(frozen=True)
class Told:
    """An instance as a row of the table."""

    instance_id: str
    repository: str
    difficulty: str
    kind: str
    """A key of ``KINDS``."""
    cells: Sequence[str]
    """The outcome in each arm; empty if there are more than ``FEW``."""
    resolved: int
    """Arms that resolved it, out of ``of`` that have a verdict."""
    of: int
    turns: int
    """Of all its rollouts together; so are ``seconds``."""
    seconds: float
    flags: str


def instances(subject: Subject, findings: Findings, flags: Mapping[str, Sequence[str]]) -> list[Told]:
    """Every instance; those that tell the arms apart come first."""
    rated = subject.difficulties
    told = [_told(key, findings.rows, rated.get(key, ""), flags.get(key, ())) for key in subject.instance_ids]
    return sorted(told, key=lambda each: [*KINDS].index(each.kind))


def _told(instance_id: str, rows: Sequence[Row], difficulty: str, flags: Sequence[str]) -> Told:
    found = [[arm.verdicts[instance_id] for arm in row.arms if instance_id in arm.verdicts] for row in rows]
    flat = [verdict for verdicts in found for verdict in verdicts]
    rates = [row.rates.get(instance_id) for row in rows]
    return Told(
        instance_id,
        repository_of(instance_id),
        difficulty,
        _kind(rates),
        [_outcome(verdicts) for verdicts in found] if len(rows) <= FEW else (),
        sum(bool(rate) for rate in rates),
        sum(rate is not None for rate in rates),
        sum(verdict.turns for verdict in flat),
        sum(verdict.seconds for verdict in flat),
        ", ".join(flags),
    )


def _kind(rates: Sequence[float | None]) -> str:
    told = [rate for rate in rates if rate is not None]
    if len(told) < len(rates):
        return "owed"
    if len(told) == 2 and told[0] != told[1]:
        return "gained" if told[1] > told[0] else "lost"
    if not any(told):
        return "none"
    return "all" if all(told) else "some"


def _outcome(verdicts: Sequence[Verdict]) -> str:
    """Of several samples: ``resolved`` if any is, else the most frequent outcome."""
    if not verdicts:
        return ""
    outcomes = [verdict.outcome for verdict in verdicts]
    return "resolved" if "resolved" in outcomes else Counter(outcomes).most_common(1)[0][0]
