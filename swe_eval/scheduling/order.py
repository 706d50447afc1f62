"""In which order instances are run: the longest first, so that none of them is left to run alone at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from swe_eval.benchmark.instances import Instance
from swe_eval.run_dir import RunDir, read_json

DIFFICULTIES = ("<15 min fix", "15 min - 1 hour", "1-4 hours", ">4 hours")
"""What SWE-bench Verified's annotators said that a fix takes: the column ``difficulty``."""


def longest_first(instances: Sequence[Instance], seconds: Mapping[str, float]) -> list[Instance]:
    """By what rollouts took before, of others of the same difficulty where it is not known, then by difficulty.

    Args:
        seconds: of an instance's earlier rollouts, by id; instances of which as little is known stay in their order.
    """
    known: dict[str, list[float]] = {}
    for instance in instances:
        if (took := seconds.get(instance.instance_id)) is not None:
            known.setdefault(_difficulty(instance), []).append(took)
    of_all = fmean(took for each in known.values() for took in each) if known else 0.0

    def expected(instance: Instance) -> float:
        like_it = known.get(_difficulty(instance))
        return seconds.get(instance.instance_id, fmean(like_it) if like_it else of_all)

    return sorted(instances, key=lambda instance: (-expected(instance), -_rank(instance)))


def earlier_seconds(run: RunDir, fingerprint: str) -> dict[str, float]:
    """Mean seconds of an instance's rollouts in the runs beside this one, and in this one, on the same dataset."""
    found: dict[str, list[float]] = {}
    for file in run.root.parent.glob("*/run.json"):
        record = read_json(file)
        if record.get("identity", {}).get("benchmark.fingerprint") == fingerprint:
            for instance_id, took in record.get("seconds", {}).items():
                found.setdefault(instance_id, []).append(took)
    return {instance_id: fmean(each) for instance_id, each in found.items()}


def _difficulty(instance: Instance) -> str:
    return str(instance.row.get("difficulty"))


def _rank(instance: Instance) -> int:
    difficulty: Any = instance.row.get("difficulty")
    return DIFFICULTIES.index(difficulty) if difficulty in DIFFICULTIES else 0
