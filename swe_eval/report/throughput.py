"""How fast the server wrote: over the whole run, and in its best stretch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swe_eval.report.results import Arm, Call

PARTS = 60
"""The stretches into which the seconds with an answer under way are divided, at most."""
SHORTEST = 2.0
"""Seconds of a stretch, at least."""


def throughput(arms: Iterable[Arm]) -> dict[str, Any]:
    """Tokens per second that the model wrote, while any answer was awaited.

    Returns:
        ``seconds``: how long at least one answer was awaited. ``mean``: all tokens over these seconds. ``best``: the
        rate in the best of the stretches into which these seconds are divided, which the server is therefore able to
        do. ``course``: each stretch as ``[these seconds before it, tokens per second]``. Empty if the duration of no
        answer is known.
    """
    known = [call for arm in arms for verdict in arm.verdicts.values() for call in verdict.calls]
    if not (calls := _without_pauses(call for call in known if call.ended and call.seconds > 0)):
        return {}
    busy = max(call.ended for call in calls)
    edges = np.linspace(0, busy, max(1, min(PARTS, int(busy / SHORTEST))) + 1)
    rates = np.diff(_written(calls, edges)) / np.diff(edges)
    course = zip(edges.round(1).tolist(), rates.round(1).tolist(), strict=False)
    return {
        "mean": sum(call.completion_tokens for call in calls) / busy,
        "best": float(rates.max()),
        "seconds": busy,
        "course": [list(each) for each in course],
    }


def _written(calls: Sequence[Call], moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Tokens written before each moment, if every answer was written at an even pace."""
    ended, seconds, tokens = (np.array(column, dtype=float) for column in zip(*calls, strict=True))
    return np.array([np.sum(tokens * np.clip((at - ended + seconds) / seconds, 0, 1)) for at in moments])


def _without_pauses(calls: Iterable[Call]) -> list[Call]:
    """The calls by a clock that starts with the first of them, and stands still while none is under way."""
    moved: list[Call] = []
    idle = until = 0.0
    for call in sorted(calls, key=lambda call: call.ended - call.seconds):
        idle += max(0.0, call.ended - call.seconds - until)
        until = max(until, call.ended)
        moved.append(call._replace(ended=call.ended - idle))
    return moved
