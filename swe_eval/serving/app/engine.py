"""Chat messages in, text out: one request at a time on one set of weights."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Event
from typing import Any, Literal

import torch
from jinja2 import TemplateError
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from swe_eval.serving.app.weights import Served, Weights

GREEDY_BELOW = 1e-5
"""Temperatures under this are 0: dividing by them overflows."""


class BadPrompt(Exception):
    """The messages cannot be made into a prompt; says why."""


class ContextOverflow(BadPrompt):
    """Prompt and answer together do not fit into the model's context."""


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens, and when to stop."""

    max_tokens: int | None
    """None is as many as the context has room for."""
    temperature: float
    top_p: float
    seed: int | None
    """The same seed gives the same text."""
    stop: tuple[str, ...]
    """The text ends before the first of these."""


@dataclass(frozen=True)
class Completion:
    """An answer, with its lengths in tokens."""

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int


class Engine:
    """Generates as any of the served models."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._tokenizer = weights.tokenizer
        self._end_tokens = _end_tokens(weights)
        # generate() fills what a request leaves open from the model's own defaults (temperature 0.6, top_k 50 ...)
        weights.model.generation_config = GenerationConfig()

    @property
    def served(self) -> Mapping[str, Served]:
        """By model id."""
        return self._weights.served

    @property
    def context(self) -> int:
        """Tokens of prompt and answer together."""
        return self._weights.context

    def complete(self, name: str, messages: list[dict[str, str]], sampling: Sampling, cancelled: Event) -> Completion:
        """Answer ``messages`` as ``name``; ends early, with what it has, once ``cancelled`` is set.

        Raises:
            BadPrompt: the chat template refuses the messages.
            ContextOverflow: prompt and answer do not fit.
        """
        prompt = self._encode(messages)
        room = self._room(len(prompt), sampling.max_tokens)
        halt = _Halt(self._tokenizer, len(prompt), sampling.stop, cancelled)
        self._weights.select(name)
        return self._completion(prompt, self._generate(prompt, room, sampling, halt), sampling.stop)

    def _encode(self, messages: list[dict[str, str]]) -> list[int]:
        try:
            encoded: Any = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        except (TemplateError, TypeError, ValueError) as error:
            raise BadPrompt(f"The chat template refuses these messages: {error}") from error
        return list(encoded["input_ids"])

    def _room(self, prompt: int, wanted: int | None) -> int:
        room = self.context - prompt if wanted is None else wanted
        if room < 1 or prompt + room > self.context:
            asked = max(room, 1)
            raise ContextOverflow(  # OpenAI's wording: clients, litellm among them, recognise it
                f"This model's maximum context length is {self.context} tokens. However, you requested "
                f"{prompt + asked} tokens ({prompt} in the messages, {asked} in the completion). "
                "Please reduce the length of the messages or completion."
            )
        return room

    def _generate(self, prompt: list[int], room: int, sampling: Sampling, halt: _Halt) -> list[int]:
        model = self._weights.model
        ids = torch.tensor([prompt], device=model.device)
        torch.manual_seed(secrets.randbits(63) if sampling.seed is None else sampling.seed)
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=self._config(room, sampling),
                stopping_criteria=StoppingCriteriaList([halt]),
            )
        return [int(token) for token in output[0, len(prompt) :]]

    def _config(self, room: int, sampling: Sampling) -> GenerationConfig:
        choice: dict[str, Any] = {"do_sample": False}
        if sampling.temperature >= GREEDY_BELOW:
            # transformers' own default is top_k=50, which nobody asked for
            choice = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        return GenerationConfig(
            max_new_tokens=room,
            eos_token_id=self._end_tokens or None,
            pad_token_id=self._end_tokens[0] if self._end_tokens else 0,
            **choice,
        )

    def _completion(self, prompt: list[int], new: list[int], stop: tuple[str, ...]) -> Completion:
        ended = bool(new) and new[-1] in self._end_tokens
        text = _decode(self._tokenizer, new[:-1] if ended else new)
        cut = min((at for at in map(text.find, stop) if at >= 0), default=None)
        finish_reason: Literal["stop", "length"] = "length" if cut is None and not ended else "stop"
        return Completion(text[:cut], finish_reason, len(prompt), len(new))


class _Halt(StoppingCriteria):
    """Stops at a stop string, or when nobody waits for the answer any more."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompt: int, stop: tuple[str, ...], cancelled: Event
    ) -> None:
        self._tokenizer, self._prompt, self._stop, self._cancelled = tokenizer, prompt, stop, cancelled
        # A token is at least a byte; one more for decoders that drop the first space.
        self._tail = max((len(text.encode()) for text in stop), default=0) + 1

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **_: Any) -> torch.BoolTensor:
        done = self._cancelled.is_set() or self._has_stop(input_ids[0])
        return torch.full((len(input_ids),), done, device=input_ids.device, dtype=torch.bool)  # type: ignore[return-value]

    def _has_stop(self, ids: torch.Tensor) -> bool:
        if not self._stop:
            return False
        tail = _decode(self._tokenizer, ids[max(self._prompt, len(ids) - self._tail) :].tolist())
        return any(text in tail for text in self._stop)


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    # the clean-up takes spaces out before punctuation, which is fatal to code
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _end_tokens(weights: Weights) -> list[int]:
    """The model's and the tokenizer's: either alone is incomplete in real checkpoints."""
    own = weights.model.generation_config.eos_token_id
    found = own if isinstance(own, list) else [own]
    return [token for token in dict.fromkeys([*found, weights.tokenizer.eos_token_id]) if token is not None]
