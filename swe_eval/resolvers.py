"""The OmegaConf resolvers that ``conf/`` uses. Importing this module registers them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

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
    return str(lora.get("name") or {"none": BASE}.get(lora["kind"], lora["kind"]))


for resolver in (bundled, tiny_model, stem, adapter_names):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
