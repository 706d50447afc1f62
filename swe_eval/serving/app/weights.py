"""One base model in memory with every adapter beside it; whatever cannot be served exactly is refused at start."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from swe_eval.serving.app.latent_attention import attend_to_latents
from swe_eval.serving.app.quantized_experts import (
    full_bytes,
    has_experts,
    left_out,
    move,
    quantize_experts,
    stored_bytes,
)

logger = logging.getLogger(__name__)


class CannotServe(Exception):
    """What was asked for cannot be served; one line for the person who started the server."""


@dataclass(frozen=True)
class Source:
    """What to load."""

    model: str
    """Hub id or directory."""
    revision: str | None = None
    dtype: str = "auto"
    max_model_len: int | None = None
    """Tokens; None is as many as the model has positions."""
    device: str = "auto"
    quantization: str = "none"
    gpu_memory_utilization: float = 1.0
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Served:
    """What a model id stands for."""

    root: str
    """Directory or hub id of the adapter, or of the base model."""
    parent: str | None = None
    """Base model of an adapter."""
    adapter: str = ""
    """PEFT's name for it (torch allows no dot in a module's name, people do in a checkpoint's); empty is the base."""


@dataclass(frozen=True)
class Weights:
    """A loaded model, its tokenizer, and what is needed to choose among its adapters."""

    model: Any
    """A PreTrainedModel, or a PeftModel around it if there are adapters."""
    tokenizer: PreTrainedTokenizerBase
    context: int
    """Tokens of prompt and answer together."""
    served: Mapping[str, Served]
    """By model id."""

    @property
    def bare(self) -> PreTrainedModel:
        """The model without PEFT's shell; the adapters' layers are in it all the same."""
        model: PreTrainedModel = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        return model

    @property
    def device(self) -> torch.device:
        device: torch.device = self.bare.device
        return device

    @property
    def end_tokens(self) -> frozenset[int]:
        """The model's and the tokenizer's: either alone is incomplete in real checkpoints."""
        own = self.bare.generation_config.eos_token_id
        found = own if isinstance(own, list) else [own]
        return frozenset(token for token in [*found, self.tokenizer.eos_token_id] if token is not None)


def load(source: Source, adapters: Mapping[str, str], base_names: Iterable[str]) -> Weights:
    """Load a base model, to be served under ``base_names``, and LoRA adapters (name -> directory or hub id) on top.

    Raises:
        CannotServe: the model, its tokenizer or an adapter is missing, damaged or of another kind.
    """
    device = _device(source)
    try:
        config = AutoConfig.from_pretrained(source.model, **_hub(source))
        tokenizer = AutoTokenizer.from_pretrained(source.model, **_hub(source))
        context = _context(config.get_text_config(), source.max_model_len)
        _require_chat_template(tokenizer, source.model)
        _require_attention(config)
        model: Any = _base(source, config, device)
    except (OSError, ValueError) as error:
        raise CannotServe(f"model {source.model}: {_brief(error)}") from error
    attend_to_latents(model)
    served = {name: Served(source.model) for name in base_names}
    for index, (name, path) in enumerate(adapters.items()):
        served[name] = Served(path, parent=source.model, adapter=f"adapter_{index}_")
        model = _with_adapter(model, name, served[name], str(model.device))
    weights = Weights(model.eval(), tokenizer, context, served)
    if _is_staged(source, config):
        quantize_experts(weights.bare, source.quantization, device)
        move(weights.model, device)
    _report_size(weights.bare, source.quantization)
    return weights


def _device(source: Source) -> str:
    has_cuda = torch.cuda.is_available()
    device = source.device if source.device != "auto" else "cuda" if has_cuda else "cpu"
    if device == "cuda":
        if not has_cuda:
            raise CannotServe("--device cuda: torch sees no CUDA device")
        torch.cuda.set_per_process_memory_fraction(source.gpu_memory_utilization)
    return device


def _hub(source: Source) -> dict[str, Any]:
    return {"revision": source.revision or "main", "trust_remote_code": source.trust_remote_code}


def _context(config: Any, wanted: int | None) -> int:
    positions: int | None = getattr(config, "max_position_embeddings", None)
    context = wanted or positions
    if context is None:
        raise CannotServe("the model does not say how long its context is: give --max-model-len")
    if positions is not None and context > positions:
        raise CannotServe(f"--max-model-len {context}: the model has {positions} positions")
    return context


def _require_chat_template(tokenizer: PreTrainedTokenizerBase, model: str) -> None:
    if not tokenizer.chat_template:
        raise CannotServe(f"model {model}: no chat template: put the one it was trained with beside its tokenizer")


def _require_attention(config: Any) -> None:
    kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    if others := kinds - {DynamicLayer, DynamicSlidingWindowLayer}:
        names = ", ".join(sorted(kind.__name__ for kind in others))
        raise CannotServe(f"this server batches attention alone, and the model has layers with other states: {names}")


def _base(source: Source, config: Any, device: str) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        source.model,
        dtype=source.dtype,
        device_map="cpu" if _is_staged(source, config) else device,
        quantization_config=_quantization(source.quantization),
        **_hub(source),
    )
    return model


def _is_staged(source: Source, config: Any) -> bool:
    """Whether it is loaded on the CPU first: PEFT needs the experts as plain parameters, so they are quantized last."""
    return source.quantization != "none" and has_experts(config.get_text_config())


def _quantization(kind: str) -> BitsAndBytesConfig | None:
    if kind == "none":
        return None
    if kind == "4bit":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    # DeepSeek-V3's kv_b_proj gets a 4-D input (transformers 5.23), which the int8 product cannot take
    return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["kv_b_proj", "lm_head"])


def _report_size(model: PreTrainedModel, quantization: str) -> None:
    stored = f"{stored_bytes(model) / 1e9:.3g} GB"
    sizes = stored if quantization == "none" else f"{full_bytes(model) / 1e9:.3g} GB -> {stored}"
    logger.info("weights: %s on %s, quantization %s", sizes, model.device, quantization)
    if quantization != "none" and (left := left_out(model)):
        logger.warning("not quantized: %.3g GB, the first is %s", sum(w.nbytes for w in left.values()) / 1e9, min(left))


def _with_adapter(model: Any, name: str, served: Served, device: str) -> PeftModel:
    try:
        config = PeftConfig.from_pretrained(served.root)
        if config.peft_type != "LORA" or config.bias != "none":
            raise ValueError(f"only LoRA without trained biases can share a base model ({served.root})")
        adapted = model if isinstance(model, PeftModel) else PeftModel(model, config, adapter_name=served.adapter)
        keys = adapted.load_adapter(served.root, adapter_name=served.adapter, torch_device=device)
        _require_none(keys.unexpected_keys, "not in this model")
        _require_none(keys.missing_keys, "missing in the adapter")
    except Exception as error:  # PEFT, safetensors and torch each have their own
        raise CannotServe(f"adapter {name}: {_brief(error)}") from error
    return adapted


def _require_none(keys: list[str], what: str) -> None:
    # PEFT only warns of keys that do not fit, and then computes the base model, or noise, under the adapter's name.
    if keys:
        raise ValueError(f"{len(keys)} weights are {what}, the first is {keys[0]}")


def _brief(error: Exception) -> str:
    """The first two lines, which say what is wrong; for a wrong rank, torch adds one for every tensor."""
    return " ".join(line.strip() for line in str(error).splitlines()[:2])
