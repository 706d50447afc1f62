"""Examine the adapters of a run together, and stop it if one of them would not be served as it was trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from swe_eval.adapters.adapter import WEIGHTS, Adapter, Problem, Unreadable, read_adapter
from swe_eval.adapters.backends import BACKENDS, MUST_MERGE, Verdict, judge, peft_parameters
from swe_eval.adapters.base import Base, read_base
from swe_eval.adapters.checks import problems
from swe_eval.adapters.targets import lay_out
from swe_eval.errors import UserError
from swe_eval.settings import AdapterSettings, ModelSettings, Settings


@dataclass(frozen=True)
class Examined:
    """All that is known of an adapter without loading it."""

    name: str
    path: Path
    problems: tuple[Problem, ...]
    verdicts: Mapping[str, Verdict]
    """By backend (``serving.kind``)."""
    adapter: Adapter | None = None
    """None if its files cannot be understood."""
    ranks: tuple[int, ...] = ()
    """Ascending, each once; of one expert where experts are fused."""
    targets: tuple[str, ...] = ()
    """The last parts of the names of what it changes, each once."""
    parameters: frozenset[str] = frozenset()
    """See ``peft_parameters``."""

    @property
    def warnings(self) -> list[str]:
        return [problem.text for problem in self.problems if problem.severity == "warning"]

    @property
    def size(self) -> int:
        """Bytes of the weights."""
        file = self.path / WEIGHTS
        return file.stat().st_size if file.is_file() else 0


def examine(adapters: Iterable[AdapterSettings], model: ModelSettings) -> list[Examined]:
    """Examine every adapter that has a path.

    Raises:
        UserError: the base model itself is not there, or damaged.
    """
    base = read_base(model)
    found: list[Examined] = []
    for adapter in adapters:
        if adapter.path is not None:
            found.append(_beside(_examine(adapter.name, Path(adapter.path), base, model.base_model), found))
    return found


def check(settings: Settings) -> list[str]:
    """Make sure that the configured backend applies every adapter exactly; returns warnings, a line each.

    Raises:
        UserError: a line for everything that keeps an adapter from being served.
    """
    if settings.serving.kind not in BACKENDS:  # the server is not ours, nor need the adapters be on this machine
        return []
    found = examine(settings.adapters, settings.model)
    if lines := [line for each in found for line in refusals(each, settings)]:
        raise UserError("\n".join(lines))
    return [f"lora: {each.name}: {warning}" for each in found for warning in each.warnings]


def to_merge(settings: Settings) -> set[str]:
    """The arms that are served as a checkpoint of their own: asked for, or all that the backend can do."""
    if settings.lora.kind == "none" or settings.serving.kind not in BACKENDS or settings.lora.apply == "runtime":
        return set()
    if settings.lora.apply == "merge":
        return {adapter.name for adapter in settings.adapters if adapter.path is not None}
    found = examine(settings.adapters, settings.model)
    return {each.name for each in found if each.verdicts[settings.serving.kind].kind == MUST_MERGE}


def refusals(examined: Examined, settings: Settings) -> list[str]:
    """Why the run cannot serve the adapter: a line for each problem, or one for all reasons to merge it."""
    verdict = examined.verdicts[settings.serving.kind]
    if verdict.kind != MUST_MERGE:
        return [f"lora: {examined.name}: {reason}" for reason in verdict.reasons]
    if settings.lora.kind != "none" and settings.lora.apply != "runtime":
        return []
    return [f"lora: {examined.name}: serving={settings.serving.kind}: {verdict}; write lora.apply=auto"]


def _examine(name: str, path: Path, base: Base, base_model: str) -> Examined:
    try:
        adapter = read_adapter(path)
    except Unreadable as error:
        refused = Verdict("refused", tuple(problem.text for problem in error.problems))
        return Examined(name, path, tuple(error.problems), dict.fromkeys(BACKENDS, refused))
    layout = lay_out(adapter, base)
    found = tuple(problems(adapter, base, layout, base_model))
    verdicts = judge(adapter, base, layout, found)
    ranks = {adapter.config.rank(each.key) for each in layout.placed}
    leaves = {each.leaf for each in layout.placed}
    return Examined(
        name,
        path,
        found,
        verdicts,
        adapter,
        ranks=tuple(sorted(ranks or {adapter.config.r})),
        targets=tuple(sorted(leaves or {module.rpartition(".")[2] for module in adapter.pairs})),
        parameters=peft_parameters(adapter, base),
    )


def _beside(examined: Examined, others: Iterable[Examined]) -> Examined:
    """PEFT holds one set of ``target_parameters`` per model: of the adapters that have any, the first one decides."""
    if examined.verdicts["transformers"].kind != "ok" or not examined.parameters:
        return examined
    for other in others:
        if other.verdicts["transformers"].kind == "ok" and other.parameters not in (frozenset(), examined.parameters):
            reason = f"PEFT holds one set of target_parameters per model, and {other.name} has another"
            merged = {"transformers": Verdict(MUST_MERGE, (reason,))}
            return replace(examined, verdicts={**examined.verdicts, **merged})
    return examined
