"""The tables at the end of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from swe_eval.report.results import Arm, Comparison
from swe_eval.statistics import wilson


def print_tables(console: Console, arms: Sequence[Arm], comparisons: Sequence[Comparison]) -> None:
    """Print the verdicts per arm, and each comparison."""
    console.print(_arms_table(arms))
    for arm in arms:
        if exits := _exits(arm):
            console.print(f"  {arm.name} ended with {exits}", highlight=False, soft_wrap=True)
    if comparisons:
        console.print(_comparison_table(comparisons))
    if owed := sum(len(arm.ids("infra")) for arm in arms):
        console.print(f"{owed} without a verdict (infra): never scored, owed; the same command runs them again.")


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


def _comparison_table(comparisons: Sequence[Comparison]) -> Table:
    table = Table("A vs B", "both", "only A", "only B", "neither", "B - A", "two-sided p", box=SIMPLE)
    for comparison in comparisons:
        found = comparison.paired
        difference = f"{100 * (found.only_b - found.only_a) / found.n:+.1f} points" if found.n else "-"
        counts = [str(count) for count in (found.both, found.only_a, found.only_b, found.neither)]
        table.add_row(f"{comparison.a} vs {comparison.b}", *counts, difference, f"{found.p_value:.3g}")
    return table
