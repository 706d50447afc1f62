"""How fast the server wrote: over the whole run, and in its best stretch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swe_eval.report.results import Arm, Call

PARTS = 60
"""The stretches into which the time of a run is divided, at most."""
SHORTEST = 2.0
"""Seconds of a stretch, at least."""


def throughput(arms: Iterable[Arm]) -> dict[str, Any]:
    """Tokens per second that the model wrote, while any answer was awaited.

    Returns:
        ``seconds``: how long at least one answer was awaited. ``mean``: all tokens over these seconds. ``best``: the
        rate in the best of the run's stretches, which the server is therefore able to do. ``course``: each stretch as
        ``[seconds since the start, tokens per second]``. Empty if the duration of no answer is known.
    """
    calls = [call for arm in arms for verdict in arm.verdicts.values() for call in verdict.calls if call.ended]
    if not calls or not (busy := _busy(calls)):
        return {}
    begin, end = min(call.ended - call.seconds for call in calls), max(call.ended for call in calls)
    edges = np.linspace(begin, end, max(1, min(PARTS, int((end - begin) / SHORTEST))) + 1)
    rates = np.diff(_written(calls, edges)) / np.diff(edges)
    course = zip((edges - begin).round(1).tolist(), rates.round(1).tolist(), strict=False)
    return {
        "mean": sum(call.completion_tokens for call in calls) / busy,
        "best": float(rates.max()),
        "seconds": busy,
        "course": [list(each) for each in course],
    }


def _written(calls: Sequence[Call], moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Tokens written before each moment, if every answer was written at an even pace."""
    ended, seconds, tokens = (np.array(column, dtype=float) for column in zip(*calls, strict=True))
    seconds = np.maximum(seconds, 1e-3)
    return np.array([np.sum(tokens * np.clip((at - ended + seconds) / seconds, 0, 1)) for at in moments])


def _busy(calls: Iterable[Call]) -> float:
    """Seconds during which at least one of the calls was under way."""
    total = until = 0.0
    for begun, ended in sorted((call.ended - call.seconds, call.ended) for call in calls):
        total += max(0.0, ended - max(begun, until))
        until = max(until, ended)
    return total
