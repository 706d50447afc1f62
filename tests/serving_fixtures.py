"""A tiny base model, two LoRA adapters on it, a server of them, and settings for all that."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from swe_eval.benchmark.demo.model import tiny_model
from swe_eval.serving.parts import serve
from swe_eval.serving.server import Endpoint, Server
from swe_eval.settings import (
    AdapterSettings,
    ExternalServing,
    ManyLora,
    ModelSettings,
    QuantizationSettings,
    Settings,
    TransformersServing,
)

# For us and for the servers we start: of a tiny model, threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


HELLO = [{"role": "user", "content": "hello"}]
NAMES = ["base", "sft", "rl-step.900"]


@dataclass
class Given(Server):
    """A server that is these endpoints."""

    endpoints: Mapping[str, Endpoint]


def serving_settings(
    base: Path, adapters: Mapping[str, Path | None], serving: TransformersServing | ExternalServing | None = None
) -> Settings:
    """The part of the settings that ``serve`` reads: ``adapters`` (name -> directory, or None for the base itself)."""
    arms = tuple(AdapterSettings(name=name, path=path and str(path)) for name, path in adapters.items())
    return Settings.model_construct(
        model=ModelSettings(
            name="tiny",
            base_model=str(base),
            revision=None,
            dtype="float32",
            max_model_len=None,
            trust_remote_code=False,
            tool_call_parser=None,
            reasoning_parser=None,
            vllm_env={},
        ),
        lora=ManyLora(kind="list", apply="auto", proof="effect", adapters=arms),
        serving=serving or transformers_serving(),
        quantization=QuantizationSettings(kind="none"),
    )


def transformers_serving(port: int | None = None) -> TransformersServing:
    """Our own server on the CPU."""
    return TransformersServing(
        kind="transformers",
        host="127.0.0.1",
        port=port,
        api_key=None,
        startup_timeout=600,
        device="cpu",
        gpu_memory_utilization=0.9,
        prefix_cache_gb=1,
    )


@pytest.fixture(scope="session")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, made to hardly ever end its answer: how long it talks is the test's to choose."""
    model = Path(shutil.copytree(tiny_model(), tmp_path_factory.mktemp("talkative") / "model"))
    end = json.loads((model / "config.json").read_text())["eos_token_id"]
    weights = load_file(model / "model.safetensors")
    weights["lm_head.weight"][end] = 0  # among 1024 random logits, one of them is always higher
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    return model


@pytest.fixture(scope="session")
def random_adapters(talkative: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two LoRA adapters of ``talkative``, ``sft`` and ``rl-step.900``, that change what it says."""
    return {
        name: random_adapter(talkative, tmp_path_factory.mktemp("adapter"), seed)
        for seed, name in enumerate(["sft", "rl-step.900"])
    }


@pytest.fixture(scope="session")
def server(
    talkative: Path, random_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Our own server: ``talkative`` as ``base``, and its adapters ``sft`` and ``rl-step.900``."""
    settings = serving_settings(talkative, {"base": None, **random_adapters})
    with serve([settings], tmp_path_factory.mktemp("server") / "server.log", print) as server:
        yield server


def random_adapter(base: Path, directory: Path, seed: int, **config: Any) -> Path:
    """A LoRA adapter on the attention, or on what ``config`` says, that changes what the base says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    # init_lora_weights=False makes B random; with the default of zeros the adapter would be the base model
    where = config or {"target_modules": ["q_proj", "o_proj"]}
    lora = LoraConfig(task_type="CAUSAL_LM", r=8, init_lora_weights=False, **where)
    get_peft_model(model, lora).save_pretrained(directory)
    return directory
