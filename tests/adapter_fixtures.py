"""LoRA adapters of the tiny model, made with numpy alone, to be spoilt before they are written."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from swe_eval.adapters import CONFIG, WEIGHTS, Examined, examine
from swe_eval.benchmark.demo.model import tiny_model
from swe_eval.command import settings_of
from swe_eval.settings import AdapterSettings, ModelSettings

PREFIX = "base_model.model."


@cache
def shapes() -> dict[str, tuple[int, int]]:
    """The tiny model's linear modules: name -> (out, in)."""
    weights = load_file(tiny_model() / "model.safetensors")
    found = {name.removesuffix(".weight"): weight.shape for name, weight in weights.items() if weight.ndim == 2}
    return {name: shape for name, shape in found.items() if name != "model.embed_tokens"}


def modules(pattern: str) -> list[str]:
    """The modules whose name the pattern is found in."""
    return [name for name in shapes() if re.search(pattern, name)]


class Made:
    """An adapter of these modules; ``ranks`` are those that differ from ``r``."""

    def __init__(
        self, names: list[str], *, r: int = 4, ranks: dict[str, int] | None = None, seed: int = 0, **config: Any
    ) -> None:
        random = np.random.default_rng(seed)
        self.weights: dict[str, np.ndarray] = {}
        for name in names:
            (out, size), rank = shapes()[name], (ranks or {}).get(name, r)
            self.weights[f"{PREFIX}{name}.lora_A.weight"] = random.normal(size=(rank, size), scale=0.2)
            self.weights[f"{PREFIX}{name}.lora_B.weight"] = random.normal(size=(out, rank), scale=0.2)
        self.weights = {name: weight.astype(np.float32) for name, weight in self.weights.items()}
        usual = {"peft_type": "LORA", "r": r, "lora_alpha": 2 * r, "bias": "none", "target_modules": names}
        self.config = usual | ({"rank_pattern": ranks} if ranks else {}) | config

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: np.ascontiguousarray(w) for name, w in self.weights.items()}, folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(self.config))
        return folder


@cache
def model(base: Path | str | None = None) -> ModelSettings:
    """The tiny model, or another base."""
    return settings_of(*([f"model.base_model={base}"] if base else [])).model


def examined(*folders: Path, base: Path | str | None = None) -> list[Examined]:
    """What is found about these adapters on one server."""
    arms = [AdapterSettings(name=f"a{index}", path=str(folder)) for index, folder in enumerate(folders)]
    return examine(arms, model(base))
