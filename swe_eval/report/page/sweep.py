"""The checkpoints of a sweep: a table, and their curve over training steps."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from swe_eval.report.comparison import Comparison, Findings
from swe_eval.report.curve import Curve, curves, reference_of
from swe_eval.report.page import svg
from swe_eval.report.page.arms import in_percent
from swe_eval.report.page.svg import Axis, Series
from swe_eval.report.rows import Row
from swe_eval.report.words import rate_of

DOTS = 60
"""Checkpoints of a curve that still have a dot each."""
HALF = 0.5
"""Of the samples of an instance, to be resolved in the matrix."""


@dataclass(frozen=True)
class Swept:
    """An arm as a row of a sweep's table."""

    row: Row
    comparison: Comparison | None
    drawing: Markup
    is_best: bool

    @property
    def has_verdict(self) -> bool:
        """Whether it was compared, and may have a headline."""
        return bool(self.comparison and self.comparison.paired.n and not self.comparison.is_refused)


def sweep_table(findings: Findings) -> list[Swept]:
    """Every arm, against the first."""
    compared = {comparison.b: comparison for comparison in findings.comparisons}
    ends = [100 * row.rate.interval.high for row in findings.rows if row.rate.n]
    axis, best = Axis.over([0, *ends]), findings.best.name if findings.best else None
    return [_swept(row, compared.get(row.name), axis, row.name == best) for row in findings.rows]


def _swept(row: Row, comparison: Comparison | None, axis: Axis, is_best: bool) -> Swept:
    drawing = svg.whisker(axis, 100 * (row.rate.mean or 0), in_percent(row.rate.interval), "b" if comparison else "a")
    return Swept(row, comparison, drawing, is_best)


def sweep_curve(findings: Findings) -> tuple[Markup, list[tuple[str, str]]] | None:
    """Resolved over training steps with its band, and the legend as (class, name); None if there is no curve."""
    if not (drawn := curves(findings)):
        return None
    reference = reference_of(findings)
    rates = [row.rate for curve in drawn for _, row in curve.points] + ([reference.rate] if reference else [])
    y = Axis.over([0, *(100 * rate.interval.high for rate in rates)])
    x = Axis.over(step for curve in drawn for step, _ in curve.points)
    series = [_series(curve, f"c{at % 4}") for at, curve in enumerate(drawn)]
    if reference:
        level = 100 * (reference.rate.mean or 0)
        series.append(Series(reference.name, "reference", [(x.low, level), (x.high, level)]))
    return svg.graph(series, x, y, "training step", "resolved, %"), [(each.kind, each.name) for each in series]


def sweep_matrix(findings: Findings) -> Markup:
    """Every arm a line, every instance a column, those that most arms resolve first."""
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
