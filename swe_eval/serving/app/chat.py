"""``/v1/chat/completions``."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response

from swe_eval.serving.app.answering import Answers, EventStream, Head
from swe_eval.serving.app.engine import Engine
from swe_eval.serving.app.errors import ApiError
from swe_eval.serving.app.protocol import ChatRequest, FunctionCall
from swe_eval.serving.app.sampling import TokenLogprob
from swe_eval.serving.app.sequence import Piece, Request
from swe_eval.serving.app.tools import Parsed, ToolParser, ToolStream


class Chat:
    """Answers conversations.

    Args:
        parser: reads tool calls; None refuses tools.
    """

    def __init__(self, engine: Engine, parser: ToolParser | None) -> None:
        self._engine, self._parser = engine, parser

    def requests(self, asked: ChatRequest) -> list[Request]:
        """One for each choice.

        Raises:
            BadPrompt: the chat template refuses the messages.
            ApiError: the model has no way to call tools.
        """
        if asked.offered and not self._parser:
            raise ApiError(400, "tools= is not supported by this model, whose chat template knows none: leave it out")
        prompt = self._engine.chat_prompt(asked.conversation, asked.offered or None)
        keep_special = bool(asked.offered)  # markers of calls may be special tokens
        return [
            Request(asked.model, prompt, asked.sampling(index), keep_special, asked.stream) for index in range(asked.n)
        ]

    async def respond(self, asked: ChatRequest, requests: list[Request], http: HttpRequest) -> Response:
        """The whole answer, or a stream of it."""
        answers = Answers(self._engine, requests, prompt_tokens=len(requests[0].prompt))
        if asked.stream:
            return EventStream(answers, self._chunks(asked, answers))
        pieces = await answers.whole(http)
        choices = [self._choice(asked, index, piece) for index, piece in enumerate(pieces)]
        return JSONResponse(Head(asked.model, "chat.completion").with_choices(choices, usage=answers.usage.told))

    def _choice(self, asked: ChatRequest, index: int, piece: Piece) -> dict[str, Any]:
        parsed = _parsed(asked, piece, self._tool_stream(asked))
        message: dict[str, Any] = {"role": "assistant", "content": parsed.content}
        if parsed.calls:
            message |= {"content": parsed.content or None, "tool_calls": [_call(call) for call in parsed.calls]}
        return {
            "index": index,
            "message": message,
            "finish_reason": _finish_reason(piece, parsed),
            "logprobs": self._logprobs(piece.logprobs) if asked.logprobs else None,
        }

    async def _chunks(self, asked: ChatRequest, answers: Answers) -> AsyncIterator[dict[str, Any]]:
        head = Head(asked.model, "chat.completion.chunk")
        rest = {"usage": None} if asked.stream_options.include_usage else {}
        streams = [self._tool_stream(asked) for _ in range(asked.n)]
        for index in range(asked.n):
            yield head.with_choices([_delta(index, {"role": "assistant", "content": ""})], **rest)
        async for index, piece in answers.pieces():
            for choice in self._deltas(asked, index, piece, streams[index]):
                yield head.with_choices([choice], **rest)
        if asked.stream_options.include_usage:
            yield head.with_choices([], usage=answers.usage.told)

    def _deltas(self, asked: ChatRequest, index: int, piece: Piece, stream: ToolStream | None) -> list[dict[str, Any]]:
        logprobs = self._logprobs(piece.logprobs) if asked.logprobs else None
        parsed = _parsed(asked, piece, stream)
        deltas = []
        if parsed.content or piece.logprobs:
            deltas.append(_delta(index, {"content": parsed.content}, logprobs))
        if parsed.calls:
            calls = [{"index": at, **_call(call)} for at, call in enumerate(parsed.calls)]
            deltas.append(_delta(index, {"tool_calls": calls}))
        if piece.finish_reason:
            deltas.append({**_delta(index, {}), "finish_reason": _finish_reason(piece, parsed)})
        return deltas

    def _tool_stream(self, asked: ChatRequest) -> ToolStream | None:
        if not (asked.offered and self._parser):
            return None
        return ToolStream(self._parser, asked.offered, self._engine.special_tokens)

    def _logprobs(self, scores: list[TokenLogprob]) -> dict[str, Any]:
        return {"content": [self._score(score) for score in scores], "refusal": None}

    def _score(self, score: TokenLogprob) -> dict[str, Any]:
        top = [self._alternative(token, logprob) for token, logprob in score.top]
        return {**self._alternative(score.token, score.logprob), "top_logprobs": top}

    def _alternative(self, token: int, logprob: float | None) -> dict[str, Any]:
        text = self._engine.token_text(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _parsed(asked: ChatRequest, piece: Piece, stream: ToolStream | None) -> Parsed:
    """New content, and the calls if the piece is the last one."""
    if not stream:
        return Parsed(piece.text)
    content = stream.push(piece.text)
    if not piece.finish_reason:
        return Parsed(content)
    rest = stream.close(asked.most_calls)
    return Parsed(content + rest.content, rest.calls)


def _finish_reason(piece: Piece, parsed: Parsed) -> str | None:
    return "tool_calls" if parsed.calls else piece.finish_reason


def _delta(index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}


def _call(call: FunctionCall) -> dict[str, Any]:
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": call.model_dump()}
