"""How trials ended, and what they took: turns, tokens, time, and the server's capacity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from markupsafe import Markup

from swe_eval.report.load import load_line, read_load
from swe_eval.report.page import svg
from swe_eval.report.page.svg import Axis, Series
from swe_eval.report.results import Verdict, prefix_hit_rate
from swe_eval.report.rows import Row
from swe_eval.report.runs import SavedRun
from swe_eval.report.subject import Subject

OUTCOMES = {"resolved": "resolved", "unresolved": "unresolved", "empty_patch": "empty patch", "infra": "infra"}
"""What they are called on the page."""
MEANING = {
    "Submitted": "the agent handed in a patch",
    "LimitsExceeded": "too many turns",
    "TimeExceeded": "too much time",
    "RepeatedFormatError": "several answers in a row without a readable command",
    "ContextWindowExceededError": "a conversation longer than the model can read",
}
"""What mini-swe-agent's exit statuses mean."""


@dataclass(frozen=True)
class Ended:
    """How the trials of an arm ended."""

    row: Row
    counts: Mapping[str, int]
    bar: Markup


def ended(rows: Iterable[Row]) -> list[Ended]:
    """The outcomes of each arm."""
    counted = [(row, {outcome: row.count(outcome) for outcome in OUTCOMES}) for row in rows]
    return [Ended(row, counts, svg.stacked(list(counts.items()))) for row, counts in counted]


def ending_sentences(rows: Sequence[Row]) -> Iterator[str]:
    """If two arms ended differently: the exit status whose share differs most, by at least ten points."""
    if len(rows) != 2 or not all(row.exits for row in rows):
        return
    a, b = map(_parts, rows)
    apart = {status: abs(b.get(status, 0) - a.get(status, 0)) for status in sorted({*a, *b})}
    if apart[status := max(apart, key=lambda status: apart[status])] < 0.1:
        return
    meant = f" ({MEANING[status]})" if status in MEANING else ""
    yield (
        f"{status}{meant} ended {a.get(status, 0):.0%} of the rollouts of {rows[0].name} and {b.get(status, 0):.0%} "
        f"of those of {rows[1].name}."
    )


def _parts(row: Row) -> dict[str, float]:
    """The part of the rollouts that ended with each exit status."""
    ended = sum(count for _, count in row.exits)
    return {status: count / ended for status, count in row.exits}


@dataclass(frozen=True)
class Effort:
    """What the rollouts of an arm took."""

    name: str
    cells: Sequence[str]
    """Under the headings ``EFFORT``."""
    turns: Markup


@dataclass(frozen=True)
class EffortTable:
    """What the rollouts took, arm by arm, and the axis on which their turns are drawn."""

    rows: Sequence[Effort]
    axis: Axis


EFFORT = ("turns", "prompt tokens", "cached", "written tokens", "seconds", "90th percentile")
"""Medians over the rollouts, except ``cached`` (the part of all prompts) and ``90th percentile`` (of the seconds)."""


def effort(rows: Iterable[Row]) -> EffortTable | None:
    """What the arms took, as far as anything is known of their rollouts; None if nothing is."""
    known = [(row, found) for row in rows if (found := [verdict for verdict in row.verdicts if verdict.turns])]
    if not known:
        return None
    axis = Axis.over([0, *(verdict.turns for _, found in known for verdict in found)])
    return EffortTable([_effort(row.name, found, axis) for row, found in known], axis)


def _effort(name: str, verdicts: Sequence[Verdict], axis: Axis) -> Effort:
    cached, seconds = prefix_hit_rate(verdicts), [verdict.seconds for verdict in verdicts]
    cells = [
        f"{median(verdict.turns for verdict in verdicts):g}",
        f"{median(verdict.prompt_tokens for verdict in verdicts):,.0f}",
        "-" if cached is None else f"{cached:.0%}",
        f"{median(verdict.completion_tokens for verdict in verdicts):,.0f}",
        f"{median(seconds):,.1f}",
        f"{quantiles(seconds, n=10, method='inclusive')[-1]:,.1f}" if len(seconds) > 1 else "-",
    ]
    return Effort(name, cells, svg.histogram([verdict.turns for verdict in verdicts], axis))


@dataclass(frozen=True)
class Server:
    """How the model server was used in one run."""

    run: str
    sentences: Sequence[str]
    speed: Markup | None
    load: Markup | None


def servers(subject: Subject) -> list[Server]:
    """Each run whose server's use is known; none of a sweep, which has too many."""
    found = [_server(saved) for saved in subject.runs] if subject.kind != "sweep" else []
    return [server for server in found if server.sentences]


def _server(saved: SavedRun) -> Server:
    load, speed = saved.record.get("load") or {}, saved.record.get("throughput") or {}
    said = []
    if speed:
        part = speed["mean"] / speed["best"] if speed["best"] else 0
        said.append(
            f"The model wrote {speed['mean']:,.0f} tokens per second over {_took(speed['seconds'])}, and "
            f"{speed['best']:,.0f} in its best stretch: on the whole {part:.0%} of the speed that the server has shown."
        )
    if load:
        said.append(f"{load_line(load)}.")
    return Server(saved.run.root.name, said, _speed(speed), _load(read_load(saved.run.log("load.jsonl"))))


def _speed(speed: Mapping[str, Any]) -> Markup | None:
    course = speed.get("course", ())
    unit, name = (60, "minutes") if course and course[-1][0] >= 120 else (1, "seconds")
    course = [(at / unit, rate) for at, rate in course]
    if len(course) < 3:
        return None
    x, y = Axis.over(at for at, _ in course), Axis.over([0, *(rate for _, rate in course)])
    return svg.graph([Series("tokens per second", "b", course)], x, y, name, "tokens written per second")


def _load(lines: Sequence[Mapping[str, Any]]) -> Markup | None:
    if len(lines) < 3:
        return None
    course = {name: [(float(at), float(line[name])) for at, line in enumerate(lines)] for name in ("agents", "running")}
    x, y = Axis(0, len(lines) - 1, ()), Axis.over([0, *(value for each in course.values() for _, value in each)])
    kinds = {"agents": "a", "running": "b"}
    drawn = [Series(name, kinds[name], course[name]) for name in kinds]
    return svg.graph(drawn, x, y, "over the run", "rollouts (grey), requests computed (blue)")


def _took(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
