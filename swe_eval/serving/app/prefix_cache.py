"""Keys and values of earlier prompts and answers, so that a conversation's next turn reads only what is new."""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np
import torch

from swe_eval.serving.app.kv import KV, beginning, copied


@dataclass(frozen=True)
class _Entry:
    model: str
    tokens: np.ndarray
    kv: KV
    size: int


def sensible_capacity(device: torch.device) -> int:
    """Bytes: two fifths of what the loaded model leaves of our part of a GPU, a tenth of a machine's memory."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        ours = total * torch.cuda.get_per_process_memory_fraction(device) - torch.cuda.memory_reserved(device)
        return max(0, int(min(free, ours))) * 2 // 5
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 10


class PrefixCache:
    """Sequences by model id and tokens; the least recently used leave when they take more than ``capacity`` bytes.

    They stay on the model's device: a long conversation's tensors are too large to be copied to the host every turn.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = 0
        """Bytes held."""
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._next = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, model: str, tokens: list[int]) -> KV:
        """Keys and values of the longest beginning that ``tokens`` share with a sequence of this model."""
        wanted = np.asarray(tokens)
        lengths = {at: _common(entry.tokens, wanted) for at, entry in self._entries.items() if entry.model == model}
        best = max(lengths, key=lengths.__getitem__, default=None)
        if best is None or not (length := lengths[best]):
            return ()
        self._entries.move_to_end(best)
        return beginning(self._entries[best].kv, length)

    def put(self, model: str, tokens: list[int], kv: KV) -> None:
        """Keep a sequence, in place of those that it continues; without memory for a copy of it, forget everything."""
        entry = _Entry(model, np.asarray(tokens), kv, sum(keys.nbytes + values.nbytes for keys, values in kv))
        if entry.size > self.capacity:
            return
        for at, other in list(self._entries.items()):
            if other.model == model and _common(other.tokens, entry.tokens) == len(other.tokens):
                self._drop(at)
        while self.size + entry.size > self.capacity:
            self._drop(next(iter(self._entries)))
        try:
            self._entries[self._next] = replace(entry, kv=copied(kv))
        except torch.OutOfMemoryError:
            self.clear()
            return
        self._next += 1
        self.size += entry.size

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.size = 0

    def _drop(self, at: int) -> None:
        self.size -= self._entries.pop(at).size


def _common(a: np.ndarray, b: np.ndarray) -> int:
    shorter = min(len(a), len(b))
    differ = np.flatnonzero(a[:shorter] != b[:shorter])
    return int(differ[0]) if len(differ) else shorter
