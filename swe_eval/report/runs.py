"""Which runs a report is about: one, several to be compared, a sweep; and which of their arms are one arm."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from swe_eval.errors import UserError
from swe_eval.report.results import Arm, Seen, collect
from swe_eval.report.trials import read_trials
from swe_eval.run_dir import ARM, RunDir, Trial, can_be_file_name, read_json

COMPARABLE = ("agent.", "benchmark.", "sandbox.", "seed", "model.max_model_len")
"""Settings that arms of two runs must share: what is asked, how, with which limits."""
NAMES = ("benchmark.name",)
"""Of those, the ones that mean nothing."""
DEPTH = 3
"""Folders between a sweep's directory and its run directories, at most."""
NO_RUN = "no run.json in it; write a run directory: outputs/<name>"
DAMAGED = "its run.json is damaged; put it back from a copy, or run again with another name=..."
BARE = "base"
"""What an arm without an adapter has for the hash of its adapter; see ``adapters.content_hash``."""


@dataclass(frozen=True)
class Kept:
    """A run as its directory tells it."""

    run: RunDir
    trials: Sequence[Trial]
    comparisons: Sequence[tuple[str, str]]
    record: Mapping[str, Any]
    """``run.json``."""
    seen: Seen | None = None
    """See ``collect``."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """See ``RunDir.claimed``."""
        found: Mapping[str, Any] = self.record["identity"]
        return found

    @cached_property
    def arms(self) -> list[Arm]:
        """From the table of its trials, or where that is not up to date, from the trials' own files."""
        return read_trials(self.run, self.record, self.trials) or collect(self.run, self.trials, self.seen)

    def weights(self, arm: Arm) -> str:
        """What an arm is but for its name: the adapter's content, the base model, how it is quantized and applied."""
        others = {
            key: self.identity[key] for key in self.identity if not key.startswith((*COMPARABLE, ARM, "serving."))
        }
        return json.dumps([self.identity.get(f"{ARM}{arm.adapter}"), others], sort_keys=True)


@dataclass(frozen=True)
class Subject:
    """What a report is about."""

    kind: Literal["run", "runs", "sweep"]
    title: str
    folder: Path
    """Where its files go."""
    runs: Sequence[Kept]
    arms: Sequence[Arm]
    comparisons: Sequence[tuple[str, str]]
    notes: Sequence[str] = ()
    """Lines about what was left out."""
    waiting: int = 0
    """Jobs of a sweep that have not begun."""

    @property
    def instance_ids(self) -> list[str]:
        """Of every arm together."""
        return sorted({key for arm in self.arms for key in arm.verdicts})

    @property
    def difficulties(self) -> dict[str, str]:
        """By instance, where the dataset rates it."""
        return {key: rated for kept in self.runs for key, rated in kept.record.get("difficulties", {}).items()}

    @property
    def owed(self) -> int:
        """Trials without a verdict."""
        return sum(len(arm.ids("infra")) for arm in self.arms)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is owed, and no run is still to begin."""
        return not self.owed and not self.waiting


def subject_of(folders: Sequence[Path], reference: str | None, out: Path | None, seen: Seen | None = None) -> Subject:
    """What the directories of a command line are together.

    Args:
        folders: run directories, or directories with run directories below them.
        reference: the arm that all others are compared with; the bare base model if None, or the first arm.
        out: where the report's files go; None for the run's directory, the sweep's, or beside the first of several.
        seen: see ``collect``.

    Raises:
        UserError: one of them is neither; the runs were asked different things; there is no such reference.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("a run is given twice; name each once")
    found = {folder: find_runs(folder) for folder in folders}
    runs, unread = read_all(found, seen)
    _check(runs)
    if any(each != [folder] for folder, each in found.items()):
        made = _of_sweep(folders[0], runs, unread, sum(map(_jobs, folders)), out)
    else:
        made = _of_run(runs[0], out) if len(runs) == 1 else _of_runs(runs, out)
    return _against(made, reference)


def find_runs(folder: Path) -> list[Path]:
    """The directory, if it is a run's; else the run directories below it, in the natural order of their names.

    Raises:
        UserError: there are none.
    """
    if (folder / "run.json").is_file():
        return [folder]
    found = _distinct(_below(folder, DEPTH))
    if not found:
        raise UserError(f"{folder}: {'none of its runs has begun; try again later' if _jobs(folder) else NO_RUN}")
    return sorted(found, key=lambda path: natural(str(path)))


