"""``quantization=4bit|8bit`` is of the whole model: routed experts too, with adapters on top."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant, int8_vectorwise_quant, quantize_4bit
from engines import complete
from safetensors.torch import load_file
from serving_fixtures import NAMES, random_adapter
from transformers import AutoModelForCausalLM, DeepseekV3Config, JetMoeConfig

from swe_eval.benchmark.demo.model import SHIPPED
from swe_eval.serving.app.adapters import AdapterSwitch
from swe_eval.serving.app.engine import Engine
from swe_eval.serving.app.quantized_experts import full_bytes, stored_bytes
from swe_eval.serving.app.weights import Source, Weights, load

KINDS = ["4bit", "8bit"]
LEFT = {"4bit": ["lm_head"], "8bit": ["lm_head", "kv_b_proj"]}
"""Linear modules that stay as they are."""
TOKENS = torch.tensor([[5, 77, 300, 12, 9, 801, 44, 3, 650, 71, 8]])
SCALE = 8
"""Of an adapter, so that what it changes stands out against the rounding of 16 bits."""
FUSED = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


@pytest.fixture(scope="session")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four fifths of its weights are experts; of GigaChat3's, 88 %."""
    folder = tmp_path_factory.mktemp("mixture") / "model"
    shutil.copytree(SHIPPED, folder)
    config = DeepseekV3Config.from_pretrained(SHIPPED)
    config.update({"n_routed_experts": 32, "moe_intermediate_size": 128})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def loaded(model: Path, kind: str, **adapters: Path) -> Weights:
    source = Source(str(model), device="cpu", quantization=kind)
    return load(source, {name: str(path) for name, path in adapters.items()}, ["base"])


