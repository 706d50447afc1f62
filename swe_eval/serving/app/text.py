"""Tokens to text as they are generated, cut at stop strings."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"
"""What a tokenizer makes of the first bytes of a character."""


class TextStream:
    """The text of a growing list of tokens, up to the first stop string.

    Args:
        keep_special: special tokens are text too, which parsers of tool calls need.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: tuple[str, ...], keep_special: bool) -> None:
        self._tokenizer, self._stop, self._keep_special = tokenizer, stop, keep_special
        self._longest = max(map(len, stop), default=0)
        self._tokens: list[int] = []
        self._before, self._read = 0, 0  # tokens[:read] are in the text; tokens[before:read] decide how it goes on
        self._text, self._sent = "", 0
        self.is_stopped = False

    def push(self, token: int) -> None:
        """Add a token; ``is_stopped`` once its text completes a stop string."""
        self._tokens.append(token)
        window = self._decode(self._before, None)
        if not window.endswith(UNFINISHED):
            self._extend(window)

    def close(self) -> None:
        """There are no more tokens: an unfinished character stays unfinished."""
        if not self.is_stopped:
            self._extend(self._decode(self._before, None))
        self._stop = ()

    def take(self) -> str:
        """New text that will not change: what may be the start of a stop string is held back."""
        certain = len(self._text) - held_back(self._text, () if self.is_stopped else self._stop)
        new = self._text[self._sent : certain]
        self._sent += len(new)
        return new

    def _extend(self, window: str) -> None:
        searched = max(0, len(self._text) - self._longest)
        self._text += window[len(self._decode(self._before, self._read)) :]
        self._before, self._read = self._read, len(self._tokens)
        if cuts := [at for stop in self._stop if (at := self._text.find(stop, searched)) >= 0]:
            self._text, self.is_stopped = self._text[: min(cuts)], True

    def _decode(self, start: int, end: int | None) -> str:
        return decode(self._tokenizer, self._tokens[start:end], self._keep_special)


def decode(tokenizer: PreTrainedTokenizerBase, tokens: list[int], keep_special: bool) -> str:
    """Text of tokens with every space: the usual clean-up removes spaces before punctuation, which breaks code."""
    return str(tokenizer.decode(tokens, skip_special_tokens=not keep_special, clean_up_tokenization_spaces=False))


def held_back(text: str, markers: Iterable[str]) -> int:
    """Length of the longest end of ``text`` that begins, but does not complete, one of ``markers``."""
    return max((_overlap(text, marker) for marker in markers), default=0)


def _overlap(text: str, marker: str) -> int:
    lengths = range(min(len(marker) - 1, len(text)), 0, -1)
    return next((length for length in lengths if text.endswith(marker[:length])), 0)
