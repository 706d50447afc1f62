"""The checkpoints of a training run: which of them are complete adapters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from swe_eval.adapters.adapter import CONFIG, WEIGHTS
from swe_eval.adapters.tensors import Damaged, read_header
from swe_eval.errors import UserError

_STEP = re.compile(r"(?:checkpoint|global_step|step)[-_](\d+)")
"""As transformers' and TRL's trainers name them, and verl's."""


@dataclass(frozen=True)
class Checkpoint:
    """An adapter that training wrote."""

    step: int
    path: Path


def find_checkpoints(run: Path) -> tuple[list[Checkpoint], list[str]]:
    """The complete ones in a training run's directory, by step, and a line for each that is not (yet) complete.

    Raises:
        UserError: there is no such directory.
    """
    if not run.is_dir():
        raise UserError(f"lora.run={run}: no such directory; write the output directory of a training run")
    named = sorted((int(found[1]), folder) for folder in run.iterdir() if (found := _STEP.fullmatch(folder.name)))
    whole, skipped = [], []
    for step, folder in named:
        if why := _why_unfinished(folder):
            skipped.append(f"lora.run: {folder.name} is left out: {why}")
        else:
            whole.append(Checkpoint(step, folder))
    return whole, skipped


def step_of(folder: Path) -> int | None:
    """The step in the name of an adapter's directory, or of one above it (``global_step_300/actor/lora_adapter``)."""
    names = [folder.name, *(parent.name for parent in folder.parents)][:3]
    return next((int(found[1]) for name in names if (found := _STEP.search(name))), None)


def choose(
    checkpoints: Iterable[Checkpoint], every: int = 1, first: int | None = None, last: int | None = None
) -> list[Checkpoint]:
    """Those with ``first <= step <= last``, and of them each ``every``-th, counted from the last one."""
    within = [each for each in checkpoints if (first or 0) <= each.step and (last is None or each.step <= last)]
    return within[::-every][::-1]


def _why_unfinished(folder: Path) -> str:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            return f"no {name} in it"
    try:
        read_header(folder / WEIGHTS)
    except Damaged as error:
        return f"{WEIGHTS} is not whole ({error})"
    return ""
