"""The end of a run: its results are collected, written and printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from swe_eval.report.clean import integrity
from swe_eval.report.comparison import Findings, find
from swe_eval.report.curve import write_curve
from swe_eval.report.load import summary
from swe_eval.report.page.page import write_page
from swe_eval.report.results import Arm, collect, rollout_seconds, suspicions, totals, write_results
from swe_eval.report.rows import rows_of
from swe_eval.report.runs import SavedRun
from swe_eval.report.subject import Subject
from swe_eval.report.tables import print_load, print_owed, print_proof, print_sweep, print_tables, say, screen
from swe_eval.report.throughput import throughput
from swe_eval.report.trials import CONCLUDED, write_trials
from swe_eval.run_dir import RunDir, Trial, now, read_json, write_json

SAME = "the same command"
"""What runs the trials that are owed, as a run itself says it."""


def conclude(run: RunDir, trials: Sequence[Trial], to_compare: Sequence[tuple[str, str]], runs_them: str = SAME) -> int:
    """Write and print the results; returns how many trials are owed, which ``runs_them`` says how to run."""
    arms = collect(run, trials)
    write_results(run, trials, arms)
    found: dict[str, Any] = {
        "totals": totals(arms),
        "suspicious": suspicions(arms),
        "integrity": integrity(rows_of(arms), read_json(run.run_json)),
        "load": summary(run.log("load.jsonl")),
        "throughput": throughput(arms),
        "seconds": rollout_seconds(arms),
    }
    record = _record(run, arms, found)
    saved = SavedRun(run, trials, to_compare, record)
    subject = Subject("run", run.root.name, run.root, [saved], arms, to_compare)
    findings = find(arms, to_compare)
    write_report(subject, findings)
    show(screen(), subject, findings, runs_them)
    print(f"The run is in {run.root}\nThe report is {run.root / 'report.html'}")
    return subject.owed


def conclude_rollouts(run: RunDir, trials: Sequence[Trial]) -> int:
    """Write the predictions and say how many there are; returns how many rollouts are owed."""
    for arm in dict.fromkeys(trial.arm for trial in trials):
        run.write_predictions_jsonl(arm, trials)
    arms = collect(run, trials)
    _record(run, arms, {"totals": totals(arms)})
    there = sum(map(run.is_rolled_out, trials))
    print(f"{there} of {len(trials)} trials are rolled out; stages=[grade] grades them.\nThe run is in {run.root}")
    return len(trials) - there


def write_report(subject: Subject, findings: Findings, refresh: float | None = None) -> None:
    """Write ``comparison.json``, ``report.html``, ``report.md`` and, for checkpoints, their curve.

    Args:
        subject: what the report is about.
        findings: what it says.
        refresh: seconds after which the page reloads itself; None for never.
    """
    run = subject.runs[0].run
    comparison = run.comparison if subject.folder == run.root else subject.folder / "comparison.json"
    write_json(comparison, findings.as_json())
    write_page(subject, findings, refresh)
    write_curve(subject, findings)


def show(console: Console, subject: Subject, findings: Findings, runs_them: str = SAME) -> None:
    """Print the findings as tables, and the lines that belong to them."""
    if subject.kind == "sweep":
        print_sweep(console, findings)
    elif any(arm.resolved for arm in subject.arms):
        print_tables(console, findings)
        if subject.kind == "run":
            print_proof(console, subject.runs[0].record.get("proof", {}))
            print_load(console, subject.runs[0].record.get("load", {}))
    say(console, subject.notes)
    print_owed(console, subject.owed, subject.failed if subject.owed else 0, runs_them)


def _record(run: RunDir, arms: Sequence[Arm], found: dict[str, Any]) -> dict[str, Any]:
    """Add what was found to ``run.json``, and write the table of trials; returns the new content of ``run.json``."""
    write_trials(run, arms)
    record = run.recorded()
    record |= {"updated": now(), CONCLUDED: len(record.get("invocations", []))} | found
    write_json(run.run_json, record)
    return record
