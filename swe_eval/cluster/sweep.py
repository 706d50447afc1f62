"""A sweep's directory: which jobs it has, where each of them works, and which are through.

``sweep.json``, beside the run directories, is what the launchers leave for the report and for the next call:

    {"jobs": [{"name": "grpo-100",                  its run directory, below the sweep's
               "overrides": ["lora.only=[grpo-100]", ...],   of the command line, its own among them
               "job_id": "12_0",                    of the batch system
               "log": ".submitit/12_0/12_0_0_log.out",       below the sweep's directory
               "submitted": "2026-11-25T14:00:00+00:00"},
              ...]}

in the order of the sweep. A job that is submitted again is there once, as it was submitted last. What became of a
job is not in it: its run directory tells.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from swe_eval.run_dir import RunDir, Trial, now, read_json, write_json
from swe_eval.settings import GRADE, ROLLOUT, Settings


@dataclass(frozen=True)
class SweepJob:
    """A row of ``sweep.json``."""

    name: str
    overrides: list[str]
    job_id: str
    log: str
    submitted: str = field(default_factory=now)


class Sweep:
    """The directory of a sweep."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    @property
    def json(self) -> Path:
        return self.root / "sweep.json"

    @property
    def stop(self) -> Path:
        """Where this file appears, nothing is watched any more."""
        return self.root / "stop"

    def run(self, name: str) -> RunDir:
        """The run directory of a job."""
        return RunDir(self.root / name)

    def jobs(self) -> dict[str, SweepJob]:
        """Those that were submitted, by name."""
        return {row["name"]: SweepJob(**row) for row in read_json(self.json).get("jobs", [])}

    def record(self, jobs: Iterable[SweepJob]) -> None:
        """Add jobs to ``sweep.json``."""
        rows = self.jobs() | {job.name: job for job in jobs}
        write_json(self.json, {"jobs": [asdict(row) for row in rows.values()]})


def is_through(run: RunDir, settings: Settings) -> bool:
    """Whether the run was last called with these very settings, and weights, and has all that they ask for."""
    trials = _trials(run)
    if not trials or _kept_settings(run) != settings.model_dump(mode="json"):
        return False
    called = run.config_yaml.stat().st_mtime
    weights = [settings.model.base_model, *(arm.path for arm in settings.adapters if arm.path)]
    if ROLLOUT in settings.stages and any(_last_written(Path(each)) > called for each in weights):
        return False  # the job itself will tell whether they are other weights
    is_done = run.is_graded if GRADE in settings.stages else run.is_rolled_out
    return all(map(is_done, trials))


def how_far(run: RunDir) -> str:
    """What of it is done, in words."""
    trials = _trials(run)
    if not trials:
        return "nothing is done"
    rolled_out, graded = sum(map(run.is_rolled_out, trials)), sum(map(run.is_graded, trials))
    return f"of {len(trials)} trials {rolled_out} are rolled out, {graded} graded"


def _trials(run: RunDir) -> list[Trial]:
    record = read_json(run.run_json)
    samples = record.get("identity", {}).get("agent.samples", 1)
    return [Trial.of_arm(arm, each, samples) for arm, ids in record.get("trials", {}).items() for each in ids]


def _last_written(folder: Path) -> float:
    """Of its files, in seconds since 1970; 0 if it is gone."""
    try:
        return max((file.stat().st_mtime for file in folder.iterdir()), default=0.0)
    except OSError:
        return 0.0


def _kept_settings(run: RunDir) -> Any:
    try:
        return yaml.safe_load(run.config_yaml.read_text())
    except (OSError, yaml.YAMLError):
        return None
