"""Routed experts in 4 or 8 bits.

transformers (5.23) fuses the experts of a layer to parameters of three dimensions, and bitsandbytes' integration
quantizes linear modules alone: of GigaChat3-10B that leaves 88 % of the weights as they were. Here they are stored like
the linear modules, and dequantized for the pass of their layer, which then holds one layer's experts in full.
PEFT's LoRA for such parameters is added to the dequantized weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from bitsandbytes.functional import QuantState, int8_vectorwise_dequant, int8_vectorwise_quant
from bitsandbytes.nn import Int8Params, Params4bit
from bitsandbytes.nn.parametrize import replace_parameter_4bit
from peft.tuners.lora import layer as peft_layer
from torch import nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel


def has_experts(config: Any) -> bool:
    """Whether the configuration is of a model with routed experts."""
    return any(getattr(config, name, None) for name in ("n_routed_experts", "num_local_experts", "num_experts"))


def quantize_experts(model: PreTrainedModel, kind: str, device: str) -> None:
    """Quantize the fused experts to ``4bit`` or ``8bit``, one parameter after another, and leave them on the device.

    Of a model on the CPU, the device holds at most what is quantized so far and one parameter in full; the CPU's
    memory holds the experts as they were loaded. Adapters of experts must be there before.
    """
    peft_layer._LoraFactorsProxy = _Factors
    replace = _replace_4bit if kind == "4bit" else _replace_8bit
    for module, name in list(_fused(model)):
        weight = getattr(module, name)
        setattr(module, name, nn.Parameter(weight.data.to(device), requires_grad=False))
        del weight
        replace(module, name)
        if not isinstance(module.forward, partial):
            module.forward = partial(_with_cache, module.forward)


def move(model: nn.Module, device: str) -> None:
    """Move a model with quantized weights."""
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            if isinstance(weight, (Int8Params, Params4bit)):  # torch's own ``to`` would move only their data
                module._parameters[name] = weight.to(device)
    model.to(device)


def _fused(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    for path, module in model.named_modules():
        for name, weight in module.named_parameters(recurse=False):
            if "experts" in path.split(".") and weight.ndim == 3 and weight.is_floating_point():
                yield module, name


def _replace_4bit(module: nn.Module, name: str) -> None:
    replace_parameter_4bit(module, name, compress_statistics=True, quant_type="nf4")


def _replace_8bit(module: nn.Module, name: str) -> None:
    weight = getattr(module, name).data
    rows, scales, _ = int8_vectorwise_quant(weight.to(torch.float16).flatten(0, 1))
    setattr(module, name, nn.Parameter(rows.view(weight.shape), requires_grad=False))
    parametrize.register_parametrization(module, name, _Rows(scales, weight.dtype), unsafe=True)


def _with_cache(forward: Any, *args: Any, **kwargs: Any) -> Any:
    # PEFT (0.21.2) enables the cache and reads the second parameter before adding its LoRA, which would then be missing
    parametrize._cache.clear()
    with parametrize.cached():  # the loop over experts reads the whole parameter for each
        return forward(*args, **kwargs)


class _Rows(nn.Module):
    """Dequantizes int8 with a scale per row of every expert, as LLM.int8() has it."""

    def __init__(self, scales: torch.Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("scales", scales)
        self._dtype = dtype

    @torch.no_grad()
    def forward(self, quantized: torch.Tensor) -> torch.Tensor:
        full: torch.Tensor = int8_vectorwise_dequant(quantized.flatten(0, 1), self.scales)
        return full.to(self._dtype).view(quantized.shape)


class _Factors(peft_layer._LoraParameterProxy):
    """PEFT's own proxy, made so that PEFT finds it again.

    After a pass PEFT (0.21.2) takes its proxy off a parameter that has other parametrizations too by looking for a
    ``_LoraParameterProxy``; its newer ``_LoraFactorsProxy`` is none, so every pass would add the adapter once more.
    """

    def __init__(self, lhs: torch.Tensor, rhs: torch.Tensor, scaling: float) -> None:
        nn.Module.__init__(self)
        self.lhs, self.rhs, self.scaling = lhs, rhs, scaling

    forward = peft_layer._LoraFactorsProxy.forward


def left_out(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters of three dimensions that are not quantized: experts that an architecture names otherwise."""
    named = ((name, weight) for name, weight in model.named_parameters() if "conv" not in name)
    return {name: weight for name, weight in named if weight.ndim == 3 and weight.is_floating_point()}


def stored_bytes(model: nn.Module) -> int:
    """Bytes of the model and of all that is needed to dequantize it, without LoRA's weights."""
    tensors = [weight for name, weight in model.named_parameters() if ".lora_" not in name] + list(model.buffers())
    states = [getattr(each, "quant_state", None) for each in [*model.modules(), *model.parameters()]]
    kept = {id(state): state for state in states if state is not None}
    tensors += [tensor for state in kept.values() for tensor in _tensors(state)]
    scales = (getattr(each, "SCB", None) for each in [*model.modules(), *model.parameters()])
    tensors += {id(scale): scale for scale in scales if isinstance(scale, torch.Tensor)}.values()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _tensors(state: QuantState) -> Iterator[torch.Tensor]:
    yield from (value for value in vars(state).values() if isinstance(value, torch.Tensor))
    if state.nested:
        yield from _tensors(state.state2)


def full_bytes(model: PreTrainedModel) -> int:
    """Bytes of the parameters of the same model, not quantized."""
    with torch.device("meta"):
        bare = type(model)(model.config)
    size: int = sum(weight.numel() for weight in bare.parameters()) * model.dtype.itemsize
    return size
