"""What stands in each section of the page: plain values and drawings, which the templates set."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any

from markupsafe import Markup

from swe_eval.order import DIFFICULTIES
from swe_eval.report import svg
from swe_eval.report.comparison import Comparison, Findings, repository_of
from swe_eval.report.curve import Curve, curves, reference_of
from swe_eval.report.load import load_line, read_load
from swe_eval.report.results import Verdict
from swe_eval.report.rows import Row
from swe_eval.report.runs import BARE, Kept, Subject
from swe_eval.report.svg import Axis, Series
from swe_eval.report.words import percent, points
from swe_eval.run_dir import ARM
from swe_eval.statistics import POWER, Paired, power

OUTCOMES = {"resolved": "resolved", "unresolved": "unresolved", "empty_patch": "empty patch", "infra": "infra"}
"""With what they are called."""
SIGNS = {
    **{"resolved": "\N{CHECK MARK}", "unresolved": "\N{MULTIPLICATION X}"},
    **{"empty_patch": "\N{EMPTY SET}", "infra": "!"},
}
FEW = 6
"""Arms that still have a column each in the table of instances, and a table of flips."""
GRAIN = 40
"""Pieces of the line of power."""
DOTS = 60
"""Checkpoints of a curve that still have a dot each."""
KINDS = {
    "gained": "only {b} resolved it",
    "lost": "only {a} resolved it",
    "some": "some arms resolved it",
    "all": "every arm resolved it",
    "none": "no arm resolved it",
    "owed": "without a verdict in some arm",
}
"""Of an instance: how the arms' verdicts lie to each other."""


@dataclass(frozen=True)
class Line:
    """A row of a forest plot."""

    name: str
    about: str
    drawing: Markup
    value: str
    aside: str = ""


