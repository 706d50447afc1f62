"""The pipeline against a scripted endpoint: every part real but the model."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from adapter_fixtures import Made, modules
from scripted import SUBMIT, bash, scripted_endpoint
from test_demo_run import wait_for
from test_process import eventually

from swe_eval.errors import ServingError, UserError
from swe_eval.evaluate import _logs, evaluate
from swe_eval.report.report import conclude
from swe_eval.report.runs import read_run
from swe_eval.run_dir import RunDir, read_json, write_json
from swe_eval.sandbox.local import LocalSandboxes
from swe_eval.settings import PACKAGE

TASKS = ["demo__lru-3", "demo__calc-1"]
"""In the order in which they are run: the more difficult first."""
GOLD = {task: (PACKAGE / "benchmark" / "demo" / "tasks" / task / "gold.patch").read_text() for task in TASKS}


def solve(model, messages):
    """`good` applies the gold patch of the task that it reads of and submits; any other model submits nothing."""
    if any(message["role"] == "assistant" for message in messages):
        return SUBMIT
    patch = "".join(gold for task, gold in GOLD.items() if model == "good" and _issue(task) in messages[-1]["content"])
    return bash(f"git apply --allow-empty - <<'EOF'\n{patch}EOF\ngit diff > patch.txt")


def solve_half(until):
    """As ``solve``, but before ``until`` is set there is no answer to a second turn."""

    def script(model, messages):
        if any(message["role"] == "assistant" for message in messages):
            until.wait(120)
        return solve(model, messages)

    return script


def _issue(task):
    return (PACKAGE / "benchmark" / "demo" / "tasks" / task / "problem_statement.md").read_text().strip()


def external(endpoint, *arms: str, tasks=TASKS) -> list[str]:
    """Overrides that run these arms on these tasks against the endpoint."""
    named = ", ".join(f"{{name: {arm}, path: null}}" for arm in arms)
    return [
        "serving=external",
        f"serving.base_url={endpoint.base_url}",
        "lora=list",
        f"lora.adapters=[{named}]",
        f"benchmark.instance_ids=[{','.join(tasks)}]",
    ]


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_a_run_leaves_the_files_of_the_design(settings, tmp_path, capsys):
    with scripted_endpoint(solve) as endpoint:
        assert evaluate(settings(*external(endpoint, "bad", "good", tasks=TASKS[:1]))) == 0
    per_arm = [
        "trajectories/{}/demo__lru-3.traj.json",
        "predictions/{}/demo__lru-3.diff",
        "predictions/{}.jsonl",
        "evaluation/{}/demo__lru-3/report.json",
        "evaluation/{}/demo__lru-3/patch.diff",
        "results/{}.json",
    ]
    expected = {name.format(arm) for name in per_arm for arm in ("bad", "good")}
    expected |= {"run.json", "config.yaml", "results/comparison.json", "evaluation/good/demo__lru-3/test_output.txt"}
    expected |= {"results/trials.jsonl", "report.html", "report.md"}
    assert {name for name in files(tmp_path / "run") if not name.startswith((".", "logs/"))} == expected
    assert "1/1 = 100.0% [20.7, 100.0]" in capsys.readouterr().out


def test_a_run_may_grow_by_an_arm(settings, tmp_path):
    """What is done is not done again, and what is new is compared with it."""
    with scripted_endpoint(solve) as endpoint:
        evaluate(settings(*external(endpoint, "bad")))
        before = len(endpoint.turns)
        assert evaluate(settings(*external(endpoint, "bad", "good"))) == 0
        assert {body["model"] for body in endpoint.turns[before:]} == {"good"}
    found = json.loads((tmp_path / "run/results/comparison.json").read_text())
    assert [pair["b"] for pair in found["comparisons"]] == ["good"]


def test_an_adapter_that_is_written_over_before_it_is_served_is_not_measured(settings, tmp_path):
    adapter = Made(modules("o_proj")).write(tmp_path / "trained")

    def retrain(model, messages):
        Made(modules("o_proj"), seed=1).write(adapter)
        return solve(model, messages)

    with scripted_endpoint(retrain) as endpoint:
        arms = f"lora.adapters=[{{name: trained, path: {adapter}}}]"
        with pytest.raises(ServingError, match=r"lora: trained: .* was changed while the run went on"):
            evaluate(settings(*external(endpoint, "trained"), arms, "lora.proof=none"))
    assert not endpoint.turns


def test_the_comparison_pairs_the_arms(settings, tmp_path):
    with scripted_endpoint(solve) as endpoint:
        evaluate(settings(*external(endpoint, "bad", "good")))
    found = json.loads((tmp_path / "run/results/comparison.json").read_text())
    flips = {"only_a_ids": [], "only_b_ids": sorted(TASKS)}
    counts = {"n": 2, "both": 0, "only_a": 0, "only_b": 2, "neither": 0}
    ps = {"p_value": 0.5, "mid_p": 0.25, "p_holm": 0.5, "p_bh": 0.5}
    power = {"detectable": None, "needed": {"instances": 6}}
    sureness = {"interval": pytest.approx([0.07, 1.0], abs=1e-4), **power, **ps}
    missing = {"infra_rates_differ_by": 0.0, "is_refused": False, "intention_to_treat": None}
    left_out = {"lowest": 1.0, "highest": 1.0, "most": "demo__calc", "without_most": 1.0}
    assert found["comparisons"] == [
        {"a": "bad", "b": "good", **counts, "difference": 1.0, **sureness, **missing}
        | {"leave_one_repository_out": left_out, **flips}
    ]
    assert ({*found["adapters"]}, found["best"]) == ({"bad", "good"}, None)


def test_what_the_arms_took_is_counted_from_their_trajectories(settings, tmp_path):
    with scripted_endpoint(solve, usage={"prompt_tokens_details": {"cached_tokens": 8}}, delay=0.1) as endpoint:
        evaluate(settings(*external(endpoint, "bad", "good")))
    took = read_json(tmp_path / "run/run.json")["totals"]["good"]
    counts = {"turns": 4, "prompt_tokens": 40, "cached_tokens": 32, "completion_tokens": 20, "prefix_hit_rate": 0.8}
    assert took | counts == took
    assert 0.1 <= took["call_seconds_median"] <= took["call_seconds_p95"] < took["seconds"]


def test_what_no_server_told_is_null(settings, tmp_path):
    with scripted_endpoint(solve) as endpoint:
        evaluate(settings(*external(endpoint, "good", tasks=TASKS[:1])))
    run = read_json(tmp_path / "run/run.json")
    assert (run["totals"]["good"]["cached_tokens"], run["totals"]["good"]["prefix_hit_rate"]) == (None, None)
    assert run["load"] == {}


def test_the_same_command_again_does_nothing_and_says_the_same(settings, capsys):
    with scripted_endpoint(solve) as endpoint:
        command = settings(*external(endpoint, "good"))
        evaluate(command)
        first, asked = capsys.readouterr().out, len(endpoint.requests)
        assert evaluate(command) == 0
    assert len(endpoint.requests) == asked
    assert first.endswith(capsys.readouterr().out)


def test_more_instances_continue_the_run(settings):
    with scripted_endpoint(solve) as endpoint:
        evaluate(settings(*external(endpoint, "good", tasks=TASKS[:1])))
        before = len(endpoint.turns)
        assert evaluate(settings(*external(endpoint, "good"))) == 0
    assert len(endpoint.turns) == 2 * before


def test_an_endpoint_that_fails_is_infra_never_scored_and_owed(settings, tmp_path, capsys):
    command = ["agent.model_retries=1", "workers=1"]
    with scripted_endpoint(solve) as endpoint:

        def fail(model, messages):
            endpoint.status = 500 if any(_issue(TASKS[1]) in message["content"] for message in messages) else 200
            return solve(model, messages)

        endpoint.script = fail
        command += external(endpoint, "good")
        assert evaluate(settings(*command)) == 1
        assert "1/1 = 100.0%" in (out := capsys.readouterr().out)
        assert "1 without a verdict (infra): never scored, owed; the same command runs them again." in out
        [line] = [json.loads(line) for line in (tmp_path / "run/logs/infra.jsonl").read_text().splitlines()]
        assert (line["instance_id"], line["stage"]) == (TASKS[1], "rollout")
        assert not (tmp_path / f"run/predictions/good/{TASKS[1]}.diff").exists()
        endpoint.script, endpoint.status = solve, 200
        assert evaluate(settings(*command)) == 0
    assert "2/2 = 100.0%" in capsys.readouterr().out


def test_a_failure_of_many_lines_is_one_line_on_the_screen_and_all_of_it_in_the_log(settings, tmp_path, capsys):
    with scripted_endpoint(lambda *_: {"error": {"message": "one\ntwo\nthree"}}) as endpoint:
        command = external(endpoint, "good", tasks=TASKS[:1])
        endpoint.script = lambda _, messages: (
            {"error": {"message": "one\ntwo\nthree"}} if len(messages) > 1 else solve("good", messages)
        )
        assert evaluate(settings(*command, "agent.model_retries=1")) == 1
    out = capsys.readouterr().out
    assert "one" in out and "two" not in out
    assert "one\\ntwo\\nthree" in (tmp_path / "run/logs/infra.jsonl").read_text()


def test_what_is_not_on_this_machine_is_said_before_there_is_a_run(settings, tmp_path):
    nobody = ["serving=external", "serving.base_url=http://127.0.0.1:9/v1"]
    for overrides, line in (
        ([*nobody, "serving.api_key_env=NOT_SET"], "serving.api_key_env: the environment variable NOT_SET is not set"),
        (["serving=vllm", "serving.python=/no/python"], "serving.python=/no/python"),
        (["sandbox=docker", "sandbox.executable=/no/docker"], "sandbox.executable=/no/docker: No such file"),
    ):
        with pytest.raises(UserError, match=line):
            evaluate(settings(*overrides))
    assert not (tmp_path / "run").exists()


def test_a_bug_of_ours_is_infra_too(settings, monkeypatch, tmp_path):
    """Nothing that goes wrong in the runner may become the model's failure."""
    monkeypatch.setattr("swe_eval.grading.make_test_spec", lambda row: 1 / 0)
    with scripted_endpoint(solve) as endpoint:
        assert evaluate(settings(*external(endpoint, "good", tasks=TASKS[:1]))) == 1
    line = json.loads((tmp_path / "run/logs/infra.jsonl").read_text())
    assert (line["stage"], line["error"]) == ("grading", "ZeroDivisionError")
    assert "Traceback" in (tmp_path / "run/logs/evaluation.log").read_text()


