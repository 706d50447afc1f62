"""``python -m bench.true_size``: memory and speed, on this machine, of a model with GigaChat3-10B-A1.8B's dimensions.

A checkpoint with random weights is written shard by shard, with a tensor per expert as on the hub, and with three LoRA
adapters (attention and router, rank 16); it is removed at the end. For every quantization, ``python -m swe_eval.serve``
is started with the base model and the adapters:

- ``weights_gb``: the stored base model; ``gpu_peak_gb`` (left out without a GPU) and ``host_peak_gb``: peak memory. In
  10^9 bytes. The host's includes the mapped pages of the checkpoint.
- ``load_s``: from the start of the command until the base model and every adapter have answered with a token. The files
  are in the page cache, as they have just been written.
- ``base_1``, ``base_16``, ``adapter_1``, ``adapter_16``: tokens per second that one client, or 16 at once, get from the
  base model or from one adapter; ``mixed_16``: 16 clients that use all adapters in rotation. The time includes reading
  prompts of about 20 tokens. Answers have as many tokens as the server writes in about 5 seconds, but 3 to 64.

If not all 26 layers fit, ``--layers`` takes a slice: its layers have their true dimensions, but there are fewer of
them, so that embeddings are a larger part. By default, as many are taken as half of the host's free memory holds in 16
bits.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import httpx
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from bench.output import machine, print_result
from bench.serving import CLIENTS, KEY
from swe_eval import adapters
from swe_eval.benchmark.demo.model import SHIPPED, tensor_shapes
from swe_eval.serving.supervised import free_port

LAYERS = 26
DIMENSIONS = {
    "vocab_size": 128256,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "moe_intermediate_size": 1280,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 192,
    "n_routed_experts": 64,
    "num_experts_per_tok": 4,
}
"""With ``LAYERS`` of them 10.67e9 parameters, 9.44e9 of them in routed experts."""
QUANTIZATIONS = ("none", "8bit", "4bit")
ADAPTERS = ("a", "b", "c")
RANK = 16
SPECIAL_TOKENS = slice(0, 3)
"""Of the demo's tokenizer, the end of a turn among them."""
ANSWER_S, LEAST, MOST = 5.0, 3, 64
"""Seconds that an answer should take, and how many tokens it has at least and at most."""

say = Console(highlight=False, markup=False, soft_wrap=True).print


def config_of(layers: int, dimensions: Mapping[str, int]) -> dict[str, Any]:
    """``config.json`` of a model of so many layers."""
    demo = json.loads((SHIPPED / "config.json").read_text())
    return {**demo, **dimensions, "num_hidden_layers": layers, "torch_dtype": "bfloat16"}


def parameters(config: Mapping[str, Any]) -> int:
    """How many the model has."""
    return sum(prod(shape) for _, shape in tensor_shapes(config))


def fitting_layers(dimensions: Mapping[str, int]) -> int:
    """As many layers as half of the host's free memory holds in 16 bits; at least a dense one and one of experts."""
    meminfo = Path("/proc/meminfo").read_text()
    free = 1024 * int(re.findall(r"MemAvailable:\s+(\d+)", meminfo)[0])
    fitting = [n for n in range(2, LAYERS + 1) if 2 * parameters(config_of(n, dimensions)) < free / 2]
    return fitting[-1] if fitting else 2


def write_model(config: Mapping[str, Any], folder: Path) -> Path:
    """Write a checkpoint in 16 bits; only one shard, which is a layer, is in memory at a time."""
    from safetensors.torch import save_file

    shutil.copytree(SHIPPED, folder)
    (folder / "config.json").write_text(json.dumps(config))
    shards = defaultdict(dict)
    for name, shape in tensor_shapes(config):
        shards["-".join(name.split(".")[1:3]) if ".layers." in name else "ends"][name] = shape
    for number, (shard, shapes) in enumerate(shards.items(), 1):
        say(f"writing shard {number} of {len(shards)} ({2 * sum(map(prod, shapes.values())) / 1e9:.2f} GB)")
        save_file({name: _weight(name, shape) for name, shape in shapes.items()}, folder / f"model-{shard}.safetensors")
    where = {name: f"model-{shard}.safetensors" for shard, shapes in shards.items() for name in shapes}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def _weight(name: str, shape: Sequence[int]) -> Any:
    """Random, but ones for a norm and zeros for a bias.

    No answer ends early: the logits of special tokens are 0, and some other token's is always higher.
    """
    import torch

    if len(shape) == 1:
        return torch.full(shape, float("norm" in name), dtype=torch.bfloat16)
    weight = torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02)
    if name == "lm_head.weight":
        weight[SPECIAL_TOKENS] = 0
    return weight


