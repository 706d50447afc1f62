"""A submission to the SWE-bench leaderboard, as github.com/SWE-bench/experiments wants it: a folder per arm.

    <date>_<arm>/all_preds.jsonl   metadata.yaml   README.md
                 trajs/<instance_id>.traj.json
                 logs/<instance_id>/patch.diff  test_output.txt  report.json

Its own ``python -m analysis.get_results`` makes ``results/`` from these. What only the submitter knows is null.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from swe_eval.report.numbers import score
from swe_eval.report.results import Arm
from swe_eval.report.rows import rows_of
from swe_eval.report.runs import SavedRun, is_from_elsewhere
from swe_eval.run_dir import RunDir, Trial, write_json, write_jsonl, write_text

OURS = ("outcome", "error", "suspicious", "seconds")
"""Keys that we add to swebench's report of an instance."""
BUCKET = "s3://swe-bench-submissions"
"""Where the maintainers keep the logs and trajectories of accepted submissions."""


def write_leaderboard(saved: SavedRun, folder: Path) -> list[Path]:
    """Write a submission per arm, in ``folder``; returns their folders."""
    day = str(saved.record.get("updated", ""))[:10].replace("-", "")
    return [_write_arm(saved, arm, folder / "_".join(filter(None, [day, arm.name]))) for arm in saved.arms]


def _write_arm(saved: SavedRun, arm: Arm, folder: Path) -> Path:
    trials = [trial for trial in saved.trials if trial.arm == arm.name and saved.run.is_rolled_out(trial)]
    write_jsonl(folder / "all_preds.jsonl", saved.run.predictions(arm.name, trials))
    for trial in trials:
        _copy(saved.run.trajectory(trial), folder / "trajs" / f"{trial.instance_id}.traj.json")
        _write_logs(saved.run, trial, folder / "logs" / trial.instance_id)
    write_text(folder / "metadata.yaml", _metadata(saved.record["identity"], folder.name))
    write_text(folder / "README.md", _readme(saved.record, arm))
    return folder


def _write_logs(run: RunDir, trial: Trial, folder: Path) -> None:
    """Write what the official harness would have left; that is nothing for an empty patch, which it does not run."""
    report = run.read_report(trial)
    if not report or report.get("outcome") == "empty_patch":
        return
    for name in ("patch.diff", "test_output.txt"):
        _copy(run.evaluation(trial) / name, folder / name)
    if not report.get("error"):  # the harness has no report where it has no verdict
        official = {key: value for key, value in report.items() if key not in OURS}
        write_json(folder / "report.json", {trial.instance_id: official})


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _metadata(identity: Mapping[str, Any], name: str) -> str:
    where = f"{BUCKET}/{identity.get('benchmark.name')}/{name}"
    tree = {
        "info": {"name": name.partition("_")[2] or name, "authors": None, "site": None, "report": None, "logo": None},
        "assets": {"logs": f"{where}/logs", "trajs": f"{where}/trajs"},
        "tags": {
            "checked": False,
            "model": [identity.get("model.base_model")],
            "org": None,
            "os_model": None,
            "os_system": True,
            "system": {"attempts": None if is_from_elsewhere(identity) else "1"},
        },
    }
    return "# What is null only the submitter knows.\n" + yaml.safe_dump(tree, sort_keys=False)


def _readme(record: Mapping[str, Any], arm: Arm) -> str:
    [row] = rows_of([arm])
    identity: Mapping[str, Any] = record["identity"]
    owed = len(arm.ids("infra"))
    lines = [
        f"# {arm.name}",
        "",
        f"Resolved {score(row)} of {identity.get('benchmark.name')} (95% interval).",
        *([f"{owed} instances have no verdict yet and are not in it: run the same command again."] if owed else []),
        "",
        *(f"- {name}: {value}" for name, value in _about(record, arm) if value is not None),
        "",
        *statements(identity),
    ]
    return "\n".join(lines) + "\n"


def _about(record: Mapping[str, Any], arm: Arm) -> Sequence[tuple[str, Any]]:
    identity = record["identity"]
    last = (record.get("invocations") or [{}])[-1]
    packages: Mapping[str, Any] = last.get("packages") or {}
    how_made = [
        ("base model", identity.get("model.base_model")),
        ("adapter, SHA-256", identity.get(f"adapters.{arm.adapter}")),
        ("agent", f"mini-swe-agent {packages.get('mini-swe-agent')}, {identity.get('agent.actions')}"),
        ("sampling", f"temperature {identity.get('agent.temperature')}, top_p {identity.get('agent.top_p')}"),
        ("turns at most", identity.get("agent.max_turns")),
    ]
    return [
        *([] if is_from_elsewhere(identity) else how_made),
        ("graded with", f"swebench {packages.get('swebench')}, run by swe_eval {last.get('swe_eval')}"),
        ("dataset, SHA-256 of its rows", identity.get("benchmark.fingerprint")),
    ]


def statements(identity: Mapping[str, Any]) -> list[str]:
    """What the submission checklist asks for, as far as the run can tell."""
    if is_from_elsewhere(identity):
        return ["- How the predictions were made is not known here: they were only graded."]
    networks = [value for key, value in identity.items() if re.fullmatch(r"sandbox\.(\w+\.)?network", key)]
    offline = identity.get("sandbox.kind") != "local" and set(networks) <= {"none"}
    return [
        "- One attempt per instance (pass@1).",
        "- The agent was given `problem_statement` alone: no tests, no `hints_text`.",
        f"- The agent's sandbox had {'no' if offline else 'a'} network.",
    ]
