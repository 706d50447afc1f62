"""The OmegaConf resolvers that ``conf/`` uses. Importing this module registers them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from swe_eval.errors import UserError
from swe_eval.settings import BASE, PACKAGE


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
    return str(lora.get("name") or stem(lora.get("run", "")) or {"none": BASE}.get(lora["kind"], lora["kind"]))


def checkpoints(run: str, every: int, first: int | None, last: int | None, with_base: bool) -> list[dict[str, Any]]:
    """The arms of ``lora=checkpoints``; what is left out is said on standard error."""
    from swe_eval.adapters.checkpoints import choose, find_checkpoints

    if not isinstance(every, int) or every < 1:
        raise UserError(f"lora.every: should be a number from 1 on, not {every!r}")
    found, skipped = find_checkpoints(Path(run))
    for line in skipped:
        print(f"swe_eval: {line}", file=sys.stderr)
    if not (chosen := choose(found, every, first, last)):
        raise UserError(f"lora.run={run}: none of its {len(found)} checkpoints is an adapter that was asked for")
    base = [{"name": BASE, "path": None}] if with_base else []
    return base + [{"name": f"{stem(run)}-{each.step}", "path": str(each.path)} for each in chosen]


for resolver in (bundled, tiny_model, stem, adapter_names, checkpoints):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
