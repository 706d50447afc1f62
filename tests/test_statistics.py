"""Intervals and tests, against published figures and enumeration."""

from __future__ import annotations

from math import comb

import pytest

from swe_eval.statistics import Interval, Paired, wilson


def test_wilson_gives_the_published_interval():
    """81 of 263: Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3: 0.2553 to 0.3662."""
    found = wilson(81, 263)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)


def test_wilson_of_none_reaches_only_so_far():
    """0 of 10: Newcombe 1998, table I, method 3: 0 to 0.2775."""
    found = wilson(0, 10)
    assert (found.low, round(found.high, 4)) == (0.0, 0.2775)


def test_nothing_tried_says_nothing():
    assert wilson(0, 0) == Interval(0.0, 1.0)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 5), (1, 8), (3, 3), (12, 4), (0, 1)])
def test_mcnemar_is_a_fair_coin_on_the_disagreements(only_a, only_b):
    """Two-sided by enumeration: every outcome that is no likelier than the one seen."""
    n = only_a + only_b
    expected = sum(comb(n, k) for k in range(n + 1) if comb(n, k) <= comb(n, only_b)) / 2**n
    assert Paired(7, only_a, only_b, 9).p_value == pytest.approx(expected)


def test_arms_that_never_disagree_do_not_differ():
    assert Paired(3, 0, 0, 4).p_value == 1.0


def test_only_trials_that_both_arms_have_a_verdict_for_are_paired():
    a = {"1": True, "2": True, "3": False, "4": False, "5": True}
    b = {"1": True, "2": False, "3": True, "4": False, "6": True}
    assert Paired.of(a, b) == Paired(both=1, only_a=1, only_b=1, neither=1)