def test_arms_are_interleaved_instance_by_instance(settings):
    with scripted_endpoint(solve) as endpoint:
        evaluate(settings(*external(endpoint, "bad", "good"), "workers=1"))
    order = list(dict.fromkeys((body["model"], body["messages"][1]["content"]) for body in endpoint.turns))
    assert [model for model, _ in order] == ["bad", "good", "bad", "good"]


def test_grading_goes_on_while_others_still_roll(settings, tmp_path):
    """The last rollout ends when the first report is there."""
    first = tmp_path / f"run/evaluation/good/{TASKS[0]}/report.json"

    def solve_then(model, messages):
        if any(_issue(TASKS[1]) in message["content"] for message in messages):
            eventually(first.exists, 120)
        return solve(model, messages)

    with scripted_endpoint(solve_then) as endpoint:
        evaluate(settings(*external(endpoint, "good"), "workers=1"))
    assert first.stat().st_mtime < (tmp_path / f"run/predictions/good/{TASKS[1]}.diff").stat().st_mtime


@pytest.mark.parametrize("stages", ["rollout", "rollout,grade"])
def test_a_trial_that_has_ended_wants_no_image_any_more(stages, settings, monkeypatch):
    """Nor does one that is never graded, or whose patch is empty: no sandbox is started for that."""
    ended = []
    monkeypatch.setattr(LocalSandboxes, "done_with", lambda _, instance: ended.append(instance.instance_id))
    with scripted_endpoint(solve) as endpoint:
        evaluate(settings(*external(endpoint, "bad"), f"stages=[{stages}]"))
    assert sorted(ended) == sorted(TASKS)


