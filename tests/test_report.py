"""What the tables say of a comparison: never a difference without its interval, never a verdict on uneven arms."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from swe_eval.report.answer import answer, chance
from swe_eval.report.comparison import Findings, find
from swe_eval.report.load import load_line, summary
from swe_eval.report.page.arms import power_graph
from swe_eval.report.page.card import command_of
from swe_eval.report.page.effort import effort, ending_sentences
from swe_eval.report.page.flips import flips
from swe_eval.report.page.sweep import sweep_table
from swe_eval.report.results import Arm, Verdict, suspicions
from swe_eval.report.rows import rows_of
from swe_eval.report.subject import Subject
from swe_eval.report.tables import print_owed, print_tables, proof_lines
from swe_eval.statistics import Repeated


def arm(name: str, outcomes: str) -> Arm:
    """One letter a trial: Resolved, Unresolved, or Infra."""
    words = {"R": "resolved", "U": "unresolved", "I": "infra"}
    verdicts = {f"task-{index:03}": Verdict(words[letter]) for index, letter in enumerate(outcomes)}
    return Arm(name, name.partition(".s")[0], verdicts)


def of_repositories(name: str, **outcomes: str) -> Arm:
    """As ``arm``, with the outcomes of each repository."""
    verdicts = {
        key.replace("task", f"{repository}__{repository}"): verdict
        for repository, letters in outcomes.items()
        for key, verdict in arm(name, letters).verdicts.items()
    }
    return Arm(name, name, verdicts)


def found(*arms: Arm) -> Findings:
    """Each adapter compared with the first."""
    reference, *others = dict.fromkeys(each.adapter for each in arms)
    return find(arms, [(reference, other) for other in others])


def printed(*arms: Arm) -> str:
    """The tables of these arms, each compared with the first."""
    out = StringIO()
    print_tables(Console(file=out, width=100), found(*arms))
    return out.getvalue()


def test_a_difference_has_its_interval_and_what_could_have_been_detected():
    said = printed(arm("base", "R" * 20 + "U" * 80), arm("rl", "U" * 5 + "R" * 30 + "U" * 65))
    assert "base vs rl  15    5       15      65       +10.0 [+1.2, +18.8]  0.0414" in said
    assert "base vs rl: n = 100 with this much disagreement detects a difference of 12.8 points at 80% power" in said


def test_a_name_with_brackets_is_printed_as_it_is():
    said = printed(arm("[1]/a", "U"), arm("[/2]/b", "R"))
    assert "[1]/a vs [/2]/b  0 " in said
    assert re.search(r"^  \[/2\]/b +1/1 ", said, re.MULTILINE)


def test_arms_of_a_family_are_adjusted_for_each_other():
    arms = [arm("base", "U" * 40), arm("one", "R" * 6 + "U" * 34), arm("two", "R" * 7 + "U" * 33)]
    first, second = found(*arms).comparisons
    assert (first.paired.p_value, first.p_holm) == (0.03125, 0.03125)
    assert (second.paired.p_value, second.p_holm) == (0.015625, 0.03125)
    assert "Holm p" in printed(*arms)
    assert "Holm p" not in printed(*arms[:2])


def test_arms_that_miss_different_parts_get_no_verdict():
    said = printed(arm("base", "U" * 50), arm("rl", "I" * 2 + "R" * 48))
    assert "base vs rl  0     0       48      0        -            -" in said
    assert "base vs rl: no verdict while the arms' infra rates differ by 4.0 points; run what is owed" in said


def test_arms_that_miss_as_much_are_compared_on_what_both_have():
    [comparison] = found(arm("base", "IU" * 20), arm("rl", "RI" * 20)).comparisons
    assert (comparison.is_refused, comparison.paired.n, comparison.as_json()["difference"]) == (False, 0, None)


def test_patches_that_can_decide_a_verdict_are_named_beside_it():
    flags = {"test configuration": ["conftest.py"]}
    cheat = {f"task-{number}": Verdict("resolved", suspicious=flags) for number in range(4)}
    rl = Arm("rl", "rl", {**cheat, "task-8": Verdict("unresolved", suspicious=flags), "task-9": Verdict("resolved")})
    said = printed(rl)
    assert "5/6 = 83.3%" in said
    assert "rl: 5 patches touch test configuration (4 resolved): task-0, task-1, task-2, ..." in said
    assert suspicions([rl])["rl"].keys() == {*cheat, "task-8"}


def test_what_was_seen_and_could_not_be_shown_is_said_with_what_it_would_take():
    said = printed(arm("base", "U" * 7), arm("demo", "R" * 5 + "U" * 2))
    assert "base vs demo: n = 7 with this much disagreement detects no difference at 80% power" in said
    assert "base vs demo: to detect a true difference of 71.4 points, as seen, takes 10 such instances" in said
    shown = printed(arm("base", "U" * 40), arm("rl", "R" * 20 + "U" * 20))
    assert "as seen" not in shown


def test_samples_of_one_adapter_are_one_row_over_instances():
    base = [arm(f"base.s{sample}", "U" * 40) for sample in (1, 2)]
    rl = [arm("rl.s1", "R" * 10 + "U" * 30), arm("rl.s2", "U" * 5 + "R" * 10 + "U" * 25)]
    said = printed(*base, *rl)
    assert "base   0.0% [0.0, 8.8] of 40 x 2" in said
    assert re.search(r"rl     25.0% \[1\d.\d, [34]\d.\d\] of 40 x 2", said)
    assert re.search(r"base vs rl  0        15       25    \+25.0 \[\+1\S+ \+[34]\S+\]  0.0002", said)
    assert re.search(r"rl: pass@2 37.5% \[.*\], pass\^2 12.5% \[.*\]", said)


def test_a_sample_without_a_verdict_takes_its_partner_along():
    arms = [arm("base.s1", "RU"), arm("base.s2", "IU"), arm("rl.s1", "RR"), arm("rl.s2", "RI")]
    [comparison] = found(*arms).comparisons
    assert comparison.paired == Repeated(a=[1, 0], b=[1, 1], samples=[1, 1])
    assert comparison.intention_to_treat == Repeated(a=[1, 0], b=[2, 1], samples=[2, 2])


def test_what_is_owed_is_also_counted_as_unresolved():
    said = printed(arm("base", "I" + "U" * 99), arm("rl", "R" * 10 + "U" * 89 + "I"))
    assert "base vs rl: +10.0 [+4.2, +17.4] if what is owed counts as unresolved" in said
    assert found(arm("base", "RI")).as_json()["adapters"]["base"]["intention_to_treat"]["mean"] == 0.5


def test_a_difference_that_hangs_on_one_repository_is_said_to():
    base = of_repositories("base", django="U" * 20, sympy="R" * 4 + "U" * 6)
    rl = of_repositories("rl", django="R" * 6 + "U" * 14, sympy="U" * 10)
    assert "base vs rl: without django__django the other arm is ahead (-40.0)" in printed(base, rl)
    [comparison] = found(base, rl).comparisons
    ends = {"lowest": -0.4, "highest": 0.3, "most": "django__django", "without_most": -0.4}
    assert comparison.as_json()["leave_one_repository_out"] == ends


def test_the_best_of_three_is_measured_where_it_was_not_chosen():
    arms = [arm("base", "U" * 40), arm("one", "RU" * 20), arm("two", "RUUU" * 10)]
    best = found(*arms).best
    assert (best.name, best.chosen.n, best.confirmed.n) == ("one", 20, 20)
    assert (best.chosen.mean + best.confirmed.mean) / 2 == 0.5
    assert f"on the other 20: {best.confirmed.mean:.1%} [" in printed(*arms)
    assert found(*arms[:2]).best is None


def test_no_best_is_named_while_one_arm_misses_more():
    assert found(arm("base", "U" * 50), arm("one", "R" * 50), arm("two", "I" * 2 + "R" * 48)).best is None


def in_words(*arms: Arm) -> str:
    said = answer(found(*arms))
    return " ".join([said.headline, *said.sentences])


def test_a_newcomer_reads_how_sure_a_difference_is():
    said = in_words(arm("base", "U" * 7), arm("demo", "R" * 5 + "U" * 2))
    assert said.startswith("demo looks better than base, but this run is too small to rule out luck.")
    assert "Of 7 tasks that both were scored on, demo resolved 5 and base resolved 0" in said
    assert "luck alone would set them at least this far apart about once in 16 runs (exact p = 0.0625)" in said
    assert "the true one is likely (95%) between +21.2 and +91.8 points" in said
    assert "If the true difference is the one seen, it takes 10 such tasks to notice it that often." in said


def test_a_newcomer_reads_which_arm_is_better():
    better, worse = arm("rl", "R" * 30 + "U" * 70), arm("base", "R" * 10 + "U" * 90)
    assert in_words(worse, better).startswith("rl resolves more tasks than base, and luck does not explain it.")
    assert in_words(better, worse).startswith("base resolves fewer tasks than rl, and luck does not explain it.")
    assert answer(found(worse, better)).tone == "better"


def test_a_newcomer_is_told_no_verdict_where_there_is_none():
    assert in_words(arm("base", "U" * 50), arm("rl", "I" * 2 + "R" * 48)).startswith(
        "No verdict yet on rl against base"
    )
    assert in_words(arm("base", "I"), arm("rl", "R")).startswith("rl and base have no task in common")
    assert in_words(arm("base", "RU" * 20), arm("rl", "UR" * 20)).startswith("rl and base resolve equally many tasks")
    assert in_words(arm("base", "II")) == "Nothing is scored yet."


def test_a_newcomer_reads_that_the_best_of_many_looks_better_than_it_is():
    said = in_words(arm("base", "U" * 40), arm("one", "RU" * 20), arm("two", "U" * 40))
    assert said.startswith("Of 2 arms, 1 resolves more tasks than base, and luck does not explain it.")
    assert "Best is one. The best of several always looks better than it is" in said
    assert "2 comparisons are made at once" in said
    said = in_words(arm("base", "U" * 40), arm("one", "RU" * 20), arm("two", "UR" * 20))
    assert said.startswith("Every other arm resolves more tasks than base, and luck does not explain it.")


def test_the_best_is_sought_among_those_that_miss_as_little():
    rows = [arm("base", "U" * 40), arm("one", "RU" * 20), arm("two", "R" + "U" * 39), arm("late", "R" * 9 + "I" * 31)]
    assert (found(*rows).best.name, found(*rows).best.of) == ("one", 3)
    assert "Best of the 3 arms that can be compared is one." in in_words(*rows)


@pytest.mark.parametrize("door", ["/x/swe_eval/__main__.py", "/x/bin/swe-eval", "swe_eval"])
def test_a_run_s_command_can_be_given_again(door):
    """The last is what a job of SLURM calls itself."""
    assert command_of([door, "lora=ab"]) == "python -m swe_eval lora=ab"
    assert command_of(["/x/swe_eval/grade.py"]) == "python -m swe_eval.grade"


def test_the_90th_percentile_of_few_rollouts_is_not_beyond_the_longest():
    rl = Arm("rl", "rl", {f"task-{n}": Verdict("resolved", turns=1, seconds=n) for n in (1.0, 2.0)})
    assert effort(rows_of([rl])).rows[0].cells[-1] == "1.9"


def test_the_rates_of_several_samples_are_of_the_tasks_in_common():
    """Base alone has a verdict on the third task, rl alone on the fourth."""
    arms = [arm("base.s1", "UURI"), arm("base.s2", "UURI"), arm("rl.s1", "RUIR"), arm("rl.s2", "RUIR")]
    said = "Over 2 tasks that both were scored on, rl resolved 50.0% of the tries and base 0.0%"
    assert f"{said}; rl was ahead on 1 and base on 0." in in_words(*arms)


def test_how_rollouts_ended_is_told_of_those_that_have_ended():
    """Two of ten of base's, all of which were submitted, as rl's were."""
    submitted, owed = Verdict("unresolved", exit_status="Submitted"), Verdict("infra")
    base = Arm("base", "base", {f"task-{n}": submitted if n < 2 else owed for n in range(10)})
    rl = Arm("rl", "rl", {f"task-{n}": submitted for n in range(10)})
    assert list(ending_sentences(rows_of([base, rl]))) == []


def test_an_arm_without_a_verdict_has_no_dot_among_the_checkpoints():
    base, late = sweep_table(found(arm("base", "RU"), arm("late", "II")))
    assert (bool(base.drawing), bool(late.drawing)) == (True, False)


def test_more_tasks_than_any_benchmark_has_are_not_counted():
    said = in_words(arm("base", "R" * 20 + "U" * 80), arm("rl", "U" * 20 + "R" * 21 + "U" * 59))
    assert "If the true difference is the one seen, it takes over 10,000 such tasks to notice it that often." in said


@pytest.mark.parametrize("owed", range(12))
def test_arms_whose_infra_rates_differ_by_a_point_are_compared(owed):
    """As floats, 0.07 - 0.06 is more than 0.01."""
    arms = [arm(name, "I" * n + "U" * (100 - n)) for name, n in (("base", owed), ("rl", owed + 1), ("sft", owed))]
    findings = found(*arms)
    assert ([each.is_refused for each in findings.comparisons], findings.best.of) == ([False, False], 3)


def test_no_difference_is_drawn_where_there_is_no_verdict():
    uneven = found(arm("base", "U" * 50), arm("rl", "I" * 2 + "R" * 48)).comparisons
    even = found(arm("base", "U" * 50), arm("rl", "U" * 2 + "R" * 48)).comparisons
    assert (power_graph(uneven), power_graph(even) is None) == (None, False)


def test_one_of_many_that_misses_too_much_gets_no_verdict():
    said = in_words(arm("base", "U" * 40), arm("one", "RU" * 20), arm("late", "I" * 20 + "R" * 20))
    assert "1 gets no verdict: nothing in common is scored, or much more of one arm than of the other is owed." in said


@pytest.mark.parametrize(("p", "often"), [(0.0507, 19), (0.05, 20), (0.0491, 20), (0.0414, 24), (0.0625, 16)])
def test_what_is_too_often_is_never_as_rare_as_the_limit(p, often):
    assert chance(p) == f"about once in {often} runs"


def test_a_reference_that_is_not_scored_yet_is_said_not_to_be():
    said = in_words(arm("base", "II"), arm("one", "RU"), arm("two", "UR"))
    assert "base, which the others are compared with, is not scored yet." in said


def test_of_many_comparisons_the_one_that_is_shown_has_a_verdict(tmp_path):
    late = [arm(f"late-{n}", "I" * 2 + "R" * 48) for n in range(6)]
    findings = found(arm("base", "U" * 50), *late, arm("rl", "R" * 9 + "U" * 41))
    [shown] = flips(Subject("runs", "", tmp_path, [], [], []), findings)
    assert (findings.best, shown.comparison.b) == (None, "rl")


def test_it_is_said_which_of_test_and_interval_decides_where_they_disagree():
    """Eight tasks that rl resolves once in three tries; five of seven that it resolves in its only one."""
    base = [arm(f"base.s{sample}", "U" * 8) for sample in (1, 2, 3)]
    rl = [arm(f"rl.s{sample}", outcome * 8) for sample, outcome in enumerate("RUU", 1)]
    said = "on so few tasks the {} is the stricter of the two; the test decides."
    assert in_words(*base, *rl).endswith(f"That interval has 0 in it, but {said.format('interval')}")
    assert "at 80% power" not in printed(*base, *rl)
    single = in_words(arm("base", "U" * 7), arm("rl", "R" * 5 + "U" * 2))
    assert f"That interval leaves 0 out, but {said.format('test')}" in single


def load_log(path: Path, *agents: int, **others: object) -> Path:
    """The lines of a load.jsonl, by the number of agents that each saw."""
    path.write_text("".join(json.dumps({"time": "12:00", "agents": seen, **others}) + "\n" for seen in agents))
    return path


COUNTERS = {"held": 0, "budget": None, "kv_use": None, "preemptions": 0, "prefix_hits": 1, "prefix_queries": 2}


def test_nothing_is_said_of_the_load_that_nobody_looked_at_while_an_agent_was_at_work(tmp_path):
    log = load_log(tmp_path / "load.jsonl", 0, 0, running=0, waiting=0, **COUNTERS)
    assert summary(log) == {}


def test_the_load_is_that_of_the_time_when_agents_were_at_work(tmp_path):
    """Before the first and after the last, at every run's ends, nothing is."""
    found = summary(load_log(tmp_path / "load.jsonl", 0, 2, 4, 0, running=1, waiting=0, **COUNTERS))
    assert (found["agents"], found["prefix_hit_rate"], len(found["course"])) == ({"mean": 3, "peak": 4}, 0.5, 4)


