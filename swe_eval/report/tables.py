"""The tables at the end of a run."""

from __future__ import annotations

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
from swe_eval.report.rows import Rate, Row
from swe_eval.report.words import instances_needed, interval
from swe_eval.statistics import POWER, Paired, Repeated

COUNTS = {
    **{"both": "both", "only_a": "only A", "only_b": "only B", "neither": "neither"},
    **{"a_ahead": "A ahead", "b_ahead": "B ahead", "even": "even"},
}
"""Headings."""


def print_tables(console: Console, findings: Findings) -> None:
    """Print the verdicts per adapter, each comparison, and what it can bear."""
    console.print(_rows_table(findings.rows))
    say(console, chain.from_iterable(map(_beside, findings.rows)))
    if findings.comparisons:
        console.print(_comparison_table(findings.comparisons))
    say(console, chain.from_iterable(map(_below, findings.comparisons)))
    say(console, _best(findings.best))


def print_sweep(console: Console, findings: Findings) -> None:
    """Print a line for each arm, against the first, and which is best."""
    console.print(_sweep_table(findings))
    say(console, _best(findings.best))


def print_owed(console: Console, rows: Sequence[Row]) -> None:
    """Print how many trials have no verdict, if some have none."""
    if owed := sum(row.count("infra") for row in rows):
        line = f"{owed} without a verdict (infra): never scored, owed; the same command runs them again."
        console.print(line, soft_wrap=True)


def print_proof(console: Console, proof: Mapping[str, Any]) -> None:
    """Print what ``run.json`` has of the proof that the arms are what they are called."""
    say(console, proof_lines(proof) if proof else ())


def print_load(console: Console, load: Mapping[str, Any]) -> None:
    """Print what ``run.json`` has of the server's load."""
    say(console, [load_line(load)] if load else ())


def say(console: Console, lines: Iterable[str]) -> None:
    """Print what stands below a table: each line whole, whatever the width, so that it can be searched for."""
    for line in lines:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def rate(row: Row) -> str:
    """``5/7 = 71.4% [35.9, 91.8]``; of several samples ``71.4% [..] of 7 x 3``: never a number without its interval."""
    if not row.rate.n:
        return "0/0"
    if len(row.arms) > 1:
        return f"{_mean(row.rate)} of {row.rate.n} x {len(row.arms)}"
    return f"{row.count('resolved')}/{row.rate.n} = {_mean(row.rate)}"


def _mean(rate: Rate) -> str:
    return f"{rate.mean or 0:.1%} {interval(rate.interval)}"


def _rows_table(rows: Sequence[Row]) -> Table:
    table = Table("arm", "resolved \\[95% interval]", "unresolved", "empty patch", "infra", box=SIMPLE)
    for row in rows:
        counts = [str(row.count(outcome)) for outcome in ("unresolved", "empty_patch", "infra")]
        table.add_row(escape(row.name), escape(rate(row)), *counts)
    return table


def _beside(row: Row) -> Iterator[str]:
    if row.passes:
        yield f"{row.name}: {', '.join(f'{name} {_mean(found)}' for name, found in row.passes.items())}"
    if row.exits:
        rescued = f" ({row.rescued} unsubmitted patch{'es' * (row.rescued > 1)} rescued)" if row.rescued else ""
        yield f"{row.name} ended with {', '.join(f'{count} {status}' for status, count in row.exits)}{rescued}"
    for arm in row.arms:
        yield from flag_lines(arm)
    yield from clean_lines(row)


def proof_lines(proof: Mapping[str, Any]) -> Iterator[str]:
    """What the proof in ``run.json`` says."""
    off = proof["off_reference"] or {}
    if not proof["distances"] and not off:
        yield "the server has no second model to tell this one from; lora.proof=reference holds it against transformers"
    for found in proof["distances"]:
        apart = f"{found['nats']:.3g} nats per token from {found['a']}"
        yield f"{found['b']} is served {apart} (noise {found['noise']:.1g})"
    for name, nats in off.items():
        yield f"{name} is served {nats:.1g} nats per token off what transformers computes"


