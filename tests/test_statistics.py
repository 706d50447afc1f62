"""Intervals and tests, against published figures and enumeration."""

from __future__ import annotations

from itertools import combinations, product
from math import comb
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, multinomial

from swe_eval.statistics import (
    POWER,
    Interval,
    Paired,
    Repeated,
    bca,
    benjamini_hochberg,
    detectable,
    holm,
    leave_one_out,
    needed,
    pass_at_k,
    pass_hat_k,
    select,
    wilson,
)
from swe_eval.statistics.repeated import sign_flip

DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
"""Heights of maize in eighths of an inch, crossed less self-fertilised: Fisher 1935, The Design of Experiments, 17."""


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


def test_benjamini_hochberg_finds_the_four_of_the_paper():
    """The 15 p-values of Benjamini and Hochberg 1995, section 4.1."""
    published = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459]
    published += [0.324, 0.4262, 0.5719, 0.6528, 0.759, 1.0]
    assert [sum(p <= 0.05 for p in adjust(published)) for adjust in (benjamini_hochberg, holm)] == [4, 3]


def test_no_tests_need_no_adjustment():
    assert (benjamini_hochberg([]), holm([])) == ([], [])


@pytest.mark.parametrize(
    ("table", "exact", "mid"),
    [(Paired(1, 1, 7, 12), 0.070, 0.039), (Paired(59, 6, 16, 80), 0.052, 0.035)],
)
def test_mid_p_is_the_published_one(table, exact, mid):
    """Fagerland et al. 2013, table 3: airway hyper-responsiveness, complete response."""
    assert (round(table.p_value, 3), round(table.mid_p, 3)) == (exact, mid)


def test_mid_p_where_neither_arm_is_ahead():
    """1 - pmf / 2, by the same; without a disagreement there is nothing to halve."""
    assert (Paired(0, 1, 1, 0).mid_p, Paired(5, 0, 0, 5).mid_p) == (pytest.approx(0.75), 1.0)


def test_the_sign_flip_test_gives_fishers_figure():
    """863 of the 32768 signs have a sum of 314 or more: Fisher 1935, section 21."""
    assert sign_flip(np.array(DARWIN, dtype=float), resamples=2**15) == pytest.approx(2 * 863 / 2**15)


def test_drawn_signs_come_near_fishers_figure_and_are_the_same_again():
    once, again = (sign_flip(np.array(DARWIN, dtype=float), resamples=9_999) for _ in range(2))
    assert once == again == pytest.approx(2 * 863 / 2**15, abs=0.007)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 5), (1, 8), (3, 3), (12, 1), (0, 1), (0, 0)])
def test_of_one_sample_per_instance_the_sign_flip_test_is_mcnemars(only_a, only_b):
    tries = [[(True, False)]] * only_a + [[(False, True)]] * only_b + [[(True, True)]] * 4
    assert Repeated.of(tries).p_value == pytest.approx(Paired(4, only_a, only_b, 0).p_value)


def test_equal_sums_of_thirds_are_equal():
    """By enumeration, in whole numbers; of floats, sums that should be equal are not."""
    found = Repeated(a=[0, 0, 0, 3, 1], b=[1, 2, 1, 2, 1], samples=[3] * 5)
    sums = [abs(sum(s * d for s, d in zip(signs, (1, 2, 1, -1), strict=True))) for signs in product((1, -1), repeat=4)]
    assert found.p_value == sum(total >= 3 for total in sums) / 16


def test_thirds_that_cancel_are_no_difference():
    """Else the arms that show none would need 10**33 instances to show it, or hang on one group of them."""
    found = Repeated(a=[3, 0, 0], b=[0, 2, 1], samples=[3] * 3)
    assert (found.difference, found.needed(found.difference)) == (0.0, None)
    thirds = {"x-1": -1.0, "x-2": 2 / 3, "x-3": 1 / 3, "y-1": 1.0}
    assert leave_one_out(thirds, lambda key: key[0])["y"] == 0.0


def test_samples_of_an_instance_are_no_instances():
    """Five instances whose samples agree are five, however many samples there are."""
    once, often = ([[(False, True)] * samples] * 5 + [[(False, False)] * samples] * 15 for samples in (1, 9))
    assert Repeated.of(once).p_value == Repeated.of(often).p_value == 0.0625
    assert Repeated.of(once).interval == Repeated.of(often).interval


@pytest.mark.parametrize("true", [0.213, 0.343])
def test_the_interval_bca_holds_the_mean_19_times_in_20(true):
    """By enumeration of every outcome of 40 instances that are all or nothing."""
    n = 40
    intervals = [bca([1.0] * wins + [0.0] * (n - wins)) for wins in range(n + 1)]
    held = [binom.pmf(wins, n, true) for wins, found in enumerate(intervals) if found.low <= true <= found.high]
    assert sum(held) == pytest.approx(0.95, abs=0.03)


def test_where_nothing_varies_the_interval_is_wilsons():
    assert bca([0.0] * 20) == wilson(0, 20)
    assert bca([1.0] * 20) == Interval(pytest.approx(wilson(20, 20).low), 1.0)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_differences_that_are_all_zero_leave_room_for_others(n):
    room = wilson(0, n).high
    assert Repeated([1] * n, [1] * n, [2] * n).interval == Interval(-room, room)