def _distinct(paths: Iterable[Path]) -> Collection[Path]:
    """Each directory once: a link to another one (``latest``) is no run of its own."""
    links_first = sorted(paths, key=lambda path: (not path.is_symlink(), str(path)))
    return {path.resolve(): path for path in links_first}.values()


def read_run(folder: Path, seen: Seen | None = None) -> Kept:
    """Read what a run directory says of itself.

    Raises:
        UserError: it is no run directory, its ``run.json`` is damaged, or an older version made it.
    """
    run = RunDir(folder)
    record = read_json(run.run_json)
    if not record:
        raise UserError(f"{folder}: {DAMAGED if run.run_json.exists() else NO_RUN}")
    if "trials" not in record:
        older = "its run.json does not list its trials; give the run's own command again, which adds them"
        raise UserError(f"{folder}: {older}")
    try:
        return _kept(run, record, seen)
    except (KeyError, ValueError, TypeError, AttributeError):
        raise UserError(f"{folder}: {DAMAGED}") from None


def _kept(run: RunDir, record: Mapping[str, Any], seen: Seen | None) -> Kept:
    samples = record["identity"].get("agent.samples", 1)
    trials = [Trial.of_arm(arm, id, samples) for arm, ids in record["trials"].items() for id in ids]
    comparisons = [(a, b) for a, b in record["comparisons"]]
    if other := next((name for t in trials for name in (t.arm, t.instance_id) if not can_be_file_name(name)), None):
        raise UserError(f"{run.root}: its run.json names {other!r}, which cannot be a file name: it is not ours")
    if not trials or not {adapter for pair in comparisons for adapter in pair} <= {trial.adapter for trial in trials}:
        raise ValueError
    return Kept(run, trials, comparisons, record, seen)


def read_all(found: Mapping[Path, Sequence[Path]], seen: Seen | None = None) -> tuple[list[Kept], list[str]]:
    """The runs, and lines about those below a directory that cannot be read; one that was named must be.

    Raises:
        UserError: it cannot, or none can.
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
    return runs, unread


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts ``run-9`` before ``run-10``."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def checkpoint_of(name: str) -> tuple[str, int] | None:
    """The training run and the step that an arm's name ends with (``grpo-300``); None if it does not."""
    found = re.fullmatch(r"(.*)[-_](\d+)", name.rpartition("/")[2])
    return (found[1], int(found[2])) if found else None


def _check(runs: Sequence[Kept]) -> None:
    if twice := [run for run, times in Counter(kept.run.root for kept in runs).items() if times > 1]:
        raise UserError(f"a run is given twice; name each once: {twice[0]}")
    if lines := [line for other in runs[1:] for line in _differences(runs[0], other)]:
        raise UserError("\n".join(lines))


def _jobs(folder: Path) -> int:
    """As many as ``sweep.json`` has, which the launchers leave."""
    return len(read_json(folder / "sweep.json").get("jobs", []))


def _below(folder: Path, depth: int) -> Iterator[Path]:
    inside = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    for path in inside:
        if (path / "run.json").is_file():
            yield path
        elif depth and not path.name.startswith("."):
            yield from _below(path, depth - 1)


def _of_run(kept: Kept, out: Path | None) -> Subject:
    return Subject("run", kept.run.root.name, out or kept.run.root, [kept], kept.arms, kept.comparisons)


def _of_runs(runs: Sequence[Kept], out: Path | None) -> Subject:
    """Each under the name of its directory, parts of one run under the first part's; alone, they need no name."""
    wholes = _wholes(runs)
    if len(wholes) == 1:
        return _of_parts(runs, out)
    named = [name_among(parts[0], [first for first, *_ in wholes]) for parts in wholes]
    arms = [_labelled(arm, name) for name, parts in zip(named, wholes, strict=True) for arm in _joined(parts)[0]]
    title = " vs ".join(named)
    folder = out or runs[0].run.root.parent / _together([parts[0].run.root.name for parts in wholes])
    return Subject("runs", title, folder, runs, arms, _with_first(arms), list(_overlaps(runs)))


