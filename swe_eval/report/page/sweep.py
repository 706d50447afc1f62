"""The checkpoints of a sweep: a table, and their curve over training steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from swe_eval.report.comparison import Comparison, Findings
from swe_eval.report.curve import Curve, curves, reference_of
from swe_eval.report.numbers import rate_of
from swe_eval.report.page import svg
from swe_eval.report.page.arms import axis_of, rate_whisker
from swe_eval.report.page.svg import Axis, Series
from swe_eval.report.rows import Row

DOTS = 60
"""A curve of more checkpoints has no dot for each."""
HALF = 0.5
"""The part of an instance's samples that must be resolved for it to be blue in the matrix."""


@dataclass(frozen=True)
class Swept:
    """An arm as a row of a sweep's table."""

    row: Row
    comparison: Comparison | None
    drawing: Markup
    is_best: bool


@dataclass(frozen=True)
class Drawn:
    """A graph with its legend: the class and the name of each line."""

    graph: Markup
    legend: Sequence[tuple[str, str]]


def sweep_table(findings: Findings) -> list[Swept]:
    """Every arm, against the first."""
    compared = {comparison.b: comparison for comparison in findings.comparisons}
    axis = axis_of(row.rate.interval for row in findings.rows if row.rate.n)
    best = findings.best.name if findings.best else None
    return [
        Swept(
            row,
            compared.get(row.name),
            rate_whisker(axis, row.rate, is_reference=row.name not in compared) if row.rate.n else Markup(),
            is_best=row.name == best,
        )
        for row in findings.rows
    ]


def sweep_curve(findings: Findings) -> Drawn | None:
    """The resolved rate over training steps with its 95% band; None if there is no curve."""
    if not (drawn := curves(findings)):
        return None
    reference = reference_of(findings)
    rates = [row.rate for curve in drawn for _, row in curve.points] + ([reference.rate] if reference else [])
    y = axis_of(rate.interval for rate in rates)
    x = Axis.over(step for curve in drawn for step, _ in curve.points)
    series = [_series(curve, f"c{at % 4}") for at, curve in enumerate(drawn)]
    if reference:
        level = 100 * (reference.rate.mean or 0)
        series.append(Series(reference.name, "reference", [(x.low, level), (x.high, level)]))
    return Drawn(svg.graph(series, x, y, "training step", "resolved, %"), [(each.kind, each.name) for each in series])


def sweep_matrix(findings: Findings) -> Markup:
    """A line for each arm, a column for each instance; the instances that most arms resolve come first."""
    ids = sorted({key for row in findings.rows for key in row.rates})
    often = {key: sum(row.rates.get(key, 0) for row in findings.rows) for key in ids}
    ids.sort(key=lambda key: -often[key])
    return svg.matrix([[row.rates.get(key, 0) >= HALF for key in ids] for row in findings.rows])


def _series(curve: Curve, kind: str) -> Series:
    rates = [(step, row.rate) for step, row in curve.points]
    band = [(step, 100 * rate.interval.low, 100 * rate.interval.high) for step, rate in rates]
    means = [(step, 100 * (rate.mean or 0)) for step, rate in rates]
    names = [f"{row.name}: {rate_of(row.rate)}" for _, row in curve.points] if len(rates) <= DOTS else ()
    return Series(curve.name, kind, means, band, names, [not row.is_complete for _, row in curve.points])