def test_no_instances_say_nothing():
    found = Repeated([], [], [])
    assert (found.difference, found.interval, found.p_value, found.detectable) == (0.0, Interval(-1.0, 1.0), 1.0, None)


@given(st.lists(st.sampled_from([-1.0, -2 / 3, -1 / 3, 0.0, 1 / 3, 2 / 3, 1.0]), min_size=1, max_size=12))
def test_an_interval_bca_is_always_one(values):
    found = bca(values, lowest=-1.0, resamples=99)
    assert -1.0 - 1e-9 <= found.low <= found.high <= 1.0 + 1e-9


@pytest.mark.parametrize(("difference", "discordance"), [(0.05, 0.2), (0.1, 0.3), (5 / 7, 5 / 7)])
def test_one_pair_fewer_than_needed_is_too_few(difference, discordance):
    n = needed(difference, discordance)
    assert detectable(n, discordance) <= difference + 1e-5
    assert (detectable(n - 1, discordance) or 1.0) > difference - 1e-5


def test_as_many_pairs_are_needed_as_can_show_it():
    """5.7 points at 20% disagreement: 500 pairs, to the rounding of the points."""
    assert needed(0.057, 0.2) == pytest.approx(500, abs=15)


def test_no_number_of_pairs_shows_nothing_and_no_benchmark_shows_next_to_nothing():
    assert (needed(0.0, 0.2), needed(0.001, 0.2)) == (None, None)


def test_of_several_samples_what_is_detectable_is_found_4_times_in_5():
    """100 instances, two samples, chances of 0.3 and ``better``: 2.80 sd / 10 is the difference between them."""
    random, better = np.random.default_rng(1), 0.3 + 0.1336
    draws = [random.binomial(2, [[0.3], [better]], (2, 100)).tolist() for _ in range(400)]
    found = [Repeated(a, b, [2] * 100, resamples=499) for a, b in draws]
    assert fmean(each.detectable for each in found) == pytest.approx(better - 0.3, rel=0.02)
    assert fmean(each.p_value <= 0.05 for each in found) == pytest.approx(POWER, abs=0.06)


def test_fewer_than_six_differences_show_nothing_of_several_samples_either():
    """Five of seven instances: no sign-flip test has p <= 0.05, and six of nine can."""
    found = Repeated([0] * 7, [2] * 5 + [0] * 2, [2] * 7)
    assert (found.detectable, found.needed(5 / 7), found.samples_needed(5 / 7)) == (None, 9, None)


def test_a_difference_beyond_the_largest_is_none_that_can_be_detected():
    """2.80 sd / sqrt(n) is 1.25 here."""
    assert Repeated([0, 3] * 3, [3, 0] * 3, [3] * 6).detectable is None


@pytest.mark.parametrize("n", [7, 8])
def test_differences_that_do_not_vary_say_nothing_of_what_can_be_detected(n):
    assert Repeated([0] * n, [1] * n, [3] * n).detectable is None


def test_more_samples_help_as_far_as_the_samples_differ():
    """Every outcome of two samples at even chances, as often as it is likely: all of the variance, 1/2 per sample."""
    a, b = zip(*[pair for pair in product((0, 1, 1, 2), repeat=2) for _ in range(100)], strict=True)
    found, z = Repeated(a, b, [2] * 1600), 1.959964 + 0.841621
    assert found.samples_needed(z * (0.5 / (1600 * 7.5)) ** 0.5) == 8
    assert Repeated([0, 4] * 50, [4, 0] * 50, [4] * 100).samples_needed(0.05) is None


@pytest.mark.parametrize(("k", "n", "c"), [(1, 5, 2), (3, 5, 2), (3, 3, 3), (2, 6, 0), (4, 5, 4)])
def test_pass_at_k_and_pass_hat_k_are_means_over_every_choice_of_k(k, n, c):
    choices = list(combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(fmean(any(choice) for choice in choices))
    assert pass_hat_k(n, c, k) == pytest.approx(fmean(all(choice) for choice in choices))


def test_the_best_of_equals_is_flattered_where_it_was_chosen_alone():
    random, chosen, confirmed = np.random.default_rng(0), [], []
    for _ in range(200):
        rates = {f"arm-{arm}": dict(zip(map(str, range(100)), random.random(100), strict=True)) for arm in range(10)}
        found = select(rates)
        assert sorted(found.chosen_on + found.confirmed_on) == sorted(map(str, range(100)))
        chosen.append(fmean(rates[found.name][key] for key in found.chosen_on))
        confirmed.append(fmean(rates[found.name][key] for key in found.confirmed_on))
    assert fmean(chosen) > 0.54
    assert fmean(confirmed) == pytest.approx(0.5, abs=0.01)


def test_one_instance_cannot_be_split():
    assert select({"a": {"1": 1.0, "2": 0.0}, "b": {"2": 1.0}}) is None


def test_a_group_is_left_out_at_a_time():
    differences = {"x-1": 1.0, "x-2": 1.0, "y-1": -1.0, "z-1": 0.0}
    assert leave_one_out(differences, lambda key: key[0]) == {
        "x": -0.5,
        "y": pytest.approx(2 / 3),
        "z": pytest.approx(1 / 3),
    }
    assert leave_one_out({"x-1": 1.0}, lambda key: key[0]) == {}
