"""``report.html``: what was found, for whoever opens it, in one file without a network; ``report.md``: in short."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import chain
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from swe_eval import __version__
from swe_eval.report import trajectories, words
from swe_eval.report.clean import clean_lines, flag_lines
from swe_eval.report.comparison import Comparison, Findings
from swe_eval.report.integrity import contamination
from swe_eval.report.page import arms, card, effort, flips, sweep, tasks
from swe_eval.report.results import flags_by_instance
from swe_eval.report.runs import Subject
from swe_eval.report.tables import proof_lines
from swe_eval.run_dir import now, write_text
from swe_eval.scheduling.order import DIFFICULTIES

MANY = 12
"""Arms whose tables are folded."""


def write_page(subject: Subject, findings: Findings, refresh: float | None = None) -> None:
    """Write both files.

    Args:
        subject: what they are about.
        findings: what was found.
        refresh: seconds after which the page loads itself again.
    """
    content = content_of(subject, findings) | {"refresh": refresh}
    for name in ("report.html", "report.md"):
        write_text(subject.folder / name, environment().get_template(name).render(content))


@cache
def environment() -> Environment:
    """The templates."""
    made = Environment(
        loader=PackageLoader("swe_eval.report.page"),
        autoescape=lambda name: bool(name and name.endswith(".html")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.globals |= {
        "percent": words.percent,
        "points": words.points,
        "rate_of": words.rate_of,
        "interval": words.interval,
        "signs": tasks.SIGNS,
        "outcomes": effort.OUTCOMES,
        "effort_columns": effort.EFFORT,
        "version": __version__,
        **{kind: _file(f"report.{kind}") for kind in ("css", "js")},
    }
    return made


def content_of(subject: Subject, findings: Findings) -> dict[str, Any]:
    """Everything that the templates set."""
    rows, flags = findings.rows, flags_by_instance(subject.arms)
    is_sweep = subject.kind == "sweep" or len(rows) > tasks.FEW
    found: dict[str, Any] = {
        "subject": subject,
        "findings": findings,
        "made": now(),
        "trials": sum(len(row.verdicts) for row in rows),
        "answer": words.answer(findings),
        "facts": list(_facts(subject, findings)),
        "between": list(_between(subject, findings)),
        "arms": None if is_sweep else arms.arm_lines(subject, rows),
        "differences": None if is_sweep else arms.difference_lines(findings.comparisons),
        "swept": sweep.sweep_table(findings) if is_sweep else None,
        "curve": sweep.sweep_curve(findings),
        "many": len(rows) > MANY,
        "matrix": sweep.sweep_matrix(findings) if is_sweep else None,
        "flips": flips.flips(subject, findings),
        "ended": effort.ended(rows),
        "effort": effort.effort(rows),
        "servers": effort.servers(subject),
        "proof": list(_proof(subject)),
        "integrity": [
            *chain.from_iterable(map(flag_lines, subject.arms)),
            *chain.from_iterable(map(clean_lines, rows)),
        ],
        "caveats": list(_caveats(subject, findings)),
        "power": arms.power_graph(findings.comparisons),
        "card": card.card(subject),
        "settings": card.settings(subject.runs[0]),
    }
    return found | _table(subject, findings, flags) | {"contents": list(_contents(found))}


def _table(subject: Subject, findings: Findings, flags: Mapping[str, list[str]]) -> dict[str, Any]:
    told = tasks.instances(subject, findings, flags)
    names = [row.name for row in findings.rows]
    a, b = names[0], names[1] if len(names) == 2 else ""
    there = {each.kind for each in told} | ({"flagged"} if flags else set())
    kinds = {**tasks.KINDS, "flagged": "with a flag"}
    has_page = subject.kind == "run" and (subject.folder / trajectories.PAGE).is_file()
    return {
        "instances": told,
        "columns": names if len(names) <= tasks.FEW else [],
        "kinds": [(kind, label.format(a=a, b=b)) for kind, label in kinds.items() if kind in there],
        "rated": any(each.difficulty for each in told),
        "ranks": {name: rank for rank, name in enumerate([*DIFFICULTIES, ""])},
        "flagged": bool(flags),
        "trajectories": trajectories.PAGE if has_page else None,
    }


def _facts(subject: Subject, findings: Findings) -> Iterator[tuple[str, str]]:
    identity = subject.runs[0].identity
    if "model.base_model" in identity:
        yield "Base model", str(identity["model.base_model"]).rpartition("/")[2]
    yield "Benchmark", f"{identity.get('benchmark.name', '-')}, {len(subject.instance_ids):,} tasks"
    if len(findings.rows) > 2:
        yield "Arms", str(len(findings.rows))
    if (samples := identity.get("agent.samples", 1)) > 1:
        yield "Tries of each task", str(samples)
    if "agent.max_turns" in identity:
        yield "Agent", f"{identity['agent.max_turns']} turns at most, temperature {identity['agent.temperature']:g}"
    yield "Updated", str(max(str(kept.record.get("updated", "-")) for kept in subject.runs)).replace("T", " ")[:16]


def _between(subject: Subject, findings: Findings) -> Iterator[str]:
    """What the arms have in common and what not; and how differently they ended."""
    if len(findings.rows) < 2:
        return
    about = [(row.name, arms.about_arm(subject, row)) for row in findings.rows]
    named = ", ".join(f"{name} is the {what}" for name, what in about if what) if len(about) < tasks.FEW else ""
    together = {"run": "took turns on the same tasks in the same run, with", "runs": "were run apart, with"}
    same = f"The arms {together.get(subject.kind, 'were run with')} the same prompts, limits, sampling and sandboxes"
    yield f"{same}. They differ in their weights{f': {named}' if named else ''}."
    yield from effort.ending_sentences(findings.rows)


def _proof(subject: Subject) -> Iterator[str]:
    for kept in subject.runs:
        if proof := kept.record.get("proof"):
            label = f"{kept.run.root.name}: " if len(subject.runs) > 1 else ""
            yield from (f"{label}{line}" for line in proof_lines(proof))


def _caveats(subject: Subject, findings: Findings) -> Iterator[str]:
    if subject.owed:
        yield f"{subject.owed} trials have no verdict (infra or not run yet); the rates are of those that have one."
    else:
        yield "Nothing is missing: every trial has its verdict."
    yield from subject.notes
    if len(findings.comparisons) <= tasks.FEW:
        for comparison in findings.comparisons:
            yield from _hangs_on(comparison, f"{comparison.b} against {comparison.a}")
    yield contamination(subject.runs[0].record)
    if len({kept.run.root for kept in subject.runs}) > 1:
        yield "The arms did not all run at the same time: what drifts between runs (load, hardware) is not shared."


def _hangs_on(comparison: Comparison, name: str) -> Iterator[str]:
    if comparison.is_refused:
        yield f"{name}: no verdict while the arms' infra rates differ by {100 * comparison.uneven:.1f} points."
        return
    if itt := comparison.intention_to_treat:
        span = words.span(itt.interval.low, itt.interval.high)
        counted = f"{words.points(itt.difference)} points (likely between {span})"
        yield f"{name}: {counted} if what has no verdict counts as unresolved."
    if left := comparison.without:
        low, high = min(left.values()), max(left.values())
        yield f"{name}: as each repository is left out in turn, the difference stays between {words.span(low, high)}."


def _contents(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "found", "Findings"
    if found["swept"]:
        yield "checkpoints", "Checkpoints"
    if found["flips"]:
        yield "flips", "Differences"
    yield "ends", "Outcomes"
    if found["effort"] or found["servers"]:
        yield "effort", "Effort"
    yield from (("trust", "Trust"), ("instances", "Every task"), ("again", "Reproduction"))


def _file(name: str) -> Markup:
    loader = PackageLoader("swe_eval.report.page")
    return Markup(loader.get_source(Environment(), name)[0])
