"""What it takes to reproduce the numbers."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swe_eval.report.runs import BARE, SavedRun
from swe_eval.report.subject import Subject
from swe_eval.run_dir import ARM

FEW = 6
"""Of more runs, only the first and the last have a card."""


@dataclass(frozen=True)
class Card:
    """A run, and what produced it, as names and values."""

    run: str
    facts: Sequence[tuple[str, str]]


def cards(subject: Subject) -> list[Card]:
    """What produced each run."""
    shown = subject.runs if len(subject.runs) <= FEW else [subject.runs[0], subject.runs[-1]]
    return [Card(saved.run.root.name, list(_facts(saved))) for saved in shown]


def _facts(saved: SavedRun) -> Iterator[tuple[str, str]]:
    calls, identity = saved.record.get("invocations", []), saved.identity
    last: Mapping[str, Any] = calls[-1] if calls else {}
    if last:
        yield "Command", command_of(last["command"])
        yield "Commit", f"{last['commit'] or 'not from a checkout'}, swe_eval {last['swe_eval']}"
        yield "Began, went on", f"{calls[0]['started']}, {len(calls)} call{'s' * (len(calls) > 1)}"
        gpus = ", ".join(last["gpus"]) or "no GPU"
        yield "Machine", f"{last['host']}, {last['cpus']} cores, {gpus}, {last['platform']}"
        packages = {"python": last["python"], **last["packages"]}
        yield "Packages", ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    yield "Dataset", f"{identity.get('benchmark.name')}, fingerprint {identity.get('benchmark.fingerprint')}"
    if "model.base_model" in identity:
        yield "Base model", f"{identity['model.base_model']}, {identity.get('model.dtype')}"
    for key, digest in identity.items():
        if key.startswith(ARM):
            yield f"Arm {key.removeprefix(ARM)}", "base model, no adapter" if digest == BARE else str(digest)
    if images := saved.record.get("images"):
        yield "Images", f"{len(images)}, their digests are in run.json"


def settings(runs: Sequence[SavedRun]) -> list[tuple[str, str]]:
    """Every setting that the numbers depend on, as names and values."""
    keys = dict.fromkeys(key for saved in runs for key in saved.identity if not key.startswith(ARM))
    return [(key, ", ".join(values_of(runs, key))) for key in keys]


def values_of(runs: Sequence[SavedRun], key: str) -> list[str]:
    """What a setting is in these runs, each value once."""
    return list(dict.fromkeys(str(saved.identity[key]) for saved in runs if key in saved.identity))


def command_of(argv: Sequence[str]) -> str:
    """The command line, as one types it, of a process that was started with these arguments."""
    door = Path(argv[0]).stem if argv else ""
    module = "swe_eval" if door in ("__main__", "swe-eval", "swe_eval") else f"swe_eval.{door}"
    return shlex.join(["python", "-m", module, *argv[1:]])
