"""``workers=auto``: what a server tells, what follows from it, who may go on, and a run that is steered by it."""

from __future__ import annotations

import json
import threading
from contextlib import closing
from itertools import pairwise

import pytest
from scripted import SUBMIT, bash, scripted_endpoint
from test_evaluate import external
from test_process import eventually

from swe_eval.evaluate import evaluate
from swe_eval.run_dir import Trial, read_json
from swe_eval.scheduling import admission
from swe_eval.scheduling.admission import FIRST, Budget, Look
from swe_eval.scheduling.gate import NEW, Gate, Traffic
from swe_eval.scheduling.schedule import Schedule
from swe_eval.serving.endpoint import Endpoint
from swe_eval.serving.load import Load, LoadReader, load_of
from swe_eval.settings import PACKAGE

TRIALS = [Trial("arm", f"task-{number}") for number in range(6)]

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="base"} 7.0
vllm:num_requests_running{engine="1",model_name="base"} 5.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="base"} 0.0
vllm:num_requests_waiting{engine="1",model_name="base"} 2.0
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",model_name="base",reason="capacity"} 9.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="base"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="base"} 1.0
# TYPE vllm:prefix_cache_queries_total counter
vllm:prefix_cache_queries_total{engine="0",model_name="base"} 1.2e+06
vllm:prefix_cache_queries_total{engine="1",model_name="base"} 800000.0
# TYPE vllm:prefix_cache_queries_created gauge
vllm:prefix_cache_queries_created{engine="0",model_name="base"} 1.7637e+09
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{engine="0",model_name="base"} 1.1e+06
vllm:prefix_cache_hits_total{engine="1",model_name="base"} 700000.0
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{engine="0",model_name="base"} 3.0
vllm:num_preemptions_total{engine="1",model_name="base"} 1.0
# TYPE vllm:num_preemptions_created gauge
vllm:num_preemptions_created{engine="0",model_name="base"} 1.7637e+09
"""


class TestLoad:
    def test_the_engines_of_a_vllm_are_taken_together(self):
        assert load_of([VLLM]) == Load(12, 2, 0.75, 4, 1_800_000, 2_000_000)

    def test_so_are_several_servers(self):
        assert load_of([VLLM, VLLM]) == Load(24, 4, 0.75, 8, 3_600_000, 4_000_000)

    @pytest.mark.parametrize("text", ["", "<html>404</html>", '{"object": "list"}', "vllm:num_requests_running{"])
    def test_any_other_text_tells_nothing(self, text):
        assert load_of([text]) is None

    def test_our_own_server_tells_it(self, server):
        with closing(LoadReader(server.endpoints.values)) as reader:
            assert eventually(lambda: reader.read().running == 0)  # it answers before it counts
            load = reader.read()
        assert (load.running, load.waiting, load.kv_use, load.preemptions) == (0, 0, None, 0)
        assert load.prefix_queries > load.prefix_hits >= 0

    def test_a_server_that_is_gone_tells_nothing(self):
        gone = Endpoint("http://127.0.0.1:9/v1", "key", "gone", None)
        with closing(LoadReader(lambda: [gone], timeout=1)) as reader:
            assert reader.read() is None


class Course:
    """A budget, and rounds of four agents with conversations of 10,000 tokens."""

    def __init__(self) -> None:
        self.budget = Budget()
        self.turns = self.known = self.hits = self.queries = self.preemptions = 0
        self.look()

    def look(self, kv_use: float | None = 0.5, waiting: int = 0, held: int = 3) -> float:
        load = Load(4, waiting, kv_use, self.preemptions, self.hits, self.queries)
        return self.budget.saw(Look(load, Traffic(4, held, 40_000, self.turns, self.known)))

    def round(self, reuse: float = 1.0, preemptions: int = 0, **seen) -> float:
        self.turns += 4
        self.known += 40_000
        self.hits += int(reuse * 40_000)
        self.queries += 40_000
        self.preemptions += preemptions
        return self.look(**seen)


class TestBudget:
    def test_it_is_doubled_while_the_server_has_room(self):
        course = Course()
        assert [course.round(), course.round(), course.round()] == [2 * FIRST, 4 * FIRST, 8 * FIRST]

    def test_it_stays_while_nobody_is_held_back(self):
        assert Course().round(held=0) == FIRST

    def test_it_stays_until_every_agent_has_had_a_turn(self):
        course = Course()
        assert [course.look() for _ in range(5)] == [FIRST] * 5

    @pytest.mark.parametrize(
        "trouble",
        [{"preemptions": 1}, {"kv_use": 1.0}, {"waiting": 9}, {"reuse": 0.4}],
        ids=lambda seen: next(iter(seen)),
    )
    def test_it_falls_below_what_is_at_work_when_the_server_is_in_trouble(self, trouble):
        course = Course()
        for _ in range(4):
            course.round()
        for _ in range(20):  # gauges are means over the looks of a round
            course.look(**{name: seen for name, seen in trouble.items() if name in ("kv_use", "waiting")})
        assert course.round(**trouble) == 0.85 * 40_000

    def test_after_that_it_waits_for_a_round_and_rises_by_little(self):
        course = Course()
        course.round()
        fallen = course.round(preemptions=1)
        assert course.round(preemptions=1) == fallen  # of what was under way
        assert [course.round(), course.round()] == pytest.approx([fallen + 2500, fallen + 2500 + 2500 * 2**0.1])

    def test_it_rises_faster_the_longer_there_is_no_trouble(self):
        course = Course()
        course.round()
        course.round(preemptions=1)
        budgets = [course.round() for _ in range(40)]
        assert budgets[39] - budgets[38] == pytest.approx(8 * (budgets[9] - budgets[8]))

    def test_it_stays_where_the_cache_is_nearly_full(self):
        course = Course()
        for _ in range(20):
            course.look(kv_use=0.93)
        assert course.round(kv_use=0.93) == FIRST

    def test_a_server_that_never_caches_is_in_no_trouble(self):
        course = Course()
        assert [course.round(reuse=0.0), course.round(reuse=0.0)] == [2 * FIRST, 4 * FIRST]

    def test_a_server_that_was_started_anew_is_in_no_trouble(self):
        course = Course()
        course.round()
        course.round()
        course.hits = course.queries = 0
        assert course.round(reuse=0.0) == 4 * FIRST

    def test_a_turn_that_one_side_counts_later_is_no_trouble(self):
        course = Course()
        course.round()
        course.known += 10_000
        course.turns += 1
        assert course.look() == 2 * FIRST


def free(gate: Gate) -> list[str]:
    """Which of the six get through."""
    through = []

    def pass_through(trial):
        if gate.turns(trial).begin():
            through.append(trial.instance_id)

    threads = [threading.Thread(target=pass_through, args=(trial,), daemon=True) for trial in TRIALS]
    for thread in threads:
        thread.start()
    assert eventually(lambda: len(through) + gate.traffic().held == len(TRIALS))
    found = sorted(through)
    gate.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return found


class TestGate:
    @pytest.fixture
    def gate(self):
        gate = Gate(6)
        gate.expect(TRIALS)
        return gate

    def test_the_first_go_first(self, gate):
        gate.allow(agents=2)
        assert free(gate) == ["task-0", "task-1"]

    def test_as_many_go_as_fit(self, gate):
        gate.turns(TRIALS[0]).end(3 * NEW)
        gate.allow(tokens=5 * NEW)
        assert free(gate) == ["task-0", "task-1", "task-2"]

    def test_one_always_goes(self, gate):
        gate.turns(TRIALS[0]).end(9 * NEW)
        gate.allow(tokens=NEW)
        assert free(gate) == ["task-0"]

    def test_who_leaves_makes_room_for_the_next_in_order(self, gate):
        gate.allow(agents=2)
        gate.leave(TRIALS[0])
        assert free(gate) == ["task-1", "task-2"]

    def test_who_was_held_back_may_have_been_forgotten_by_the_server(self, gate):
        """So what it had read before is not expected of the server's cache."""
        first, second = gate.turns(TRIALS[0]), gate.turns(TRIALS[1])
        for turns in (first, second):
            turns.begin()
            turns.end(5000)
        gate.allow(agents=1)
        thread = threading.Thread(target=second.begin)
        thread.start()
        first.begin()
        assert eventually(lambda: gate.traffic().held == 1)
        assert gate.traffic().known == 5000
        gate.leave(TRIALS[0])
        thread.join(60)
        assert gate.traffic() == Traffic(agents=1, held=0, tokens=5000, turns=2, known=5000)

    def test_where_arms_wait_for_each_other_s_adapters_who_has_begun_goes_on(self):
        """Or the first trial could wait for the adapter's slot of one that waits for it."""
        gate = Gate(6, pauses=False)
        gate.expect(TRIALS)
        gate.turns(TRIALS[4]).begin()
        gate.allow(agents=1)
        assert free(gate) == ["task-0", "task-4"]

    def test_a_failure_lets_nobody_wait_for_ever(self, gate):
        gate.allow(agents=1)

        def fail(trial, turns):
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            Schedule(gate, 1).run(TRIALS, [], fail, print, print)