def arm_lines(subject: Subject, rows: Sequence[Row]) -> tuple[list[Line], Markup]:
    """The resolved rate of each arm, and the axis."""
    ends = [100 * end for row in rows if row.rate.n for end in (row.rate.interval.low, row.rate.interval.high)]
    axis = Axis.over([0, *ends])
    made = [
        Line(
            row.name,
            about_arm(subject, row),
            svg.whisker(axis, 100 * (row.rate.mean or 0), _in_percent(row.rate.interval), "b" if at else "a"),
            percent(row.rate),
            _aside(row),
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
    interval = f"[{points(found.interval.low)}, {points(found.interval.high)}]"
    adjusted = f", Holm {comparison.p_holm:.3g}" if is_family else ""
    return Line(
        f"{comparison.b} \N{MINUS SIGN} {comparison.a}",
        f"{found.n:,} tasks in common",
        svg.whisker(axis, 100 * found.difference, _in_percent(found.interval), "b", zero=True),
        points(found.difference),
        f"{interval}, p {found.p_value:.3g}{adjusted}",
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
    interval = f"[{100 * row.rate.interval.low:.1f}, {100 * row.rate.interval.high:.1f}]"
    if len(row.arms) > 1:
        return f"{row.rate.n:,} tasks x {len(row.arms)} {interval}"
    return f"{row.count('resolved'):,}/{row.rate.n:,} {interval}"


def _in_percent(interval: Any) -> Any:
    return type(interval)(100 * interval.low, 100 * interval.high)


@dataclass(frozen=True)
class Flips:
    """Where the two arms of a comparison differ."""

    comparison: Comparison
    bar: Markup
    groups: Sequence[tuple[str, Sequence[Group]]]
    """By what they are grouped, and the groups."""


@dataclass(frozen=True)
class Group:
    """The instances of one repository or difficulty."""

    name: str
    n: int
    a: float
    """Resolved by A, a part of n; ``b`` likewise."""
    b: float
    lost: int
    gained: int
    drawing: Markup


def flips(subject: Subject, findings: Findings) -> list[Flips]:
    """Of each comparison; where there are many, of the one with the best arm, or the largest difference."""
    told = [each for each in findings.comparisons if each.paired.n]
    if len(told) >= FEW:
        best = findings.best.name if findings.best else None
        named = [each for each in told if each.b == best]
        told = named or [max(told, key=lambda each: each.paired.difference)]
    rows = {row.name: row for row in findings.rows}
    difficulties = {key: value for kept in subject.runs for key, value in kept.record.get("difficulties", {}).items()}
    return [_flips(each, rows[each.a], rows[each.b], difficulties) for each in told]


def _flips(comparison: Comparison, a: Row, b: Row, difficulties: Mapping[str, str]) -> Flips:
    kinds = ("both", "gained", "lost", "neither")
    found = comparison.paired.counts
    counts = (found["both"], found["only_b"], found["only_a"], found["neither"]) if "both" in found else ()
    repositories = _grouped(comparison, a, b, _short({key: repository_of(key) for key in comparison.differences}))
    by_size = sorted(repositories, key=lambda group: -group.n)
    rated = {key: difficulties[key] for key in comparison.differences if key in difficulties}
    ranked = sorted(_grouped(comparison, a, b, rated), key=lambda group: _rank(group.name))
    groups = [("Repository", by_size), ("Difficulty", ranked)]
    bar = svg.stacked(list(zip(kinds, counts, strict=False)))
    return Flips(comparison, bar, [(name, each) for name, each in groups if 1 < len(each) < comparison.paired.n])


def _grouped(comparison: Comparison, a: Row, b: Row, group_of: Mapping[str, str]) -> list[Group]:
    members: dict[str, list[str]] = {}
    for key, group in group_of.items():
        members.setdefault(group, []).append(key)
    differences = {group: [comparison.differences[key] for key in keys] for group, keys in members.items()}
    lost = {group: sum(each < 0 for each in found) for group, found in differences.items()}
    gained = {group: sum(each > 0 for each in found) for group, found in differences.items()}
    most = max([*lost.values(), *gained.values()], default=0)
    return [
        Group(
            group,
            len(keys),
            fmean(a.rates[key] for key in keys),
            fmean(b.rates[key] for key in keys),
            lost[group],
            gained[group],
            svg.balance(lost[group], gained[group], most),
        )
        for group, keys in members.items()
    ]


def _short(repositories: Mapping[str, str]) -> Mapping[str, str]:
    """``django`` for ``django__django``, where no other owner has one of that name."""
    names = {name: name.rpartition("__")[2] for name in set(repositories.values())}
    return (
        {key: names[name] for key, name in repositories.items()}
        if len({*names.values()}) == len(names)
        else repositories
    )


def _rank(difficulty: str) -> int:
    return DIFFICULTIES.index(difficulty) if difficulty in DIFFICULTIES else len(DIFFICULTIES)


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


@dataclass(frozen=True)
class Ended:
    """How the trials of an arm ended."""

    name: str
    counts: Mapping[str, int]
    bar: Markup
    exits: Sequence[tuple[str, int]]
    rescued: int


def ended(rows: Iterable[Row]) -> list[Ended]:
    """Of each arm: its outcomes and exit statuses."""
    return [_ended(row) for row in rows]


def _ended(row: Row) -> Ended:
    verdicts = row.verdicts
    counts = {outcome: row.count(outcome) for outcome in OUTCOMES}
    exits = Counter(verdict.exit_status for verdict in verdicts if verdict.exit_status).most_common()
    rescued = sum(verdict.rescued for verdict in verdicts)
    return Ended(row.name, counts, svg.stacked(list(counts.items())), exits, rescued)


def ending_sentences(rows: Sequence[Row]) -> Iterator[str]:
    """Where two arms end differently: the exit status whose share differs most."""
    if len(rows) != 2 or not all(row.verdicts for row in rows):
        return
    a, b = ({status: count / len(row.verdicts) for status, count in _ended(row).exits} for row in rows)
    apart = {status: b.get(status, 0) - a.get(status, 0) for status in sorted({*a, *b})}
    if not apart or abs(apart[status := max(apart, key=lambda status: abs(apart[status]))]) < 0.1:
        return
    yield (
        f"{status} ended {a.get(status, 0):.0%} of the rollouts of {rows[0].name} and {b.get(status, 0):.0%} "
        f"of those of {rows[1].name}."
    )


@dataclass(frozen=True)
class Effort:
    """What the rollouts of an arm took."""

    name: str
    cells: Sequence[str]
    turns: Markup


EFFORT = ("turns", "prompt tokens", "cached", "written tokens", "seconds", "90th percentile")
"""Medians of a rollout, but for the cached part of all prompts, and the seconds that one rollout in ten exceeds."""


def effort(rows: Iterable[Row]) -> tuple[list[Effort], Axis] | None:
    """Of each arm with rollouts of which something is known; None if of none is."""
    known = [(row, found) for row in rows if (found := [verdict for verdict in row.verdicts if verdict.turns])]
    if not known:
        return None
    axis = Axis.over([0, *(verdict.turns for _, found in known for verdict in found)])
    return [_effort(row.name, found, axis) for row, found in known], axis


def _effort(name: str, verdicts: Sequence[Verdict], axis: Axis) -> Effort:
    told = [verdict for verdict in verdicts if verdict.cached_tokens is not None]
    of = sum(verdict.prompt_tokens for verdict in told)
    seconds = [verdict.seconds for verdict in verdicts]
    cells = [
        f"{median(verdict.turns for verdict in verdicts):g}",
        f"{median(verdict.prompt_tokens for verdict in verdicts):,.0f}",
        f"{sum(verdict.cached_tokens or 0 for verdict in told) / of:.0%}" if of else "-",
        f"{median(verdict.completion_tokens for verdict in verdicts):,.0f}",
        f"{median(seconds):,.1f}",
        f"{quantiles(seconds, n=10)[-1]:,.1f}" if len(seconds) > 1 else "-",
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
    """Of each run that knows; of a sweep's runs there are too many."""
    found = [_server(kept) for kept in subject.runs] if subject.kind != "sweep" else []
    return [server for server in found if server.sentences]


def _server(kept: Kept) -> Server:
    load, speed = kept.record.get("load") or {}, kept.record.get("throughput") or {}
    said = []
    if speed:
        part = speed["mean"] / speed["best"] if speed["best"] else 0
        said.append(
            f"The model wrote {speed['mean']:,.0f} tokens per second over {_took(speed['seconds'])}, and "
            f"{speed['best']:,.0f} in its best stretch: on the whole {part:.0%} of the speed that the server has shown."
        )
    if load:
        said.append(f"{load_line(load)}.")
    return Server(kept.run.root.name, said, _speed(speed), _load(read_load(kept.run.log("load.jsonl"))))


def _speed(speed: Mapping[str, Any]) -> Markup | None:
    course = [(at / 60, rate) for at, rate in speed.get("course", ())]
    if len(course) < 3:
        return None
    x, y = Axis.over(at for at, _ in course), Axis.over([0, *(rate for _, rate in course)])
    return svg.graph([Series("tokens per second", "b", course)], x, y, "minutes", "tokens written per second")


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


@dataclass(frozen=True)
class Swept:
    """An arm as a row of a sweep's table."""

    row: Row
    comparison: Comparison | None
    drawing: Markup
    tokens: float
    """Millions, read and written."""
    hours: float
    """Of all rollouts together."""
    is_best: bool


def sweep_table(findings: Findings) -> list[Swept]:
    """Every arm, against the first."""
    compared = {comparison.b: comparison for comparison in findings.comparisons}
    ends = [100 * row.rate.interval.high for row in findings.rows if row.rate.n]
    axis, best = Axis.over([0, *ends]), findings.best.name if findings.best else None
    return [_swept(row, compared.get(row.name), axis, row.name == best) for row in findings.rows]


def _swept(row: Row, comparison: Comparison | None, axis: Axis, is_best: bool) -> Swept:
    verdicts = row.verdicts
    tokens = sum(verdict.prompt_tokens + verdict.completion_tokens for verdict in verdicts) / 1e6
    drawing = svg.whisker(axis, 100 * (row.rate.mean or 0), _in_percent(row.rate.interval), "b" if comparison else "a")
    return Swept(row, comparison, drawing, tokens, sum(verdict.seconds for verdict in verdicts) / 3600, is_best)


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


def _series(curve: Curve, kind: str) -> Series:
    rates = [(step, row.rate) for step, row in curve.points]
    band = [(step, 100 * rate.interval.low, 100 * rate.interval.high) for step, rate in rates]
    means = [(step, 100 * (rate.mean or 0)) for step, rate in rates]
    return Series(curve.name, kind, means, band, dots=len(rates) <= DOTS)


@dataclass(frozen=True)
class Told:
    """An instance as a row of the last table."""

    instance_id: str
    repository: str
    difficulty: str
    kind: str
    """Of ``KINDS``."""
    cells: Sequence[str]
    """The outcome in each arm, where the arms are few."""
    resolved: int
    """By how many arms, of ``of`` that are scored."""
    of: int
    turns: int
    seconds: float
    """Of all its rollouts together; ``turns`` likewise."""
    flags: str


def instances(subject: Subject, findings: Findings, flags: Mapping[str, Sequence[str]]) -> list[Told]:
    """Every instance, the ones that tell the arms apart first."""
    difficulties = {key: value for kept in subject.runs for key, value in kept.record.get("difficulties", {}).items()}
    ids = sorted({key for row in findings.rows for arm in row.arms for key in arm.verdicts})
    told = [_told(key, findings.rows, difficulties.get(key, ""), flags.get(key, ())) for key in ids]
    order = [*KINDS]
    return sorted(told, key=lambda each: order.index(each.kind))


def _told(instance_id: str, rows: Sequence[Row], difficulty: str, flags: Sequence[str]) -> Told:
    found = [[arm.verdicts[instance_id] for arm in row.arms if instance_id in arm.verdicts] for row in rows]
    flat = [verdict for verdicts in found for verdict in verdicts]
    rates = [row.rates.get(instance_id) for row in rows]
    return Told(
        instance_id,
        repository_of(instance_id),
        difficulty,
        _kind(rates),
        [_outcome(verdicts) for verdicts in found] if len(rows) <= FEW else (),
        sum(bool(rate) for rate in rates),
        sum(rate is not None for rate in rates),
        sum(verdict.turns for verdict in flat),
        sum(verdict.seconds for verdict in flat),
        ", ".join(flags),
    )


def _kind(rates: Sequence[float | None]) -> str:
    told = [rate for rate in rates if rate is not None]
    if len(told) < len(rates):
        return "owed"
    if len(told) == 2 and told[0] != told[1]:
        return "gained" if told[1] > told[0] else "lost"
    if not any(told):
        return "none"
    return "all" if all(told) else "some"


def _outcome(verdicts: Sequence[Verdict]) -> str:
    """Of several samples, the one that most have, and ``resolved`` if any is."""
    if not verdicts:
        return ""
    outcomes = [verdict.outcome for verdict in verdicts]
    return "resolved" if "resolved" in outcomes else Counter(outcomes).most_common(1)[0][0]


def card(subject: Subject) -> list[tuple[str, list[tuple[str, str]]]]:
    """What it takes to make this again, run by run: headings, each with names and values."""
    shown = subject.runs if len(subject.runs) <= FEW else [subject.runs[0], subject.runs[-1]]
    return [(kept.run.root.name, list(_facts(kept))) for kept in shown]


def _facts(kept: Kept) -> Iterator[tuple[str, str]]:
    calls, identity = kept.record.get("invocations", []), kept.identity
    last: Mapping[str, Any] = calls[-1] if calls else {}
    if last:
        yield "Command", command_of(last["command"])
        yield "Commit", f"{last['commit'] or 'not from a checkout'}, swe_eval {last['swe_eval']}"
        yield "Began, went on", f"{calls[0]['started']}, {len(calls)} call{'s' * (len(calls) > 1)}"
        gpus = ", ".join(last["gpus"]) or "no GPU"
        yield "Machine", f"{last['host']}, {last['cpus']} cores, {gpus}, {last['platform']}"
        packages = {"python": last["python"], **last["packages"]}
        yield "Packages", ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    yield "Dataset", f"{identity.get('benchmark.name')}, fingerprint {identity.get('benchmark.fingerprint')}"
    if "model.base_model" in identity:
        yield "Base model", f"{identity['model.base_model']}, {identity.get('model.dtype')}"
    for key, digest in identity.items():
        if key.startswith(ARM):
            yield f"Arm {key.removeprefix(ARM)}", "base model, no adapter" if digest == BARE else str(digest)
    if images := kept.record.get("images"):
        yield "Images", f"{len(images)}, their digests are in run.json"


def settings(kept: Kept) -> list[tuple[str, str]]:
    """Everything that the numbers depend on."""
    return [(key, str(value)) for key, value in kept.identity.items() if not key.startswith(ARM)]


def command_of(argv: Sequence[str]) -> str:
    """What was typed."""
    door = Path(argv[0]).stem if argv else ""
    module = "swe_eval" if door in ("__main__", "swe-eval") else f"swe_eval.{door}"
    return shlex.join(["python", "-m", module, *argv[1:]])
