"""The OmegaConf resolvers that ``conf/`` uses. Importing this module registers them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from swe_eval.errors import UserError
from swe_eval.settings import BASE, PACKAGE

if TYPE_CHECKING:
    from swe_eval.adapters.checkpoints import Checkpoint


def bundled(relative: str) -> str:
    """Path of something that ships with the package."""
    return str(PACKAGE / relative)


def tiny_model() -> str:
    """Directory of the demo's model, made on first use."""
    from swe_eval.benchmark.demo.model import tiny_model as made

    return str(made())


def stem(path: str) -> str:
    """Last part of a path or hub id: ``org/name`` is ``name``."""
    return Path(path).name


def adapter_names(lora: Mapping[str, Any]) -> str:
    """What to call a run of these arms."""
    runs = "-".join(stem(run) for run in _several(lora.get("run")))
    name = lora.get("name") or runs or {"none": BASE}.get(lora["kind"], lora["kind"])
    return re.sub(r"[^\w.-]+", "", str(name)).strip("-")


def checkpoints(*, _parent_: Mapping[str, Any]) -> ListConfig:
    """The arms of ``lora=checkpoints``, in which it stands; those of ``only`` if it is given."""
    return OmegaConf.create(_arms(_parent_))  # of a plain list, --cfg job --resolve can make nothing


def _arms(lora: Mapping[str, Any]) -> list[dict[str, Any]]:
    if lora["only"] is None:
        return _chosen(lora)
    by_name = {arm["name"]: arm for arm in _all_arms(lora)}
    if missing := [name for name in lora["only"] if name not in by_name]:
        raise UserError(f"lora.only: not among the checkpoints of lora.run: {', '.join(missing)}")
    return [by_name[name] for name in lora["only"]]


def checkpoint_jobs(lora: Mapping[str, Any]) -> str:
    """The values of ``lora.only`` in a sweep, as Hydra has them on the command line: ``per_job`` arms in each."""
    size = _positive(lora, "per_job")
    names = [arm["name"] if arm["name"].isascii() else f'"{arm["name"]}"' for arm in _chosen(lora)]
    return ",".join(f"[{','.join(names[first : first + size])}]" for first in range(0, len(names), size))


def span(names: Sequence[str] | None) -> str:
    """What to call the job that has these arms."""
    if not names:
        return "all"
    return names[0] if len(names) == 1 else f"{names[0]}-to-{names[-1]}"


def fields(*, _root_: DictConfig) -> str:
    """Every field of the configuration with its meaning, for ``--help``."""
    from swe_eval.help import describe_fields

    tree: dict[str, Any] = OmegaConf.to_container(_root_, resolve=False)  # type: ignore[assignment]
    return describe_fields(tree).replace("$", "$$")  # Hydra has it go through string.Template


def _chosen(lora: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The arms, the base model first if it is one; what is left out is said on standard error."""
    from swe_eval.adapters.checkpoints import choose

    every, first, last = _positive(lora, "every"), lora["first"], lora["last"]
    chosen, there = [], 0
    for run, found, skipped in _found(lora):
        for line in skipped:
            _say_once(line)
        there += len(found)
        chosen += [_arm(run, each) for each in choose(found, every, first, last)]
    if not there:
        remedy = "write the output directory of a training run"
        raise UserError(f"lora.run={lora['run']}: no whole checkpoint-<step> in it; {remedy}")
    if not chosen:
        remedy = "look at lora.first and lora.last"
        raise UserError(f"lora.run={lora['run']}: none of its {there} checkpoints was asked for; {remedy}")
    return ([{"name": BASE, "path": None}] if lora["with_base"] else []) + chosen


def written(lora: Mapping[str, Any]) -> set[str]:
    """The names of the checkpoints from ``first`` to ``last`` that are whole by now."""
    from swe_eval.adapters.checkpoints import choose

    within = ((run, choose(found, first=lora["first"], last=lora["last"])) for run, found, _ in _found(lora))
    return {_arm(run, each)["name"] for run, chosen in within for each in chosen}


def _all_arms(lora: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The base model, and every checkpoint that is whole by now."""
    yield {"name": BASE, "path": None}
    for run, found, _ in _found(lora):
        yield from (_arm(run, each) for each in found)


def _found(lora: Mapping[str, Any]) -> Iterator[tuple[str, list[Checkpoint], list[str]]]:
    """By training run: see ``find_checkpoints``."""
    from swe_eval.adapters.checkpoints import find_checkpoints

    for given in _several(lora["run"]):
        for run in sorted(glob(given)) if has_magic(given) else [given]:
            yield run, *find_checkpoints(Path(run))


def _several(given: str | Sequence[str] | None) -> Sequence[str]:
    return [given] if isinstance(given, str) else given or []


def _arm(run: str, checkpoint: Checkpoint) -> dict[str, Any]:
    return {"name": f"{stem(run)}-{checkpoint.step}", "path": str(checkpoint.path)}


@cache
def _say_once(line: str) -> None:
    print(f"swe_eval: {line}", file=sys.stderr)


def _positive(lora: Mapping[str, Any], key: str) -> int:
    value = lora[key]
    if not isinstance(value, int) or value < 1:
        raise UserError(f"lora.{key}: should be a number from 1 on, not {value!r}")
    return value


for resolver in (bundled, tiny_model, stem, adapter_names, checkpoints, checkpoint_jobs, span, fields):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
