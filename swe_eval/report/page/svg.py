"""The page's drawings, as SVG that takes its colours from the page and its width from the screen.

Positions are in per cent of the drawing, so that text and strokes keep their size on a phone. Drawings are hidden from
screen readers, which find the same numbers in the table or the caption beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil, floor, log10

from markupsafe import Markup, escape

from swe_eval.report.numbers import MINUS
from swe_eval.statistics import Interval

Point = tuple[float, float]
BINS = 24
"""A histogram's."""


@dataclass(frozen=True)
class Axis:
    """A range of values, and the round values in it that are marked."""

    low: float
    high: float
    ticks: Sequence[float]

    @classmethod
    def over(cls, values: Iterable[float]) -> Axis:
        """An axis with round ends that holds all the values."""
        kept = list(values)
        low, high = min(kept, default=0.0), max(kept, default=1.0)
        high = high if high > low else low + 1
        step = _round_up((high - low) / 5)
        first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
        ticks = [round(step * number, 10) for number in range(first, last + 1)]
        return cls(ticks[0], ticks[-1], ticks)

    def at(self, value: float) -> float:
        """The position of a value, in per cent from the low end; what lies outside is put at the nearer end."""
        return round(100 * min(max((value - self.low) / (self.high - self.low), 0.0), 1.0), 2)


def whisker(axis: Axis, value: float, interval: Interval, kind: str, zero: bool = False) -> Markup:
    """A value with its interval, on a line of its own; ``zero`` marks where 0 is."""
    low, high, at = axis.at(interval.low), axis.at(interval.high), axis.at(value)
    grid = [_line(axis.at(tick), 0, axis.at(tick), 100, "grid") for tick in axis.ticks]
    origin = [_line(axis.at(0), 0, axis.at(0), 100, "zero")] if zero else []
    bar = [_line(low, 50, high, 50, f"bar {kind}"), *(_line(end, 32, end, 68, f"bar {kind}") for end in (low, high))]
    return _drawing("whisker", [*grid, *origin, *bar, f'<circle class="dot {kind}" cx="{at}%" cy="50%" r="5.5"/>'])


def scale(axis: Axis, label: str) -> Markup:
    """The labelled axis to be set below whiskers."""
    ticks = [f'<text x="{axis.at(tick)}%" y="12" text-anchor="middle">{_number(tick)}</text>' for tick in axis.ticks]
    return _drawing("scale", [*ticks, f'<text x="50%" y="29" text-anchor="middle">{label}</text>'])


def stacked(parts: Sequence[tuple[str, int]]) -> Markup:
    """A bar divided into parts, each given as its CSS class and its count."""
    whole, at, drawn = sum(count for _, count in parts) or 1, 0.0, []
    for kind, count in parts:
        width = 100 * count / whole
        if count:
            drawn.append(f'<rect class="{kind}" x="{at:.2f}%" y="0" width="{width:.2f}%" height="100%"/>')
        at += width
    return _drawing("stacked", drawn)


def balance(lost: int, gained: int, most: int) -> Markup:
    """What was lost as a bar to the left of the middle, what was gained to the right; ``most`` fills a side."""
    left, right = 50 * lost / max(most, 1), 50 * gained / max(most, 1)
    return _drawing(
        "balance",
        [
            f'<rect class="lost" x="{50 - left:.2f}%" y="15%" width="{left:.2f}%" height="70%"/>',
            f'<rect class="gained" x="50%" y="15%" width="{right:.2f}%" height="70%"/>',
            _line(50, 0, 50, 100, "zero"),
        ],
    )


def histogram(values: Sequence[float], axis: Axis) -> Markup:
    """How often which value occurs; the highest bin fills the height."""
    counts = [0] * BINS
    for value in values:
        counts[min(int(axis.at(value) / 100 * BINS), BINS - 1)] += 1
    top, width = max(counts) or 1, 100 / BINS
    drawn = [
        f'<rect x="{index * width:.2f}%" y="{100 - 100 * count / top:.1f}%" width="{width * 0.86:.2f}%" '
        f'height="{100 * count / top:.1f}%"/>'
        for index, count in enumerate(counts)
        if count
    ]
    return _drawing("histogram", drawn)


