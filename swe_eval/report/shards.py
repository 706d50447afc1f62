"""Which arms of several runs are the same arm: shards of one benchmark, and a reference that every run has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

from swe_eval.report.results import Arm
from swe_eval.report.runs import SavedRun, name_among
from swe_eval.run_dir import BASE_MODEL


class Joined(NamedTuple):
    """The arms of several runs, each once, and lines about verdicts that were left out."""

    arms: list[Arm]
    notes: list[str]


def joined(runs: Sequence[SavedRun]) -> Joined:
    """Join the arms that have the same name and the same weights.

    If several of them have a verdict on an instance, the first counts.
    """
    bases = [saved.identity[BASE_MODEL] for saved in runs if BASE_MODEL in saved.identity]
    unnoted = bases[0] if len({*bases}) == 1 else None  # by the runs of earlier versions
    by_weights: dict[tuple[str, str, object], list[tuple[SavedRun, Arm]]] = {}
    for saved in runs:
        base = saved.identity.get(BASE_MODEL, unnoted)
        for arm in saved.arms:
            by_weights.setdefault((arm.name, saved.weights(arm.adapter), base), []).append((saved, arm))
    arms, notes = [], []
    for (name, *_), members in by_weights.items():
        whole = _join([arm for _, arm in members])
        left_out = sum(len(arm.resolved) for _, arm in members) - len(whole.resolved)
        if left_out:
            notes.append(f"{name} was evaluated in {len(members)} runs: {left_out} later verdicts are left out")
        others = [each[0][0] for (namesake, *_), each in by_weights.items() if namesake == name]
        arms.append(whole if len(others) == 1 else labelled(whole, name_among(members[0][0], others)))
    return Joined(arms, notes)


def wholes(runs: Sequence[SavedRun]) -> list[list[SavedRun]]:
    """Group the runs that are shards of one: with the same configuration, and no trial in common."""
    found: list[list[SavedRun]] = []
    for saved in runs:
        whole = next((parts for parts in found if all(_are_shards(saved, part) for part in parts)), None)
        if whole:
            whole.append(saved)
        else:
            found.append([saved])
    return found


def _are_shards(one: SavedRun, other: SavedRun) -> bool:
    return _are_alike(one, other) and not {*one.trials} & {*other.trials}


def _are_alike(one: SavedRun, other: SavedRun) -> bool:
    """Also if just one of them has noted the content of its base model."""
    lacking = {BASE_MODEL} - (one.identity.keys() & other.identity.keys())
    first, second = ({k: v for k, v in saved.identity.items() if k not in lacking} for saved in (one, other))
    return first == second


def overlaps(runs: Sequence[SavedRun]) -> Iterator[str]:
    """Lines about runs that would be shards of one, if they did not have some trials in common."""
    for one, other in combinations(runs, 2):
        both = {*one.trials} & {*other.trials}
        if _are_alike(one, other) and both and {*one.trials} != {*other.trials}:
            names = f"{one.run.root.name} and {other.run.root.name}"
            yield f"{names} are no shards of one run: {len(both)} trials are in both, so they are compared as two"


def labelled(arm: Arm, label: str) -> Arm:
    """The arm with a label before its name, which sets it apart from its namesakes."""
    return replace(arm, name=f"{label}/{arm.name}", adapter=f"{label}/{arm.adapter}")


def _join(parts: Sequence[Arm]) -> Arm:
    if len(parts) == 1:
        return parts[0]
    whole = replace(parts[0], verdicts=dict(parts[0].verdicts))
    for part in parts[1:]:
        for instance_id, verdict in part.verdicts.items():
            if instance_id not in whole.verdicts or not whole.verdicts[instance_id].is_scored:
                whole.verdicts[instance_id] = verdict
    return whole
