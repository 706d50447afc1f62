"""What the terminal shows at the end of a run: tables, and lines below them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from swe_eval.report.clean import clean_lines, flag_lines
from swe_eval.report.comparison import Best, Comparison, Findings, is_shown
from swe_eval.report.load import load_line
from swe_eval.report.numbers import difference, instances_needed, p_value, percent, plain, rate, score
from swe_eval.report.rows import Row
from swe_eval.run_dir import model_in_words
from swe_eval.statistics import ALPHA, POWER, Paired, Repeated

UNFOLDED = 160
"""Characters."""
COUNTS = {
    "both": "both",
    "only_a": "only A",
    "only_b": "only B",
    "neither": "neither",
    "a_ahead": "A ahead",
    "b_ahead": "B ahead",
    "even": "even",
}
"""Column headings for the counts of ``Paired`` and ``Repeated``."""


def screen() -> Console:
    """As wide as the terminal; in a file or a pipe, wide enough that no cell of a table is folded."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=UNFOLDED)


def print_tables(console: Console, findings: Findings) -> None:
    """Print a row per adapter, a row per comparison, and below them what they can and cannot show."""
    console.print(_rows_table(findings.rows))
    say(console, chain.from_iterable(map(_beside, findings.rows)))
    if findings.comparisons:
        console.print(_comparison_table(findings.comparisons))
    say(console, chain.from_iterable(map(_below, findings.comparisons)))
    say(console, _best(findings.best))


def print_sweep(console: Console, findings: Findings) -> None:
    """Print a row per arm, each compared with the first, and which arm is best."""
    console.print(_sweep_table(findings))
    say(console, _best(findings.best))


def print_owed(console: Console, owed: int, failed: int, runs_them: str) -> None:
    """Print how many trials have no verdict, if any, and what runs them; ``failed`` of them did on our side."""
    waiting = max(0, owed - failed)
    kinds = [(owed - waiting, "without a verdict (infra)"), (waiting, "not run yet")]
    if said := " and ".join(f"{count} {kind}" for count, kind in kinds if count):
        line = f"{said}: never scored, owed; {runs_them} runs them{'' if waiting else ' again'}."
        console.print(line, markup=False, soft_wrap=True)


def print_proof(console: Console, proof: Mapping[str, Any]) -> None:
    """Print the proof, as ``run.json`` has it, that each arm was served with its own weights."""
    say(console, proof_lines(proof) if proof else ())


def print_load(console: Console, load: Mapping[str, Any]) -> None:
    """Print the summary of the server's load, as ``run.json`` has it."""
    say(console, [load_line(load)] if load else ())


def say(console: Console, lines: Iterable[str]) -> None:
    """Print lines below a table, none of them wrapped: a line can be searched for."""
    for line in lines:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def _rows_table(rows: Sequence[Row]) -> Table:
    table = Table("arm", "resolved \\[95% interval]", "unresolved", "empty patch", "infra", box=SIMPLE)
    for row in rows:
        counts = [str(row.count(outcome)) for outcome in ("unresolved", "empty_patch", "infra")]
        table.add_row(escape(row.name), escape(score(row)), *counts)
    return table


def _beside(row: Row) -> Iterator[str]:
    if row.passes:
        yield f"{row.name}: {', '.join(f'{name} {rate(found)}' for name, found in row.passes.items())}"
    if row.exits:
        rescued = f" ({row.rescued} unsubmitted patch{'es' * (row.rescued > 1)} rescued)" if row.rescued else ""
        yield f"{row.name} ended with {', '.join(f'{count} {status}' for status, count in row.exits)}{rescued}"
    for arm in row.arms:
        yield from flag_lines(arm)
    yield from clean_lines(row)


def proof_lines(proof: Mapping[str, Any]) -> Iterator[str]:
    """The proof, as ``run.json`` has it, in words."""
    off = proof["off_reference"] or {}
    if not proof["distances"] and not off:
        yield "the server has no second model to tell this one from; lora.proof=reference holds it against transformers"
    for found in proof["distances"]:
        apart = f"{found['nats']:.3g} nats per token from {model_in_words(found['a'])}"
        yield f"{model_in_words(found['b'])} is served {apart} (noise {found['noise']:.1g})"
    for name, nats in off.items():
        yield f"{model_in_words(name)} is served {nats:.1g} nats per token off what transformers computes"


