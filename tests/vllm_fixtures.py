"""A real vLLM on the CPU, and models that it can serve there with adapters: dense ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import save_file
from serving_fixtures import random_adapter

from swe_eval.benchmark.demo.model import SHIPPED, random_weights

ARGS = ["--enforce-eager", '--compilation-config={"custom_ops":["all","-rotary_embedding"]}']
"""vLLM 0.32 on a CPU: its own rotary kernel is wrong for MLA without compilation."""
ENV = {"VLLM_MLA_DISABLE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""Its kernels for MLA on a CPU want larger heads than a tiny model's."""
ON_A_CPU = [
    "serving=vllm",
    "model.dtype=float32",
    *[f"serving.args={json.dumps(ARGS)}"],
    *[f'+serving.env.{name}="{value}"' for name, value in ENV.items()],
]
"""For the command line."""
NAMES = ["step-100", "step-200", "step-300"]


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model with dense layers for its experts: on a CPU, vLLM has no LoRA beside experts."""
    model = Path(shutil.copytree(SHIPPED, tmp_path_factory.mktemp("dense") / "model"))
    config = json.loads((model / "config.json").read_text())
    config["first_k_dense_replace"] = config["num_hidden_layers"]
    (model / "config.json").write_text(json.dumps(config))
    save_file(random_weights(config), model / "model.safetensors", metadata={"format": "pt"})
    return model


@pytest.fixture(scope="session")
def checkpoints(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Eight adapters on the attention, as a training run leaves them, of two ranks and with two scales."""
    run = tmp_path_factory.mktemp("grpo-run")
    lora = {
        "target_modules": ["q_proj", "kv_a_proj_with_mqa", "o_proj"],
        "rank_pattern": {"o_proj": 16},
        "alpha_pattern": {r"layers\.1\.self_attn\.q_proj": 24},
    }
    return {
        f"step-{100 * step}": random_adapter(dense, run / f"checkpoint-{100 * step}", step, **lora)
        for step in range(1, 9)
    }
