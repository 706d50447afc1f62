"""What benchmarks print: how busy the machine was, medians with their spread, and the figures as the last line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from statistics import median

from rich.console import Console, RenderableType


def machine() -> str:
    """The processor's cores and load; call it before the benchmark itself is a load."""
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start"


def spread(values: Sequence[float], digits: int = 1) -> str:
    """``median [lowest, highest]``, with rich's brackets escaped."""
    middle, low, high = (f"{pick(values):.{digits}f}" for pick in (median, min, max))
    return f"{middle} \\[{low}, {high}]"


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the ratios of each round: what drifts from round to round cancels."""
    return median(a / b for a, b in zip(above, below, strict=True))


def print_result(figures: Mapping[str, float], *shown: RenderableType) -> None:
    """Print what is shown to people, then the figures to four significant digits, as one JSON object."""
    Console(highlight=False).print(*shown, sep="\n")
    print(json.dumps({name: float(f"{figure:.4g}") for name, figure in figures.items()}))
