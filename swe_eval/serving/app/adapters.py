"""Which LoRA adapter each row of the next forward pass gets."""

from __future__ import annotations

from typing import Any

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper

BASE = ""
"""Stands for no adapter."""


class AdapterSwitch:
    """Sets the adapters of a model's rows.

    PEFT's own way, ``model(..., adapter_names=...)``, adds hooks to every layer for each pass and, after an exception,
    leaves them there, which breaks all later passes (0.21.2). These hooks are added once, and every pass sets all of
    the state that a failed one may have left behind.
    """

    def __init__(self, model: Any) -> None:
        """``model`` may be a bare base model."""
        self._model = model
        self._now: list[str] | None = None
        self._rows: list[str] | None = None
        layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
        self.can_mix = not any(isinstance(layer, ParamWrapper) or layer.lora_variant for layer in layers)
        """Whether rows of one pass may differ: not with fused experts (ParamWrapper), nor with DoRA and its kin."""
        for layer in layers:
            layer.register_forward_pre_hook(self._pass_rows, with_kwargs=True)

    def set(self, adapters: list[str]) -> None:
        """One name (PEFT's) per row of the next pass; ``BASE`` is no adapter."""
        if not isinstance(self._model, PeftModel) or adapters == self._now:
            return
        tuner: Any = self._model.base_model
        self._now, self._rows = None, None
        if len(set(adapters)) > 1:
            tuner.enable_adapter_layers()
            self._rows = [adapter or "__base__" for adapter in adapters]
        elif adapters[0] == BASE:
            tuner.disable_adapter_layers()
        else:
            tuner.enable_adapter_layers()
            self._model.set_adapter(adapters[0], inference_mode=True)
        self._now = list(adapters)

    def _pass_rows(self, _: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, kwargs if self._rows is None else {**kwargs, "adapter_names": self._rows}
