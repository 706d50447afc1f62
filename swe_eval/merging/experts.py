"""Fused experts: transformers 5 has them as two stacks, checkpoints mostly as a tensor per expert and projection."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from swe_eval.adapters.tensors import Tensor
from swe_eval.merging.tensors import Array


class Factors(NamedTuple):
    """``left @ right`` is what a matrix of the checkpoint gains."""

    left: Array
    """[out, r], with the scale in it."""
    right: Array
    """[r, in]."""


@dataclass(frozen=True)
class Place:
    """A tensor that takes a share of the product on fused experts."""

    name: str
    shape: tuple[int, ...]
    expert: int | None = None
    """The one whose matrix it is; None is a stack of them all."""
    first_row: int = 0
    """Of the product, where its share begins."""
    is_transposed: bool = False

    def share_of(self, factors: Callable[[int], Factors]) -> Callable[[int], Factors]:
        """By the index of the matrix in the tensor."""

        def share(index: int) -> Factors:
            left, right = factors(index if self.expert is None else self.expert)
            if self.is_transposed:
                return Factors(right.T, left.T)
            return Factors(left[self.first_row : self.first_row + self.shape[-2]], right)

        return share


@dataclass(frozen=True)
class Experts:
    """What the checkpoint has for a parameter that transformers 5 fuses; shapes tell the two parameters apart."""

    parameter: str
    count: int
    shape: tuple[int, ...]
    """[out, in] of one expert."""
    places: list[Place]


def find_experts(there: Mapping[str, Tensor], module: str) -> Iterator[Experts]:
    """Every parameter of a module of experts, in every reading of how it may lie in the checkpoint."""
    yield from _separate(there, module)
    yield from _stacked(there, module)


def _separate(there: Mapping[str, Tensor], module: str) -> Iterator[Experts]:
    """A tensor per expert and projection, as checkpoints of DeepSeek-V3 and Qwen3 have them."""

    def name(expert: int, leaf: str) -> str:
        return f"{module}.{expert}.{leaf}.weight"

    count = next(number for number in itertools.count() if name(number, "gate_proj") not in there)
    if not count:
        return
    size, hidden = there[name(0, "gate_proj")].shape
    halves = {"gate_proj": 0, "up_proj": size}
    gate_up = [Place(name(e, leaf), (size, hidden), e, row) for e in range(count) for leaf, row in halves.items()]
    yield Experts("gate_up_proj", count, (2 * size, hidden), gate_up)
    down = [Place(name(expert, "down_proj"), (hidden, size), expert) for expert in range(count)]
    yield Experts("down_proj", count, (hidden, size), down)


def _stacked(there: Mapping[str, Tensor], module: str) -> Iterator[Experts]:
    """A stack of all experts, [expert, out, in] or, as checkpoints of GPT-OSS have them, [expert, in, out]."""
    for parameter in ("gate_up_proj", "down_proj"):
        stack = there.get(f"{module}.{parameter}")
        if stack is not None and len(stack.shape) == 3:
            count, *matrix = stack.shape
            for is_transposed in (False, True):
                shape = tuple(reversed(matrix)) if is_transposed else tuple(matrix)
                place = Place(stack.name, stack.shape, is_transposed=is_transposed)
                yield Experts(parameter, count, shape, [place])
