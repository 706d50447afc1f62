"""The demo's model: DeepSeek-V3's architecture (MLA and experts), tiny, with random weights, made without torch.

`tiny/` holds what is small enough to ship: the configuration, and a tokenizer trained on the demo's own texts. The
weights follow from the configuration and a seed, so they are made on first use.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from swe_eval.cache import cache_dir

SHIPPED = Path(__file__).parent / "tiny"
SEED = 8  # one that lets the base model say a few words per turn, not none and not many
LM_HEAD_SCALE = 8.0  # larger logits: without it a LoRA adapter cannot become sure of a token
END_SCALE = 4.0  # and larger still for the end of a turn: else a random model babbles on until max_tokens


def tiny_model() -> Path:
    """The model's directory in the user's cache, made there on first use.

    The directory is named by its content and appears whole, so that two processes may ask for it at once.
    """
    cache = cache_dir()
    made = cache / f"tiny-{model_hash()}"
    if not made.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as aside:
            model = shutil.copytree(SHIPPED, Path(aside, "model"))
            config = json.loads((model / "config.json").read_text())
            save_file(random_weights(config), model / "model.safetensors", metadata={"format": "pt"})
            _rename(model, made)
    return made


def model_hash() -> str:
    """Hash of all that the model is made of."""
    recipe = f"{SEED} {LM_HEAD_SCALE} {END_SCALE}".encode()
    shipped = (file.read_bytes() for file in sorted(SHIPPED.glob("*.json")))
    return hashlib.sha256(b"\0".join([recipe, *shipped])).hexdigest()[:16]


def _rename(made: Path, final: Path) -> None:
    try:
        made.rename(final)
    except OSError:
        if not final.is_dir():  # otherwise another process was first, and its directory holds the same bytes
            raise


def random_weights(config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A checkpoint of this configuration (DeepSeek-V3's), the same on every machine."""
    # RandomState, because numpy promises that its stream never changes (NEP 19); uniform, because that takes no
    # libm, whose last digits differ between machines; 16 bits, so that bfloat16 holds the very same weights.
    random = np.random.RandomState(SEED)
    weights = {}
    for name, shape in tensor_shapes(config):
        if len(shape) == 1:
            weights[name] = np.full(shape, 1.0 if "norm" in name else 0.0, dtype=np.float32)
        else:
            deviation = 0.02 * (LM_HEAD_SCALE if name == "lm_head.weight" else 1.0)
            drawn = (random.random_sample(shape) - 0.5) * 12**0.5 * deviation
            weights[name] = (drawn.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)
    weights["lm_head.weight"][config["eos_token_id"]] *= END_SCALE
    return weights


def tensor_shapes(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor of a checkpoint of such a model, as DeepSeek-V3's on the hub has them."""
    hidden, heads, rank = config["hidden_size"], config["num_attention_heads"], config["kv_lora_rank"]
    nope, rope, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    experts, expert_size = config["n_routed_experts"], config["moe_intermediate_size"]
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        yield f"{layer}.input_layernorm.weight", (hidden,)
        yield f"{layer}.self_attn.q_proj.weight", (heads * (nope + rope), hidden)
        yield f"{layer}.self_attn.kv_a_proj_with_mqa.weight", (rank + rope, hidden)
        yield f"{layer}.self_attn.kv_a_layernorm.weight", (rank,)
        yield f"{layer}.self_attn.kv_b_proj.weight", (heads * (nope + value), rank)
        yield f"{layer}.self_attn.o_proj.weight", (hidden, heads * value)
        yield f"{layer}.post_attention_layernorm.weight", (hidden,)
        if index < config["first_k_dense_replace"]:
            yield from _mlp(f"{layer}.mlp", hidden, config["intermediate_size"])
        else:
            yield f"{layer}.mlp.gate.weight", (experts, hidden)
            yield f"{layer}.mlp.gate.e_score_correction_bias", (experts,)
            yield from _mlp(f"{layer}.mlp.shared_experts", hidden, expert_size * config["n_shared_experts"])
            for expert in range(experts):
                yield from _mlp(f"{layer}.mlp.experts.{expert}", hidden, expert_size)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (config["vocab_size"], hidden)


def _mlp(prefix: str, hidden: int, size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{prefix}.gate_proj.weight", (size, hidden)
    yield f"{prefix}.up_proj.weight", (size, hidden)
    yield f"{prefix}.down_proj.weight", (hidden, size)
