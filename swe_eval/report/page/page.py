"""``report.html``: everything that was found, in one file that needs no network; ``report.md``: its short form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import chain
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from swe_eval import __version__
from swe_eval.report import numbers, trajectories
from swe_eval.report.answer import answer
from swe_eval.report.clean import clean_lines, flag_lines
from swe_eval.report.comparison import Comparison, Findings
from swe_eval.report.integrity import contamination
from swe_eval.report.page import arms, card, effort, flips, sweep, tasks
from swe_eval.report.results import flags_by_instance
from swe_eval.report.runs import is_from_elsewhere
from swe_eval.report.subject import Subject
from swe_eval.report.tables import proof_lines
from swe_eval.run_dir import now, write_text
from swe_eval.scheduling.order import DIFFICULTIES
from swe_eval.statistics import Interval

MANY = 12
"""Tables of more arms are folded."""
WRITERS = (
    *(numbers.percent, numbers.interval, numbers.rate_of),
    *(numbers.points, numbers.signed_interval, numbers.difference, numbers.p_value, numbers.tasks),
)
"""What the templates write numbers with."""


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
        **{write.__name__: write for write in WRITERS},
        "signs": tasks.SIGNS,
        "outcomes": effort.OUTCOMES,
        "effort_columns": effort.EFFORT,
        "version": __version__,
        **{kind: _file(f"report.{kind}") for kind in ("css", "js")},
    }
    return made


def content_of(subject: Subject, findings: Findings) -> dict[str, Any]:
    """Everything that the templates set."""
    found = {
        "subject": subject,
        "findings": findings,
        "made": now(),
        "many": len(findings.rows) > MANY,
        **_headline(subject, findings),
        **_results(subject, findings),
        **_trust(subject, findings),
        **_table(subject, findings),
        "cards": card.cards(subject),
        "settings": card.settings(subject.runs),
    }
    return found | {"contents": list(_contents(found))}


def _headline(subject: Subject, findings: Findings) -> dict[str, Any]:
    return {
        "trials": sum(len(row.verdicts) for row in findings.rows),
        "answer": answer(findings),
        "facts": list(_facts(subject, findings)),
        "between": list(_between(subject, findings)),
    }


def _results(subject: Subject, findings: Findings) -> dict[str, Any]:
    rows = findings.rows
    is_sweep = subject.kind == "sweep" or len(rows) > tasks.FEW
    return {
        "arms": None if is_sweep else arms.arm_forest(subject, rows),
        "differences": None if is_sweep else arms.difference_forest(findings.comparisons),
        "swept": sweep.sweep_table(findings) if is_sweep else None,
        "matrix": sweep.sweep_matrix(findings) if is_sweep else None,
        "curve": sweep.sweep_curve(findings),
        "flips": flips.flips(subject, findings),
        "ended": effort.ended(rows),
        "effort": effort.effort(rows),
        "servers": effort.servers(subject),
    }


def _trust(subject: Subject, findings: Findings) -> dict[str, Any]:
    flagged = [*map(flag_lines, subject.arms), *map(clean_lines, findings.rows)]
    return {
        "proof": list(_proof(subject)),
        "integrity": list(chain.from_iterable(flagged)),
        "caveats": list(_caveats(subject, findings)),
        "power": arms.power_graph(findings.comparisons),
    }


def _table(subject: Subject, findings: Findings) -> dict[str, Any]:
    flags = flags_by_instance(subject.arms)
    told = tasks.instances(subject, findings, flags)
    names = [row.name for row in findings.rows]
    a, b = names[0], names[1] if len(names) == 2 else ""
    there = {each.kind for each in told} | ({"flagged"} if flags else set())
    is_of_several = any(len(row.arms) > 1 for row in findings.rows)
    kinds = {**tasks.KINDS, **(tasks.OF_SEVERAL if is_of_several else {}), "flagged": "with a flag"}
    has_page = subject.kind == "run" and (subject.folder / trajectories.PAGE).is_file()
    return {
        "instances": told,
        "of_several": is_of_several,
        "columns": names if len(names) <= tasks.FEW else [],
        "kinds": [(kind, label.format(a=a, b=b)) for kind, label in kinds.items() if kind in there],
        "rated": any(each.difficulty for each in told),
        "ranks": {name: rank for rank, name in enumerate([*DIFFICULTIES, ""])},
        "flagged": bool(flags),
        "trajectories": trajectories.PAGE if has_page else None,
    }


def _facts(subject: Subject, findings: Findings) -> Iterator[tuple[str, str]]:
    identity = subject.runs[0].identity
    if models := card.values_of(subject.runs, "model.base_model"):
        yield f"Base model{'s' * (len(models) > 1)}", ", ".join(model.rpartition("/")[2] for model in models)
    yield "Benchmark", f"{identity.get('benchmark.name', '-')}, {numbers.tasks(len(subject.instance_ids))}"
    if len(findings.rows) > 2:
        yield "Arms", str(len(findings.rows))
    if (samples := identity.get("agent.samples", 1)) > 1:
        yield "Tries of each task", str(samples)
    if "agent.max_turns" in identity:
        yield "Agent", f"{identity['agent.max_turns']} turns at most, temperature {identity['agent.temperature']:g}"
    yield "Updated", str(max(str(saved.record.get("updated", "-")) for saved in subject.runs)).replace("T", " ")[:16]


def _between(subject: Subject, findings: Findings) -> Iterator[str]:
    """What the arms share, what they differ in, and how differently their rollouts ended, as far as it is known."""
    if len(findings.rows) < 2 or is_from_elsewhere(subject.runs[0].identity):
        return
    about = [(row.name, arms.about_arm(subject, row)) for row in findings.rows]
    named = ", ".join(f"{name} is the {what}" for name, what in about if what) if len(about) < tasks.FEW else ""
    together = {"run": "took turns on the same tasks in the same run, with", "runs": "were run apart, with"}
    same = f"The arms {together.get(subject.kind, 'were run with')} the same prompts, limits, sampling and sandboxes"
    yield f"{same}. They differ in their weights{f': {named}' if named else ''}."
    yield from effort.ending_sentences(findings.rows)


def _proof(subject: Subject) -> Iterator[str]:
    for saved in subject.runs:
        if proof := saved.record.get("proof"):
            label = f"{saved.run.root.name}: " if len(subject.runs) > 1 else ""
            yield from (f"{label}{line}" for line in proof_lines(proof))


def _caveats(subject: Subject, findings: Findings) -> Iterator[str]:
    if subject.owed:
        yield f"{subject.owed} trials have no verdict (infra or not run yet); the rates are of those that have one."
    elif not subject.notes:
        yield "Nothing is missing: every trial has its verdict."
    yield from subject.notes
    if len({frozenset(arm.verdicts) for arm in subject.arms}) > 1:
        yield "Not every arm was given every task: a rate is of an arm's own tasks, a difference of those in common."
    if len(findings.comparisons) <= tasks.FEW:
        for comparison in findings.comparisons:
            yield from _hangs_on(comparison, f"{comparison.b} against {comparison.a}")
    yield contamination(subject.runs[0].record)
    if len({saved.run.root for saved in subject.runs}) > 1:
        yield "The arms did not all run at the same time: what drifts between runs (load, hardware) is not shared."


def _hangs_on(comparison: Comparison, name: str) -> Iterator[str]:
    if comparison.is_refused:
        yield f"{name}: no verdict while the arms' infra rates differ by {100 * comparison.uneven:.1f} points."
        return
    if itt := comparison.intention_to_treat:
        counted = f"{numbers.points(itt.difference)} points (likely between {numbers.span(itt.interval)})"
        yield f"{name}: {counted} if what has no verdict counts as unresolved."
    if left := comparison.without.values():
        span = numbers.span(Interval(min(left), max(left)))
        yield f"{name}: as each repository is left out in turn, the difference stays between {span}."


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