def test_samples_are_arms_with_their_own_seeds(settings, tmp_path):
    with scripted_endpoint(solve) as endpoint:
        evaluate(settings(*external(endpoint, "good", tasks=TASKS[:1]), "agent.samples=2", "seed=40"))
    assert {body["seed"] for body in endpoint.turns} == {40, 41}
    assert {path.name for path in (tmp_path / "run/results").iterdir()} == {
        "good.s1.json",
        "good.s2.json",
        "comparison.json",
        "trials.jsonl",
    }


def test_samples_are_compared_over_instances_and_reported_again(settings, tmp_path, capsys):
    with scripted_endpoint(solve) as endpoint:
        evaluate(settings(*external(endpoint, "bad", "good"), "agent.samples=2"))
    said = capsys.readouterr().out
    [comparison] = json.loads((tmp_path / "run/results/comparison.json").read_text())["comparisons"]
    counts = {"a": "bad", "b": "good", "n": 2, "a_ahead": 0, "b_ahead": 2, "even": 0, "p_value": 0.5}
    assert comparison.items() >= counts.items()
    again = read_run(tmp_path / "run")
    conclude(again.run, again.trials, again.comparisons)
    assert said.endswith(capsys.readouterr().out)


def test_a_key_reaches_the_endpoint_and_no_file(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("TEST_KEY", "sesame-1234")
    with scripted_endpoint(solve) as endpoint:
        evaluate(settings(*external(endpoint, "good", tasks=TASKS[:1]), "serving.api_key_env=TEST_KEY"))
    assert endpoint.keys == {"Bearer sesame-1234"}
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and b"sesame" in path.read_bytes()]
    assert written == []


