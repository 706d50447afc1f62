"""The base model's weights that LoRA can change, from its checkpoint's own headers.

Neither torch nor transformers is asked: a checkpoint's headers are read in milliseconds, need no code of the model's
architecture, and name every expert as the hub does, which is also how a merge must name them. What the headers cannot
tell exactly is left unchecked, with a warning that says so, and never guessed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swe_eval.adapters.tensors import Damaged, Tensor, read_header
from swe_eval.errors import UserError
from swe_eval.settings import ModelSettings

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
EXPERT = re.compile(r"(?P<container>.+\.experts)\.\d+\.(?P<leaf>\w+)")
MLP = {"gate_proj", "up_proj", "down_proj"}
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
SMALL = (
    *("config.json", "generation_config.json", "chat_template.jinja"),
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "merges.txt"),
)
"""Files of a model that decide its answers, beside the weights."""
SAMPLE = 4096
"""Bytes of each tensor that tell it from another: training changes most of them, and all would take minutes."""
_PACKED = re.compile(r"\.(qweight|weight_packed|absmax|\w+_blocks)$")


@dataclass(frozen=True)
class Site:
    """A weight that one pair of LoRA matrices can change."""

    name: str
    """Name of the module; of fused experts, of the parameter (``model.layers.1.mlp.experts.down_proj``)."""
    out_size: int
    in_size: int
    experts: int = 1
    """How many experts' weights are fused into one parameter."""


@dataclass(frozen=True)
class Base:
    """Where an adapter can fit."""

    linear: Mapping[str, Site] = field(default_factory=dict)
    """By module, experts one by one."""
    fused: Mapping[str, Site] = field(default_factory=dict)
    """By parameter: the same experts as transformers 5 holds them, in the order in which PEFT wraps them."""
    layers: int | None = None
    is_moe: bool = False
    """Whether PEFT takes it for a model whose experts are fused; it may still have dense layers alone."""
    unknown: str = ""
    """Why ``linear`` and ``fused`` are empty, where they could not be read; the end of a sentence."""


def read_base(model: ModelSettings) -> Base:
    """Read the headers of a directory, or of what the hub's cache holds of a model.

    Raises:
        UserError: the directory is not there, or a file of it is missing or damaged.
    """
    folder = model_folder(model)
    if folder is None:
        return Base(unknown=f"{model.base_model} is not on this machine yet")
    config = read_json(folder / "config.json")
    files = weight_files(folder)
    if not files:
        return Base(unknown=f"{folder} holds no safetensors")
    if missing := [file.name for file in files if not file.is_file()]:
        if folder == Path(model.base_model):
            raise UserError(f"model.base_model={folder}: no {missing[0]}, which its index names; copy the whole model")
        return Base(unknown=f"{model.base_model} is only partly on this machine ({missing[0]} is missing)")
    tensors = {name: tensor for file in files for name, tensor in _header(file).items()}
    if reason := _why_not_exact(tensors, config):
        return Base(unknown=f"{model.base_model} {reason}")
    return _base(tensors, config)


def model_folder(model: ModelSettings) -> Path | None:
    """Where the model lies on this machine: a directory, or one in the hub's cache; None if it is in neither.

    Raises:
        UserError: it is a directory that is not there, one with a revision, or no hub id.
    """
    folder = Path(model.base_model)
    if folder.is_dir():
        if model.revision is not None:
            raise UserError(f"model.revision={model.revision}: {folder} is no model of the hub; write null")
        return folder
    if folder.is_absolute() or model.base_model.startswith("."):
        raise UserError(f"model.base_model={folder}: no such directory; write a hub id or the path of a model")
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(model.base_model, "config.json", revision=model.revision)
    except ValueError as error:
        raise UserError(f"model.base_model={model.base_model}: {str(error).splitlines()[0]}") from None
    return Path(found).parent if isinstance(found, str) else None


