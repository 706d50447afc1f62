"""The clean score: without what a flag can explain. It stands beside the official score, never in its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from swe_eval.report.integrity import MEANING, contamination
from swe_eval.report.numbers import rate
from swe_eval.report.results import Arm, Verdict
from swe_eval.report.rows import Row

SHOWN = 3
"""Instances that a line names, at most; ``run.json`` has all of them."""


def is_clean(verdict: Verdict) -> bool:
    """Whether no flag on it can have shown the fix, or decided the verdict."""
    return not any(flag["is_disqualifying"] for flag in verdict.flags)


def cleaned(row: Row) -> Row:
    """The row with resolved trials that are not clean counted as unresolved."""
    return Row(row.name, [replace(arm, verdicts=_cleaned(arm)) for arm in row.arms])


def flag_lines(arm: Arm) -> Iterator[str]:
    """A line for each kind of suspicious path in its patches, and for each kind of flag on its trajectories."""
    for kind in sorted({kind for verdict in arm.verdicts.values() for kind in verdict.suspicious}):
        ids = [key for key, verdict in arm.verdicts.items() if kind in verdict.suspicious]
        yield _line(arm, ids, f"patch{'es touch' if len(ids) > 1 else ' touches'} {kind}")
    for kind, meaning in MEANING.items():
        ids = [key for key, verdict in arm.verdicts.items() if kind in _of_trajectory(verdict)]
        if ids:
            yield _line(arm, ids, f"trial{'s' * (len(ids) > 1)} {meaning}")


def clean_lines(row: Row) -> Iterator[str]:
    """The clean score, where it differs from the official one."""
    clean = cleaned(row)
    if left := row.count("resolved") - clean.count("resolved"):
        yield f"{row.name}: clean {rate(clean.rate)}, without {left} resolved that a flag can explain"


def integrity(rows: Iterable[Row], record: Mapping[str, Any]) -> dict[str, Any]:
    """For ``run.json``: both scores of every adapter, every flag, and what is known about contamination.

    Args:
        rows: the adapters.
        record: the content of ``run.json`` so far.
    """
    return {
        "contamination": contamination(record),
        "adapters": {
            row.name: {
                "raw": row.rate.as_json(),
                "clean": cleaned(row).rate.as_json(),
                "flags": {arm.name: _flagged(arm) for arm in row.arms},
            }
            for row in rows
        },
    }


def _cleaned(arm: Arm) -> dict[str, Verdict]:
    return {
        key: verdict if is_clean(verdict) or verdict.outcome != "resolved" else replace(verdict, outcome="unresolved")
        for key, verdict in arm.verdicts.items()
    }


def _line(arm: Arm, ids: Sequence[str], what: str) -> str:
    resolved = sum(arm.verdicts[key].outcome == "resolved" for key in ids)
    shown = f"{', '.join(sorted(ids)[:SHOWN])}{', ...' * (len(ids) > SHOWN)}"
    return f"{arm.name}: {len(ids)} {what} ({resolved} resolved): {shown}"


def _of_trajectory(verdict: Verdict) -> set[str]:
    """Kinds of flags that have a turn; those of the patch have lines of their own, by the paths it touches."""
    return {flag["kind"] for flag in verdict.flags if flag["turn"] is not None}


def _flagged(arm: Arm) -> dict[str, list[Any]]:
    return {key: list(verdict.flags) for key, verdict in sorted(arm.verdicts.items()) if verdict.flags}