def test_an_endpoint_that_is_not_there_stops_the_run_before_it_starts(settings, tmp_path):
    with pytest.raises(ServingError):
        evaluate(settings("serving=external", "serving.base_url=http://127.0.0.1:9/v1", "serving.startup_timeout=1"))
    assert not (tmp_path / "run/trajectories").exists()


def start(
    tmp_path: Path, *overrides: str, under: Sequence[str] = (), own_session: bool = False
) -> subprocess.Popen[str]:
    """``under``: what starts it, such as nohup; ``own_session``: as a terminal would have it."""
    argv = [*under, sys.executable, "-m", "swe_eval", f"output_dir={tmp_path / 'run'}", *overrides]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(argv, start_new_session=own_session, **pipe)


def times(*paths: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in paths}


@pytest.mark.parametrize("phase", ["rolling", "grading"])
def test_a_killed_run_is_continued_by_the_same_command(phase, tmp_path):
    """SIGKILL loses at most the trials in flight; nothing that was done is done again."""
    run, gate = tmp_path / "run", tmp_path / "gate"
    gate.touch()

    def solve_behind_the_gate(model, messages):
        """The last task: its first turn, or its tests, are over once there is no gate any more."""
        answer = solve(model, messages)
        if _issue(TASKS[1]) not in messages[-1]["content"]:
            return answer
        if phase == "rolling":
            assert eventually(lambda: not gate.exists(), 120)
            return answer
        wait = f"import os, time\nwhile os.path.exists({str(gate)!r}): time.sleep(0.1)"
        return answer.replace("git diff", f'echo "{wait}" >> calc.py\ngit diff')

    def is_begun():
        rolled_out, graded = list(run.glob("predictions/*/*.diff")), list(run.rglob("report.json"))
        return len(graded) == 1 and (len(endpoint.turns) == 3 if phase == "rolling" else len(rolled_out) == 2)

    with scripted_endpoint(solve_behind_the_gate) as endpoint:
        command = [*external(endpoint, "good"), "workers=1"]
        process = start(tmp_path, *command)
        wait_for(is_begun)
        process.kill()
        process.wait()
        gate.unlink()
        done = times(*run.glob("predictions/*/*.diff"), *run.rglob("report.json"))
        asked = len(endpoint.turns)
        again = start(tmp_path, *command)
        assert "2/2 = 100.0%" in again.communicate()[0]
    assert again.returncode == 0
    assert len(done) == {"rolling": 2, "grading": 3}[phase]
    assert times(*done) == done
    assert len(endpoint.turns) - asked == {"rolling": 2, "grading": 0}[phase]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_stops_cleanly_and_says_how_to_go_on(number, tmp_path):
    with scripted_endpoint(solve_half(threading.Event())) as endpoint:
        process = start(tmp_path, *external(endpoint, "good"), "workers=1")
        wait_for(lambda: len(endpoint.turns) > 1)
        os.kill(process.pid, number)
        out = process.communicate(timeout=300)[0]
    assert process.returncode == 130
    assert out.splitlines()[-1] == "swe_eval: interrupted: the same command continues"
    assert "Traceback" not in out
    assert "2 not run yet: never scored, owed; the same command runs them." in out
    assert not (tmp_path / "run/logs/infra.jsonl").exists()


