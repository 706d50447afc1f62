"""A run's files, read as verdicts; and written as the results that official tools read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from swe_eval.report.integrity import Flag, flags_of
from swe_eval.run_dir import RunDir, Trial, read_json, write_json

SCORED = ("resolved", "unresolved", "empty_patch")
DAMAGED = "damaged trajectory"
"""The exit status of a rollout whose trajectory cannot be read; its turns, tokens and flags are then missing."""


class Call(NamedTuple):
    """One answer of the model."""

    ended: float
    """Seconds since 1970."""
    seconds: float
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Everything that is known of one trial."""

    outcome: str
    """``resolved``, ``unresolved``, ``empty_patch``, or ``infra``: there is no verdict yet, the trial is owed."""
    error: str | None = None
    """Set where the official harness reports an error, not a verdict: the patch does not apply, for example."""
    exit_status: str = ""
    """How the rollout ended, in mini-swe-agent's words."""
    suspicious: Mapping[str, list[str]] = field(default_factory=dict)
    """Paths in the patch that can decide the verdict without a fix, by kind; see ``suspicious.py``."""
    flags: Sequence[Flag] = ()
    """Signs that the agent looked for the answer, or that its patch decides the verdict; see ``integrity/``."""
    rescued: bool = False
    """The agent never submitted its patch; the runner took it from the repository."""
    turns: int = 0
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    """The prompt tokens that came from the server's prefix cache; None if the server does not say."""
    completion_tokens: int = 0
    seconds: float = 0.0
    """Of the rollout."""
    calls: Sequence[Call] = ()
    """The model's answers whose duration is known; empty if the verdict was read from ``trials.jsonl``."""

    @property
    def is_scored(self) -> bool:
        return self.outcome in SCORED


@dataclass(frozen=True)
class Arm:
    """The verdicts on one sample of an adapter: ``rl``, or ``rl.s2`` for the second of several."""

    name: str
    adapter: str
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    """By instance_id."""

    def ids(self, *outcomes: str) -> list[str]:
        """The instances with one of these outcomes."""
        return sorted(key for key, verdict in self.verdicts.items() if verdict.outcome in outcomes)

    @property
    def resolved(self) -> dict[str, bool]:
        """Whether each scored instance is resolved."""
        return {key: verdict.outcome == "resolved" for key, verdict in self.verdicts.items() if verdict.is_scored}


Seen: TypeAlias = dict[Path, tuple[tuple[int, ...], Verdict]]
"""What was read before, by the path of a trial's report: when its files had last changed, and its verdict."""


def collect(run: RunDir, trials: Iterable[Trial], seen: Seen | None = None) -> list[Arm]:
    """Read the verdicts of these trials; the order of the arms is kept.

    Args:
        run: whose files are read.
        trials: whose verdicts are wanted.
        seen: to read a run at work again and again: trials whose files have not changed are taken from it, the others
            are added to it.
    """
    arms: dict[str, Arm] = {}
    for trial in trials:
        arm = arms.setdefault(trial.arm, Arm(trial.arm, trial.adapter))
        arm.verdicts[trial.instance_id] = _verdict(run, trial) if seen is None else _remembered(run, trial, seen)
    return list(arms.values())


def _remembered(run: RunDir, trial: Trial, seen: Seen) -> Verdict:
    changed = last_changed(run, trial)
    before = seen.get(run.report(trial))
    if not before or before[0] != changed:
        seen[run.report(trial)] = before = (changed, _verdict(run, trial))
    return before[1]


def last_changed(run: RunDir, trial: Trial) -> tuple[int, ...]:
    """The modification times of a trial's files, in nanoseconds; 0 for a file that is missing."""
    return tuple(map(_changed, (run.trajectory(trial), run.prediction(trial), run.report(trial))))


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def write_results(run: RunDir, trials: Sequence[Trial], arms: Sequence[Arm]) -> None:
    """Write what official tools read, arm by arm: ``predictions/*.jsonl`` and swebench's report in ``results/``."""
    for arm in arms:
        run.write_predictions_jsonl(arm.name, trials)
        write_json(run.results(arm.name), swebench_report(run, arm))


def totals(arms: Iterable[Arm]) -> dict[str, dict[str, float | None]]:
    """By arm: model calls, tokens and seconds of the rollouts; None for what the server did not say."""
    return {arm.name: _totals(list(arm.verdicts.values())) for arm in arms}


def _totals(verdicts: Sequence[Verdict]) -> dict[str, float | None]:
    kinds = ("turns", "prompt_tokens", "completion_tokens", "seconds")
    calls = [call.seconds for verdict in verdicts for call in verdict.calls]
    cached = [verdict.cached_tokens for verdict in verdicts if verdict.cached_tokens is not None]
    return {
        **{kind: sum(getattr(verdict, kind) for verdict in verdicts) for kind in kinds},
        "cached_tokens": sum(cached) if cached else None,
        "prefix_hit_rate": prefix_hit_rate(verdicts),
        "call_seconds_median": median(calls) if calls else None,
        "call_seconds_p95": float(np.percentile(calls, 95)) if calls else None,
    }


def prefix_hit_rate(verdicts: Iterable[Verdict]) -> float | None:
    """The part of all prompt tokens that came from the server's prefix cache; None if the server does not say."""
    told = [(verdict.cached_tokens, verdict.prompt_tokens) for verdict in verdicts if verdict.cached_tokens is not None]
    of = sum(tokens for _, tokens in told)
    return sum(cached for cached, _ in told) / of if of else None


