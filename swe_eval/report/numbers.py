"""How numbers are written, the same in tables, sentences and pages: no rate and no difference without its interval."""

from __future__ import annotations

from swe_eval.report.rows import Rate, Row
from swe_eval.statistics import MOST_PAIRS, Interval, Paired, Repeated

MINUS = "\N{MINUS SIGN}"


def percent(rate: Rate) -> str:
    """``28.2%``, or ``-`` if nothing is scored."""
    return "-" if rate.mean is None else f"{rate.mean:.1%}"


def interval(found: Interval) -> str:
    """Of a rate, in per cent: ``[24.4, 32.3]``."""
    return f"[{100 * found.low:.1f}, {100 * found.high:.1f}]"


def rate(found: Rate) -> str:
    """``28.2% [24.4, 32.3]``."""
    return f"{percent(found)} {interval(found.interval)}"


def rate_of(found: Rate) -> str:
    """``28.2% [24.4, 32.3] of 500 tasks``."""
    return f"{rate(found)} of {tasks(found.n)}"


def score(row: Row) -> str:
    """``5/7 = 71.4% [35.9, 91.8]``; with three samples per instance ``71.4% [35.9, 91.8] of 7 x 3``."""
    if not row.rate.n:
        return "0/0"
    if len(row.arms) > 1:
        return f"{rate(row.rate)} of {row.rate.n} x {len(row.arms)}"
    return f"{row.count('resolved')}/{row.rate.n} = {rate(row.rate)}"


def points(difference: float) -> str:
    """A difference of rates, in percentage points: ``+4.8``."""
    return f"{100 * difference:+.1f}".replace("-", MINUS)


def signed_interval(found: Interval) -> str:
    """Of a difference, in points: ``[+1.2, +18.8]``."""
    return f"[{points(found.low)}, {points(found.high)}]"


def span(found: Interval) -> str:
    """The same in a sentence: ``+1.2 and +18.8 points``."""
    return f"{points(found.low)} and {points(found.high)} points"


def difference(found: Paired | Repeated) -> str:
    """``+10.0 [+1.2, +18.8]``, in points."""
    return f"{points(found.difference)} {signed_interval(found.interval)}"


def p_value(p: float) -> str:
    """To three significant digits."""
    return f"{p:.3g}"


def instances_needed(found: Paired | Repeated) -> str | None:
    """How many instances would show the difference that was seen; None where there is too little to tell."""
    needed = found.needed(found.difference)
    if needed is None:
        return f"over {MOST_PAIRS:,}" if isinstance(found, Paired) else None
    return str(needed)


def tasks(n: int) -> str:
    """``1 task``, ``1,000 tasks``."""
    return f"{n:,} task{'s' * (n != 1)}"


def plain(text: str) -> str:
    """With the minus that a keyboard has: what a terminal shows is searched for."""
    return text.replace(MINUS, "-")
