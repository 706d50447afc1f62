"""The arms and their differences as forest plots; what each arm is; what a run of this size can show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from swe_eval.report.comparison import Comparison
from swe_eval.report.numbers import MINUS, interval, p_value, percent, points, signed_interval, tasks
from swe_eval.report.page import svg
from swe_eval.report.page.svg import Axis, Series
from swe_eval.report.rows import Rate, Row
from swe_eval.report.runs import BARE, SavedRun
from swe_eval.report.subject import Subject
from swe_eval.statistics import POWER, Interval, Paired, power

GRAIN = 40
"""Straight pieces that the curve of power is drawn with."""


@dataclass(frozen=True)
class Line:
    """A line of a forest plot."""

    name: str
    about: str
    drawing: Markup
    value: str
    asides: Sequence[str]
    """What stands below the value, in small print."""


@dataclass(frozen=True)
class Forest:
    """A forest plot: estimates with their intervals, one below the other, on one axis."""

    lines: Sequence[Line]
    axis: Markup


def arm_forest(subject: Subject, rows: Sequence[Row]) -> Forest | None:
    """The resolved rate of each arm that is scored; None if none is."""
    if not any(row.rate.n for row in rows):
        return None
    axis = axis_of(row.rate.interval for row in rows if row.rate.n)
    lines = [
        Line(
            row.name,
            about_arm(subject, row),
            rate_whisker(axis, row.rate, is_reference=not at),
            percent(row.rate),
            [_aside(row), *(f"{name} {percent(rate)}" for name, rate in row.passes.items())],
        )
        for at, row in enumerate(rows)
        if row.rate.n
    ]
    return Forest(lines, svg.scale(axis, "resolved, % of the tasks"))


def difference_forest(comparisons: Sequence[Comparison]) -> Forest | None:
    """The difference of each comparison that has a verdict; None if none has."""
    told = [each for each in comparisons if each.has_verdict]
    if not told:
        return None
    axis = axis_of(each.paired.interval for each in told)
    lines = [_difference_line(each, axis, is_family=len(comparisons) > 1) for each in told]
    return Forest(lines, svg.scale(axis, "difference, in points (right: better)"))


def axis_of(intervals: Iterable[Interval]) -> Axis:
    """In per cent, with 0 and all the intervals on it."""
    return Axis.over([0, *(100 * end for each in intervals for end in (each.low, each.high))])


def rate_whisker(axis: Axis, rate: Rate, is_reference: bool) -> Markup:
    """A resolved rate on an axis in per cent."""
    return svg.whisker(axis, 100 * (rate.mean or 0), in_percent(rate.interval), "a" if is_reference else "b")


def in_percent(interval: Interval) -> Interval:
    """Of rates, times a hundred."""
    return Interval(100 * interval.low, 100 * interval.high)


def _difference_line(comparison: Comparison, axis: Axis, is_family: bool) -> Line:
    found = comparison.paired
    adjusted = f", Holm p {p_value(comparison.p_holm)}" if is_family else ""
    return Line(
        f"{comparison.b} {MINUS} {comparison.a}",
        f"{tasks(found.n)} in common",
        svg.whisker(axis, 100 * found.difference, in_percent(found.interval), "b", zero=True),
        points(found.difference),
        [signed_interval(found.interval), f"p {p_value(found.p_value)}{adjusted}"],
    )


def about_arm(subject: Subject, row: Row) -> str:
    """What the arm is: the base model, or an adapter with the start of its content's hash; empty if not known."""
    if not (digest := _digest(subject, row)):
        return ""
    return "base model, no adapter" if digest == BARE else f"adapter {digest[:10]}"


def _digest(subject: Subject, row: Row) -> str | None:
    plain = row.name.rpartition("/")[2]
    found = (saved.digest(plain) for saved in subject.runs if _has(saved, row))
    return next(filter(None, found), None)


def _has(saved: SavedRun, row: Row) -> bool:
    label, _, plain = row.name.rpartition("/")
    names = {arm.adapter for arm in saved.arms}
    return plain in names and (not label or label in (saved.run.root.name, str(saved.run.root)))


def _aside(row: Row) -> str:
    of = f"{tasks(row.rate.n)} x {len(row.arms)}" if len(row.arms) > 1 else f"{row.count('resolved'):,}/{row.rate.n:,}"
    return f"{of} {interval(row.rate.interval)}"


def power_graph(comparisons: Sequence[Comparison]) -> Markup | None:
    """The power of a run like this one over the true difference.

    None unless there is a single comparison, of one sample per instance, with a verdict, in which the arms disagree on
    some.
    """
    if len(comparisons) != 1 or not comparisons[0].has_verdict:
        return None
    if not isinstance(found := comparisons[0].paired, Paired) or not found.discordant:
        return None
    discordance = found.discordance
    differences = [discordance * part / GRAIN for part in range(GRAIN + 1)]
    line = [(100 * each, 100 * power(found.n, discordance, each)) for each in differences]
    x, y = Axis.over([0, 100 * discordance]), Axis(0, 100, range(0, 101, 20))
    seen = 100 * abs(found.difference)
    lines = [
        Series("seen", "reference", [(seen, 0), (seen, 100)]),
        Series("aim", "reference", [(0, 100 * POWER), (x.high, 100 * POWER)]),
        Series("power", "b", line),
    ]
    return svg.graph(lines, x, y, "true difference, in points", "noticed, % of such runs")
