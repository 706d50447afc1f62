"""Everything that can be wrong with an adapter whatever serves it. Each kind of problem has its own message."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from swe_eval.adapters.adapter import CONFIG, PREFIX, WEIGHTS, Adapter, LoraConfig, Problem
from swe_eval.adapters.base import EXPERT, Base, is_beyond
from swe_eval.adapters.targets import Layout, Placed
from swe_eval.adapters.tensors import Content, Tensor, read_contents

BY_US = (
    "write python -m swe_eval.merging merge --base ... --adapter ... --out DIR, "
    "then model=hf model.base_model=DIR lora=none"
)
BY_PEFT = "merge it with PEFT's merge_and_unload() and write model=hf model.base_model=<the merged model> lora=none"
SAVE_AGAIN = "save the adapter again with save_pretrained"

# What a true value of it means, and what to do. The weights that such adapters save are not all LoRA's.
_REFUSED = {
    "use_dora": ("trained magnitudes scale the whole weights (DoRA)", BY_US),
    "modules_to_save": ("whole modules were trained beside the pairs", BY_US),
    "bias": ("biases of the base were trained too", BY_PEFT),
    "lora_bias": ("B has a bias", BY_PEFT),
    "trainable_token_indices": ("rows of the embedding were trained too", BY_PEFT),
    "layer_replication": ("the trained model repeats layers of the base", BY_PEFT),
    "alora_invocation_tokens": ("it acts only after certain tokens (aLoRA)", "no server here can do that"),
}
WITHOUT_EFFECT = {
    *("peft_version", "revision", "task_type", "auto_mapping", "inference_mode", "parent_library", "runtime_config"),
    *("megatron_core", "megatron_config", "qalora_group_size", "fan_in_fan_out"),
    *("eva_config", "corda_config", "loftq_config", "lora_ga_config"),  # read only when training begins
}
"""Options that say nothing of what the weights mean."""
PLAIN_INITS = {"true", "false", "none", "gaussian", "eva", "orthogonal", "mica"}
"""``init_lora_weights``, in lower case; the others (``pissa``, ``olora``, ...) change the base's weights."""

_EXPERTS = re.compile(r"(?<!shared_)experts")

_STRAYS = {
    "no prefix": (r"(?!base_model\.model\.).*\.lora_[AB]\.weight", f"put {PREFIX} before every name"),
    "adapter name": (r".*\.lora_[AB]\.[^.]+\.weight", f"take the adapter's name out, or {SAVE_AGAIN}"),
    "base copy": (r".*\.base_layer\.\w+", "a copy of the base's own weights: save with save_embedding_layers=False"),
    "embedding": (r".*\.lora_embedding_[AB]", f"LoRA on an embedding: {BY_US}"),
    "not LoRA": (r".*", f"it is no lora_A or lora_B: {BY_US}"),
}


def problems(adapter: Adapter, base: Base, layout: Layout, base_model: str) -> Iterator[Problem]:
    """Every problem and every warning; the values are read once."""
    yield from _option_problems(adapter)
    yield from _stray_problems(adapter)
    yield from _half_pairs(adapter)
    yield from _not_matrices(adapter)
    if base.unknown:
        yield Problem("base unknown", f"not compared with the base: {base.unknown}", "warning")
        yield from _two_ranks(adapter)
    else:
        yield from _misfit_problems(adapter, layout)
        yield from _misplaced(adapter, base, layout)
    yield from _value_problems(adapter)
    yield from _other_base(adapter, base_model)


def some(names: Iterable[str]) -> str:
    """Three names at most, and how many there are."""
    every = sorted(names)
    return ", ".join(every[:3]) + (f" and {len(every) - 3} more" if len(every) > 3 else "")


def _option_problems(adapter: Adapter) -> Iterator[Problem]:
    config, file = adapter.config, adapter.folder / CONFIG
    for name, value in (config.model_extra or {}).items():
        if not value or name in WITHOUT_EFFECT or (name, value) == ("bias", "none"):
            continue
        if name in _REFUSED:
            meaning, remedy = _REFUSED[name]
            yield Problem(name, f"{file}: {name}={value!r}: {meaning}; {remedy}")
        else:
            yield Problem("unknown option", f"{file}: {name}={value!r}: what that does is not known here; {BY_PEFT}")
    if str(config.init_lora_weights).lower() not in PLAIN_INITS:
        yield Problem(
            "init_lora_weights",
            f"{file}: init_lora_weights={config.init_lora_weights!r} changes the base's weights when it is loaded; "
            "save with path_initial_model_for_weight_conversion, which makes a plain LoRA adapter of it",
        )
    if not _has_targets(config):
        yield Problem("no targets", f"{file}: neither target_modules nor target_parameters; name what was trained")


