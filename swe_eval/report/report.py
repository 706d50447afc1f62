"""The end of a run, and the same again from its files: verdicts, comparisons, tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from swe_eval.errors import UserError
from swe_eval.report.clean import integrity
from swe_eval.report.comparison import find
from swe_eval.report.load import summary
from swe_eval.report.results import Arm, collect, rollout_seconds, suspicions, totals, write_results
from swe_eval.report.rows import rows_of
from swe_eval.report.tables import print_load, print_proof, print_tables
from swe_eval.run_dir import RunDir, Trial, now, read_json, write_json

COMPARABLE = ("agent.", "benchmark.", "sandbox.", "seed")
"""Settings that arms of two runs must share: what is asked, how, with which limits."""
NAMES = ("benchmark.name",)
"""Of those, the ones that mean nothing."""


@dataclass(frozen=True)
class Kept:
    """A run as its directory tells it."""

    run: RunDir
    trials: list[Trial]
    comparisons: list[tuple[str, str]]
    record: Mapping[str, Any]
    """``run.json``."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """See ``RunDir.claimed``."""
        found: Mapping[str, Any] = self.record["identity"]
        return found

    @property
    def arms(self) -> list[Arm]:
        return collect(self.run, self.trials)


def conclude(run: RunDir, trials: Sequence[Trial], to_compare: Sequence[tuple[str, str]]) -> int:
    """Write and print the results; returns how many trials are owed."""
    arms = collect(run, trials)
    findings = find(arms, to_compare)
    write_results(run, trials, arms)
    write_json(run.comparison, findings.as_json())
    found: dict[str, Any] = {
        "totals": totals(arms),
        "suspicious": suspicions(arms),
        "integrity": integrity(rows_of(arms), read_json(run.run_json)),
        "load": summary(run.log("load.jsonl")),
    }
    found["seconds"] = rollout_seconds(arms)
    write_json(run.run_json, read_json(run.run_json) | {"updated": now()} | found)
    if any(arm.resolved for arm in arms):
        print_tables(Console(), findings)
        print_proof(Console(), read_json(run.run_json).get("proof", {}))
        print_load(Console(), found["load"])
    Console().print(f"The run is in {run.root}", highlight=False, soft_wrap=True)
    return _owed(arms)


def conclude_rollouts(run: RunDir, trials: Sequence[Trial]) -> int:
    """Write the predictions, say how many there are; returns how many rollouts are owed."""
    for arm in dict.fromkeys(trial.arm for trial in trials):
        run.write_predictions_jsonl(arm, [trial for trial in trials if trial.arm == arm])
    write_json(run.run_json, read_json(run.run_json) | {"updated": now(), "totals": totals(collect(run, trials))})
    there = sum(map(run.is_rolled_out, trials))
    said = f"{there} of {len(trials)} trials are rolled out; stages=[grade] grades them.\nThe run is in {run.root}"
    Console().print(said, highlight=False, markup=False, soft_wrap=True)
    return len(trials) - there


def read_run(folder: Path) -> Kept:
    """Read what a run directory says of itself.

    Raises:
        UserError: it is no run directory, or an older version made it.
    """
    run = RunDir(folder)
    record = read_json(run.run_json)
    if "trials" not in record:
        older = "its run.json does not list its trials; give the run's own command again, which adds them"
        raise UserError(f"{folder}: {older if record else 'no run.json in it; write a run directory: outputs/<name>'}")
    samples = record["identity"].get("agent.samples", 1)
    trials = [Trial.of_arm(arm, id, samples) for arm, ids in record["trials"].items() for id in ids]
    return Kept(run, trials, [(a, b) for a, b in record["comparisons"]], record)


def compare_runs(runs: Sequence[Kept]) -> int:
    """Print every arm of several runs, each compared with the first; returns how many trials are owed.

    Raises:
        UserError: the runs were asked different things; a line for each setting.
    """
    if lines := [line for other in runs[1:] for line in _differences(runs[0], other)]:
        raise UserError("\n".join(lines))
    arms = [_labelled(arm, _label(kept, runs)) for kept in runs for arm in kept.arms]
    reference, *others = dict.fromkeys(arm.adapter for arm in arms)
    print_tables(Console(), find(arms, [(reference, other) for other in others]))
    return _owed(arms)


def _differences(a: Kept, b: Kept) -> Iterator[str]:
    for key in sorted(a.identity.keys() | b.identity.keys()):
        one, other = a.identity.get(key), b.identity.get(key)
        if key.startswith(COMPARABLE) and key not in NAMES and one != other:
            yield (
                f"{key}: {one!r} in {a.run.root.name}, {other!r} in {b.run.root.name}: their arms differ in more than "
                "weights; run both with one of them"
            )


def _labelled(arm: Arm, label: str) -> Arm:
    return replace(arm, name=f"{label}/{arm.name}", adapter=f"{label}/{arm.adapter}")


def _label(kept: Kept, runs: Sequence[Kept]) -> str:
    """The name of the directory; its path if another run's has the same name."""
    namesakes = [other for other in runs if other.run.root.name == kept.run.root.name]
    return kept.run.root.name if len(namesakes) == 1 else str(kept.run.root)


def _owed(arms: Sequence[Arm]) -> int:
    return sum(len(arm.ids("infra")) for arm in arms)
