"""Runs as their directories tell of them: how they are found, and read."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from swe_eval.errors import UserError
from swe_eval.report.results import Arm, Seen, collect
from swe_eval.report.trials import read_trials
from swe_eval.run_dir import ARM, BASE_MODEL, RunDir, Trial, can_be_file_name, read_json

COMPARABLE = ("agent.", "benchmark.", "sandbox.", "seed", "model.max_model_len")
"""How the names of settings begin that runs must share to be compared: tasks, prompts, limits, sampling, sandbox."""
NOT_WEIGHTS = (*COMPARABLE, ARM, BASE_MODEL, "serving.")
"""How the names of settings begin that do not change what a model is; its content, older runs do not have."""
DEPTH = 3
"""How many folders may lie between a sweep's directory and a run's."""
NO_RUN = "no run.json in it; write a run directory: outputs/<name>"
DAMAGED = "its run.json is damaged; put it back from a copy, or run again with another name=..."
BARE = "base"
"""Stands for the hash of the adapter in the bare base model; see ``adapters.content_hash``."""


class NotBegun(UserError):
    """A sweep all of whose jobs are still in the queue."""


@dataclass(frozen=True)
class SavedRun:
    """A run as its directory tells of it."""

    run: RunDir
    trials: Sequence[Trial]
    comparisons: Sequence[tuple[str, str]]
    record: Mapping[str, Any]
    """The content of ``run.json``."""
    seen: Seen | None = None
    """See ``collect``."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """See ``RunDir.claimed``."""
        found: Mapping[str, Any] = self.record["identity"]
        return found

    @cached_property
    def arms(self) -> list[Arm]:
        """Read from the table of its trials or, if that is not up to date, from the trials' own files."""
        return read_trials(self.run, self.record, self.trials) or collect(self.run, self.trials, self.seen)

    @property
    def failed(self) -> int:
        """Trials without a verdict that ``logs/infra.jsonl`` tells of."""
        told = self.run.told_infra()
        return sum((arm.name, key) in told for arm in self.arms for key in arm.ids("infra"))

    def digest(self, adapter: str) -> str | None:
        """The hash of an adapter's content, or ``BARE``; None if the run has no such adapter."""
        found = self.identity.get(f"{ARM}{adapter}")
        return None if found is None else str(found)

    def weights(self, adapter: str) -> str:
        """What an adapter is, whatever its name: its content, the base model, how that is quantized and it applied."""
        others = {key: value for key, value in self.identity.items() if not key.startswith(NOT_WEIGHTS)}
        return json.dumps([self.digest(adapter), others], sort_keys=True)


def is_from_elsewhere(identity: Mapping[str, Any]) -> bool:
    """Whether the predictions of a run with this identity were only graded here, by ``swe_eval.grade``."""
    return "predictions" in identity


def find_runs(folder: Path) -> list[Path]:
    """The directory itself if it is a run's, else the run directories below it, in the natural order of their names.

    Raises:
        UserError: there are none.
    """
    if (folder / "run.json").is_file():
        return [folder]
    found = _distinct(_below(folder, DEPTH))
    if not found and jobs_of(folder):
        raise NotBegun(f"{folder}: none of its runs has begun; try again later")
    if not found:
        raise UserError(f"{folder}: {NO_RUN}")
    return sorted(found, key=lambda path: natural(str(path)))


def _distinct(paths: Iterable[Path]) -> Collection[Path]:
    """Each directory once: a link to another run (``latest``) is not a run of its own."""
    links_first = sorted(paths, key=lambda path: (not path.is_symlink(), str(path)))
    return {path.resolve(): path for path in links_first}.values()


def read_run(folder: Path, seen: Seen | None = None) -> SavedRun:
    """Read what a run's directory tells of it.

    Raises:
        UserError: it is no run's directory, or its ``run.json`` is damaged or was written by an older version.
    """
    run = RunDir(folder)
    record = read_json(run.run_json)
    if not record:
        raise UserError(f"{folder}: {DAMAGED if run.run_json.exists() else NO_RUN}")
    if "trials" not in record:
        older = "its run.json does not list its trials; give the run's own command again, which adds them"
        raise UserError(f"{folder}: {older}")
    try:
        return _saved(run, record, seen)
    except (KeyError, ValueError, TypeError, AttributeError):
        raise UserError(f"{folder}: {DAMAGED}") from None


def _saved(run: RunDir, record: Mapping[str, Any], seen: Seen | None) -> SavedRun:
    samples = record["identity"].get("agent.samples", 1)
    trials = [Trial.of_arm(arm, id, samples) for arm, ids in record["trials"].items() for id in ids]
    comparisons = [(a, b) for a, b in record["comparisons"]]
    if other := next((name for t in trials for name in (t.arm, t.instance_id) if not can_be_file_name(name)), None):
        raise UserError(f"{run.root}: its run.json names {other!r}, which cannot be a file name: it is not ours")
    if not trials or not {adapter for pair in comparisons for adapter in pair} <= {trial.adapter for trial in trials}:
        raise ValueError
    return SavedRun(run, trials, comparisons, record, seen)


class ReadRuns(NamedTuple):
    """The runs that could be read, and lines about those that could not."""

    runs: list[SavedRun]
    unread: list[str]


def read_all(found: Mapping[Path, Sequence[Path]], seen: Seen | None = None) -> ReadRuns:
    """Read the runs.

    Args:
        found: run directories, by the directory that was named on the command line.
        seen: see ``collect``.

    Raises:
        UserError: a run that was itself named cannot be read, or no run can.
    """
    runs, unread = [], []
    for folder, run in ((folder, run) for folder, each in found.items() for run in each):
        try:
            runs.append(read_run(run, seen))
        except UserError as error:
            if run == folder:
                raise
            unread.append(f"left out: {error}")
    if not runs:
        raise UserError("\n".join(unread))
    return ReadRuns(runs, unread)


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts ``run-9`` before ``run-10``."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def jobs_of(folder: Path) -> int:
    """How many jobs a sweep has, by the ``sweep.json`` that launchers write; 0 without one."""
    return len(read_json(folder / "sweep.json").get("jobs", []))


def _below(folder: Path, depth: int) -> Iterator[Path]:
    inside = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    for path in inside:
        if (path / "run.json").is_file():
            yield path
        elif depth and not path.name.startswith("."):
            yield from _below(path, depth - 1)


def name_among(saved: SavedRun, runs: Sequence[SavedRun]) -> str:
    """The name of the run's directory, or its path if another run's directory has the same name."""
    namesakes = [other for other in runs if other.run.root.name == saved.run.root.name]
    return saved.run.root.name if len(namesakes) == 1 else str(saved.run.root)
