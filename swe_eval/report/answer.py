"""The answer in sentences, for readers who know no statistics; every claim has its numbers beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from swe_eval.report.comparison import Best, Comparison, Findings, is_shown
from swe_eval.report.numbers import instances_needed, p_value, percent, points, rate_of, span, tasks
from swe_eval.report.rows import Row
from swe_eval.statistics import ALPHA, Paired, Repeated

LUCK = 0.2
"""A p-value above this does not even hint at a difference."""


@dataclass(frozen=True)
class Answer:
    """The headline of a report, and the sentences that support it."""

    headline: str
    sentences: Sequence[str]
    tone: str = "open"
    """How the other arm does against the first: ``better``, ``worse`` or ``open``."""


def answer(findings: Findings) -> Answer:
    """Which arm is better, and how sure that is."""
    if not findings.comparisons:
        return Answer(_alone(findings.rows), list(_missing(findings.rows)))
    if len(findings.comparisons) > 1:
        return _of_many(findings)
    [comparison] = findings.comparisons
    return Answer(_headline(comparison), list(_sentences(comparison)), _tone(comparison))


def chance(p: float) -> str:
    """A p-value in words: how often luck alone would do as much."""
    if p < 1e-4:
        return "less than once in 10,000 runs"
    if p > 0.67:
        return "in most runs"
    return "in half of all runs" if p > 0.4 else f"about once in {int(1 / p):,} runs"


def _alone(rows: Sequence[Row]) -> str:
    scored = [row for row in rows if row.rate.n]
    if not scored:
        return "Nothing is scored yet."
    return " ".join(f"{row.name} resolves {percent(row.rate)} of {tasks(row.rate.n)}." for row in scored)


def _headline(comparison: Comparison) -> str:
    a, b, found = comparison.a, comparison.b, comparison.paired
    if not found.n:
        return f"{b} and {a} have no task in common that both are scored on yet."
    if comparison.is_refused:
        return f"No verdict yet on {b} against {a}: too much of one of them is missing."
    if found.p_value <= ALPHA:
        compared = "more" if found.difference > 0 else "fewer"
        return f"{b} resolves {compared} tasks than {a}, and luck does not explain it."
    if not found.difference:
        return f"{b} and {a} resolve equally many tasks here."
    if found.p_value <= LUCK:
        looks = "better" if found.difference > 0 else "worse"
        return f"{b} looks {looks} than {a}, but this run is too small to rule out luck."
    return f"This run shows no difference between {b} and {a}."


def _tone(comparison: Comparison) -> str:
    if comparison.is_refused or comparison.p_holm > ALPHA or not comparison.paired.difference:
        return "open"
    return "better" if comparison.paired.difference > 0 else "worse"


def _sentences(comparison: Comparison) -> Iterator[str]:
    found = comparison.paired
    if not found.n:
        return
    yield _counts(comparison)
    if comparison.is_refused:
        apart = f"{100 * comparison.uneven:.1f} points"
        yield f"Of one of them {apart} more is without a verdict than of the other; run what is owed first."
        return
    yield from _how_sure(found)
    yield from _power(found)
    yield from _fragile(comparison)


def _counts(comparison: Comparison) -> str:
    a, b, found = comparison.a, comparison.b, comparison.paired
    if isinstance(found, Paired):
        resolved = f"{b} resolved {found.resolved_b} and {a} resolved {found.resolved_a}"
        apart = f"{found.only_b} {_were(found.only_b)} resolved by {b} alone, {found.only_a} by {a} alone"
        return f"Of {tasks(found.n)} that both were scored on, {resolved}: {apart}."
    rates = f"{b} resolved {found.rate_of(found.b):.1%} of the tries and {a} {found.rate_of(found.a):.1%}"
    ahead = f"{b} was ahead on {found.counts['b_ahead']} and {a} on {found.counts['a_ahead']}"
    return f"Over {tasks(found.n)} that both were scored on, {rates}; {ahead}."


def _how_sure(found: Paired | Repeated) -> Iterator[str]:
    if not found.difference and found.p_value == 1:
        yield f"The true difference is likely (95%) between {span(found.interval)}."
        return
    said = "which is rare enough to believe it" if found.p_value <= ALPHA else "which is too often to believe it"
    yield (
        f"If both were equally good, luck alone would set them at least this far apart {chance(found.p_value)} "
        f"({found.test} p = {p_value(found.p_value)}), {said}: the limit is once in {round(1 / ALPHA)}."
    )
    likely = span(found.interval)
    yield f"The difference seen is {points(found.difference)} points; the true one is likely (95%) between {likely}."
    has_zero = found.interval.low <= 0 <= found.interval.high
    if has_zero == (found.p_value <= ALPHA):
        has, stricter = ("has 0 in it", "interval") if has_zero else ("leaves 0 out", "test")
        yield f"That interval {has}, but on so few tasks the {stricter} is the stricter of the two; the test decides."


def _power(found: Paired | Repeated) -> Iterator[str]:
    if found.detectable is not None:
        least = f"{100 * found.detectable:.1f} points"
        yield f"A run like this one notices a true difference of {least} or more four times in five; smaller ones less."
    elif found.p_value > ALPHA:
        few = f"the arms disagree on only {tasks(found.discordant)}"
        yield f"Not even the largest true difference would be noticed in four of five runs like this one: {few}."
    if not is_shown(found) and (takes := instances_needed(found)):
        yield f"If the true difference is the one seen, it takes {takes} such tasks to notice it that often."


def _fragile(comparison: Comparison) -> Iterator[str]:
    if turned := comparison.turned_by:
        yield f"It hangs on one repository: without {turned[0]} the other arm is ahead."


def _of_many(findings: Findings) -> Answer:
    judged = [comparison for comparison in findings.comparisons if comparison.has_verdict]
    tones = Counter(map(_tone, judged))
    kinds = {"better": "more", "worse": "fewer"}
    shown = [f"{tones[tone]} {_resolve(tones[tone])} {compared}" for tone, compared in kinds.items() if tones[tone]]
    reference, of = findings.rows[0].name, len(findings.comparisons)
    if of in (tones["better"], tones["worse"]):
        compared = "more" if tones["better"] else "fewer"
        headline = f"Every other arm resolves {compared} tasks than {reference}, and luck does not explain it."
    elif shown:
        headline = f"Of {of} arms, {' and '.join(shown)} tasks than {reference}, and luck does not explain it."
    else:
        headline = f"None of {of} arms is shown to differ from {reference}."
    tone = "better" if tones["better"] and not tones["worse"] else "open"
    return Answer(headline, list(_many_sentences(findings, judged)), tone)


def _many_sentences(findings: Findings, judged: Sequence[Comparison]) -> Iterator[str]:
    reference = findings.rows[0]
    if findings.best:
        yield from _best(findings.best, len(findings.rows))
    elif any(comparison.is_refused for comparison in findings.comparisons):
        yield "No best one is named while more of one arm than of another is without a verdict."
    told = f"resolves {rate_of(reference.rate)}" if reference.rate.n else "is not scored yet"
    yield f"{reference.name}, which the others are compared with, {told}."
    yield (
        f"{len(findings.comparisons)} comparisons are made at once, so each p-value is adjusted for all of them "
        "(Holm): without that, one in twenty equal arms would look different."
    )
    if left := len(findings.comparisons) - len(judged):
        why = "nothing in common is scored, or much more of one arm than of the other is owed"
        yield f"{left} get{'s' * (left == 1)} no verdict: {why}."


def _best(best: Best, arms: int) -> Iterator[str]:
    against, among = "", f" of the {best.of} arms that can be compared" if best.of < arms else ""
    if best.paired:
        likely = f"likely between {span(best.paired.interval)}"
        against = f", {points(best.paired.difference)} points against {best.against} ({likely})"
    yield (
        f"Best{among} is {best.name}. The best of several always looks better than it is, so it was chosen on one half "
        f"of the tasks ({percent(best.chosen)} there) and measured on the other: {rate_of(best.confirmed)}{against}."
    )


def _missing(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row.rate.n:
            yield f"{row.name}: {rate_of(row.rate)}. The interval is where the true rate is likely (95%) to be."


def _resolve(n: int) -> str:
    return "resolves" if n == 1 else "resolve"


def _were(n: int) -> str:
    return "was" if n == 1 else "were"
