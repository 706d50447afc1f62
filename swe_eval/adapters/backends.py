"""What each way of serving does with a sound adapter: applies it exactly, or silently loses part of it.

Measured with PEFT 0.21.2 on transformers 5.23 and with vLLM 0.32, against deltas added to the weights by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from swe_eval.adapters.adapter import Adapter, LoraConfig, Problem
from swe_eval.adapters.base import EXPERT, MLP, Base
from swe_eval.adapters.checks import some
from swe_eval.adapters.targets import Layout, Placed

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Every ``--max-lora-rank`` of vLLM 0.32."""


MUST_MERGE: Final = "must be merged"


@dataclass(frozen=True)
class Verdict:
    """Whether a backend can serve an adapter."""

    kind: Literal["ok", "must be merged", "refused"]
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}: {'; '.join(self.reasons)}" if self.reasons else self.kind


def judge(adapter: Adapter, base: Base, layout: Layout, problems: Collection[Problem]) -> dict[str, Verdict]:
    """The verdict of every backend."""
    if wrong := tuple(problem.text for problem in problems if problem.severity == "problem"):
        return {backend: Verdict("refused", wrong) for backend in BACKENDS}
    verdicts = {}
    for backend, reasons in BACKENDS.items():
        found = tuple(reasons(adapter, base, layout.placed))
        verdicts[backend] = Verdict(MUST_MERGE, found) if found else Verdict("ok")
    return verdicts


def peft_parameters(adapter: Adapter, base: Base) -> frozenset[str]:
    """``target_parameters`` as PEFT has them once it has renamed a MoE model's expert and router modules to them."""
    named = set(adapter.config.target_parameters or ())
    modules = adapter.config.target_modules
    if base.is_moe and not isinstance(modules, str):
        named |= {_RENAMED[leaf] for leaf in {name.rpartition(".")[2] for name in modules or ()} & _RENAMED.keys()}
    return frozenset(named)


_RENAMED = {
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
    "down_proj": "down_proj",
    "gate": "gate.weight",
}


def _transformers(adapter: Adapter, base: Base, placed: Collection[Placed]) -> Iterator[str]:
    if base.is_moe:
        yield from _lost(adapter, base, placed)
    if base.is_moe or base.unknown:
        yield from _scaled_wrongly(adapter, placed)


def _lost(adapter: Adapter, base: Base, placed: Collection[Placed]) -> Iterator[str]:
    """What PEFT does not load, and our server then refuses."""
    experts = [each for each in placed if each.container]
    if dropped := [e.site.name for e in placed if e.leaf in MLP and not e.container and e.site.experts == 1]:
        yield f"PEFT takes gate_proj, up_proj and down_proj for this model's fused experts, and drops {some(dropped)}"
    if experts:
        yield from _fusible(adapter, base, experts)
    if adapter.config.lora_dropout and any(each.site.experts > 1 or each.container for each in placed):
        yield "PEFT refuses experts with lora_dropout"


def _scaled_wrongly(adapter: Adapter, placed: Collection[Placed]) -> Iterator[str]:
    """What PEFT says nothing of."""
    fused = [module for module in adapter.pairs if EXPERT.fullmatch(module) and not module.endswith(".down_proj")]
    if fused and adapter.config.use_rslora:
        yield "PEFT doubles the rank of fused experts, and rsLoRA's scale is then wrong by a factor of 1.41"
    parameters = {each.pair.module for each in placed if each.key != each.site.name}
    routers = [module for module in adapter.pairs if module.endswith(".gate") and module not in parameters]
    if special := _special(adapter.config, [*fused, *routers]):
        yield f"PEFT forgets rank_pattern and alpha_pattern of {some(special)}"


def _special(config: LoraConfig, keys: Iterable[str]) -> list[str]:
    """Those that ``rank_pattern`` or ``alpha_pattern`` sets apart."""
    return [key for key in keys if (config.rank(key), config.alpha(key)) != (config.r, config.lora_alpha)]


def _fusible(adapter: Adapter, base: Base, experts: Collection[Placed]) -> Iterator[str]:
    """PEFT fuses per-expert pairs by itself; only of whole sets of them."""
    leaves = {each.leaf for each in experts}
    if leaves not in ({"down_proj"}, MLP):
        yield f"PEFT cannot fuse experts' {' and '.join(sorted(leaves))} alone"
    elif not _is_whole(base, experts):
        yield "PEFT fuses only adapters of every expert in every layer"
    if isinstance(adapter.config.target_modules, str):
        yield "PEFT looks for the experts in vain with a regular expression as target_modules"


def _vllm(adapter: Adapter, base: Base, placed: Collection[Placed]) -> Iterator[str]:
    leaves = {module.rpartition(".")[2] for module in adapter.pairs}
    if "kv_b_proj" in leaves:
        yield "vLLM ignores kv_b_proj of MLA models without a word (vllm#48974)"
    if "lm_head" in leaves:
        yield "vLLM has no LoRA for lm_head"
    if any(module.endswith((".experts", ".base_layer")) for module in adapter.pairs):
        yield "vLLM takes fused experts (target_parameters) only in a mode that is not verified"
    experts = [each for each in placed if each.container]
    if experts and ({each.leaf for each in experts} != MLP or not _is_whole(base, experts, per_layer=True)):
        yield "vLLM takes experts only all together, each with gate_proj, up_proj and down_proj"
    keys = {each.pair.module: each.key for each in placed}  # vLLM goes by the module, whatever PEFT's patterns know
    unsure = [module for module in adapter.pairs if EXPERT.fullmatch(module) or keys.get(module, module) != module]
    if special := _special(adapter.config, {*unsure, *(keys.get(module, module) for module in unsure)}):
        yield f"that vLLM heeds rank_pattern and alpha_pattern of {some(special)} is not verified"
    if adapter.config.largest_rank > LORA_RANKS[-1]:
        yield f"vLLM takes ranks up to {LORA_RANKS[-1]}"


def _is_whole(base: Base, experts: Collection[Placed], per_layer: bool = False) -> bool:
    """Whether the same projections of every other expert are there too; ``per_layer``: of the layers touched."""
    leaves = {each.leaf for each in experts}
    layers = {each.container for each in experts} if per_layer else None
    found = filter(None, map(EXPERT.fullmatch, base.linear))
    whole = {f[0] for f in found if f["leaf"] in leaves and (layers is None or f["container"] in layers)}
    return whole == {each.site.name for each in experts}


BACKENDS: Mapping[str, Callable[[Adapter, Base, Collection[Placed]], Iterator[str]]] = {
    "transformers": _transformers,
    "vllm": _vllm,
}
"""Per way of serving: why a sound adapter must be merged to be served exactly."""