def test_ctrl_c_again_and_again_does_not_cut_the_clean_up_short(tmp_path):
    """As a terminal sends it: to the command and to all that it started."""
    with scripted_endpoint(solve_half(threading.Event())) as endpoint:
        process = start(tmp_path, *external(endpoint, "good"), "workers=1", own_session=True)
        wait_for(lambda: len(endpoint.turns) > 1)
        with suppress(ProcessLookupError):
            while process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
                time.sleep(0.02)
        out = process.communicate()[0].splitlines()
    assert process.returncode == 130
    assert "swe_eval: cleaning up, wait a moment" in out
    assert f"The report is {tmp_path / 'run/report.html'}" in out
    assert out[-1] == "swe_eval: interrupted: the same command continues"
    assert not list(Path(tempfile.gettempdir()).glob(f"swe_eval-{RunDir(tmp_path / 'run').id}-*"))


def test_an_interrupt_ends_a_sweep_too(tmp_path):
    with scripted_endpoint(solve_half(threading.Event())) as endpoint:
        process = start(
            tmp_path, "-m", *external(endpoint, "good"), "seed=1,2", f"hydra.sweep.dir={tmp_path / 'sweep'}"
        )
        wait_for(lambda: endpoint.turns)
        os.kill(process.pid, signal.SIGTERM)
        out = process.communicate(timeout=300)[0]
    assert process.returncode == 130
    assert [path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()] == ["0"], out


def test_a_run_under_nohup_outlives_its_terminal(tmp_path):
    is_gone = threading.Event()
    with scripted_endpoint(solve_half(is_gone)) as endpoint:
        process = start(tmp_path, *external(endpoint, "good"), under=["nohup"])
        wait_for(lambda: endpoint.turns)
        os.kill(process.pid, signal.SIGHUP)
        is_gone.set()
        out = process.communicate(timeout=300)[0]
    assert (process.returncode, "2/2 = 100.0%" in out) == (0, True), out


