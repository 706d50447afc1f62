"""The resolved rate over training steps: which arms are on a curve; and its files, ``curve.svg`` and ``curve.png``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle
from typing import TYPE_CHECKING

from swe_eval.report.comparison import Findings
from swe_eval.report.rows import Row
from swe_eval.report.subject import Subject, checkpoint_of
from swe_eval.run_dir import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 160
COLOURS = ("#0b6bcb", "#c2410c", "#6d28d9", "#047857")
"""One for each training run; colour-blind readers can tell them apart in this order."""


@dataclass(frozen=True)
class Curve:
    """The checkpoints of one training run, by step."""

    name: str
    points: Sequence[tuple[int, Row]]


def curves(findings: Findings) -> list[Curve]:
    """A curve for each training run with at least two scored checkpoints, as told by the names of the arms.

    There is none where a step occurs twice: these are no checkpoints of one run.
    """
    found: dict[str, list[tuple[int, Row]]] = {}
    for row in findings.rows:
        if row.rate.n and (at := checkpoint_of(row.name)):
            found.setdefault(at.run, []).append((at.step, row))
    ordered = {name: sorted(points, key=lambda point: point[0]) for name, points in found.items()}
    return [Curve(name, points) for name, points in ordered.items() if len(points) == len(dict(points)) > 1]


def reference_of(findings: Findings) -> Row | None:
    """The first arm, with which the others are compared; None if it is not scored, or is itself on a curve."""
    first = findings.rows[0]
    is_point = any(first is row for curve in curves(findings) for _, row in curve.points)
    return first if first.rate.n and not is_point else None


def write_curve(subject: Subject, findings: Findings) -> None:
    """Write both files, if there is a curve."""
    if not (drawn := curves(findings)):
        return
    figure = _figure(f"{subject.title}: resolved by checkpoint, pointwise 95% band", drawn, reference_of(findings))
    for kind in ("svg", "png"):
        with BytesIO() as file:
            figure.savefig(file, format=kind, dpi=DPI)
            write_bytes(subject.folder / f"curve.{kind}", file.getvalue())


def _figure(title: str, drawn: Sequence[Curve], reference: Row | None) -> Figure:
    from matplotlib import rcParams  # late: it takes most of a second
    from matplotlib.figure import Figure

    rcParams["text.parse_math"] = False  # names may have dollar signs
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    for curve, colour in zip(drawn, cycle(COLOURS), strict=False):
        _draw(axes, curve, colour)
    if reference:
        level = 100 * (reference.rate.mean or 0)
        axes.axhline(level, color="#555555", linestyle="--", linewidth=1.2, label=reference.name)
    axes.set(xlabel="training step", ylabel="resolved, % of the tasks")
    axes.set_ylim(bottom=0)
    axes.set_title(title, fontsize=11, loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def _draw(axes: Axes, curve: Curve, colour: str) -> None:
    steps = [step for step, _ in curve.points]
    rates = [row.rate for _, row in curve.points]
    lows, highs = [100 * rate.interval.low for rate in rates], [100 * rate.interval.high for rate in rates]
    axes.fill_between(steps, lows, highs, color=colour, alpha=0.15, linewidth=0)
    means = [100 * (rate.mean or 0) for rate in rates]
    axes.plot(steps, means, "-", color=colour, label=curve.name)
    faces = [colour if row.is_complete else "white" for _, row in curve.points]
    axes.scatter(steps, means, s=20, zorder=3, edgecolors=colour, facecolors=faces)