def test_a_load_log_without_counters_is_read_as_far_as_it_goes(tmp_path):
    said = load_line(summary(load_log(tmp_path / "load.jsonl", 2, running=1, waiting=0)))
    assert said == "2 rollouts at once at most, 2.0 on average; the server computed 1.0 requests, 0.0 waited"
    assert summary(load_log(tmp_path / "load.jsonl", 2)) == {}


@pytest.mark.parametrize(
    ("owed", "failed", "said"),
    [
        (0, 0, ""),
        (14, 0, "14 not run yet: never scored, owed; this runs them.\n"),
        (14, 2, "2 without a verdict (infra) and 12 not run yet: never scored, owed; this runs them.\n"),
        (2, 2, "2 without a verdict (infra): never scored, owed; this runs them again.\n"),
    ],
)
def test_what_failed_on_our_side_is_told_apart_from_what_was_not_run_yet(owed, failed, said):
    out = StringIO()
    print_owed(Console(file=out), owed, failed, "this")
    assert out.getvalue() == said


def test_a_base_model_that_is_no_arm_is_called_so_in_the_proof():
    distances = [{"a": "/models/tiny-2651", "b": "rl", "nats": 1.16, "noise": 0.0}]
    assert list(proof_lines({"distances": distances, "off_reference": {"org/model": 0.01}})) == [
        "rl is served 1.16 nats per token from the base model (noise 0)",
        "the base model is served 0.01 nats per token off what transformers computes",
    ]
