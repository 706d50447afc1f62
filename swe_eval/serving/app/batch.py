"""Sequences that are decoded together, one token each per step; they join and leave between steps."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import torch

from swe_eval.serving.app.kv import KV, below, cache_of, kv_of, length_of, selected

Row = TypeVar("Row")


class Batch(Generic[Row]):
    """Rows with their keys and values, aligned at their ends: shorter ones are padded at the front.

    row 0   . . . a b c d     padding 3
    row 1   e f g h i j k     padding 0
                          ^   where all rows write their next token
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.rows: list[Row] = []
        self._padding: list[int] = []
        self._cache = cache_of(())

    def join(self, row: Row, kv: KV) -> None:
        """Add a row whose tokens so far have these keys and values."""
        mine = kv_of(self._cache)
        self._cache = cache_of(below(mine, kv) if mine else kv)
        longer = length_of(kv) - length_of(mine) if mine else 0
        self._padding = [*(padding + max(0, longer) for padding in self._padding), max(0, -longer)]
        self.rows.append(row)

    def leave(self, row: Row) -> None:
        """Remove a row, and the padding that is no longer needed without it."""
        stay = [index for index, other in enumerate(self.rows) if other is not row]
        if not stay:
            self.clear()
            return
        spare = min(self._padding[index] for index in stay)
        self._cache = cache_of(selected(kv_of(self._cache), stay, spare))
        self._padding = [self._padding[index] - spare for index in stay]
        self.rows = [self.rows[index] for index in stay]

    def clear(self) -> None:
        """Remove all rows."""
        self.rows, self._padding = [], []
        self._cache = cache_of(())

    def kv(self, row: Row) -> KV:
        """The keys and values of a row."""
        index = self.rows.index(row)
        return selected(kv_of(self._cache), [index], self._padding[index])

    def inputs(self, tokens: list[int]) -> dict[str, Any]:
        """The model's arguments for a step that reads one token per row."""
        length = length_of(kv_of(self._cache))
        padding = torch.tensor(self._padding, device=self._device)[:, None]
        is_real = torch.arange(length + 1, device=self._device) >= padding
        return {
            "input_ids": torch.tensor(tokens, device=self._device)[:, None],
            "attention_mask": is_real.long() if any(self._padding) else None,
            "position_ids": length - padding,
            "past_key_values": self._cache,
        }
