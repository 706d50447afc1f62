"""``results/trials.jsonl``: a line per trial with all that the report says of it, so that a sweep is read in seconds.

Of 200 checkpoints on 500 instances the trajectories are tens of gigabytes; the tables are a few dozen megabytes. A
table is derived like everything in ``results/``: it is written when a run concludes, ``run.json`` says after how many
calls, and where another call has begun since then, the trial files themselves are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from sys import intern
from typing import Any

from swe_eval.report.results import Arm, Verdict
from swe_eval.run_dir import RunDir, Trial, write_text

COLUMNS = tuple(column.name for column in fields(Verdict) if column.name != "calls")
"""Of a trial, beside ``adapter``, ``arm`` and ``instance_id``."""
CONCLUDED = "concluded"
"""The key of ``run.json`` that has how many calls the table tells of."""


def write_trials(run: RunDir, arms: Iterable[Arm]) -> None:
    """Write the table."""
    write_text(run.trials_jsonl, "".join(json.dumps(row) + "\n" for row in _rows(arms)))


def read_trials(run: RunDir, record: Mapping[str, Any], trials: Sequence[Trial]) -> list[Arm] | None:
    """The arms of ``trials`` as the table has them, their order kept.

    Args:
        record: what is in ``run.json``.

    Returns:
        None if there is no table, or the run has gone on since it was written.
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
