"""Intervals and tests, against published figures and enumeration."""

from __future__ import annotations

from itertools import product
from math import comb

import pytest
from scipy.stats import multinomial

from swe_eval.statistics import Interval, Paired, detectable, holm, wilson


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


@pytest.mark.parametrize("cells", [(0.3, 0.1, 0.2, 0.4), (0.05, 0.1, 0.05, 0.8), (0.6, 0.05, 0.3, 0.05)])
def test_the_interval_of_a_difference_holds_it_19_times_in_20(cells):
    """By enumeration of every outcome of 30 pairs."""
    n, true = 30, cells[2] - cells[1]
    outcomes = [(a, b, c, n - a - b - c) for a, b, c in product(range(n + 1), repeat=3) if a + b + c <= n]
    intervals = [Paired(*outcome).interval for outcome in outcomes]
    inside = [found.low <= true <= found.high for found in intervals]
    assert sum(multinomial.pmf(outcomes, n, cells)[inside]) == pytest.approx(0.95, abs=0.03)


def test_the_interval_of_a_difference_turns_with_the_arms():
    here, there = Paired(20, 3, 9, 18).interval, Paired(20, 9, 3, 18).interval
    assert (here.low, here.high) == pytest.approx((-there.high, -there.low))


def test_no_pairs_say_nothing_of_a_difference():
    assert (Paired(0, 0, 0, 0).interval, Paired(0, 0, 0, 0).detectable) == (Interval(-1.0, 1.0), None)


@pytest.mark.parametrize(("discordance", "points"), [(0.10, 4.1), (0.15, 5.0), (0.20, 5.7), (0.25, 6.4), (0.30, 7.0)])
def test_what_500_pairs_can_show(discordance, points):
    assert 100 * detectable(500, discordance) == pytest.approx(points, abs=0.06)


@pytest.mark.parametrize(("n", "discordance"), [(7, 5 / 7), (500, 0.0), (500, 0.008)])
def test_pairs_that_can_show_nothing(n, discordance):
    """Fewer than six disagreements never reach p = 0.05."""
    assert detectable(n, discordance) is None


def test_holm_multiplies_by_what_is_left_and_never_falls():
    """4 x 0.005, 3 x 0.01, 2 x 0.03, and 1 x 0.04 is lifted to the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_never_exceeds_one():
    assert holm([0.9, 0.7]) == [1.0, 1.0]