def base_hash(model: ModelSettings) -> str | None:
    """SHA-256 over a directory's small files and the beginning of every tensor; of a hub id, see ``_cached_hash``.

    Raises:
        UserError: a file of it is missing or damaged.
    """
    folder = Path(model.base_model)
    if not folder.is_dir():
        snapshot = model_folder(model)
        return _cached_hash(snapshot) if snapshot else None
    digest = hashlib.sha256()
    for small in filter(Path.is_file, map(folder.joinpath, SMALL)):
        digest.update(small.read_bytes())
    for file in weight_files(folder):
        tensors = _header(file).values()
        with file.open("rb") as content:
            for tensor in tensors:
                content.seek(tensor.start)
                digest.update(f"{tensor.name} {tensor.shape}".encode() + content.read(min(SAMPLE, tensor.nbytes)))
    return digest.hexdigest()


def _cached_hash(snapshot: Path) -> str | None:
    """SHA-256 over which blobs of the hub's cache are the configuration and the weights; None until all are there.

    Blobs are called by their content. The snapshot itself is called by its commit, and every README is a new one.
    """
    weights = weight_files(snapshot)
    if not weights or not all(map(Path.is_file, weights)):
        return None
    blobs = (f"{file.name} {file.resolve().name}\n" for file in (snapshot / "config.json", *weights))
    return hashlib.sha256("".join(blobs).encode()).hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers would load, whether they are there or not; empty if there are no safetensors."""
    if (folder / SINGLE).is_file():  # transformers, too, prefers it
        return [folder / SINGLE]
    index = folder / INDEX
    return [folder / name for name in sorted(set(read_json(index)["weight_map"].values()))] if index.is_file() else []


def read_json(file: Path) -> dict[str, Any]:
    """The object in a file of the model.

    Raises:
        UserError: it is not there, or damaged.
    """
    try:
        parsed: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"model.base_model: {file} cannot be read ({error}); copy the whole model") from None
    return parsed


def _header(file: Path) -> dict[str, Tensor]:
    try:
        return read_header(file).tensors
    except Damaged as error:
        raise UserError(f"model.base_model: {file} is damaged ({error}); copy it again") from None


def _why_not_exact(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> str:
    """Why the checkpoint's names and shapes may not be those of the modules that PEFT sees; empty if they are."""
    if any(_PACKED.search(name) for name in tensors):
        return "is stored quantized, which hides its shapes"
    if "vision_config" in config or "text_config" in config:
        return "is multimodal, whose module names differ from its checkpoint's"
    if not any(name.startswith("model.layers.") for name in tensors):
        return "names its weights in a way of its own"
    experts = {found["leaf"] if (found := EXPERT.match(name)) else "" for name in tensors if ".experts." in name}
    if experts - MLP:
        return "stores its experts in another form than transformers' per-expert one"
    return ""


def _base(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Base:
    layers = config.get("num_hidden_layers")
    linear = {site.name: site for site in _linear(tensors) if not is_beyond(site.name, layers)}
    is_moe = any(config.get(key) for key in ("n_routed_experts", "num_experts", "num_local_experts"))
    return Base(linear, {site.name: site for site in _fused(linear)}, layers, is_moe)


def is_beyond(module: str, layers: int | None) -> bool:
    """Whether a module lies in a layer that the model does not run, as the one for multi-token prediction."""
    found = _LAYER.search(module)
    return layers is not None and found is not None and int(found[1]) >= layers


def _linear(tensors: Mapping[str, Tensor]) -> Iterator[Site]:
    for name, tensor in tensors.items():
        if name.endswith(".weight") and len(tensor.shape) == 2 and not name.endswith("embed_tokens.weight"):
            yield Site(name.removesuffix(".weight"), *tensor.shape)
    embedding = tensors.get("model.embed_tokens.weight")
    if embedding and "lm_head.weight" not in tensors:  # they are tied, said or by the default of the model's class
        yield Site("lm_head", *embedding.shape)


def _fused(linear: Mapping[str, Site]) -> Iterator[Site]:
    """As transformers 5 fuses them: gate over up, one expert after the other."""
    containers: dict[str, list[Site]] = {}
    for found in filter(None, map(EXPERT.fullmatch, linear)):
        if found["leaf"] == "down_proj":
            containers.setdefault(found["container"], []).append(linear[found[0]])
    for container, (down, *others) in containers.items():
        experts = 1 + len(others)
        yield Site(f"{container}.gate_up_proj", 2 * down.in_size, down.out_size, experts)
        yield Site(f"{container}.down_proj", down.out_size, down.in_size, experts)
