"""A row per trial, as CSV or Parquet, with the meaning of every column."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swe_eval.report.clean import is_clean
from swe_eval.report.results import Verdict
from swe_eval.report.runs import SavedRun, name_among
from swe_eval.run_dir import PART, RunDir, Trial, write_text

CSV, PARQUET = "trials.csv", "trials.parquet"


@dataclass(frozen=True)
class Column:
    """A column of the table."""

    name: str
    type: str
    """Pyarrow's name of it."""
    meaning: str


COLUMNS = (
    Column("run", "string", "name of the run's directory; its path if another run's has the same name"),
    Column("adapter", "string", "name of the adapter, base for the bare base model"),
    Column("sample", "int32", "1 to agent.samples"),
    Column("instance_id", "string", "as in the dataset"),
    Column("outcome", "string", "resolved, unresolved, empty_patch; infra: no verdict yet, owed"),
    Column("resolved", "bool", "the official verdict; missing where there is none"),
    Column("is_clean", "bool", "no flag can have shown the fix or decided the verdict"),
    Column("flags", "string", "kinds of flags, with '; ' between them"),
    Column("error", "string", "where the official harness reports an error instead of a verdict"),
    Column("exit_status", "string", "how the rollout ended"),
    Column("rescued", "bool", "the patch was never submitted, but taken from the repository"),
    Column("turns", "int32", "answers of the model"),
    Column("prompt_tokens", "int64", "read, over all turns"),
    Column("cached_tokens", "int64", "of these, known to the server's prefix cache; missing if it does not tell"),
    Column("completion_tokens", "int64", "written, over all turns"),
    Column("seconds", "double", "of the rollout, without those that it was held back"),
    Column("grading_seconds", "double", "of the grading"),
    Column("patch_bytes", "int64", "of the model_patch"),
    Column("fail_to_pass", "int32", "tests that the fix must turn; missing where no test ran"),
    Column("fail_to_pass_failed", "int32", "of these, failed"),
    Column("pass_to_pass", "int32", "tests that must still pass"),
    Column("pass_to_pass_failed", "int32", "of these, failed"),
)


def _rows(runs: Sequence[SavedRun]) -> Iterator[dict[str, Any]]:
    """A row for each trial of each run, in the run's own order."""
    for saved in runs:
        verdicts, name = {arm.name: arm.verdicts for arm in saved.arms}, name_among(saved, runs)
        for trial in saved.trials:
            yield {"run": name} | _row(saved.run, trial, verdicts[trial.arm][trial.instance_id])


def write_csv(runs: Sequence[SavedRun], folder: Path) -> Path:
    """Write ``trials.csv``; missing values are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [column.name for column in COLUMNS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_rows(runs))
    write_text(folder / CSV, text.getvalue())
    return folder / CSV


def write_parquet(runs: Sequence[SavedRun], folder: Path) -> Path:
    """Write ``trials.parquet``, with the meaning of each column in its metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [pa.field(each.name, each.type, metadata={"meaning": each.meaning}) for each in COLUMNS]
    table = pa.Table.from_pylist(list(_rows(runs)), schema=pa.schema(fields))
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{PARQUET}{PART}"
    pq.write_table(table, part)
    os.replace(part, folder / PARQUET)
    return folder / PARQUET


def _row(run: RunDir, trial: Trial, verdict: Verdict) -> dict[str, Any]:
    report = run.read_report(trial)
    patch = run.prediction(trial)
    return {
        **{"adapter": trial.adapter, "sample": trial.sample, "instance_id": trial.instance_id},
        **{name: getattr(verdict, name) for name in _SAME},
        "resolved": verdict.outcome == "resolved" if verdict.is_scored else None,
        "is_clean": is_clean(verdict),
        "flags": "; ".join(dict.fromkeys(flag["kind"] for flag in verdict.flags)),
        "grading_seconds": report.get("seconds"),
        "patch_bytes": patch.stat().st_size if patch.is_file() else None,
        **_tests(report.get("tests_status") or {}),
    }


_SAME = (
    *("outcome", "error", "exit_status", "rescued", "turns"),
    *("prompt_tokens", "cached_tokens", "completion_tokens", "seconds"),
)
"""Columns that are fields of a verdict, by the same name."""


def _tests(status: Mapping[str, Mapping[str, list[str]]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for kind in ("FAIL_TO_PASS", "PASS_TO_PASS"):
        if kind in status:
            failed = len(status[kind]["failure"])
            found |= {kind.lower(): failed + len(status[kind]["success"]), f"{kind.lower()}_failed": failed}
    return found
