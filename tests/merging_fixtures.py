"""Tiny checkpoints with every kind of layer, adapters for any of their tensors, and deltas applied by hand."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from swe_eval.benchmark.demo.model import tiny_model
from swe_eval.merging.checkpoint import open_checkpoint
from swe_eval.merging.making import merge

PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "peft_version": "0.21.2"}
IDS = torch.tensor([[(number * 37 + 11) % 500 + 6 for number in range(40)]])

Tensors = dict[str, torch.Tensor]


def checkpoint(directory: Path, *, shards: str = "5GB", dtype: torch.dtype = torch.float32, **config: Any) -> Path:
    """A random model like the demo's (DeepSeek-V3: MLA, one dense layer, routed and shared experts), saved."""
    torch.manual_seed(1)
    shape = AutoConfig.from_pretrained(tiny_model(), **config)
    model = AutoModelForCausalLM.from_config(shape, dtype=dtype)
    model.save_pretrained(directory, max_shard_size=shards)
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    return directory


def tensors(directory: Path) -> Tensors:
    """Everything in the safetensors files of a directory."""
    return {name: value for file in directory.glob("*.safetensors") for name, value in load_file(file).items()}


def adapter(base: Path, directory: Path, targets: str, **config: Any) -> Path:
    """An adapter, written by hand, on every tensor of the checkpoint whose name has ``targets`` in it."""
    return write_adapter(directory, products(base, targets, config.get("r", PLAIN["r"])), **config)


def products(base: Path, targets: str, r: int = 4) -> Tensors:
    """A and B of a product per tensor; all are whole 128ths, so that float32 holds every product exactly."""
    made = {}
    for name, weight in tensors(base).items():
        if weight.ndim == 2 and re.search(targets, name):
            dice = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            key = f"base_model.model.{name.removesuffix('.weight')}"
            for part, shape in ("lora_A", (r, weight.shape[1])), ("lora_B", (weight.shape[0], r)):
                made[f"{key}.{part}.weight"] = torch.randint(-25, 26, shape, generator=dice) / 128
    return made


def write_adapter(directory: Path, values: Tensors, **config: Any) -> Path:
    """An adapter's two files."""
    directory.mkdir()
    save_file(values, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(json.dumps(PLAIN | config))
    return directory


def peft_adapter(base: Path, directory: Path, **config: Any) -> Path:
    """An adapter that PEFT itself makes on transformers' model, and saves."""
    torch.manual_seed(2)
    model = AutoModelForCausalLM.from_pretrained(base)
    settings = LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False, **config)
    get_peft_model(model, settings).save_pretrained(directory)
    return directory


def merged(base: Path, adapter: Path) -> Path:
    """The merged checkpoint, beside the adapter."""
    out = adapter.with_name(f"{adapter.name}-merged")
    merge(open_checkpoint(base), adapter, out, print)
    return out


def logits(model: Path | Any) -> torch.Tensor:
    """Of a model, or of the checkpoint in a directory, which must load with nothing missing or left over."""
    if isinstance(model, Path):
        model, loading = AutoModelForCausalLM.from_pretrained(model, output_loading_info=True)
        assert not any(loading.values()), loading
    with torch.no_grad():
        return model.float().eval()(IDS).logits


def by_peft(base: Path, adapter: Path) -> Any:
    """What PEFT makes of the adapter on transformers' model, without merging."""
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)


def by_hand(base: Path, adapter: Path) -> Any:
    """transformers' model, with every product of a handwritten adapter added to the parameter it belongs to."""
    model = AutoModelForCausalLM.from_pretrained(base)
    parameters, values = dict(model.named_parameters()), load_file(adapter / "adapter_model.safetensors")
    for key in (key for key in values if ".lora_A." in key):
        delta = 2 * (values[key.replace("lora_A", "lora_B")] @ values[key])
        name = key.removeprefix("base_model.model.").replace(".lora_A", "")
        if separate := re.fullmatch(r"(.*\.experts)\.(\d+)\.(\w+)_proj\.weight", name):
            _add_to_stack(parameters, *separate.groups(), delta)
        else:
            parameters[name].data += delta
    return model


def _add_to_stack(parameters: dict[str, Any], experts: str, expert: str, leaf: str, delta: torch.Tensor) -> None:
    if leaf == "down":
        parameters[f"{experts}.down_proj"].data[int(expert)] += delta
    else:
        rows = slice(0, len(delta)) if leaf == "gate" else slice(len(delta), None)
        parameters[f"{experts}.gate_up_proj"].data[int(expert), rows] += delta
