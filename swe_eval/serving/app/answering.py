"""From one HTTP request to the engine and back: all its answers are cancelled when its client goes."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request as HttpRequest
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from swe_eval.serving.app.engine import Engine
from swe_eval.serving.app.errors import ApiError, as_api_error
from swe_eval.serving.app.sequence import Piece, Request, Sequence

logger = logging.getLogger(__name__)

CLIENT_GONE = 499
"""nginx's status for an answer that nobody is there to read."""


@dataclass
class Usage:
    """Lengths in tokens."""

    prompt: int
    completion: int = 0
    cached: int = 0

    def count(self, last: Piece) -> None:
        """Add an answer; of several to one prompt, the largest number of cached tokens counts."""
        self.completion += last.completion_tokens
        self.cached = max(self.cached, last.cached_tokens)

    @property
    def told(self) -> dict[str, Any]:
        """In OpenAI's form."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


@dataclass
class Head:
    """The fields that all parts of an answer share."""

    model: str
    kind: str
    """``chat.completion``, ``chat.completion.chunk`` or ``text_completion``."""
    id: str = field(default_factory=lambda: f"cmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def with_choices(self, choices: list[dict[str, Any]], **rest: Any) -> dict[str, Any]:
        head = {"id": self.id, "object": self.kind, "created": self.created, "model": self.model}
        return {**head, "choices": choices, **rest}


class Answers:
    """The answers to an HTTP request, in pieces, while its client waits for them."""

    def __init__(self, engine: Engine, requests: Collection[Request], prompt_tokens: int) -> None:
        """Queue the requests, all or none.

        Raises:
            BadPrompt, Busy, Stopping: see the engine.
        """
        self.usage = Usage(prompt_tokens)
        self._began = time.monotonic()
        self._model = next(iter(requests)).model
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[tuple[int, Piece | Exception]] = asyncio.Queue()
        self._sequences: list[Sequence] = []
        try:
            for index, request in enumerate(requests):
                self._sequences.append(engine.submit(request, self._deliver_as(index)))
        except Exception:
            self.cancel()
            raise

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Each with the index of its request, until all are finished, which is logged."""
        unfinished = len(self._sequences)
        while unfinished:
            index, piece = await self._pieces.get()
            if isinstance(piece, Exception):
                raise piece
            yield index, piece
            if piece.finish_reason:
                self.usage.count(piece)
                unfinished -= 1
        self._log()

    async def whole(self, http: HttpRequest) -> list[Piece]:
        """Every answer in one piece, for requests that do not stream.

        Raises:
            ApiError: the client left; then nothing more is computed.
        """
        collecting = asyncio.ensure_future(self._collect())
        leaving = asyncio.ensure_future(_left(http))
        try:
            await asyncio.wait([collecting, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not collecting.done():
                raise ApiError(CLIENT_GONE, "The client has disconnected.")
            return collecting.result()
        finally:
            collecting.cancel()
            leaving.cancel()
            self.cancel()

    def cancel(self) -> None:
        """Stop computing what is unfinished."""
        for sequence in self._sequences:
            sequence.cancel()

    def _log(self) -> None:
        usage, seconds = self.usage, time.monotonic() - self._began
        counts = usage.prompt, usage.completion, usage.cached
        logger.info("%s: %d + %d tokens, %d cached, %.2f s", self._model, *counts, seconds)

    async def _collect(self) -> list[Piece]:
        by_index = {index: piece async for index, piece in self.pieces()}
        return [by_index[index] for index in sorted(by_index)]

    def _deliver_as(self, index: int) -> Any:
        def deliver(piece: Piece | Exception) -> None:
            with suppress(RuntimeError):  # the loop is closed: the server is going down
                self._loop.call_soon_threadsafe(self._pieces.put_nowait, (index, piece))

        return deliver


class EventStream(StreamingResponse):
    """Server-sent events, ended by ``[DONE]``; if the client goes away, so do the answers."""

    def __init__(self, answers: Answers, events: AsyncIterator[dict[str, Any]]) -> None:
        super().__init__(_lines(events), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # not in the generator: it may never have begun
            self._answers.cancel()


async def _lines(events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    try:
        async for event in events:
            yield f"data: {json.dumps(event, ensure_ascii=False)}\n\n"
    except Exception as error:  # the status line has long been sent
        yield f"data: {json.dumps(as_api_error(error).body)}\n\n"
    yield "data: [DONE]\n\n"


async def _left(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