def _has_targets(config: LoraConfig) -> bool:
    return bool(config.target_modules or config.target_parameters)


def _stray_problems(adapter: Adapter) -> Iterator[Problem]:
    left = [tensor.name for tensor in adapter.strays]
    explained = any((adapter.config.model_extra or {}).get(option) for option in _REFUSED if option != "bias")
    for kind, (pattern, remedy) in _STRAYS.items():
        these = [name for name in left if re.fullmatch(pattern, name)]
        left = [name for name in left if name not in these]
        if these and not (kind == "not LoRA" and explained):
            yield Problem(kind, f"{adapter.folder / WEIGHTS}: no server would use {some(these)}; {remedy}")


def _half_pairs(adapter: Adapter) -> Iterator[Problem]:
    for side, other in (("A", "B"), ("B", "A")):
        halves = [m for m, pair in adapter.pairs.items() if getattr(pair, other.lower()) is None]
        if halves:
            text = f"{adapter.folder / WEIGHTS}: lora_{side} without lora_{other}: {some(halves)}; {SAVE_AGAIN}"
            yield Problem(f"no lora_{other}", text)


def _not_matrices(adapter: Adapter) -> Iterator[Problem]:
    file = adapter.folder / WEIGHTS
    if flat := [t.name for pair in adapter.pairs.values() for t in pair.tensors if len(t.shape) != 2]:
        yield Problem("not a matrix", f"{file}: not matrices: {some(flat)}; gather the shards, {SAVE_AGAIN}")


def _two_ranks(adapter: Adapter) -> Iterator[Problem]:
    """All that shapes tell without the base, whose experts may be fused: A and B must be of one rank."""
    file = adapter.folder / WEIGHTS
    both = [(m, pair.a.shape, pair.b.shape) for m, pair in adapter.pairs.items() if pair.a and pair.b]
    if uneven := [module for module, a, b in both if len(a) == len(b) == 2 and a[0] != b[1]]:
        yield Problem("two ranks", f"{file}: A and B are of different ranks at {some(uneven)}; {SAVE_AGAIN}")


def _misfit_problems(adapter: Adapter, layout: Layout) -> Iterator[Problem]:
    misfits: dict[str, list[str]] = {}
    for placed in layout.placed:
        for kind, text in _misfits(placed, adapter.config):
            misfits.setdefault(kind, []).append(text)
    for kind, texts in misfits.items():
        yield Problem(kind, f"{adapter.folder / WEIGHTS}: {some(texts)}; {_MISFITS[kind]}")


_MISFITS = {
    "transposed": "its dimensions are swapped: A is [r, in] and B [out, r]",
    "wrong rank": "put r or rank_pattern right in adapter_config.json",
    "wrong base": "it was trained on another base model: write model=...",
}


def _misfits(placed: Placed, config: LoraConfig) -> Iterator[tuple[str, str]]:
    site = placed.site
    rank = config.rank(placed.key) * site.experts
    wanted = {"A": (rank, site.in_size), "B": (site.out_size, rank)}
    for side, tensor in (("A", placed.pair.a), ("B", placed.pair.b)):
        if tensor is not None and len(tensor.shape) == 2 and tensor.shape != (right := wanted[side]):
            rest = tensor.shape[1] == right[1] if side == "A" else tensor.shape[0] == right[0]
            kind = "transposed" if tensor.shape == right[::-1] else "wrong rank" if rest else "wrong base"
            yield kind, f"{tensor.name} is {list(tensor.shape)}, not {list(right)}"


def _misplaced(adapter: Adapter, base: Base, layout: Layout) -> Iterator[Problem]:
    """Pairs without a place, places without a pair, and pairs that the configuration does not name."""
    file, wanted = adapter.folder / WEIGHTS, layout.wanted
    nowhere = adapter.pairs.keys() - {each.pair.module for each in layout.placed}
    yield from _nowhere(adapter, base, nowhere)
    here = {each.site.name for each in layout.placed}
    if (untargeted := here - wanted.keys()) and _has_targets(adapter.config):
        remedy = f"add them to target_modules in {CONFIG}, or take the tensors out"
        yield Problem("not targeted", f"{file}: {CONFIG} does not name {some(untargeted)}; {remedy}")
    if not nowhere and not adapter.strays:
        means_experts = any(map(EXPERT.fullmatch, here)) or _EXPERTS.search(str(adapter.config.target_modules))
        yield from _missing(file, wanted.keys() - here, bool(means_experts))