def rollout_seconds(arms: Sequence[Arm]) -> dict[str, float]:
    """By instance: the mean duration of its rollouts, from which later runs know which to begin with."""
    taken: dict[str, list[float]] = {}
    for arm in arms:
        for instance_id, verdict in arm.verdicts.items():
            if verdict.seconds:
                taken.setdefault(instance_id, []).append(verdict.seconds)
    return {instance_id: fmean(each) for instance_id, each in taken.items()}


def suspicions(arms: Iterable[Arm]) -> dict[str, dict[str, Mapping[str, list[str]]]]:
    """By arm and instance: the suspicious paths, for ``run.json``; official results have no place for them."""
    return {arm.name: {key: v.suspicious for key, v in arm.verdicts.items() if v.suspicious} for arm in arms}


def flags_by_instance(arms: Iterable[Arm]) -> dict[str, list[str]]:
    """By instance: the kinds of flags on its trials, in any arm."""
    found: dict[str, set[str]] = {}
    for arm in arms:
        for key, verdict in arm.verdicts.items():
            if kinds := {*verdict.suspicious, *(flag["kind"] for flag in verdict.flags if flag["turn"])}:
                found.setdefault(key, set()).update(kinds)
    return {key: sorted(kinds) for key, kinds in found.items()}


def swebench_report(run: RunDir, arm: Arm) -> dict[str, Any]:
    """The summary that ``swebench.harness.reporting.make_run_report`` writes (schema_version 2), from our verdicts."""
    from swebench.harness.infra_failure import TIER_ENVIRONMENT  # late: over a second, and sweeps do without

    with_error = [key for key in arm.ids("unresolved") if arm.verdicts[key].error]
    unresolved = [key for key in arm.ids("unresolved") if key not in with_error]
    failures = {key: found for key in [*unresolved, *with_error] if (found := _failure(run, arm.name, key))}
    ids = {
        "completed": arm.ids("resolved") + unresolved,
        "incomplete": arm.ids("infra"),
        "empty_patch": arm.ids("empty_patch"),
        "submitted": arm.ids(*SCORED),
        "resolved": arm.ids("resolved"),
        "unresolved": unresolved,
        "infra_failure": [key for key, failure in failures.items() if failure.tier == TIER_ENVIRONMENT],
        "ambiguous_failure": [key for key, failure in failures.items() if failure.tier != TIER_ENVIRONMENT],
        "error": with_error,
    }
    counts = {f"{kind}_instances": len(found) for kind, found in ids.items() if kind != "incomplete"}
    lists = {f"{kind}_ids": sorted(found) for kind, found in ids.items()}
    reasons = {key: failures[key].reason for key in sorted(failures)}
    return {"total_instances": len(arm.verdicts), **counts, **lists, "failure_reasons": reasons, "schema_version": 2}


def _verdict(run: RunDir, trial: Trial) -> Verdict:
    report, file = run.read_report(trial), run.trajectory(trial)
    trajectory = read_json(file)
    try:
        if trajectory or not file.exists():  # there is none where predictions came from elsewhere
            return _of(trial, report, trajectory)
    except (AttributeError, KeyError, TypeError):  # JSON, but no trajectory
        pass
    return replace(_of(trial, report, {}), exit_status=DAMAGED)


def _of(trial: Trial, report: Mapping[str, Any], trajectory: Mapping[str, Any]) -> Verdict:
    info, messages = trajectory.get("info", {}), trajectory.get("messages", [])
    suspicious = report.get("suspicious") or {}
    extras = [extra for message in messages if "response" in (extra := message.get("extra", {}))]
    usages = [extra["response"].get("usage") or {} for extra in extras]
    cached = [(usage.get("prompt_tokens_details") or {}).get("cached_tokens") for usage in usages]
    told = [tokens for tokens in cached if tokens is not None]
    return Verdict(
        outcome=report.get("outcome", "infra"),
        error=report.get("error"),
        suspicious=suspicious,
        flags=flags_of(trial.instance_id, trajectory, suspicious),
        exit_status=info.get("exit_status", ""),
        rescued=info.get("submission_source") == "rescued",
        turns=info.get("model_stats", {}).get("api_calls", 0),
        prompt_tokens=sum(usage.get("prompt_tokens", 0) for usage in usages),
        cached_tokens=sum(told) if told else None,
        completion_tokens=sum(usage.get("completion_tokens", 0) for usage in usages),
        seconds=info.get("seconds", 0.0),
        calls=[_call(extra) for extra in extras if "seconds" in extra],
    )


def _call(extra: Mapping[str, Any]) -> Call:
    usage = extra["response"].get("usage") or {}
    return Call(extra.get("timestamp", 0.0), extra["seconds"], usage.get("completion_tokens", 0))


class _Failure(NamedTuple):
    """Why swebench thinks that tests did not run, and how sure it is."""

    reason: str
    tier: str


def _failure(run: RunDir, arm: str, instance_id: str) -> _Failure | None:
    from swebench.harness.infra_failure import classify_logs

    found = classify_logs(run.evaluation(Trial(arm, instance_id)) / "test_output.txt")
    return _Failure(*found) if found else None
