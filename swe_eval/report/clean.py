"""The clean score: the official one without what a flag can explain. It stands beside the official, never instead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from swe_eval.report.integrity import MEANING, PATCH, contamination
from swe_eval.report.results import Arm, Verdict
from swe_eval.report.rows import Row

SHOWN = 3
"""Instances that a line names."""


def is_clean(verdict: Verdict) -> bool:
    """Whether no flag of it can have shown the fix or decided the verdict."""
    return not any(flag["is_disqualifying"] for flag in verdict.flags)


def cleaned(row: Row) -> Row:
    """The row with what is resolved and not clean counted as unresolved."""
    return Row(row.name, [replace(arm, verdicts=_cleaned(arm)) for arm in row.arms])


def integrity_lines(row: Row) -> Iterator[str]:
    """What to say under the tables; nothing where nothing was flagged."""
    for kind in MEANING:
        flagged = {key: verdict for key, verdict in _named(row).items() if kind in _kinds(verdict)}
        if flagged and kind != PATCH:  # the tables name those by their files
            resolved = sum(verdict.outcome == "resolved" for verdict in flagged.values())
            shown = f"{', '.join(list(flagged)[:SHOWN])}{', ...' * (len(flagged) > SHOWN)}"
            yield f"{row.name}: {len(flagged)} {MEANING[kind]} ({resolved} resolved): {shown}"
    left = row.count("resolved") - cleaned(row).count("resolved")
    if left:
        rate = cleaned(row).rate
        ends = f"[{100 * rate.interval.low:.1f}, {100 * rate.interval.high:.1f}]"
        yield f"{row.name}: clean {rate.mean or 0:.1%} {ends}, without {left} resolved that a flag can explain"


def integrity(rows: Iterable[Row], record: Mapping[str, Any]) -> dict[str, Any]:
    """For ``run.json``: the official and the clean score of every adapter, every flag, and what is known beside.

    Args:
        record: what is in ``run.json`` so far.
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


def _kinds(verdict: Verdict) -> set[str]:
    return {flag["kind"] for flag in verdict.flags}


def _named(row: Row) -> dict[str, Verdict]:
    """The trials by a name that says which sample it was, where there are several."""
    several = len(row.arms) > 1
    return {
        f"{key} ({arm.name})" if several else key: verdict
        for arm in row.arms
        for key, verdict in sorted(arm.verdicts.items())
    }


def _flagged(arm: Arm) -> dict[str, list[Any]]:
    return {key: list(verdict.flags) for key, verdict in sorted(arm.verdicts.items()) if verdict.flags}
