"""How a sequence chooses its next token: by its own parameters and randomness, whatever is computed beside it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

GREEDY_BELOW = 1e-5
"""Temperatures under this are 0: dividing by them overflows."""
IMPOSSIBLE = -9999.0
"""Stands for a log-probability of minus infinity, which JSON cannot tell."""


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
    logprobs: int | None = None
    """Return the log-probability of every token, and of so many of the likeliest tokens in its place."""
    prompt_logprobs: bool = False
    """The same for the prompt."""

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW


@dataclass(frozen=True)
class TokenLogprob:
    """A token and its natural log-probability under the model as it is, before temperature and top_p."""

    token: int
    logprob: float | None
    """None for the first token of a prompt."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens at its place."""


class Sampler:
    """Draws the tokens of one sequence."""

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        self._sampling = sampling
        self._random = torch.Generator(device)
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed)

    def draw(self, logits: torch.Tensor) -> int:
        """A token by its logits, shape [vocabulary]."""
        if self._sampling.is_greedy:
            return int(logits.argmax())
        # in float32: sums of 16-bit probabilities are rounded to 1 before the rare tokens, which were then never drawn
        likely, tokens = (logits.float() / self._sampling.temperature).softmax(-1).sort(descending=True)
        outside = likely.cumsum(-1) - likely >= self._sampling.top_p  # never the likeliest: nothing is before it
        return int(tokens[torch.multinomial(likely.masked_fill(outside, 0), 1, generator=self._random)])


def score(logits: torch.Tensor, tokens: list[int], alternatives: int) -> list[TokenLogprob]:
    """Log-probability of each token by the logits in its place, shape [tokens, vocabulary]."""
    logprobs = logits.float().log_softmax(-1).clamp(min=IMPOSSIBLE)
    own = logprobs[torch.arange(len(tokens)), tokens].tolist()
    top = logprobs.topk(alternatives)
    tops = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [
        TokenLogprob(token, logprob, tuple(zip(*best, strict=True)))
        for token, logprob, best in zip(tokens, own, tops, strict=True)
    ]