def write_adapter(config: Mapping[str, Any], folder: Path) -> Path:
    """Write a random LoRA adapter on attention and router."""
    from safetensors.torch import save_file

    targets = re.compile(r".*\.(q_proj|kv_a_proj_with_mqa|o_proj|mlp\.gate)\.weight")
    shapes = {name.removesuffix(".weight"): shape for name, shape in tensor_shapes(config) if targets.fullmatch(name)}
    weights = {}
    for module, (out, size) in shapes.items():
        weights[f"base_model.model.{module}.lora_A.weight"] = _weight(module, (RANK, size))
        weights[f"base_model.model.{module}.lora_B.weight"] = _weight(module, (out, RANK))
    folder.mkdir()
    save_file(weights, folder / adapters.WEIGHTS)
    plain = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK, "bias": "none"}
    (folder / adapters.CONFIG).write_text(json.dumps({**plain, "target_modules": list(shapes)}))
    return folder


@contextmanager
def serving(folder: Path, quantization: str) -> Iterator[str]:
    """Run ``python -m swe_eval.serve`` with the base model and the adapters; yields its URL.

    Raises:
        DoesNotServe: it ended, and has said why.
    """
    port = free_port("127.0.0.1")
    arms = ", ".join(f"{{name: {name}, path: '{folder / name}'}}" for name in ADAPTERS)
    overrides = [
        *(
            "model=hf",
            f"model.base_model='{folder / 'model'}'",
            "serving=transformers",
            f"quantization={quantization}",
            "lora=list",
        ),
        *(f"lora.adapters=[{{name: base, path: null}}, {arms}]", "lora.proof=none", f"serving.port={port}"),
        *(f"serving.api_key={KEY}", "serving.prefix_cache_gb=0", "serving.startup_timeout=7200"),
    ]
    command = [sys.executable, "-m", "swe_eval.serve", *overrides]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            _await_service(process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _await_service(process: subprocess.Popen[str]) -> None:
    for line in process.stdout or ():
        if line.startswith("base URL"):
            return
        say(line.rstrip())
    raise DoesNotServe


class DoesNotServe(Exception):
    """The server has ended; most often the model does not fit."""


@dataclass(frozen=True)
class Measured:
    """The figures of one quantization; what they mean is at the top."""

    weights_gb: float
    gpu_peak_gb: float
    host_peak_gb: float
    load_s: float
    base_1: float
    base_16: float
    adapter_1: float
    adapter_16: float
    mixed_16: float


def measure(folder: Path, quantization: str) -> Measured:
    """Start the server and ask it."""
    began = time.perf_counter()
    with serving(folder, quantization) as url:
        load_s = time.perf_counter() - began
        tokens = max(LEAST, min(MOST, int(ANSWER_S * _rate(url, 1, ["base"], 1))))
        asked = {"base_1": (["base"], 1), "base_16": (["base"], CLIENTS), "adapter_1": (["a"], 1)}
        asked |= {"adapter_16": (["a"], CLIENTS), "mixed_16": (ADAPTERS, CLIENTS)}
        rates = {name: _rate(url, tokens, *what) for name, what in asked.items()}
        return Measured(**_memory(url), load_s=load_s, **rates)


def _rate(url: str, tokens: int, models: Sequence[str], clients: int) -> float:
    """Tokens per second that so many clients get together, each with an answer of so many tokens."""
    pool = ThreadPoolExecutor(clients)
    began = time.perf_counter()
    try:
        list(pool.map(lambda client: _ask(url, models[client % len(models)], client, tokens), range(clients)))
    finally:
        pool.shutdown(wait=False)  # an interrupt does not wait for answers
    rate = clients * tokens / (time.perf_counter() - began)
    say(f"{clients} x {tokens} tokens from {', '.join(models)}: {rate:.3g} tokens/s")
    return rate


def _ask(url: str, model: str, client: int, tokens: int) -> None:
    messages = [{"role": "user", "content": f"{client}: what ends too early?"}]
    body = {"model": model, "messages": messages, "max_tokens": tokens, "temperature": 0}
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=3600)
    usage = answer.raise_for_status().json()["usage"]
    if usage["completion_tokens"] != tokens:
        raise RuntimeError(f"{usage} instead of {tokens} tokens")