def _comparison_table(comparisons: Sequence[Comparison]) -> Table:
    found = comparisons[0].paired
    columns = ["A vs B", *(COUNTS[name] for name in found.counts), "B - A \\[95%]", f"{found.test} p", "Holm p"]
    columns = columns if len(comparisons) > 1 else columns[:-1]  # the p-value of a single test needs no adjustment
    table = Table(*columns, box=SIMPLE, collapse_padding=True)
    for each in comparisons:
        cells = [f"{each.a} vs {each.b}", *map(str, each.paired.counts.values()), *_figures(each)]
        table.add_row(*map(escape, cells[: len(columns)]))
    return table


def _sweep_table(findings: Findings) -> Table:
    reference = findings.rows[0].name
    against = [f"- {escape(reference)} \\[95%]", "p", "Holm p"] if findings.comparisons else []
    table = Table("arm", "resolved \\[95%]", *against, "owed", "Mtok", "h", box=SIMPLE, collapse_padding=True)
    compared = {comparison.b: comparison for comparison in findings.comparisons}
    for row in findings.rows:
        figures = _figures(compared[row.name]) if row.name in compared else [""] * len(against)
        ours = [str(row.count("infra")), f"{row.megatokens:.1f}", f"{row.hours:.1f}"]
        table.add_row(escape(row.name), escape(rate(row.rate)), *map(escape, figures), *ours)
    return table


def _figures(comparison: Comparison) -> list[str]:
    """Difference, p and Holm p; dashes where there is no verdict."""
    if not comparison.has_verdict:
        return ["-"] * 3
    found = comparison.paired
    return [plain(difference(found)), p_value(found.p_value), p_value(comparison.p_holm)]


def _below(comparison: Comparison) -> Iterator[str]:
    """How much a comparison can show, and what its verdict depends on."""
    found, name = comparison.paired, f"{comparison.a} vs {comparison.b}"
    if comparison.is_refused:
        uneven = f"{100 * comparison.uneven:.1f} points"
        yield f"{name}: no verdict while the arms' infra rates differ by {uneven}; run what is owed"
        return
    least = "no difference" if found.detectable is None else f"a difference of {100 * found.detectable:.1f} points"
    if found.detectable is not None or found.p_value > ALPHA:
        yield f"{name}: n = {found.n} with this much disagreement detects {least} at {POWER:.0%} power"
    if takes := _what_it_takes(found):
        yield f"{name}: to detect a true difference of {100 * abs(found.difference):.1f} points, as seen, takes {takes}"
    if comparison.intention_to_treat:
        yield f"{name}: {plain(difference(comparison.intention_to_treat))} if what is owed counts as unresolved"
    if turned := comparison.turned_by:
        more = f"; so it is without {len(turned) - 1} more" if len(turned) > 1 else ""
        left = f"{100 * comparison.without[turned[0]]:+.1f}"
        yield f"{name}: without {turned[0]} the other arm is ahead ({left}){more}"


def _what_it_takes(found: Paired | Repeated) -> str | None:
    """What would show the difference that was seen; None if this run has shown it, or could have."""
    if is_shown(found) or not (instances := instances_needed(found)):
        return None
    more = ""
    if isinstance(found, Repeated) and (samples := found.samples_needed(found.difference) or 0) > max(found.samples):
        more = f", or {samples} samples of each of these"
    return f"{instances} such instances{more}"


def _best(best: Best | None) -> Iterator[str]:
    if not best:
        return
    chosen = f"chosen on {best.chosen.n} instances ({percent(best.chosen)} there, flattered by the choice)"
    against = f", {plain(difference(best.paired))} against {best.against}" if best.paired else ""
    yield f"best: {best.name}, {chosen}; on the other {best.confirmed.n}: {rate(best.confirmed)}{against}"