def _of_parts(parts: Sequence[Kept], out: Path | None) -> Subject:
    name = f"{parts[0].run.root.name}-to-{parts[-1].run.root.name}"
    arms = _joined(parts)[0]
    return Subject("runs", name, out or parts[0].run.root.parent / name, parts, arms, _with_first(arms))


def _together(names: Sequence[str]) -> str:
    """Name of a directory for the report of several runs, no longer than a file system can bear."""
    return "-vs-".join(names) if len(names) <= 3 else f"{names[0]}-vs-{len(names) - 1}-others"


def _of_sweep(folder: Path, runs: Sequence[Kept], unread: Sequence[str], jobs: int, out: Path | None) -> Subject:
    arms, notes = _joined(runs)
    notes += unread
    waiting = max(0, jobs - len(runs) - len(unread))
    if waiting:
        notes.append(f"{waiting} of {jobs} runs have not begun")
    bare = {arm.name for kept in runs for arm in kept.arms if kept.identity.get(f"{ARM}{arm.adapter}") == BARE}
    arms.sort(key=lambda arm: (arm.name not in bare, checkpoint_of(arm.adapter) or (arm.adapter, 0), natural(arm.name)))
    root = folder.resolve()
    return Subject("sweep", root.name, out or root, runs, arms, _with_first(arms), notes, waiting)


def _joined(runs: Iterable[Kept]) -> tuple[list[Arm], list[str]]:
    """Arms of the same name and weights are one, in whichever run: shards of a benchmark, a reference that each has.

    Of an instance that several have, the first verdict counts; the lines say where that left some out.
    """
    by_weights: dict[tuple[str, str], list[tuple[Kept, Arm]]] = {}
    for kept in runs:
        for arm in kept.arms:
            by_weights.setdefault((arm.name, kept.weights(arm)), []).append((kept, arm))
    arms, notes = [], []
    for (name, _), members in by_weights.items():
        joined = _join([arm for _, arm in members])
        left_out = sum(len(arm.resolved) for _, arm in members) - len(joined.resolved)
        if left_out:
            notes.append(f"{name} was evaluated in {len(members)} runs: {left_out} later verdicts are left out")
        others = [each[0][0] for (namesake, _), each in by_weights.items() if namesake == name]
        arms.append(joined if len(others) == 1 else _labelled(joined, name_among(members[0][0], others)))
    return arms, notes


def _join(parts: Sequence[Arm]) -> Arm:
    if len(parts) == 1:
        return parts[0]
    whole = replace(parts[0], verdicts=dict(parts[0].verdicts))
    for part in parts[1:]:
        for instance_id, verdict in part.verdicts.items():
            if instance_id not in whole.verdicts or not whole.verdicts[instance_id].is_scored:
                whole.verdicts[instance_id] = verdict
    return whole


def _wholes(runs: Iterable[Kept]) -> list[list[Kept]]:
    """The runs, those that are parts of one together: the same configuration, no trial in two of them."""
    wholes: list[list[Kept]] = []
    for kept in runs:
        whole = next((parts for parts in wholes if all(_is_part_beside(kept, part) for part in parts)), None)
        if whole:
            whole.append(kept)
        else:
            wholes.append([kept])
    return wholes


def _is_part_beside(one: Kept, other: Kept) -> bool:
    return one.identity == other.identity and not {*one.trials} & {*other.trials}


def _overlaps(runs: Iterable[Kept]) -> Iterator[str]:
    """Lines about runs that would be parts of one but for some trials that both have."""
    for one, other in combinations(runs, 2):
        both = {*one.trials} & {*other.trials}
        if one.identity == other.identity and both and {*one.trials} != {*other.trials}:
            names = f"{one.run.root.name} and {other.run.root.name}"
            yield f"{names} are no shards of one run: {len(both)} trials are in both, so they are compared as two"


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


def name_among(kept: Kept, runs: Sequence[Kept]) -> str:
    """The name of the directory; its path if another run's has the same name."""
    namesakes = [other for other in runs if other.run.root.name == kept.run.root.name]
    return kept.run.root.name if len(namesakes) == 1 else str(kept.run.root)