def reported(*arguments: str, cwd: Path) -> tuple[int, str]:
    argv = [sys.executable, "-m", "swe_eval.report", *arguments]
    done = subprocess.run(argv, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    return done.returncode, done.stdout


def test_the_report_of_a_run_is_made_again_from_its_files(settings, tmp_path, capsys):
    with scripted_endpoint(solve) as endpoint:
        evaluate(settings(*external(endpoint, "bad", "good")))
    table = capsys.readouterr().out.partition("  arm ")[2]
    derived = ["results/good.json", "results/comparison.json", "predictions/bad.jsonl"]
    before = {name: (tmp_path / "run" / name).read_text() for name in derived}
    for name in derived:
        (tmp_path / "run" / name).unlink()
    code, out = reported("run", cwd=tmp_path)
    assert (code, out.partition("  arm ")[2]) == (0, table)
    assert {name: (tmp_path / "run" / name).read_text() for name in derived} == before


def test_a_run_at_work_is_shown_as_far_as_it_is_and_left_alone(settings, tmp_path):
    with scripted_endpoint(solve) as endpoint:
        evaluate(settings(*external(endpoint, "good")))
    run = RunDir(tmp_path / "run")
    (run.root / f"evaluation/good/{TASKS[0]}/report.json").unlink()
    record = read_json(run.run_json)
    write_json(run.run_json, record | {"invocations": record["invocations"] * 2})
    kept = times(run.run_json, *run.root.glob("predictions/*.jsonl"), *run.root.glob("results/good.json"))
    with run.claimed(record["identity"]):
        code, out = reported("run", cwd=tmp_path)
    assert (code, "The run is at work" in out, "1/1 = 100.0%" in out) == (1, True, True), out
    assert "1 not run yet: never scored, owed; " in out
    assert "1 of 2 trials have no verdict yet" in (run.root / "report.html").read_text()
    assert times(*kept) == kept


def test_arms_of_two_runs_are_compared_with_the_first(settings, tmp_path):
    with scripted_endpoint(solve) as endpoint:
        for arm in ("bad", "good"):
            evaluate(settings(*external(endpoint, arm), f"output_dir={tmp_path / arm}"))
    code, out = reported("bad", "good", cwd=tmp_path)
    assert code == 0, out
    assert "good/good   2/2 = 100.0%" in out
    assert "bad/bad vs good/good: n = 2 with" in out


def test_runs_that_differ_in_more_than_weights_are_not_compared(settings, tmp_path):
    with scripted_endpoint(solve) as endpoint:
        for turns in (3, 4):
            evaluate(
                settings(
                    *external(endpoint, "good"), f"agent.max_turns={turns}", f"output_dir={tmp_path / f't{turns}'}"
                )
            )
    code, out = reported("t3", "t4", cwd=tmp_path)
    said = "agent.max_turns: 3 in t3, 4 in t4: their arms differ in more than weights; run both with one of them"
    assert (code, out) == (2, f"swe_eval: {said}\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nowhere"], "nowhere: no run.json in it; write a run directory: outputs/<name>"),
        (["a", "./a"], "a run is given twice"),
    ],
)
def test_what_is_no_run_is_said_in_a_line(arguments, line, tmp_path):
    code, out = reported(*arguments, cwd=tmp_path)
    assert code == 2
    assert out.startswith(f"swe_eval: {line}")


def test_a_log_on_a_full_disk_is_no_traceback_on_the_screen(tmp_path, capsys):
    run = RunDir(tmp_path)
    run.log("").mkdir()
    run.log("evaluation.log").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"), _logs(run):  # the run ends with it, as one line
        logging.getLogger("swe_eval").error("what went wrong")
    assert capsys.readouterr().err == ""


def test_half_a_job_rolls_out_and_the_other_half_grades(settings, tmp_path, capsys):
    """The run directory is all that the second half needs: the server is gone by then, and the checkpoint too."""
    with scripted_endpoint(solve) as endpoint:
        command = external(endpoint, "bad", "good")
        assert evaluate(settings(*command, "stages=[rollout]")) == 0
    out = capsys.readouterr().out
    assert re.search(r"\[4/4\] \w+ demo__[a-z]+-\d: rolled out \(Submitted, 2 turns", out)
    assert "4 of 4 trials are rolled out; stages=[grade] grades them." in out
    rows = [json.loads(line) for line in (tmp_path / "run/predictions/good.jsonl").read_text().splitlines()]
    assert [row["instance_id"] for row in rows] == TASKS
    assert not (tmp_path / "run/evaluation").exists()
    assert evaluate(settings(*command, "stages=[grade]")) == 0
    assert "2/2 = 100.0%" in capsys.readouterr().out


