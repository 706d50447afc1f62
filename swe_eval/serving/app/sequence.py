"""One answer while it is generated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase

from swe_eval.serving.app.sampling import Sampler, Sampling, TokenLogprob, score
from swe_eval.serving.app.text import TextStream

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Request:
    """What to answer, by which model, and how."""

    model: str
    """A served model id."""
    prompt: list[int]
    sampling: Sampling
    keep_special: bool = False
    """Special tokens are part of the text."""
    stream: bool = False
    """Deliver text as it comes, not once at the end."""


@dataclass(frozen=True)
class Piece:
    """A part of an answer; the last one has a finish reason."""

    text: str
    logprobs: list[TokenLogprob]
    finish_reason: FinishReason | None = None
    completion_tokens: int = 0
    """In the whole answer; in the last piece only, as is what follows."""
    cached_tokens: int = 0
    """Of the prompt, that did not have to be read again."""
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


Deliver = Callable[[Piece | Exception], None]
"""Takes an answer's pieces, or the reason why there are no more; called in the engine's thread."""


class Sequence:
    """The tokens of a request and its answer, and everything that decides the next one."""

    def __init__(
        self,
        request: Request,
        room: int,
        end_tokens: frozenset[int],
        tokenizer: PreTrainedTokenizerBase,
        device: torch.device,
        deliver: Deliver,
    ) -> None:
        self.request = request
        self.tokens = list(request.prompt)
        self.deliver = deliver
        self.is_cancelled = False
        self.cached_tokens = 0
        self.prompt_logprobs: list[TokenLogprob] = []
        self.finish_reason: FinishReason | None = None if room else "length"
        self._room, self._end_tokens = room, end_tokens
        self._sampler = Sampler(request.sampling, device)
        self._text = TextStream(tokenizer, request.sampling.stop, request.keep_special)
        self._logprobs: list[TokenLogprob] = []

    def cancel(self) -> None:
        """Stop: the answer is not needed any more. May be called in any thread."""
        self.is_cancelled = True

    @property
    def completion_tokens(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    def choose(self, logits: torch.Tensor) -> None:
        """Add a token chosen by these logits, shape [vocabulary]; sets ``finish_reason`` if it is the last."""
        token = self._sampler.draw(logits)
        self.tokens.append(token)
        if (alternatives := self.request.sampling.logprobs) is not None:
            self._logprobs += score(logits[None], [token], alternatives)
        if token in self._end_tokens:
            self.finish_reason = "stop"
        else:
            self._text.push(token)
            is_full = self.completion_tokens == self._room
            self.finish_reason = "stop" if self._text.is_stopped else "length" if is_full else None
        if self.request.stream and not self.finish_reason:
            self._deliver_piece()

    def score_prompt(self, logits: torch.Tensor, start: int) -> None:
        """Record the log-probabilities of the prompt's tokens after ``start``; logits of shape [tokens, vocabulary]."""
        if start == 0:
            self.prompt_logprobs = [TokenLogprob(self.tokens[0], None)]
        told = self.request.prompt[start + 1 : start + 1 + len(logits)]
        self.prompt_logprobs += score(logits[: len(told)], told, self.request.sampling.logprobs or 0)

    def finish(self) -> None:
        """Deliver the rest."""
        self._text.close()
        self.deliver(
            Piece(
                self._text.take(),
                self._logprobs,
                self.finish_reason,
                self.completion_tokens,
                self.cached_tokens,
                tuple(self.prompt_logprobs),
            )
        )

    def _deliver_piece(self) -> None:
        text = self._text.take()
        if text or self._logprobs:
            self.deliver(Piece(text, self._logprobs))
            self._logprobs = []
