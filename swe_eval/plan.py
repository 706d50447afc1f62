"""What a call of the pipeline has to do: every trial in its order, whose numbers they are, and what is left of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from swe_eval import adapters
from swe_eval.benchmark.instances import Benchmark, Instance
from swe_eval.progress import ROLLED_OUT
from swe_eval.run_dir import ARM, BASE_MODEL, RunDir, Trial, read_json
from swe_eval.settings import GRADE, ROLLOUT, AdapterSettings, Settings, result_settings


def plan(settings: Settings, instances: Sequence[Instance]) -> list[Trial]:
    """Every trial: instance by instance with the arms side by side, so that whatever drifts hits all of them.

    Arms that a server cannot hold at once take turns, as many as it can at a time.
    """
    samples = settings.agent.samples
    return [
        Trial(adapter.name, instance.instance_id, sample, samples)
        for arms in _turns(settings)
        for instance in instances
        for sample in range(1, samples + 1)
        for adapter in arms
    ]


def _turns(settings: Settings) -> Iterator[Sequence[AdapterSettings]]:
    """The arms that are held at once; the base model is beside the first of them, for it takes no slot."""
    if settings.serving.kind != "vllm":
        yield settings.adapters
        return
    bare = [arm for arm in settings.adapters if arm.path is None]
    others = [arm for arm in settings.adapters if arm.path is not None]
    size = settings.serving.slots
    yield [*bare, *others[:size]]
    for first in range(size, len(others), size):
        yield others[first : first + size]


def pairs(settings: Settings) -> list[tuple[str, str]]:
    """Adapters to compare: the first with each other one."""
    reference, *others = [adapter.name for adapter in settings.adapters]
    return [(reference, other) for other in others]


def identify(settings: Settings, benchmark: Benchmark) -> dict[str, Any]:
    """Everything that the numbers depend on: settings, the weights, the dataset's rows."""
    hashes = {f"{ARM}{adapter.name}": adapters.content_hash(adapter) for adapter in _served(settings)}
    if _served(settings) and settings.serving.kind != "external" and (base := adapters.base_hash(settings.model)):
        hashes[BASE_MODEL] = base
    return result_settings(settings) | hashes | {"benchmark.fingerprint": benchmark.fingerprint}


def refuse_new_weights(run: RunDir, arms: Iterable[AdapterSettings]) -> None:
    """Raise ServingError if an adapter on the disk is no longer the one that the run has noted as its arm."""
    identity = read_json(run.run_json)["identity"]
    for arm in arms:
        adapters.refuse_changed(arm, identity[f"{ARM}{arm.name}"])


def _served(settings: Settings) -> Sequence[AdapterSettings]:
    """The arms whose weights matter now: none where the predictions are there, and the checkpoints may be gone."""
    return settings.adapters if ROLLOUT in settings.stages else ()


@dataclass(frozen=True)
class Work:
    """What a call does."""

    to_roll_out: list[Trial]
    to_grade: list[Trial]
    done: list[tuple[Trial, str]]
    """With their outcomes: what earlier calls did and this one leaves alone."""
    how_graded: str = "to grade"

    @property
    def in_order(self) -> list[Trial]:
        """As they are begun."""
        return [*self.to_grade, *self.to_roll_out]

    def __str__(self) -> str:
        trials = len(self.to_roll_out) + len(self.to_grade) + len(self.done)
        return f"{trials} trials: {len(self.to_roll_out)} to roll out, {len(self.to_grade)} {self.how_graded}"


def what_is_owed(settings: Settings, run: RunDir, trials: Sequence[Trial]) -> Work:
    """What ``stages`` asks for and is not there; for gradings alone, where none is missing, all of them again."""
    missing = [trial for trial in trials if not run.is_rolled_out(trial)]
    there = [trial for trial in trials if run.is_rolled_out(trial)]
    if GRADE not in settings.stages:
        return Work(missing, [], [(trial, ROLLED_OUT) for trial in there])
    outcomes = {trial: run.outcome(trial) for trial in there}
    graded = [(trial, outcome) for trial, outcome in outcomes.items() if outcome]
    ungraded = [trial for trial, outcome in outcomes.items() if not outcome]
    if ROLLOUT in settings.stages:
        return Work(missing, ungraded, graded)
    return Work([], ungraded, graded) if ungraded else Work([], there, [], "to grade again")