def _comparison_table(comparisons: Sequence[Comparison]) -> Table:
    family = len(comparisons) > 1
    several = isinstance(comparisons[0].paired, Repeated)
    counts = [COUNTS[name] for name in comparisons[0].paired.counts]
    columns = ("A vs B", *counts, "B - A \\[95%]", "sign-flip p" if several else "exact p")
    table = Table(*columns, *(["Holm p"] if family else []), box=SIMPLE, collapse_padding=True)
    for comparison in comparisons:
        found = comparison.paired
        adjusted = [_p(comparison, comparison.p_holm)] if family else []
        figures = [_headline(comparison), _p(comparison, found.p_value), *adjusted]
        named = escape(f"{comparison.a} vs {comparison.b}")
        table.add_row(named, *map(str, found.counts.values()), *map(escape, figures))
    return table


def _sweep_table(findings: Findings) -> Table:
    reference = findings.rows[0].name
    against = [f"- {escape(reference)} \\[95%]", "p", "Holm p"] if findings.comparisons else []
    table = Table("arm", "resolved \\[95%]", *against, "owed", "Mtok", "h", box=SIMPLE, collapse_padding=True)
    compared = {comparison.b: comparison for comparison in findings.comparisons}
    for row in findings.rows:
        found = compared.get(row.name)
        ps = [_p(found, found.paired.p_value), _p(found, found.p_holm)] if found else ["", ""]
        figures = [_headline(found) if found else "", *ps] if against else []
        ours = [str(row.count("infra")), f"{row.megatokens:.1f}", f"{row.hours:.1f}"]
        table.add_row(escape(row.name), escape(_mean(row.rate)), *map(escape, figures), *ours)
    return table


def _headline(comparison: Comparison) -> str:
    return "-" if not comparison.paired.n or comparison.is_refused else _difference(comparison.paired)


def _difference(found: Paired | Repeated) -> str:
    ends = (100 * end for end in (found.interval.low, found.interval.high))
    return f"{100 * found.difference:+.1f} [{', '.join(f'{end:+.1f}' for end in ends)}]"


def _p(comparison: Comparison, value: float) -> str:
    return "-" if comparison.is_refused else f"{value:.3g}"


def _below(comparison: Comparison) -> Iterator[str]:
    """What a comparison can bear."""
    found, name = comparison.paired, f"{comparison.a} vs {comparison.b}"
    if comparison.is_refused:
        uneven = f"{100 * comparison.uneven:.1f} points"
        yield f"{name}: no verdict while the arms' infra rates differ by {uneven}; run what is owed"
        return
    least = "no difference" if found.detectable is None else f"a difference of {100 * found.detectable:.1f} points"
    yield f"{name}: n = {found.n} with this much disagreement detects {least} at {POWER:.0%} power"
    if takes := _what_it_takes(found):
        yield f"{name}: to detect a true difference of {100 * abs(found.difference):.1f} points, as seen, takes {takes}"
    if comparison.intention_to_treat:
        yield f"{name}: {_difference(comparison.intention_to_treat)} if what is owed counts as unresolved"
    if turned := comparison.turned_by:
        more = f"; so it is without {len(turned) - 1} more" if len(turned) > 1 else ""
        left = f"{100 * comparison.without[turned[0]]:+.1f}"
        yield f"{name}: without {turned[0]} the other arm is ahead ({left}){more}"


def _what_it_takes(found: Paired | Repeated) -> str | None:
    """To have shown what was seen; None if the run has shown it, or could have."""
    if is_shown(found):
        return None
    if not (instances := instances_needed(found)):
        return None
    more = ""
    if isinstance(found, Repeated) and (samples := found.samples_needed(found.difference) or 0) > max(found.samples):
        more = f", or {samples} samples of each of these"
    return f"{instances} such instances{more}"


def _best(best: Best | None) -> Iterator[str]:
    if not best:
        return
    chosen = f"chosen on {best.chosen.n} instances ({best.chosen.mean or 0:.1%} there, flattered by the choice)"
    against = f", {_difference(best.paired)} against {best.against}" if best.paired else ""
    yield f"best: {best.name}, {chosen}; on the other {best.confirmed.n}: {_mean(best.confirmed)}{against}"