def test_grading_alone_needs_no_adapter(settings, tmp_path):
    adapter = tmp_path / "rl"
    shutil.copytree(PACKAGE / "benchmark/demo/adapter", adapter)
    with scripted_endpoint(solve) as endpoint:
        command = [
            *("serving=external", f"serving.base_url={endpoint.base_url}", "lora.proof=none", "lora.with_base=false"),
            *(f"lora.path={adapter}", f"benchmark.instance_ids=[{TASKS[0]}]"),
        ]
        assert evaluate(settings(*command, "stages=[rollout]")) == 0
    shutil.rmtree(adapter)
    assert evaluate(settings(*command, "stages=[grade]")) == 0


def test_half_a_job_whose_rollouts_fail_is_owed(settings, capsys):
    def refuse_agents(model, messages):
        return {"error": {"message": "no"}} if messages[0]["role"] == "system" else "hello"

    with scripted_endpoint(refuse_agents) as endpoint:
        assert evaluate(settings(*external(endpoint, "good"), "agent.model_retries=1", "stages=[rollout]")) == 1
    assert "0 of 2 trials are rolled out" in capsys.readouterr().out


def test_grading_alone_goes_on_where_it_was_left_and_begins_anew_where_nothing_is(settings, tmp_path, capsys):
    run = tmp_path / "run"
    with scripted_endpoint(solve) as endpoint:
        command = external(endpoint, "good")
        evaluate(settings(*command))
    reports = [run / f"evaluation/good/{task}/report.json" for task in TASKS]
    reports[0].unlink()
    before = times(*reports[1:])
    evaluate(settings(*command, "stages=[grade]"))
    assert times(*reports[1:]) == before
    assert "2 trials: 0 to roll out, 1 to grade\n" in capsys.readouterr().out
    assert evaluate(settings(*command, "stages=[grade]")) == 0
    assert times(*reports[1:]) != before
    assert "2 trials: 0 to roll out, 2 to grade again\n" in capsys.readouterr().out


def test_a_verdict_that_changes_is_said_and_the_old_one_kept(settings, tmp_path, capsys):
    with scripted_endpoint(solve) as endpoint:
        command = external(endpoint, "good", tasks=TASKS[:1])
        evaluate(settings(*command))
    folder = tmp_path / "run/evaluation/good/demo__lru-3"
    write_json(folder / "report.json", {"demo__lru-3": {"outcome": "unresolved"}})
    evaluate(settings(*command, "stages=[grade]"))
    assert "good demo__lru-3: resolved now, unresolved before" in capsys.readouterr().out
    assert read_json(folder / "report.previous.json") == {"demo__lru-3": {"outcome": "unresolved"}}


def test_grading_alone_says_what_runs_the_rollouts_that_are_missing(settings, tmp_path, capsys):
    with scripted_endpoint(solve) as endpoint:
        command = external(endpoint, "good")
        evaluate(settings(*command, "stages=[rollout]"))
    (tmp_path / f"run/predictions/good/{TASKS[0]}.diff").unlink()
    assert evaluate(settings(*command, "stages=[grade]")) == 1
    said = "1 not run yet: never scored, owed; stages=[rollout,grade] runs them."
    assert said in " ".join(capsys.readouterr().out.split())


def test_grading_alone_with_nothing_to_grade_is_one_line(settings, tmp_path):
    with pytest.raises(UserError, match=r"stages=\[grade\]: nothing is rolled out in .*run; write stages="):
        evaluate(settings("stages=[grade]"))
    assert not (tmp_path / "run").exists()


def test_the_runs_of_all_shards_copied_over_each_other_are_the_whole_run(settings, tmp_path, capsys):
    with scripted_endpoint(solve) as endpoint:
        command = external(endpoint, "bad", "good")
        for part in (1, 2):
            evaluate(settings(*command, f"benchmark.shard={part}/2", f"output_dir={tmp_path / f'part-{part}'}"))
            shutil.copytree(tmp_path / f"part-{part}", tmp_path / "run", dirs_exist_ok=True)
        asked = len(endpoint.requests)
        assert evaluate(settings(*command)) == 0
    assert len(endpoint.requests) == asked
    assert "good   2/2 = 100.0%" in capsys.readouterr().out