def _memory(url: str) -> dict[str, float]:
    """In 10^9 bytes."""
    gauges = {"weights_gb": "weights", "gpu_peak_gb": "gpu_memory_peak", "host_peak_gb": "host_memory_peak"}
    said = httpx.get(f"{url}/metrics").text
    return {
        figure: int(re.findall(rf"^swe_eval_{gauge}_bytes (\d+)", said, re.MULTILINE)[0]) / 1e9
        for figure, gauge in gauges.items()
    }


def measure_all(folder: Path, config: Mapping[str, Any], quantizations: Sequence[str]) -> dict[str, Measured]:
    """By quantization; those whose server does not start, or ends, are missing: most often they do not fit."""
    write_model(config, folder / "model")
    for name in ADAPTERS:
        write_adapter(config, folder / name)
    taken = {}
    for quantization in quantizations:
        say(f"quantization={quantization}")
        try:
            taken[quantization] = measure(folder, quantization)
        except (DoesNotServe, httpx.HTTPError) as error:
            say(f"quantization={quantization}: {type(error).__name__} {error}")
    return taken


def table_of(taken: Mapping[str, Measured]) -> Table:
    """The figures as a table for people."""
    table = Table("", *taken, box=SIMPLE)
    labels = {
        "weights_gb": "weights, GB",
        "gpu_peak_gb": "peak of the GPU, GB",
        "host_peak_gb": "peak of the host, GB",
        "load_s": "load, s",
        "base_1": "tokens/s: base, 1 client",
        "base_16": f"  {CLIENTS} clients",
        "adapter_1": "one adapter, 1 client",
        "adapter_16": f"  {CLIENTS} clients",
        "mixed_16": f"{len(ADAPTERS)} adapters, {CLIENTS} clients",
    }
    for figure, label in labels.items():
        values = (getattr(each, figure) for each in taken.values())
        table.add_row(label, *(f"{value:.3g}" if value else "-" for value in values))
    return table


def figures_of(taken: Mapping[str, Measured]) -> dict[str, float]:
    """For programs: ``4bit.load_s`` and so on."""
    return {f"{kind}.{name}": value for kind, each in taken.items() for name, value in asdict(each).items() if value}


def what_is_measured(config: Mapping[str, Any]) -> str:
    """A description that does not pass a slice off as the whole model."""
    layers, count = config["num_hidden_layers"], f"{parameters(config):.3g} parameters"
    if config["hidden_size"] != DIMENSIONS["hidden_size"]:
        return f"TINY: {layers} layers, {count}"
    whole = "all layers" if layers == LAYERS else f"A SLICE: {layers} of {LAYERS} layers"
    return f"GigaChat3-10B-A1.8B's dimensions, {whole}, {count}"


def _device() -> str:
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{name}, {machine()}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.true_size")
    parser.add_argument("--layers", type=int, choices=range(2, LAYERS + 1), metavar="N", help="default: what fits")
    parser.add_argument("--model-dir", type=Path, help="folder for the checkpoint; default: the temporary one")
    parser.add_argument("--quick", action="store_true", help="tiny, in 4 bits: whether it runs, not how large or fast")
    args = parser.parse_args()
    dimensions = {} if args.quick else DIMENSIONS
    config = config_of(args.layers or (3 if args.quick else fitting_layers(dimensions)), dimensions)
    described = f"{what_is_measured(config)}; {_device()}"
    say(described)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the checkpoint is removed
    with tempfile.TemporaryDirectory(dir=args.model_dir) as folder:
        needed, free = 2.1 * parameters(config) / 1e9, shutil.disk_usage(folder).free / 1e9
        if needed > free:
            parser.error(f"{folder}: {needed:.1f} GB needed, {free:.1f} GB free: write --model-dir, or --layers")
        taken = measure_all(Path(folder), config, QUANTIZATIONS[-1:] if args.quick else QUANTIZATIONS)
    print_result(figures_of(taken), table_of(taken), described)


if __name__ == "__main__":
    main()
