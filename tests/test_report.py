"""What the tables say of a comparison: never a difference without its interval, never a verdict on uneven arms."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from swe_eval.report.results import Arm, Verdict, compare, suspicions
from swe_eval.report.tables import print_tables


def arm(name: str, outcomes: str) -> Arm:
    """One letter a trial: Resolved, Unresolved, or Infra."""
    words = {"R": "resolved", "U": "unresolved", "I": "infra"}
    return Arm(name, {f"task-{index:03}": Verdict(words[letter]) for index, letter in enumerate(outcomes)})


def printed(*arms: Arm) -> str:
    """The tables of these arms, each compared with the first."""
    out = StringIO()
    reference, *others = [each.name for each in arms]
    print_tables(Console(file=out, width=100), arms, compare(arms, [(reference, other) for other in others]))
    return out.getvalue()


def test_a_difference_has_its_interval_and_what_could_have_been_detected():
    said = printed(arm("base", "R" * 20 + "U" * 80), arm("rl", "U" * 5 + "R" * 30 + "U" * 65))
    assert "base vs rl  15    5       15      65       +10.0 [+1.2, +18.8]  0.0414" in said
    assert "base vs rl: n = 100 with this much disagreement detects a difference of 12.8 points at 80% power" in said


def test_arms_of_a_family_are_adjusted_for_each_other():
    arms = [arm("base", "U" * 40), arm("one", "R" * 6 + "U" * 34), arm("two", "R" * 7 + "U" * 33)]
    first, second = compare(arms, [("base", "one"), ("base", "two")])
    assert (first.paired.p_value, first.p_holm) == (0.03125, 0.03125)
    assert (second.paired.p_value, second.p_holm) == (0.015625, 0.03125)
    assert "Holm p" in printed(*arms)
    assert "Holm p" not in printed(*arms[:2])


def test_arms_that_miss_different_parts_get_no_verdict():
    said = printed(arm("base", "U" * 50), arm("rl", "I" * 2 + "R" * 48))
    assert "base vs rl  0     0       48      0        -            -" in said
    assert "base vs rl: no verdict while the arms' infra rates differ by 4.0 points; run what is owed" in said


def test_arms_that_miss_as_much_are_compared_on_what_both_have():
    [comparison] = compare([arm("base", "IU" * 20), arm("rl", "RI" * 20)], [("base", "rl")])
    assert (comparison.is_refused, comparison.paired.n, comparison.as_json()["difference"]) == (False, 0, None)


def test_patches_that_can_decide_a_verdict_are_named_beside_it():
    flags = {"test configuration": ["conftest.py"]}
    cheat = {f"task-{number}": Verdict("resolved", suspicious=flags) for number in range(4)}
    found = Arm("rl", {**cheat, "task-8": Verdict("unresolved", suspicious=flags), "task-9": Verdict("resolved")})
    said = printed(found)
    assert "5/6 = 83.3%" in said
    assert "rl: 5 patches touch test configuration (4 resolved): task-0, task-1, task-2, ..." in said
    assert suspicions([found])["rl"].keys() == {*cheat, "task-8"}
