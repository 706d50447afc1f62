"""The tables at the end of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from swe_eval.report.load import load_line
from swe_eval.report.results import Arm, Comparison
from swe_eval.statistics import POWER, wilson

SHOWN = 3
"""Instances that a line names; ``run.json`` has all."""


def print_tables(console: Console, arms: Sequence[Arm], comparisons: Sequence[Comparison]) -> None:
    """Print the verdicts per arm, and each comparison."""
    console.print(_arms_table(arms))
    for arm in arms:
        if exits := _exits(arm):
            console.print(f"  {arm.name} ended with {exits}", highlight=False, soft_wrap=True)
        for line in _suspicious(arm):
            console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    if comparisons:
        console.print(_comparison_table(comparisons))
    for line in map(_what_it_can_show, comparisons):
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    if owed := sum(len(arm.ids("infra")) for arm in arms):
        console.print(f"{owed} without a verdict (infra): never scored, owed; the same command runs them again.")


def print_proof(console: Console, proof: Mapping[str, Any]) -> None:
    """Print what ``run.json`` has of the proof that the arms are what they are called."""
    for line in _proof(proof) if proof else ():
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def print_load(console: Console, load: Mapping[str, Any]) -> None:
    """Print what ``run.json`` has of the server's load."""
    if load:
        console.print(f"  {load_line(load)}", highlight=False, markup=False, soft_wrap=True)


def rate(arm: Arm) -> str:
    """``5/7 = 71.4% [35.9, 91.8]``: never a number without its interval (Wilson, 95%)."""
    k, n = sum(arm.resolved.values()), len(arm.resolved)
    if not n:
        return "0/0"
    interval = wilson(k, n)
    return f"{k}/{n} = {k / n:.1%} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _arms_table(arms: Sequence[Arm]) -> Table:
    table = Table("arm", "resolved \\[95% interval]", "unresolved", "empty patch", "infra", box=SIMPLE)
    for arm in arms:
        counts = [str(len(arm.ids(outcome))) for outcome in ("unresolved", "empty_patch", "infra")]
        table.add_row(arm.name, escape(rate(arm)), *counts)
    return table


def _exits(arm: Arm) -> str:
    ended = Counter(verdict.exit_status for verdict in arm.verdicts.values() if verdict.exit_status)
    listed = ", ".join(f"{count} {status}" for status, count in ended.most_common())
    rescued = sum(verdict.rescued for verdict in arm.verdicts.values())
    return listed + (f" ({rescued} unsubmitted patch{'es' * (rescued > 1)} rescued)" if rescued else "")


def _suspicious(arm: Arm) -> Iterator[str]:
    for kind in sorted({kind for verdict in arm.verdicts.values() for kind in verdict.suspicious}):
        ids = sorted(key for key, verdict in arm.verdicts.items() if kind in verdict.suspicious)
        resolved = sum(arm.verdicts[key].outcome == "resolved" for key in ids)
        patches = f"{len(ids)} patch{'es touch' if len(ids) > 1 else ' touches'} {kind}"
        shown = f"{', '.join(ids[:SHOWN])}{', ...' * (len(ids) > SHOWN)}"
        yield f"{arm.name}: {patches} ({resolved} resolved): {shown}"


def _proof(proof: Mapping[str, Any]) -> Iterator[str]:
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
    columns = ("A vs B", "both", "only A", "only B", "neither", "B - A \\[95%]", "exact p")
    table = Table(*columns, *(["Holm p"] if family else []), box=SIMPLE, collapse_padding=True)
    for comparison in comparisons:
        found = comparison.paired
        counts = [str(count) for count in (found.both, found.only_a, found.only_b, found.neither)]
        adjusted = [_p(comparison, comparison.p_holm)] if family else []
        figures = [_difference(comparison), _p(comparison, found.p_value), *adjusted]
        table.add_row(f"{comparison.a} vs {comparison.b}", *counts, *map(escape, figures))
    return table


def _difference(comparison: Comparison) -> str:
    found = comparison.paired
    if not found.n or comparison.is_refused:
        return "-"
    ends = (100 * end for end in (found.interval.low, found.interval.high))
    return f"{100 * found.difference:+.1f} [{', '.join(f'{end:+.1f}' for end in ends)}]"


def _p(comparison: Comparison, value: float) -> str:
    return "-" if comparison.is_refused else f"{value:.3g}"


def _what_it_can_show(comparison: Comparison) -> str:
    found, name = comparison.paired, f"{comparison.a} vs {comparison.b}"
    if comparison.is_refused:
        uneven = f"{100 * comparison.uneven:.1f} points"
        return f"{name}: no verdict while the arms' infra rates differ by {uneven}; run what is owed"
    least = "no difference" if found.detectable is None else f"a difference of {100 * found.detectable:.1f} points"
    return f"{name}: n = {found.n} with this much disagreement detects {least} at {POWER:.0%} power"
