"""Engines of our server in this process, and answers from them."""

from __future__ import annotations

from queue import SimpleQueue

from serving_fixtures import HELLO

from swe_eval.serving.app.engine import Engine
from swe_eval.serving.app.sampling import Sampling
from swe_eval.serving.app.sequence import Piece, Request

GREEDY = Sampling(max_tokens=8, temperature=0, top_p=1, seed=None, stop=())


def complete(engine: Engine, name: str = "base", sampling: Sampling = GREEDY) -> Piece:
    """The answer to HELLO."""
    return complete_all(engine, Request(name, engine.chat_prompt(HELLO, None), sampling))[0]


def complete_all(engine: Engine, *requests: Request) -> list[Piece]:
    """The answers, computed together; raises the first one's error."""
    queues: list[SimpleQueue[Piece | Exception]] = [SimpleQueue() for _ in requests]
    for request, queue in zip(requests, queues, strict=True):
        engine.submit(request, queue.put)
    pieces = []
    for queue in queues:
        piece = queue.get(timeout=60)
        if isinstance(piece, Exception):
            raise piece
        pieces.append(piece)
    return pieces
