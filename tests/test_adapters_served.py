"""The verdicts on ``transformers`` are true: what is ok is served exactly, what must be merged is refused or wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from adapter_fixtures import PREFIX, Made, examined, modules, shapes
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from swe_eval.adapters import WEIGHTS
from swe_eval.benchmark.demo.model import tiny_model
from swe_eval.serving.app.adapters import AdapterSwitch
from swe_eval.serving.app.weights import CannotServe, Source, load

TOKENS = torch.tensor([[5, 77, 300, 12, 9, 801, 44, 3, 650, 71, 8]])
EXPERTS = modules(r"\.experts\.")
FUSED = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def base() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float32).eval()


@torch.no_grad()
def logits(model: Callable[..., object]) -> torch.Tensor:
    return model(input_ids=TOKENS).logits  # type: ignore[attr-defined]


class Server:
    """The server's own loading of these adapters, and its own way to choose among them."""

    def __init__(self, *folders: Path) -> None:
        adapters = {f"a{index}": str(folder) for index, folder in enumerate(folders)}
        self._weights = load(Source(str(tiny_model()), dtype="float32", device="cpu"), adapters, ["base"])
        self._switch = AdapterSwitch(self._weights.model)

    @torch.no_grad()
    def rows(self, *names: str) -> torch.Tensor:
        """Logits of one pass with a row for each name."""
        self._switch.set([self._weights.served[name].adapter for name in names])
        return self._weights.model(input_ids=TOKENS.repeat(len(names), 1)).logits

    def error(self, name: str, truth: torch.Tensor) -> float:
        """How far what is served under this name is from the truth, alone or mixed; the base's distance is 1."""
        base = self.rows("base")
        found = [self.rows(name), *([self.rows("base", name)[1:]] if self._switch.can_mix else [])]
        return max(float((logits - truth).abs().max() / (base - truth).abs().max()) for logits in found)


def by_hand(made: Made, scales: dict[str, float], folder: Path) -> torch.Tensor:
    """Logits of the checkpoint with every delta added to its own weight, expert by expert."""
    weights = load_file(tiny_model() / "model.safetensors")
    for name in {name.removeprefix(PREFIX).rpartition(".lora_")[0] for name in made.weights}:
        a, b = (made.weights[f"{PREFIX}{name}.lora_{side}.weight"] for side in "AB")
        weights[f"{name}.weight"] = weights[f"{name}.weight"] + scales.get(name, 2.0) * b @ a
    AutoConfig.from_pretrained(tiny_model()).save_pretrained(folder)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(weight)) for name, weight in weights.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())


@pytest.mark.parametrize(
    ("names", "config", "scale"),
    [
        (modules("self_attn"), {}, 2.0),
        (["lm_head"], {}, 2.0),
        (modules("mlp.gate$"), {}, 2.0),
        (modules("shared_experts"), {}, 2.0),
        (modules("layers.0.mlp"), {}, 2.0),
        (EXPERTS, {}, 2.0),
        (EXPERTS + modules("self_attn"), {}, 2.0),
        (EXPERTS + modules("shared_experts"), {}, 2.0),
        (EXPERTS, {"use_rslora": True}, 4.0),
        (EXPERTS, {"alpha_pattern": {"gate_proj|up_proj": 16}}, 4.0),
        (EXPERTS, {"lora_dropout": 0.1}, 2.0),
        (EXPERTS, {"target_modules": r".*\.experts\.\d+\..*"}, 2.0),
        (modules(r"experts\.\d+\.down"), {"use_rslora": True}, 4.0),
        (modules(r"experts\.\d+\.(up|gate)"), {}, 2.0),
        (modules(r"experts\.3\."), {}, 2.0),
        (modules(r"1.mlp.experts\."), {}, 2.0),
        (modules("mlp.gate$"), {"alpha_pattern": {"gate": 16}}, 4.0),
        (modules("o_proj"), {"alpha_pattern": {"o_proj": 16}}, 4.0),
        (modules("[qo]_proj"), {"use_rslora": True}, 4.0),
    ],
)
def test_an_adapter_that_names_every_expert(names, config, scale, tmp_path):
    made = Made(names, **config)
    folder = made.write(tmp_path / "adapter")
    halved = {name: 2.0 for name in names if "pattern" in str(config) and "down" in name}
    truth = by_hand(made, dict.fromkeys(shapes(), scale) | halved, tmp_path / "merged")
    verdict = examined(folder)[0].verdicts["transformers"].kind
    try:
        off = Server(folder).error("a0", truth)
    except CannotServe:
        off = float("inf")
    assert verdict == ("ok" if off < 1e-3 else "must be merged")


