"""Which sequences are computed when: continuous batching, in the engine's one thread."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache

from swe_eval.serving.app.adapters import AdapterSwitch
from swe_eval.serving.app.batch import Batch
from swe_eval.serving.app.kv import KV, cache_of, kv_of, length_of
from swe_eval.serving.app.metrics import Metrics
from swe_eval.serving.app.prefix_cache import PrefixCache
from swe_eval.serving.app.sequence import Sequence
from swe_eval.serving.app.weights import Weights

CHUNK = 512
"""Tokens of a prompt that are read in one pass."""

READ_PER_STEP = 2048
"""Tokens of prompts that are read between two tokens of the answers that are under way."""

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Reading:
    """A sequence whose tokens are still being read."""

    sequence: Sequence
    cache: Cache

    @property
    def done(self) -> int:
        """Tokens read."""
        return int(self.cache.get_seq_length())


class Scheduler:
    """Sequences wait, then each is read alone, chunk by chunk; then all are decoded together until each is finished.

    Rows of all models share one batch where their adapters allow it; else there is a batch per model.
    """

    def __init__(self, weights: Weights, prefixes: PrefixCache, metrics: Metrics, max_running: int) -> None:
        self.waiting: deque[Sequence] = deque()
        """Any thread may append."""
        self.is_broken = False
        """The device has failed: after such an error it answers nothing more to this process."""
        self._weights, self._prefixes, self._metrics = weights, prefixes, metrics
        self._switch = AdapterSwitch(weights.model)
        self._most = self._limit = max_running
        self._readings: deque[_Reading] = deque()
        self._batches: dict[str, Batch[Sequence]] = {}

    @property
    def running(self) -> int:
        """Sequences that are being read or decoded."""
        return len(self._readings) + sum(len(batch.rows) for batch in list(self._batches.values()))

    @property
    def queued(self) -> int:
        """Sequences that wait and whose clients still do."""
        return sum(not sequence.is_cancelled for sequence in list(self.waiting))

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def step(self) -> None:
        """Admit some sequences, read part of their prompts, and add one token to every answer under way."""
        self._admit()
        self._read_prompts()
        for key, batch in list(self._batches.items()):
            self._decode(batch)
            if not batch.rows:
                del self._batches[key]

    def fail_all(self, error: Exception) -> None:
        """End every sequence, and forget the state of whatever was being computed."""
        begun = [reading.sequence for reading in self._readings]
        decoded = [row for batch in self._batches.values() for row in batch.rows]
        self._readings.clear()
        self._batches.clear()
        for sequence in [*begun, *decoded, *(self.waiting.popleft() for _ in range(len(self.waiting)))]:
            self._fail(sequence, error)

    def _admit(self) -> None:
        if not self.running:
            self._limit = self._most
        while self.waiting and self.running < self._limit:
            sequence = self.waiting.popleft()
            if sequence.is_cancelled:
                self._count(sequence, "cancelled")
            else:
                self._readings.append(self._begun(sequence))

    def _begun(self, sequence: Sequence) -> _Reading:
        model = sequence.request.model
        kv: KV = ()
        if not sequence.request.sampling.prompt_logprobs:  # those need every token read
            kv = self._prefixes.find(model, sequence.tokens[:-1])  # the last one is read for its logits
            self._metrics.count("prefix_cache_queries_total", len(sequence.tokens), model=model)
            self._metrics.count("prefix_cache_hits_total", length_of(kv), model=model)
        sequence.cached_tokens = min(length_of(kv), len(sequence.request.prompt))
        return _Reading(sequence, cache_of(kv))

    def _read_prompts(self) -> None:
        left = READ_PER_STEP
        while self._readings and left > 0:
            reading = self._readings[0]
            left += reading.done
            try:
                is_over = self._read(reading)
            except Exception as error:  # whatever went wrong with this request concerns no other
                self._readings.popleft()
                self._give_up([reading.sequence], self.running, error)
                return
            left -= reading.done
            if is_over:
                self._readings.popleft()

    def _read(self, reading: _Reading) -> bool:
        """Read a chunk; after the last one, the answer begins. Returns whether there is nothing more to read."""
        sequence, start = reading.sequence, reading.done
        if sequence.is_cancelled:
            self._retire(sequence, kv_of(reading.cache), start)
            return True
        chunk = sequence.tokens[start : start + CHUNK]
        is_scored = sequence.request.sampling.prompt_logprobs
        logits = self._forward(
            [sequence],
            input_ids=torch.tensor([chunk], device=self._weights.device),
            past_key_values=reading.cache,
            logits_to_keep=len(chunk) if is_scored else 1,
        )[0]
        if is_scored:
            sequence.score_prompt(logits, start)
        if reading.done < len(sequence.tokens):
            return False
        self._begin_answer(sequence, logits[-1], kv_of(reading.cache))
        return True

    def _begin_answer(self, sequence: Sequence, logits: torch.Tensor, kv: KV) -> None:
        read = len(sequence.tokens)
        if not sequence.finish_reason:
            sequence.choose(logits)
        if sequence.finish_reason:
            self._retire(sequence, kv, read)
        else:
            self._batch_for(sequence).join(sequence, kv)

    def _batch_for(self, sequence: Sequence) -> Batch[Sequence]:
        key = "" if self._switch.can_mix else sequence.request.model
        return self._batches.setdefault(key, Batch(self._weights.device))

    def _decode(self, batch: Batch[Sequence]) -> None:
        try:
            self._decode_rows(batch)
        except Exception as error:  # the batch's keys and values may be half-written
            rows = list(batch.rows)
            batch.clear()
            self._give_up(rows, len(rows) // 2, error)

    def _decode_rows(self, batch: Batch[Sequence]) -> None:
        for row in [row for row in batch.rows if row.is_cancelled]:
            self._take_out(batch, row)
        if rows := list(batch.rows):
            logits = self._forward(rows, **batch.inputs([row.tokens[-1] for row in rows]))[:, -1]
            for row, own in zip(rows, logits, strict=True):
                self._go_on(batch, row, own)

    def _go_on(self, batch: Batch[Sequence], row: Sequence, logits: torch.Tensor) -> None:
        try:
            row.choose(logits)
        except Exception as error:
            batch.leave(row)
            self._fail(row, error)
            return
        if row.finish_reason:
            self._take_out(batch, row)

    def _take_out(self, batch: Batch[Sequence], row: Sequence) -> None:
        kv = batch.kv(row)
        batch.leave(row)
        self._retire(row, kv, len(row.tokens) - 1)  # the newest token was not read

    def _forward(self, rows: list[Sequence], **inputs: Any) -> torch.Tensor:
        self._switch.set([self._weights.served[row.request.model].adapter for row in rows])
        logits: torch.Tensor = self._weights.bare(use_cache=True, **inputs).logits
        return logits

    def _retire(self, sequence: Sequence, kv: KV, read: int) -> None:
        if kv:
            self._prefixes.put(sequence.request.model, sequence.tokens[:read], kv)
        self._count(sequence, "cancelled" if sequence.is_cancelled else str(sequence.finish_reason))
        sequence.finish()

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        logger.error("%s: a request failed", sequence.request.model, exc_info=error)
        self.is_broken |= isinstance(error, torch.AcceleratorError)
        self._count(sequence, "error")
        sequence.deliver(error)

    def _give_up(self, sequences: list[Sequence], limit: int, error: Exception) -> None:
        """The sequences have failed; but if memory has run out that can be freed, they start again.

        It is freed by forgetting all prefixes, and, the next time, by having at most ``limit`` sequences run.
        """
        if not isinstance(error, torch.OutOfMemoryError) or not (limit or len(self._prefixes)):
            for sequence in sequences:
                self._fail(sequence, error)
            return
        if len(self._prefixes):
            self._prefixes.clear()
        else:
            logger.warning("out of memory: at most %d requests at once until all of them are answered", limit)
            self._limit = limit
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        for sequence in sequences:
            self._metrics.count("preemptions_total", model=sequence.request.model)
        self.waiting.extendleft(reversed(sequences))

    def _count(self, sequence: Sequence, outcome: str) -> None:
        model = sequence.request.model
        self._metrics.count("requests_total", model=model, outcome=outcome)
        self._metrics.count("prompt_tokens_total", len(sequence.request.prompt), model=model)
        self._metrics.count("cached_tokens_total", sequence.cached_tokens, model=model)
        self._metrics.count("completion_tokens_total", sequence.completion_tokens, model=model)