def _missing(file: Path, missing: set[str], means_experts: bool) -> Iterator[Problem]:
    """Where experts are fused they are no modules, and ``down_proj`` as a target misses them without a word."""
    fused = {name for name in missing if EXPERT.fullmatch(name)} if not means_experts else set()
    if fused:
        text = (
            f"{file}: no tensors for any routed expert, though {CONFIG} names their modules; were they to be trained?"
        )
        yield Problem("no experts", text, "warning")
    if left := missing - fused:
        yield Problem("missing", f"{file}: no tensors for {some(left)}, which {CONFIG} names; {SAVE_AGAIN}")


def _nowhere(adapter: Adapter, base: Base, modules: Iterable[str]) -> Iterator[Problem]:
    file = adapter.folder / WEIGHTS
    kinds: dict[str, list[str]] = {}
    for module in modules:
        kinds.setdefault(_why_nowhere(module, base), []).append(module)
    for kind, these in kinds.items():
        yield Problem(kind, f"{file}: the base has no {some(these)}; {_NOWHERE[kind]}")


_NOWHERE = {
    "wrong prefix": f"put {PREFIX} before the base's own names, and nothing more",
    "beyond the model": "the layer is not run (multi-token prediction, or another base model); take its tensors out",
    "unknown module": "it was trained on another base model, or the names were changed; write model=... to fit",
}


def _why_nowhere(module: str, base: Base) -> str:
    if module.startswith("model.model."):
        return "wrong prefix"
    return "beyond the model" if is_beyond(module, base.layers) else "unknown module"


def _value_problems(adapter: Adapter) -> Iterator[Problem]:
    file = adapter.folder / WEIGHTS
    tensors = [tensor for pair in adapter.pairs.values() for tensor in pair.tensors]
    if integers := [f"{tensor.name} ({tensor.dtype})" for tensor in tensors if not tensor.is_float]:
        yield Problem("wrong type", f"{file}: not in a floating type: {some(integers)}; save in bfloat16")
    contents = read_contents(file, (tensor for tensor in tensors if tensor.is_float))
    if broken := [tensor.name for tensor, content in contents.items() if content == "not finite"]:
        yield Problem("not finite", f"{file}: NaN or infinity in {some(broken)}; the training diverged: go back a step")
    yield from _idle(adapter, contents)


def _idle(adapter: Adapter, contents: Mapping[Tensor, Content]) -> Iterator[Problem]:
    """Pairs of no effect. A routed expert that no token was sent to is legitimately one; others were never trained."""
    file = adapter.folder / WEIGHTS
    idle = [m for m, pair in adapter.pairs.items() if any(contents.get(t) == "zero" for t in pair.tensors)]
    if not idle:
        return
    if len(idle) == len(adapter.pairs):
        text = f"{file}: every B (or A) is zero: the adapter is the base model; write lora=none, or train it"
        yield Problem("untrained", text)
    elif dead := [module for module in idle if not EXPERT.fullmatch(module)]:
        text = f"{file}: B (or A) is zero, so that nothing is changed at {some(dead)}; gather the shards, {SAVE_AGAIN}"
        yield Problem("zero", text)
    else:
        text = f"{file}: B is zero for {len(idle)} of the experts' modules, as of experts that were never routed to"
        yield Problem("idle experts", text, "warning")


def _other_base(adapter: Adapter, base_model: str) -> Iterator[Problem]:
    trained_on = adapter.config.base_model_name_or_path
    if trained_on and _short(trained_on) != _short(base_model):
        text = f"{adapter.folder / CONFIG}: trained on {trained_on}, served on {base_model}; is that the same model?"
        yield Problem("other base", text, "warning")


def _short(model: str) -> str:
    """The last part of a hub id or a path; of a path into the hub's cache, that of the hub id."""
    if cached := re.search(r"models--(?:.+--)?(.+?)(/|$)", model):
        return cached[1].lower()
    return model.rstrip("/").rpartition("/")[2].lower()