def made_by_peft(folder: Path, seed: int = 0, **config: object) -> torch.Tensor:
    """An adapter as PEFT itself trains and saves it; returns its logits."""
    torch.manual_seed(seed)
    model = get_peft_model(base(), LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **config))
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return logits(model.eval())


@pytest.mark.parametrize(
    ("config", "count"),
    [
        ({"target_modules": ["q_proj", "kv_b_proj"]}, 12),
        ({"target_modules": ["q_proj", "o_proj"], "layers_to_transform": [0, 2]}, 8),
        ({"target_modules": ["q_proj", "o_proj"], "exclude_modules": r".*layers\.0.*"}, 8),
        (
            {"target_modules": ["q_proj", "o_proj"], "rank_pattern": {"o_proj": 8, r"layers\.0\.self_attn\.q_proj": 2}},
            12,
        ),
        ({"target_modules": r".*self_attn\.(q|o)_proj"}, 12),
        ({"target_modules": "all-linear"}, 36),
        ({"target_modules": ["gate_proj", "up_proj", "down_proj"], "use_rslora": True}, 8),
        ({"target_modules": ["q_proj"], "target_parameters": FUSED}, 14),
        ({"target_modules": [], "target_parameters": FUSED[:1]}, 4),
        ({"target_modules": [], "target_parameters": FUSED[1:], "layers_to_transform": [1]}, 4),
        ({"target_modules": [], "target_parameters": FUSED, "rank_pattern": {"mlp.experts.down_proj": 2}}, 8),
    ],
)
def test_an_adapter_that_peft_made_is_ok_and_served_exactly(config, count, tmp_path):
    truth = made_by_peft(tmp_path, **config)
    assert len(load_file(tmp_path / WEIGHTS)) == count
    assert str(examined(tmp_path)[0].verdicts["transformers"]) == "ok"
    assert Server(tmp_path).error("a0", truth) < 1e-3


def test_two_adapters_of_fused_experts_stand_beside_one_of_attention(tmp_path):
    configs = [{"target_parameters": FUSED}, {"target_modules": ["o_proj"]}, {"target_parameters": FUSED}]
    folders = [tmp_path / str(seed) for seed in range(3)]
    truths = [made_by_peft(folder, seed, **configs[seed]) for seed, folder in enumerate(folders)]
    server = Server(*folders)
    assert {str(each.verdicts["transformers"]) for each in examined(*folders)} == {"ok"}
    assert all(server.error(f"a{index}", truth) < 1e-3 for index, truth in enumerate(truths))


def test_adapters_of_different_parameters_cannot_be_served_together(tmp_path):
    for index, parameters in enumerate((FUSED, FUSED[1:])):
        made_by_peft(tmp_path / str(index), target_parameters=parameters)
    assert examined(tmp_path / "0", tmp_path / "1")[1].verdicts["transformers"].kind == "must be merged"
    with pytest.raises(CannotServe, match="all adapters must target the same set of parameters"):
        Server(tmp_path / "0", tmp_path / "1")


@pytest.mark.parametrize(
    "config",
    [
        {"use_dora": True},
        {"lora_bias": True},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [1, 2]},
        {"init_lora_weights": "pissa"},
        {"alora_invocation_tokens": [5, 77]},
        {"layer_replication": [[0, 2], [1, 3]]},
        {"bias": "all"},
    ],
    ids=lambda config: next(iter(config)),
)
def test_what_peft_saves_of_more_than_plain_lora_is_refused(config, tmp_path):
    made_by_peft(tmp_path, target_modules=["q_proj"], **config)
    assert next(iter(config)) in {problem.kind for problem in examined(tmp_path)[0].problems}
