"""What a report is about: one run, several that are compared, or a sweep."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from swe_eval.errors import UserError
from swe_eval.report.results import Arm, Seen
from swe_eval.report.runs import BARE, COMPARABLE, SavedRun, find_runs, jobs_of, name_among, natural, read_all
from swe_eval.report.shards import joined, labelled, overlaps, wholes

NAMES = ("benchmark.name",)
"""The comparable settings that may differ, as they change nothing."""


@dataclass(frozen=True)
class Subject:
    """What a report is about."""

    kind: Literal["run", "runs", "sweep"]
    title: str
    folder: Path
    """Where its files go."""
    runs: Sequence[SavedRun]
    arms: Sequence[Arm]
    comparisons: Sequence[tuple[str, str]]
    notes: Sequence[str] = ()
    """Lines about what was left out of it."""
    waiting: int = 0
    """Jobs of a sweep that have not begun."""

    @property
    def instance_ids(self) -> list[str]:
        """Of all arms together."""
        return sorted({key for arm in self.arms for key in arm.verdicts})

    @property
    def difficulties(self) -> dict[str, str]:
        """By instance, as far as the dataset rates them."""
        return {key: rated for saved in self.runs for key, rated in saved.record.get("difficulties", {}).items()}

    @property
    def owed(self) -> int:
        """Trials without a verdict."""
        return sum(len(arm.ids("infra")) for arm in self.arms)

    @property
    def failed(self) -> int:
        """Of these, those that failed on our side; the others were not run yet."""
        return sum(saved.failed for saved in self.runs)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is owed, and every run has begun."""
        return not self.owed and not self.waiting


def subject_of(folders: Sequence[Path], reference: str | None, out: Path | None, seen: Seen | None = None) -> Subject:
    """What the directories on a command line are about, together.

    Args:
        folders: run directories, or directories with run directories below them.
        reference: the arm that all others are compared with; if None, as the run says, or with the first arm, which in
            a sweep is the base model.
        out: where the report's files go; if None, into the run's or the sweep's directory, or beside the first of
            several.
        seen: see ``collect``.

    Raises:
        UserError: there is no run in one of them, the settings of the runs cannot be compared, or there is no such
            reference.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("a run is given twice; name each once")
    found = {folder: find_runs(folder) for folder in folders}
    runs, unread = read_all(found, seen)
    _check(runs)
    if any(each != [folder] for folder, each in found.items()):
        made = _of_sweep(folders[0], runs, unread, sum(map(jobs_of, folders)), out)
    else:
        made = _of_run(runs[0], out) if len(runs) == 1 else _of_runs(runs, out)
    return _against(made, reference)


class Checkpoint(NamedTuple):
    """A checkpoint of a training run."""

    run: str
    step: int


def checkpoint_of(name: str) -> Checkpoint | None:
    """The checkpoint that an arm is named after, like ``grpo-300``; None if it is not named so.

    Where namesakes are told apart by the paths of their runs, those in another folder are another training run's.
    """
    place, _, plain = name.rpartition("/")
    folder, found = place.rpartition("/")[0], re.fullmatch(r"(.*)[-_](\d+)", plain)
    return Checkpoint(f"{folder}/{found[1]}" if folder else found[1], int(found[2])) if found else None


def _check(runs: Sequence[SavedRun]) -> None:
    if twice := [run for run, times in Counter(saved.run.root for saved in runs).items() if times > 1]:
        raise UserError(f"a run is given twice; name each once: {twice[0]}")
    if lines := [line for other in runs[1:] for line in _differences(runs[0], other)]:
        raise UserError("\n".join(lines))


def _differences(a: SavedRun, b: SavedRun) -> Iterator[str]:
    for key in sorted(a.identity.keys() | b.identity.keys()):
        one, other = a.identity.get(key), b.identity.get(key)
        if key.startswith(COMPARABLE) and key not in NAMES and one != other:
            yield (
                f"{key}: {one!r} in {a.run.root.name}, {other!r} in {b.run.root.name}: their arms differ in more than "
                "weights; run both with one of them"
            )


def _of_run(saved: SavedRun, out: Path | None) -> Subject:
    return Subject("run", saved.run.root.name, out or saved.run.root, [saved], saved.arms, saved.comparisons)


def _of_runs(runs: Sequence[SavedRun], out: Path | None) -> Subject:
    """Each arm is named after its run's directory; shards of one run after the first of them, or not if alone."""
    found = wholes(runs)
    if len(found) == 1:
        return _of_shards(runs, out)
    named = [name_among(parts[0], [first for first, *_ in found]) for parts in found]
    arms = [labelled(arm, name) for name, parts in zip(named, found, strict=True) for arm in joined(parts).arms]
    title = " vs ".join(named)
    folder = out or runs[0].run.root.parent / _together([parts[0].run.root.name for parts in found])
    return Subject("runs", title, folder, runs, arms, _with_first(arms), list(overlaps(runs)))


def _of_shards(shards: Sequence[SavedRun], out: Path | None) -> Subject:
    name = f"{shards[0].run.root.name}-to-{shards[-1].run.root.name}"
    arms = joined(shards).arms
    return Subject("runs", name, out or shards[0].run.root.parent / name, shards, arms, _with_first(arms))


def _together(names: Sequence[str]) -> str:
    """The name of a directory for the report of several runs, short enough for a file system."""
    return "-vs-".join(names) if len(names) <= 3 else f"{names[0]}-vs-{len(names) - 1}-others"


def _of_sweep(folder: Path, runs: Sequence[SavedRun], unread: Sequence[str], jobs: int, out: Path | None) -> Subject:
    arms, notes = joined(runs)
    notes += unread
    waiting = max(0, jobs - len(runs) - len(unread))
    if waiting:
        notes.append(f"{waiting} of {jobs} runs have not begun")
    bare = {arm.name for saved in runs for arm in saved.arms if saved.digest(arm.adapter) == BARE}

    def place(arm: Arm) -> tuple[bool, tuple[str, int], list[tuple[int, str]]]:
        is_bare = arm.name.rpartition("/")[2] in bare
        return not is_bare, checkpoint_of(arm.adapter) or (arm.adapter, 0), natural(arm.name)

    arms.sort(key=place)
    root = folder.resolve()
    return Subject("sweep", root.name, out or root, runs, arms, _with_first(arms), notes, waiting)


def _with_first(arms: Iterable[Arm]) -> list[tuple[str, str]]:
    reference, *others = dict.fromkeys(arm.adapter for arm in arms)
    return [(reference, other) for other in others]


def _against(subject: Subject, reference: str | None) -> Subject:
    if reference is None:
        return subject
    names = list(dict.fromkeys(arm.adapter for arm in subject.arms))
    if reference not in names:
        raise UserError(f"--reference {reference}: no such arm; write one of {', '.join(names[:9])}")
    arms = sorted(subject.arms, key=lambda arm: arm.adapter != reference)
    return replace(subject, arms=arms, comparisons=_with_first(arms))
