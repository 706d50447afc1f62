"""Which weights of a base model an adapter's configuration means, by the rules of PEFT 0.21."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from swe_eval.adapters.adapter import Adapter, LoraConfig, Pair
from swe_eval.adapters.base import EXPERT, Base, Site


@dataclass(frozen=True)
class Placed:
    """A pair, the weight that it changes, and the name that ``rank_pattern`` knows it by."""

    pair: Pair
    site: Site
    key: str

    @property
    def leaf(self) -> str:
        return self.site.name.rpartition(".")[2]

    @property
    def container(self) -> str | None:
        """Of one expert's module: the module that holds all experts of the layer."""
        found = EXPERT.fullmatch(self.site.name)
        return found["container"] if found else None


@dataclass(frozen=True)
class Layout:
    """What the file has beside what the configuration wants."""

    placed: tuple[Placed, ...]
    """Pairs that have a place in the base, wanted or not."""
    wanted: Mapping[str, str]
    """See ``_targets``."""


def lay_out(adapter: Adapter, base: Base) -> Layout:
    """Find the place of every pair."""
    wanted = _targets(adapter.config, base)
    sites = ((pair, _site_of(pair.module, adapter.config, base)) for pair in adapter.pairs.values())
    return Layout(tuple(Placed(pair, site, wanted.get(site.name, site.name)) for pair, site in sites if site), wanted)


def _targets(config: LoraConfig, base: Base) -> dict[str, str]:
    """Every weight that the adapter must have a pair for, with the name that ``rank_pattern`` knows it by."""
    modules = {name: name for name in base.linear if _targets_module(config, name)}
    routers = {name: f"{name}.weight" for name in base.linear if _targets_parameter(config, f"{name}.weight")}
    fused = {name: name for name in base.fused if _targets_parameter(config, name)}
    return modules | routers | fused


def _site_of(module: str, config: LoraConfig, base: Base) -> Site | None:
    """The weight that a pair belongs to.

    The parameters of fused experts have no module of their own: PEFT wraps their container once for each parameter, so
    that a pair's name says how deep it lies (``experts.base_layer.lora_A``), and not which parameter it changes.
    """
    if module in base.linear:
        return base.linear[module]
    parts = module.split(".")
    container = ".".join(part for part in parts if part != "base_layer")
    wrapped = [
        site
        for name, site in base.fused.items()
        if name.rpartition(".")[0] == container and _targets_parameter(config, name)
    ]
    depth = parts.count("base_layer")
    return wrapped[-1 - depth] if depth < len(wrapped) else None


def _targets_parameter(config: LoraConfig, name: str) -> bool:
    """Whether ``target_parameters`` names it; PEFT heeds neither ``layers_to_transform`` nor exclusions here."""
    return _ends(name, config.target_parameters or ())


def _targets_module(config: LoraConfig, name: str) -> bool:
    if config.exclude_modules and _named(name, config.exclude_modules):
        return False
    if config.target_modules == "all-linear":
        return not name.endswith(("lm_head", ".gate"))
    if not _named(name, config.target_modules or ()):
        return False
    is_exact_or_regex = isinstance(config.target_modules, str) or name in (config.target_modules or ())
    return is_exact_or_regex or _is_in_layers(config, name)


def _named(name: str, names: str | Collection[str]) -> bool:
    """A string is a regular expression; a list holds whole names or their ends."""
    return bool(re.fullmatch(names, name)) if isinstance(names, str) else _ends(name, names)


def _ends(name: str, ends: Collection[str]) -> bool:
    return any(name == end or name.endswith(f".{end}") for end in ends)


def _is_in_layers(config: LoraConfig, name: str) -> bool:
    wanted = config.layers_to_transform
    if wanted is None or wanted == []:
        return True
    patterns = [config.layers_pattern] if isinstance(config.layers_pattern, str) else config.layers_pattern
    for pattern in patterns or [r"[^.]*"]:
        if found := re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", name):
            return int(found[1]) in ([wanted] if isinstance(wanted, int) else wanted)
    return False
