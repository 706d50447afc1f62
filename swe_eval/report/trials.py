"""``results/trials.jsonl``: every trial's verdict as a line, so that the report of a sweep takes seconds.

With 200 checkpoints on 500 instances, the trajectories are tens of gigabytes, these tables a few dozen megabytes. Like
everything in ``results/``, a table is derived. It is written when a run concludes, and ``run.json`` then notes how many
invocations the run has had: if there has been another one since, the table is out of date and the trials' own files
are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from sys import intern
from typing import Any

from swe_eval.report.results import Arm, Verdict
from swe_eval.run_dir import RunDir, Trial, write_jsonl

COLUMNS = tuple(column.name for column in fields(Verdict) if column.name != "calls")
"""The fields of a verdict that a line has, beside the trial's ``adapter``, ``arm`` and ``instance_id``."""
CONCLUDED = "concluded"
"""The key of ``run.json`` with the number of invocations that the table covers."""


def write_trials(run: RunDir, arms: Iterable[Arm]) -> None:
    """Write the table of a run."""
    write_jsonl(run.trials_jsonl, _rows(arms))


def read_trials(run: RunDir, record: Mapping[str, Any], trials: Sequence[Trial]) -> list[Arm] | None:
    """Read the verdicts on ``trials`` from the table; the order of the arms is kept.

    Args:
        run: whose table is read.
        record: the content of its ``run.json``.
        trials: whose verdicts are wanted.

    Returns:
        None if there is no table, it lacks one of the trials, or the run has gone on since it was written.
    """
    if record.get(CONCLUDED) != len(record.get("invocations", [])):
        return None
    try:
        verdicts = dict(map(_verdict, run.trials_jsonl.read_text().splitlines()))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    arms: dict[str, Arm] = {}
    for trial in trials:
        if not (verdict := verdicts.get((trial.arm, trial.instance_id))):
            return None
        arms.setdefault(trial.arm, Arm(trial.arm, trial.adapter)).verdicts[trial.instance_id] = verdict
    return list(arms.values())


def _rows(arms: Iterable[Arm]) -> Iterator[dict[str, Any]]:
    for arm in arms:
        for instance_id, verdict in arm.verdicts.items():
            named = {"adapter": arm.adapter, "arm": arm.name, "instance_id": instance_id}
            yield named | {column: getattr(verdict, column) for column in COLUMNS}


def _verdict(line: str) -> tuple[tuple[str, str], Verdict]:
    row = json.loads(line)
    row["outcome"], row["exit_status"] = intern(row["outcome"]), intern(row["exit_status"])
    return (row["arm"], intern(row["instance_id"])), Verdict(**{column: row[column] for column in COLUMNS})
