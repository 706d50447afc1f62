"""What the page shows, as JSON: the list of instances, and each instance in full.

Long texts are cut in the middle; the page links to the raw files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from swe_eval.report.integrity import MEANING, contamination
from swe_eval.report.results import DAMAGED, Arm, Verdict
from swe_eval.report.runs import natural
from swe_eval.report.turns import Turn, turns_of
from swe_eval.run_dir import RunDir, Trial, read_json

SHOWN = 20_000
"""Characters of a text that are shown at most."""
PATCH = 200_000
"""Characters of a patch that are shown at most."""
REPORT = "report.html"
"""The report, relative to the page."""
NAMED = 200
"""Failed tests that are named at most."""
TESTS = ("FAIL_TO_PASS", "PASS_TO_PASS")


@dataclass(frozen=True)
class Shown:
    """What the page needs to know about a run."""

    run: RunDir
    trials: Sequence[Trial]
    comparisons: Sequence[tuple[str, str]] = ()
    rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The dataset's rows by instance_id. Without its row, an instance has no difficulty and no reference patch."""
    notes: Sequence[str] = ()

    @property
    def arms(self) -> list[str]:
        return list(dict.fromkeys(trial.arm for trial in self.trials))

    @property
    def instance_ids(self) -> list[str]:
        return sorted({trial.instance_id for trial in self.trials}, key=natural)

    @property
    def pair(self) -> list[str]:
        """The two arms that the page shows first: those that the run compares, or else its first two."""
        adapters = self.comparisons[0] if self.comparisons else ()
        firsts = {trial.adapter: trial.arm for trial in reversed(self.trials)}
        compared = [firsts[adapter] for adapter in adapters if adapter in firsts]
        return compared if len(compared) == 2 else [self.arms[0], self.arms[:2][-1]]


def index_of(shown: Shown, arms: Iterable[Arm]) -> dict[str, Any]:
    """The list of instances, with what they can be searched and filtered by."""
    by_instance: dict[str, dict[str, Any]] = {instance_id: {} for instance_id in shown.instance_ids}
    for arm in arms:
        for instance_id, verdict in arm.verdicts.items():
            by_instance[instance_id][arm.name] = _line(verdict)
    return {
        "run": shown.run.root.name,
        "arms": shown.arms,
        "pair": shown.pair,
        "meaning": MEANING,
        "report": REPORT if (shown.run.root / REPORT).is_file() else None,
        "notes": [*shown.notes, contamination(read_json(shown.run.run_json))],
        "instances": [
            {"instance_id": key, "difficulty": shown.rows.get(key, {}).get("difficulty"), "trials": trials}
            for key, trials in by_instance.items()
        ],
    }


def instance_of(shown: Shown, instance_id: str, verdicts: Mapping[str, Verdict]) -> dict[str, Any]:
    """One instance with all its trials.

    Args:
        shown: the run.
        instance_id: which.
        verdicts: on that instance, by arm.
    """
    row = shown.rows.get(instance_id, {})
    trials = [trial for trial in shown.trials if trial.instance_id == instance_id]
    sound = [trial for trial in trials if verdicts[trial.arm].exit_status != DAMAGED]
    found = {trial.arm: read_json(shown.run.trajectory(trial)) if trial in sound else {} for trial in trials}
    gold = row.get("patch")
    return {
        "instance_id": instance_id,
        "repo": row.get("repo"),
        "difficulty": row.get("difficulty"),
        "created": str(row.get("created_at") or "")[:10],
        "problem_statement": cut(str(row.get("problem_statement") or _task(found.values()))),
        "gold": None if gold is None else cut(str(gold), PATCH),
        "trials": {trial.arm: _trial(shown.run, trial, found[trial.arm], verdicts[trial.arm]) for trial in trials},
    }


def cut(text: str, most: int = SHOWN) -> str:
    """The text, without its middle if it is longer than ``most`` characters."""
    if len(text) <= most:
        return text
    left_out = f"\n[... {len(text) - most:,} characters are left out here: see the raw file ...]\n"
    return text[: most * 3 // 5] + left_out + text[-(most * 2 // 5) :]


def _line(verdict: Verdict) -> dict[str, Any]:
    flags = list(dict.fromkeys(flag["kind"] for flag in verdict.flags))
    return {"outcome": verdict.outcome, "exit_status": verdict.exit_status, "turns": verdict.turns, "flags": flags}


def _trial(run: RunDir, trial: Trial, trajectory: Mapping[str, Any], verdict: Verdict) -> dict[str, Any]:
    info = trajectory.get("info", {})
    return {
        "outcome": verdict.outcome,
        "error": verdict.error,
        "exit_status": verdict.exit_status,
        "source": info.get("submission_source"),
        "seconds": verdict.seconds,
        "completion_tokens": verdict.completion_tokens,
        "patch": cut(run.read_patch(trial), PATCH) if run.is_rolled_out(trial) else "",
        "tests": _tests(run.read_report(trial).get("tests_status") or {}),
        "flags": verdict.flags,
        "turns": [_turn(turn) for turn in turns_of(trajectory)],
        "files": _files(run, trial),
    }


def _turn(turn: Turn) -> dict[str, Any]:
    actions = [replace(each, command=cut(each.command), output=cut(each.output)) for each in turn.actions]
    return asdict(replace(turn, thought=cut(turn.thought), refused=cut(turn.refused), actions=actions))


def _tests(status: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, dict[str, Any]]:
    found = {}
    for kind in TESTS:
        passed, failed = (status.get(kind, {}).get(how, []) for how in ("success", "failure"))
        found[kind] = {"passed": len(passed), "failed": len(failed), "failures": list(failed[:NAMED])}
    return found


def _files(run: RunDir, trial: Trial) -> dict[str, str]:
    """The raw files that exist, by name, relative to the run's directory."""
    evaluation = run.evaluation(trial)
    files = {
        "trajectory": run.trajectory(trial),
        "patch": run.prediction(trial),
        "test output": evaluation / "test_output.txt",
        "report": evaluation / "report.json",
    }
    return {name: path.relative_to(run.root).as_posix() for name, path in files.items() if path.is_file()}


def _task(trajectories: Iterable[Mapping[str, Any]]) -> str:
    """What the agent was told, in place of the dataset's issue."""
    said = (message for trajectory in trajectories for message in trajectory.get("messages", [])[1:2])
    return next((str(message.get("content") or "") for message in said), "")