def matrix(rows: Sequence[Sequence[bool]]) -> Markup:
    """A line for each row of cells, blue where a cell is true; it stretches to the size of the drawing."""
    drawn = "".join(
        f"M{start} {at}h{length}v.86h-{length}z" for at, row in enumerate(rows) for start, length in _runs(row)
    )
    width, height = len(rows[0]) if rows else 1, len(rows) or 1
    box = f'viewBox="0 0 {width} {height}" preserveAspectRatio="none" width="100%" height="100%"'
    return _drawing("matrix", [f'<svg {box}><path d="{drawn}"/></svg>'])


def _runs(row: Sequence[bool]) -> Iterator[tuple[int, int]]:
    at = 0
    for is_filled, members in groupby(row):
        length = len(list(members))
        if is_filled:
            yield at, length
        at += length


@dataclass(frozen=True)
class Series:
    """A line of a graph, and what is drawn around it."""

    name: str
    kind: str
    """Its CSS class."""
    points: Sequence[Point]
    band: Sequence[tuple[float, float, float]] = ()
    """(x, low, high) of each point; empty for none."""
    dots: Sequence[str] = ()
    """The tooltip of each point's dot; empty for no dots."""
    hollow: Sequence[bool] = ()
    """Whether each dot is."""


def graph(series: Sequence[Series], x: Axis, y: Axis, x_label: str, y_label: str) -> Markup:
    """Lines over a grid. The lines stretch with the screen; their strokes and the labels keep their size."""
    grid = [_line(0, 100 - y.at(tick), 100, 100 - y.at(tick), "grid") for tick in y.ticks]
    ys = [
        f'<text x="0" dx="-8" y="{100 - y.at(tick)}%" dy="4" text-anchor="end">{_number(tick)}</text>'
        for tick in y.ticks
    ]
    xs = [f'<text x="{x.at(tick)}%" y="100%" dy="18" text-anchor="middle">{_number(tick)}</text>' for tick in x.ticks]
    names = [
        f'<text x="50%" y="100%" dy="38" text-anchor="middle">{x_label}</text>',
        f'<text x="0" y="0" dy="-14" dx="-8" text-anchor="start">{y_label}</text>',
    ]
    lines = "".join(_band(each, x, y) + _path(each, x, y) for each in series)
    stretched = f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="100%">{lines}</svg>'
    dots = [_dot(each, at, x, y) for each in series for at in range(len(each.dots))]
    return _drawing("graph", [*grid, *ys, *xs, *names, stretched, *dots])


def _dot(series: Series, at: int, x: Axis, y: Axis) -> str:
    (step, value), hollow = series.points[at], " hollow" * series.hollow[at]
    place = f'cx="{x.at(step)}%" cy="{round(100 - y.at(value), 2)}%" r="4"'
    return f'<circle class="dot {series.kind}{hollow}" {place}><title>{escape(series.dots[at])}</title></circle>'


def _band(series: Series, x: Axis, y: Axis) -> str:
    if not series.band:
        return ""
    upper = [f"{x.at(at)},{100 - y.at(high):.2f}" for at, _, high in series.band]
    lower = [f"{x.at(at)},{100 - y.at(low):.2f}" for at, low, _ in reversed(series.band)]
    return f'<polygon class="band {series.kind}" points="{" ".join([*upper, *lower])}"/>'


def _path(series: Series, x: Axis, y: Axis) -> str:
    points = " ".join(f"{x.at(at)},{100 - y.at(value):.2f}" for at, value in series.points)
    return f'<polyline class="line {series.kind}" points="{points}"/>'


def _drawing(kind: str, parts: Iterable[str]) -> Markup:
    return Markup(f'<svg class="{kind}" aria-hidden="true" focusable="false">{"".join(parts)}</svg>')


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1}%" y1="{y1}%" x2="{x2}%" y2="{y2}%"/>'


def _round_up(step: float) -> float:
    """To 1, 2 or 5 times a power of ten."""
    power = 10 ** floor(log10(step))
    return float(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9)))


def _number(value: float) -> str:
    return f"{value:,.10g}".replace("-", MINUS)
