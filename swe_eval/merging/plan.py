"""What an adapter does to each tensor of a checkpoint, or why that cannot be said exactly. Reads headers alone."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from swe_eval import adapters
from swe_eval.adapters.adapter import LoraConfig
from swe_eval.adapters.checks import PLAIN_INITS, WITHOUT_EFFECT
from swe_eval.adapters.tensors import Tensor
from swe_eval.errors import UserError
from swe_eval.merging.checkpoint import Checkpoint
from swe_eval.merging.experts import Factors, find_experts
from swe_eval.merging.tensors import STORED_AS, Array, floats, open_file

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"

LORA_KEY = re.compile(
    r"base_model\.model\.(?P<module>.+?)(?P<nested>(\.base_layer)*)"
    r"\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(\.weight)?"
)
SAVED_KEY = re.compile(r"base_model\.model\.(?P<module>.+?)(\.base_layer)?\.(?P<leaf>[^.]+)")

UNDERSTOOD = WITHOUT_EFFECT - {"fan_in_fan_out"} | {"use_dora", "modules_to_save", "bias"}
"""Options beside those of ``LoraConfig``."""


@dataclass(frozen=True)
class Change:
    """What becomes of a tensor of the checkpoint."""

    values: Tensor | None = None
    """Take these instead of the base's."""
    factors: Callable[[int], Factors] | None = None
    """Then add the product; by the index of the matrix in the tensor, which is 0 if the tensor is one matrix."""
    magnitude: Tensor | None = None
    """Then bring each row to this length (DoRA)."""


@dataclass(frozen=True)
class Plan:
    """A merge: every tensor that is not named stays as it is."""

    changes: Mapping[str, Change]
    unties: bool
    """Input and output embedding are one in the base, and no longer in the result."""
    added: Mapping[str, str]
    """Tensors that the base does not have, and the one of its tensors that each starts as."""


def make_plan(checkpoint: Checkpoint, adapter: Path) -> Plan:
    """Find the place of every tensor of the adapter.

    Raises:
        UserError: something of it has no exact place, or none; one line.
    """
    try:
        return _Planner(checkpoint, adapter).plan()
    except _CannotMerge as error:
        raise UserError(f"{adapter}: cannot be merged into {checkpoint.directory}: {error}") from None


class _CannotMerge(Exception):
    """Says why."""


