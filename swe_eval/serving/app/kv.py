"""Keys and values: what attention keeps of the tokens it has read."""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache, DynamicLayer

KV = tuple[tuple[torch.Tensor, torch.Tensor], ...]
"""Layer by layer, keys and values, each of shape [rows, heads, tokens, size]; never written to.

Multi-head latent attention (DeepSeek-V3, GigaChat3) keeps its compressed latents here, a twentieth of the bytes.
"""

SPARE = 64
"""The least number of tokens that a layer allocates in advance."""


def cache_of(kv: KV) -> Cache:
    """A cache from which the model continues; empty if ``kv`` is."""
    if not kv:
        return Cache(layer_class_to_replicate=_RoomyLayer)
    return Cache(layers=[_RoomyLayer(keys, values) for keys, values in kv])


def kv_of(cache: Cache) -> KV:
    """The content of a cache."""
    return tuple((layer.keys, layer.values) for layer in cache.layers)


def length_of(kv: KV) -> int:
    """In tokens, padding included; the same for every row."""
    return int(kv[0][0].shape[-2]) if kv else 0


def below(rows: KV, row: KV) -> KV:
    """``rows`` and one more below them, aligned at their ends; the shorter are padded with zeros at the front."""
    return tuple(
        (_stacked(keys, more_keys), _stacked(values, more_values))
        for (keys, values), (more_keys, more_values) in zip(rows, row, strict=True)
    )


def selected(kv: KV, rows: list[int], start: int) -> KV:
    """Some of the rows, without the first ``start`` tokens."""
    return tuple((keys[rows][..., start:, :], values[rows][..., start:, :]) for keys, values in kv)


def beginning(kv: KV, length: int) -> KV:
    """The first tokens."""
    return tuple((keys[..., :length, :], values[..., :length, :]) for keys, values in kv)


def copied(kv: KV) -> KV:
    """In storage of its own, no longer a view."""
    return tuple((keys.clone(), values.clone()) for keys, values in kv)


def _stacked(upper: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
    length = max(upper.shape[-2], lower.shape[-2])
    return torch.cat([_padded(upper, length), _padded(lower, length)])


def _padded(states: torch.Tensor, length: int) -> torch.Tensor:
    return torch.nn.functional.pad(states, (0, 0, length - states.shape[-2], 0))


class _RoomyLayer(DynamicLayer):
    """Writes new tokens into spare room; transformers' own layer copies everything it holds for each token."""

    def __init__(self, keys: torch.Tensor | None = None, values: torch.Tensor | None = None) -> None:
        super().__init__()
        self._key_room, self._value_room = _Room(), _Room()
        if keys is not None and values is not None:
            self.lazy_initialization(keys, values)
            self.keys, self.values = keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length = self.get_seq_length()
        self.keys = self._key_room.appended(self.keys, length, key_states)
        self.values = self._value_room.appended(self.values, length, value_states)
        return self.keys, self.values


class _Room:
    """The storage behind a layer's keys, or values."""

    def __init__(self) -> None:
        self._storage: torch.Tensor | None = None

    def appended(self, states: torch.Tensor, length: int, new: torch.Tensor) -> torch.Tensor:
        end = length + new.shape[-2]
        if self._storage is None or self._storage.shape[-2] < end:
            self._storage = new.new_empty(*new.shape[:-2], end + max(SPARE, end // 4), new.shape[-1])
            if length:
                self._storage[..., :length, :] = states
        self._storage[..., length:end, :] = new
        return self._storage[..., :end, :]
