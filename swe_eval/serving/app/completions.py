"""``/v1/completions``: text goes on, and given text is scored (``echo`` with ``logprobs``), as vLLM does both."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import accumulate
from typing import Any

from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response

from swe_eval.serving.app.answering import Answers, EventStream, Head
from swe_eval.serving.app.engine import Engine
from swe_eval.serving.app.errors import ApiError
from swe_eval.serving.app.protocol import CompletionRequest
from swe_eval.serving.app.sampling import TokenLogprob
from swe_eval.serving.app.sequence import Piece, Request


class Completions:
    """Continues prompts."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def requests(self, asked: CompletionRequest) -> list[Request]:
        """``n`` for each prompt, prompt after prompt.

        Raises:
            BadPrompt: a prompt is empty or not in the vocabulary.
            ApiError: prompts cannot be echoed into a stream.
        """
        if asked.stream and asked.echo:
            raise ApiError(400, "echo=true is not supported in a stream: leave one of them out")
        prompts = [self._engine.text_prompt(prompt) for prompt in asked.prompts]
        return [
            Request(asked.model, prompt, asked.sampling(index), stream=asked.stream)
            for prompt in prompts
            for index in range(asked.n)
        ]

    async def respond(self, asked: CompletionRequest, requests: list[Request], http: HttpRequest) -> Response:
        """The whole answer, or a stream of it."""
        prompt_tokens = sum(len(request.prompt) for request in requests[:: asked.n])
        answers = Answers(self._engine, requests, prompt_tokens)
        if asked.stream:
            return EventStream(answers, self._chunks(asked, answers))
        pieces = await answers.whole(http)
        pairs = enumerate(zip(requests, pieces, strict=True))
        choices = [self._choice(asked, index, request, piece) for index, (request, piece) in pairs]
        return JSONResponse(Head(asked.model, "text_completion").with_choices(choices, usage=answers.usage.told))

    def _choice(self, asked: CompletionRequest, index: int, request: Request, piece: Piece) -> dict[str, Any]:
        echoed = self._engine.text(request.prompt) if asked.echo else ""
        scores = [*piece.prompt_logprobs, *piece.logprobs]
        return {
            "index": index,
            "text": echoed + piece.text,
            "logprobs": None if asked.logprobs is None else self._logprobs(scores),
            "finish_reason": piece.finish_reason,
        }

    async def _chunks(self, asked: CompletionRequest, answers: Answers) -> AsyncIterator[dict[str, Any]]:
        head = Head(asked.model, "text_completion")
        rest = {"usage": None} if asked.stream_options.include_usage else {}
        async for index, piece in answers.pieces():
            logprobs = None if asked.logprobs is None else self._logprobs(piece.logprobs)
            choice = {"index": index, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.finish_reason}
            yield head.with_choices([choice], **rest)
        if asked.stream_options.include_usage:
            yield head.with_choices([], usage=answers.usage.told)

    def _logprobs(self, scores: list[TokenLogprob]) -> dict[str, list[Any]]:
        texts = [self._engine.token_text(score.token) for score in scores]
        *starts, _ = accumulate(map(len, texts), initial=0)
        return {
            "tokens": texts,
            "token_logprobs": [score.logprob for score in scores],
            "top_logprobs": [self._top(score) for score in scores],
            "text_offset": starts,
        }

    def _top(self, score: TokenLogprob) -> dict[str, float] | None:
        """By text: of tokens with the same text (broken bytes), the likelier."""
        if score.logprob is None:
            return None
        return {self._engine.token_text(token): logprob for token, logprob in reversed(score.top)}
