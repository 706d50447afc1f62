"""The arms and their differences, each with its interval; what an arm is; what a run of this size can show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from swe_eval.report.comparison import Comparison
from swe_eval.report.page import svg
from swe_eval.report.page.svg import Axis, Series
from swe_eval.report.rows import Row
from swe_eval.report.runs import BARE, Kept, Subject
from swe_eval.report.words import interval, percent, points
from swe_eval.run_dir import ARM
from swe_eval.statistics import POWER, Interval, Paired, power

GRAIN = 40
"""Pieces of the line of power."""


@dataclass(frozen=True)
class Line:
    """A row of a forest plot."""

    name: str
    about: str
    drawing: Markup
    value: str
    asides: Sequence[str]
    """What stands below the value, in small."""


def arm_lines(subject: Subject, rows: Sequence[Row]) -> tuple[list[Line], Markup]:
    """The resolved rate of each arm, and the axis."""
    ends = [100 * end for row in rows if row.rate.n for end in (row.rate.interval.low, row.rate.interval.high)]
    axis = Axis.over([0, *ends])
    made = [
        Line(
            row.name,
            about_arm(subject, row),
            svg.whisker(axis, 100 * (row.rate.mean or 0), in_percent(row.rate.interval), "b" if at else "a"),
            percent(row.rate),
            [_aside(row), *(f"{name} {percent(rate)}" for name, rate in row.passes.items())],
        )
        for at, row in enumerate(rows)
        if row.rate.n
    ]
    return made, svg.scale(axis, "resolved, % of the tasks")


def difference_lines(comparisons: Sequence[Comparison]) -> tuple[list[Line], Markup] | None:
    """Each comparison that may have a headline, and the axis; None if there is none."""
    told = [each for each in comparisons if each.paired.n and not each.is_refused]
    if not told:
        return None
    ends = [100 * end for each in told for end in (each.paired.interval.low, each.paired.interval.high)]
    axis = Axis.over([0, *ends])
    return [_difference_line(each, axis, len(comparisons) > 1) for each in told], svg.scale(
        axis, "difference, in points (right: better)"
    )


def _difference_line(comparison: Comparison, axis: Axis, is_family: bool) -> Line:
    found = comparison.paired
    adjusted = f", Holm p {comparison.p_holm:.3g}" if is_family else ""
    return Line(
        f"{comparison.b} \N{MINUS SIGN} {comparison.a}",
        f"{found.n:,} tasks in common",
        svg.whisker(axis, 100 * found.difference, in_percent(found.interval), "b", zero=True),
        points(found.difference),
        [f"[{points(found.interval.low)}, {points(found.interval.high)}]", f"p {found.p_value:.3g}{adjusted}"],
    )


def about_arm(subject: Subject, row: Row) -> str:
    """What the arm is: the bare base model, or an adapter by the start of its content's hash."""
    if not (digest := _digest(subject, row)):
        return ""
    return "base model, no adapter" if digest == BARE else f"adapter {digest[:10]}"


def _digest(subject: Subject, row: Row) -> str | None:
    plain = row.name.rpartition("/")[2]
    found = (kept.identity.get(f"{ARM}{plain}") for kept in subject.runs if _has(kept, row))
    return next((str(digest) for digest in found if digest), None)


def _has(kept: Kept, row: Row) -> bool:
    label, _, plain = row.name.rpartition("/")
    names = {arm.adapter for arm in kept.arms}
    return plain in names and (not label or label in (kept.run.root.name, str(kept.run.root)))


def _aside(row: Row) -> str:
    of = f"{row.rate.n:,} tasks x {len(row.arms)}" if len(row.arms) > 1 else f"{row.count('resolved'):,}/{row.rate.n:,}"
    return f"{of} {interval(row.rate.interval)}"


def in_percent(interval: Interval) -> Interval:
    """Of rates, times a hundred."""
    return Interval(100 * interval.low, 100 * interval.high)


def power_graph(comparisons: Sequence[Comparison]) -> Markup | None:
    """How likely a run like this one notices which true difference; None but for one comparison of one sample each."""
    if len(comparisons) != 1 or not isinstance(found := comparisons[0].paired, Paired) or not found.n:
        return None
    discordance = (found.only_a + found.only_b) / found.n
    if not discordance:
        return None
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