class _Planner:
    def __init__(self, checkpoint: Checkpoint, adapter: Path) -> None:
        self._config = _read_config(adapter)
        self._tensors = open_file(adapter / adapters.WEIGHTS).tensors
        self._there = dict(checkpoint.tensors)
        self._has_head = HEAD in self._there
        text = checkpoint.config.get("text_config", checkpoint.config)
        self._is_tied = bool(text.get("tie_word_embeddings", not self._has_head))
        if self._is_tied and EMBEDDING in self._there:
            self._there.setdefault(HEAD, self._there[EMBEDDING])
        self._vocabulary = text.get("vocab_size")
        self._can_untie = text is checkpoint.config
        self._matrix = lru_cache(maxsize=4)(_matrix)  # of fused experts, each matrix is asked for once per expert
        self._changes: dict[str, Change] = {}

    def plan(self) -> Plan:
        self._require_plain_lora()
        products, saved = self._sorted()
        for (module, _), parts in products.items():
            self._add_product(module, parts)
        for name, values in saved.items():
            self._add_values(name, values)
        for module in self._config.get("modules_to_save") or []:
            if not any(f".{name.rpartition('.')[0]}".endswith(f".{module}") for name in saved):
                raise _CannotMerge(f"modules_to_save names {module}, of which it has no tensors")
        unties = self._unties()
        return Plan(self._changes, unties, added={HEAD: EMBEDDING} if unties and not self._has_head else {})

    def _require_plain_lora(self) -> None:
        config = self._config
        if config.get("peft_type") != "LORA":
            raise _CannotMerge(f"peft_type={config.get('peft_type')} is not LORA")
        for key, value in (self._lora.model_extra or {}).items():
            if value and key not in UNDERSTOOD:
                raise _CannotMerge(f"{key}={value} is not understood")
        if config.get("bias", "none") != "none":
            raise _CannotMerge(f"bias={config['bias']}: PEFT does not save every trained bias")
        if str(how := config.get("init_lora_weights")).lower() not in PLAIN_INITS:
            advice = "save it with path_initial_model_for_weight_conversion"
            raise _CannotMerge(f"init_lora_weights={how} trains against another base; {advice}")

    def _sorted(self) -> tuple[dict[tuple[str, str], dict[str, Tensor]], dict[str, Tensor]]:
        """The parts of each product by module and nesting, and by name the tensors that were saved whole."""
        products: dict[tuple[str, str], dict[str, Tensor]] = defaultdict(dict)
        saved = {}
        for tensor in self._tensors.values():
            if tensor.dtype not in STORED_AS:
                raise _CannotMerge(f"{tensor.name} is {tensor.dtype}")
            if key := LORA_KEY.fullmatch(tensor.name):
                products[key["module"], key["nested"]][key["part"]] = tensor
            elif key := SAVED_KEY.fullmatch(tensor.name):
                saved[f"{key['module']}.{key['leaf']}"] = tensor
            else:
                raise _CannotMerge(f"{tensor.name} does not begin with base_model.model.")
        return products, saved

    def _add_product(self, module: str, parts: dict[str, Tensor]) -> None:
        magnitude = parts.pop("lora_magnitude_vector", None)
        if any(len(tensor.shape) != 2 for tensor in parts.values()):
            raise _CannotMerge(f"{module}: its factors are no matrices")
        if set(parts) == {"lora_embedding_A", "lora_embedding_B"} and magnitude is None:
            self._add_embedding(module, *(parts[name] for name in sorted(parts)))
        elif set(parts) != {"lora_A", "lora_B"}:
            raise _CannotMerge(f"{module} has no pair of lora_A and lora_B, only {', '.join(sorted(parts))}")
        elif f"{module}.weight" in self._there:
            self._add_linear(module, parts["lora_A"], parts["lora_B"], magnitude)
        elif module.endswith(".experts") and magnitude is None:
            self._add_experts(module, parts["lora_A"], parts["lora_B"])
        else:
            raise _CannotMerge(f"{module} is not in the base model")

    def _add_linear(self, module: str, down: Tensor, up: Tensor, magnitude: Tensor | None) -> None:
        name = f"{module}.weight"
        self._require_shape(name, (up.shape[0], down.shape[1]))
        if bool(self._config.get("use_dora")) != (magnitude is not None):
            raise _CannotMerge(f"{module}: use_dora={self._config.get('use_dora')} does not fit its tensors")
        if magnitude is not None and magnitude.shape != up.shape[:1]:
            raise _CannotMerge(f"{module}: magnitudes for {list(magnitude.shape)} rows, of {up.shape[0]}")
        scale = self._scale(name if self._is_parameter(name) else module, down.shape[0], up.shape[1])

        def factors(_: int) -> Factors:
            return Factors(self._matrix(up) * scale, self._matrix(down))

        self._change(name, Change(factors=factors, magnitude=magnitude))

    def _add_embedding(self, module: str, down: Tensor, up: Tensor) -> None:
        name = f"{module}.weight"
        self._require_shape(name, (down.shape[1], up.shape[0]))
        scale = self._scale(module, down.shape[0], up.shape[1])

        def factors(_: int) -> Factors:
            return Factors(self._matrix(down).T * scale, self._matrix(up).T)

        self._change(name, Change(factors=factors))

    def _add_experts(self, module: str, down: Tensor, up: Tensor) -> None:
        self._require_known_layout(module)
        shape = up.shape[0], down.shape[1]
        fitting = [experts for experts in find_experts(self._there, module) if experts.shape == shape]
        if len(fitting) != 1:
            raise _CannotMerge(f"{module}: {len(fitting)} places there for {shape[0]} x {shape[1]}")
        (experts,) = fitting
        rank = down.shape[0] / experts.count
        scale = self._scale(f"{module}.{experts.parameter}", rank, up.shape[1] / experts.count)

        def factors(expert: int) -> Factors:
            # PEFT's ParamWrapper: the rows of A count [expert, r], the columns of B [r, expert]
            rows = slice(expert * int(rank), (expert + 1) * int(rank))
            return Factors(self._matrix(up)[:, expert :: experts.count] * scale, self._matrix(down)[rows])

        for place in experts.places:
            self._require_shape(place.name, place.shape)
            self._change(place.name, Change(factors=place.share_of(factors)))

    def _add_values(self, name: str, values: Tensor) -> None:
        """A module that was saved whole takes the base's place; a product on it comes on top."""
        self._require_shape(name, values.shape)
        product = self._changes.pop(name, Change())
        self._change(name, Change(values, product.factors, product.magnitude))

    def _change(self, name: str, change: Change) -> None:
        if (dtype := self._there[name].dtype) not in STORED_AS:
            raise _CannotMerge(f"{name} is {dtype} in the base model; merge into a checkpoint that is not quantized")
        if name in self._changes:
            raise _CannotMerge(f"{name} is changed twice")
        self._changes[name] = change

    def _require_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if name not in self._there:
            raise _CannotMerge(f"{name} is not in the base model")
        if (there := self._there[name].shape) != shape:
            raise _CannotMerge(f"{name} is {list(there)} in the base model, and {list(shape)} here")

    def _require_known_layout(self, module: str) -> None:
        version = re.match(r"(\d+)\.(\d+)", str(self._config.get("peft_version")))
        if version is None or (int(version[1]), int(version[2])) < (0, 19):
            raise _CannotMerge(f"{module}: before PEFT 0.19 fused experts were laid out otherwise; save it again")

    @cached_property
    def _lora(self) -> LoraConfig:
        try:
            return LoraConfig.model_validate({"r": 8, "lora_alpha": 8, **self._config})  # PEFT's defaults
        except ValidationError as error:
            first = error.errors()[0]
            raise _CannotMerge(f"{adapters.CONFIG}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None

    def _scale(self, key: str, *ranks: float) -> float:
        rank = self._lora.rank(key)
        if any(rank != other for other in ranks):
            raise _CannotMerge(f"{key} has rank {ranks[0]:g}, and {rank} in {adapters.CONFIG}")
        return self._lora.scale(key)

    def _is_parameter(self, name: str) -> bool:
        """Whether PEFT was told to adapt the parameter, not its module: patterns then go by the parameter's name."""
        return any(f".{name}".endswith(f".{target}") for target in self._config.get("target_parameters") or [])

    def _unties(self) -> bool:
        if not self._is_tied:
            return False
        changed = {name for name in self._changes if self._there[name].shape[0] == self._vocabulary}
        if other := changed - ({EMBEDDING, HEAD} if self._can_untie else set()):
            raise _CannotMerge(f"{other.pop()} may be tied to another tensor in the base model")
        return bool(changed)


def _matrix(tensor: Tensor) -> Array:
    return floats(tensor).reshape(tensor.shape)


def _read_config(adapter: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((adapter / adapters.CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise _CannotMerge(f"{adapters.CONFIG}: {error}") from None
    return config
