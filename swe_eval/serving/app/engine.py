"""Prompts in, answers out: the one thread that computes, and the queue in front of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from threading import Event, Thread
from typing import Any

import torch
from jinja2 import TemplateError

from swe_eval.serving.app.metrics import Metrics, host_memory_peak
from swe_eval.serving.app.prefix_cache import PrefixCache, sensible_capacity
from swe_eval.serving.app.quantized_experts import stored_bytes
from swe_eval.serving.app.scheduler import Scheduler
from swe_eval.serving.app.sequence import Deliver, Request, Sequence
from swe_eval.serving.app.text import decode
from swe_eval.serving.app.weights import Served, Weights

logger = logging.getLogger(__name__)


class BadPrompt(Exception):
    """The messages cannot be made into a prompt; says why."""


class ContextOverflow(BadPrompt):
    """Prompt and answer together do not fit into the model's context."""


class Busy(Exception):
    """The queue is full."""


class Stopping(Exception):
    """The server is being stopped."""


class Engine:
    """Generates as any of the served models, for many requests at once.

    Args:
        prefix_cache_bytes: of the device's memory, for the beginnings of prompts; None is a sensible part of it.
        max_running: requests computed at once.
        max_waiting: requests in the queue before those.
    """

    def __init__(
        self, weights: Weights, prefix_cache_bytes: int | None = None, max_running: int = 32, max_waiting: int = 256
    ) -> None:
        self.metrics = Metrics()
        self._weights, self._max_waiting = weights, max_waiting
        capacity = sensible_capacity(weights.device) if prefix_cache_bytes is None else prefix_cache_bytes
        prefixes = PrefixCache(capacity)
        self._scheduler = Scheduler(weights, prefixes, self.metrics, max_running)
        stored = stored_bytes(weights.bare)
        self.metrics.watch(
            weights_bytes=lambda: stored,
            gpu_memory_peak_bytes=lambda: torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
            host_memory_peak_bytes=host_memory_peak,
            requests_running=lambda: self._scheduler.running,
            requests_waiting=lambda: self._scheduler.queued,
            prefix_cache_bytes=lambda: prefixes.size,
            prefix_cache_capacity_bytes=lambda: prefixes.capacity,
            prefix_cache_entries=lambda: len(prefixes),
        )
        self._is_closing, self._has_news = Event(), Event()
        self._thread = Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def served(self) -> Mapping[str, Served]:
        """By model id."""
        return self._weights.served

    @property
    def context(self) -> int:
        """Tokens of prompt and answer together."""
        return self._weights.context

    @property
    def is_broken(self) -> bool:
        """The device has failed, and nothing will be answered any more."""
        return self._scheduler.is_broken

    @property
    def special_tokens(self) -> list[str]:
        """Their texts; the tokenizer's configuration need not name all that its vocabulary marks as such."""
        tokenizer = self._weights.tokenizer
        marked = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
        return list({*tokenizer.all_special_tokens, *marked})

    def chat_prompt(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> list[int]:
        """Tokens of a conversation and the beginning of its next answer.

        Raises:
            BadPrompt: the chat template refuses the messages.
        """
        try:
            encoded: Any = self._weights.tokenizer.apply_chat_template(
                messages, tools=tools, add_generation_prompt=True, return_dict=True
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise BadPrompt(f"The chat template refuses these messages: {error}") from error
        return list(encoded["input_ids"])

    def text_prompt(self, prompt: str | list[int]) -> list[int]:
        """Tokens of a text, or the tokens themselves.

        Raises:
            BadPrompt: there are none, or one is not in the vocabulary.
        """
        try:
            tokens = self._weights.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        except (TypeError, ValueError) as error:
            raise BadPrompt(f"The tokenizer refuses this prompt: {error}") from error
        vocabulary = self._weights.bare.get_input_embeddings().num_embeddings
        if wrong := [token for token in tokens if not 0 <= token < vocabulary]:
            raise BadPrompt(f"prompt: the vocabulary of {vocabulary} tokens has no {wrong[0]}")
        if not tokens:
            raise BadPrompt("prompt: needs at least one token")
        return tokens

    def text(self, tokens: list[int]) -> str:
        """Of tokens together, without special ones."""
        return decode(self._weights.tokenizer, tokens, keep_special=False)

    def token_text(self, token: int) -> str:
        """Of one token alone, special ones too."""
        return decode(self._weights.tokenizer, [token], keep_special=True)

    def submit(self, request: Request, deliver: Deliver) -> Sequence:
        """Queue a request; from now on ``deliver`` is called, in another thread.

        Raises:
            ContextOverflow: prompt and answer do not fit.
            Busy: the queue is full.
            Stopping: there will be no more answers.
        """
        room = self._room(len(request.prompt), request.sampling.max_tokens)
        if self._is_closing.is_set():
            raise Stopping("The server is being stopped.")
        if self._scheduler.queued >= self._max_waiting:
            self.metrics.count("requests_total", model=request.model, outcome="refused")
            raise Busy(f"{self._max_waiting} requests are waiting already: try again later.")
        weights = self._weights
        sequence = Sequence(request, room, weights.end_tokens, weights.tokenizer, weights.device, deliver)
        self._scheduler.waiting.append(sequence)
        self._has_news.set()
        return sequence

    def close(self) -> None:
        """Stop after the current step; what is not answered by then fails with ``Stopping``."""
        self._is_closing.set()
        self._has_news.set()
        self._thread.join()

    def _room(self, prompt: int, wanted: int | None) -> int:
        room = self.context - prompt if wanted is None else wanted
        if prompt + max(room, wanted is None) > self.context:
            asked = max(room, 1)
            raise ContextOverflow(  # OpenAI's wording: clients, litellm among them, recognise it
                f"This model's maximum context length is {self.context} tokens. However, you requested "
                f"{prompt + asked} tokens ({prompt} in the messages, {asked} in the completion). "
                "Please reduce the length of the messages or completion."
            )
        return room

    @torch.inference_mode()
    def _run(self) -> None:
        while not self._is_closing.is_set():
            if not self._scheduler.has_work:
                self._has_news.wait()
                self._has_news.clear()
                continue
            try:
                self._scheduler.step()
            except Exception as error:
                logger.exception("a step failed")
                self._scheduler.fail_all(error)
        self._scheduler.fail_all(Stopping("The server is being stopped."))