EVERY_TASK = [path.name for path in sorted((PACKAGE / "benchmark" / "demo" / "tasks").iterdir())]


def dawdle(model, messages):
    """Ten turns, the last of which submits nothing."""
    return SUBMIT if is_last(messages) else bash("touch patch.txt")


def is_last(messages):
    return sum(message["role"] == "assistant" for message in messages) == 9


def steered(settings, tmp_path, room, *overrides, tasks=EVERY_TASK, at_first=0):
    """(lines of load.jsonl, run.json) of two arms, on a server with a KV cache for ``room`` conversations.

    It holds those of its last requests that go on, which does not depend on how fast anybody is. The first answers are
    there once it has told of ``at_first`` conversations.
    """
    is_told = threading.Event()

    def dawdle_once_told(model, messages):
        if messages[0]["role"] == "system":
            is_told.wait(60)
        return dawdle(model, messages)

    with scripted_endpoint(dawdle_once_told, usage={"total_tokens": 5000}) as endpoint:

        def metrics():
            asked = [(turn["model"], turn["messages"]) for turn in endpoint.turns[-2 * room :]]
            kept = {(model, messages[1]["content"]) for model, messages in asked}
            kept -= {(model, messages[1]["content"]) for model, messages in asked if is_last(messages)}
            if len(kept) >= at_first:
                is_told.set()
            return (
                f"vllm:num_requests_running {endpoint.at_once}\nvllm:num_requests_waiting 0\n"
                f"vllm:kv_cache_usage_perc {min(1.0, len(kept) / room)}\n"
            )

        endpoint.metrics = metrics
        assert evaluate(settings(*external(endpoint, "bad", "good", tasks=tasks), *overrides)) == 0
    lines = (tmp_path / "run/logs/load.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], read_json(tmp_path / "run/run.json")


@pytest.fixture
def _hasty(monkeypatch):
    monkeypatch.setattr(admission, "POLL", 0.02)
    monkeypatch.setattr(admission, "SPACING", 0.0)


@pytest.mark.usefixtures("_hasty")
class TestRun:
    def test_the_budget_falls_and_rises_with_the_server(self, settings, tmp_path):
        """There is room for the four that it begins with, and not for twice as many."""
        lines, _ = steered(settings, tmp_path, 5)
        budgets = [line["budget"] for line in lines]
        falls = [at for at, (before, after) in enumerate(pairwise(budgets)) if after < before]
        rises = [at for at, (before, after) in enumerate(pairwise(budgets)) if after > before]
        assert min(rises) < min(falls) < max(rises)

    def test_a_number_of_workers_is_not_steered_and_the_load_is_told(self, settings, tmp_path, capsys):
        """In run.json and under the tables."""
        lines, run = steered(settings, tmp_path, 4, "workers=2", tasks=EVERY_TASK[:1], at_first=2)
        assert {line["budget"] for line in lines} == {None}
        assert (run["load"]["agents"]["peak"], run["load"]["kv_use"]["peak"]) == (2, 0.5)
        assert (run["load"]["preemptions"], run["load"]["prefix_hit_rate"]) == (0, None)
        assert 2 <= len(run["load"]["course"]) <= 60
        assert "  2 rollouts at once at most, " in (out := capsys.readouterr().out)
        assert "KV cache " in out

    def test_a_server_that_tells_no_load_gets_a_few_agents_and_a_line_says_so(self, settings, tmp_path, capsys):
        """Their first answers come to four at a time."""
        four = threading.Barrier(4)

        def answer_four(model, messages):
            if [message["role"] for message in messages] == ["system", "user"]:
                four.wait(60)
                return bash("touch patch.txt")
            return SUBMIT

        with scripted_endpoint(answer_four, delay=0.1) as endpoint:
            evaluate(settings(*external(endpoint, "bad", "good", tasks=EVERY_TASK[:6])))
        assert "workers=auto: the server tells no load at /metrics, so 4 at once; or write workers=N" in (
            capsys.readouterr().out
        )
        assert endpoint.most_at_once == 4
        assert not (tmp_path / "run/logs/load.jsonl").exists()