def by_hand(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """The weight as bitsandbytes' own functions leave it."""
    if kind == "4bit":
        return dequantize_4bit(*quantize_4bit(weight, compress_statistics=True, quant_type="nf4"))
    rows, scales, _ = int8_vectorwise_quant(weight.half().flatten(0, 1))
    return int8_vectorwise_dequant(rows, scales).to(weight.dtype).view(weight.shape)


def truth(weights: Weights, model: Path, kind: str) -> Weights:
    """Make ``weights`` hold whole experts, each dequantized by hand."""
    full = AutoModelForCausalLM.from_pretrained(model)
    for layer, other in zip(weights.bare.model.layers[1:], full.model.layers[1:], strict=True):
        experts = other.mlp.experts
        for name in ("gate_up_proj", "down_proj"):
            getattr(experts, name).data = by_hand(getattr(experts, name).data, kind)
        wrapper = layer.mlp.experts
        if not hasattr(wrapper, "base_layer"):
            layer.mlp.experts = experts
            continue
        while hasattr(wrapper.base_layer, "base_layer"):
            wrapper = wrapper.base_layer
        wrapper.base_layer = experts
    return weights


@torch.no_grad()
def logits(weights: Weights, name: str = "base") -> torch.Tensor:
    AdapterSwitch(weights.model).set([weights.served[name].adapter])
    return weights.model(input_ids=TOKENS).logits.float()


@pytest.mark.parametrize(("kind", "share"), [("4bit", 0.35), ("8bit", 0.6)])
def test_a_model_of_experts_takes_a_fraction_of_its_bytes(kind, share, mixture, caplog):
    caplog.set_level("INFO")
    model = loaded(mixture, kind).bare
    before = sum(w.nbytes for w in AutoModelForCausalLM.from_pretrained(mixture).parameters())
    assert full_bytes(model) == before
    assert stored_bytes(model) < share * before
    assert not [name for name, weight in model.named_parameters() if weight.ndim == 3 and weight.is_floating_point()]
    assert f"weights: {before / 1e9:.3g} GB -> {stored_bytes(model) / 1e9:.3g} GB on cpu, quantization {kind}" in (
        caplog.text
    )


def test_experts_by_another_name_are_said_to_be_left(tmp_path, talkative, caplog):
    for file in talkative.iterdir():
        shutil.copy(file, tmp_path)
    config = JetMoeConfig(
        vocab_size=1024,
        hidden_size=128,
        num_hidden_layers=1,
        num_key_value_heads=2,
        kv_channels=64,
        intermediate_size=128,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    loaded(tmp_path, "4bit")
    assert "not quantized: " in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_dequantized_experts_compute(kind, mixture):
    found = logits(loaded(mixture, kind))
    torch.testing.assert_close(found, logits(truth(loaded(mixture, kind), mixture, kind)), rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", [{"target_modules": ["q_proj", "o_proj"]}, {"target_parameters": FUSED}])
def test_adapters_are_added_exactly(kind, where, mixture, tmp_path):
    adapter = random_adapter(mixture, tmp_path / "adapter", 0, **where)
    weights = loaded(mixture, kind, sft=adapter)
    base, found, base_again, again = (logits(weights, name) for name in ["base", "sft", "base", "sft"])
    expected = logits(truth(loaded(mixture, kind, sft=adapter), mixture, kind), "sft")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    assert torch.equal(base, base_again) and torch.equal(found, again)
    assert (found - base).abs().max() > 0.01


def added_by_hand(model: Path, kind: str, adapter: Path | None = None) -> torch.Tensor:
    """Logits in 32 bits of dequantized weights, to which every product of the adapter was added; no PEFT in it."""
    full = AutoModelForCausalLM.from_pretrained(model)
    for name, module in full.named_modules():
        if isinstance(module, torch.nn.Linear) and not any(left in name for left in LEFT[kind]):
            module.weight.data = by_hand(module.weight.data[None], kind)[0]
    for layer in full.model.layers[1:]:
        for name in ("gate_up_proj", "down_proj"):
            getattr(layer.mlp.experts, name).data = by_hand(getattr(layer.mlp.experts, name).data, kind)
    weights = dict(full.float().named_parameters())
    for key, a in (load_file(adapter / "adapter_model.safetensors") if adapter else {}).items():
        if ".lora_A." in key:
            b = load_file(adapter / "adapter_model.safetensors")[key.replace("lora_A", "lora_B")]
            module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            _add(weights, module, b.float(), a.float())
    return full(input_ids=TOKENS).logits


def _add(weights: dict[str, torch.nn.Parameter], module: str, b: torch.Tensor, a: torch.Tensor) -> None:
    if f"{module}.weight" in weights:
        weights[f"{module}.weight"].data += SCALE * b @ a
        return
    # PEFT wraps the container once per parameter: the first of FUSED lies deeper; ranks of A go expert by expert, of
    # B they are interleaved
    leaf = FUSED[0] if module.endswith(".base_layer") else FUSED[1]
    weight = weights[f"{module.partition('.mlp.')[0]}.{leaf}"].data
    count = len(weight)
    left, right = b.view(len(b), -1, count), a.view(count, -1, a.shape[1])
    for expert in range(count):
        weight[expert] += SCALE * left[:, :, expert] @ right[expert]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", [{"target_modules": ["q_proj", "o_proj"]}, {"target_parameters": FUSED}])
@torch.no_grad()
def test_an_adapter_is_its_products_added_to_dequantized_weights(kind, where, mixture, tmp_path):
    """Without PEFT: what the adapter changes is what it changes by hand, up to the rounding of 16 bits."""
    adapter = random_adapter(mixture, tmp_path / "adapter", 0, lora_alpha=8 * SCALE, **where)
    weights = loaded(mixture, kind, sft=adapter)
    expected = added_by_hand(mixture, kind, adapter) - added_by_hand(mixture, kind)
    error = logits(weights, "sft") - logits(weights) - expected
    # the median: in 16 bits a token or two go to other experts, which were almost as near
    assert (error.norm(dim=-1) / expected.norm(dim=-1)).median() < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_answers_under_every_name(kind, random_adapters, talkative):
    engine = Engine(loaded(talkative, kind, **random_adapters))
    assert len({complete(engine, name).text for name in NAMES}) == 3
    engine.close()
