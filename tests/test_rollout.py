"""A rollout: every way to end has its exit status, and work that was not submitted is rescued and labelled."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest
from scripted import SUBMIT, ScriptedEndpoint, bash, bash_call, scripted_endpoint
from test_demo_run import wait_for

from swe_eval.benchmark.instances import load
from swe_eval.errors import InfraError
from swe_eval.mini import Stopped, make_agent
from swe_eval.rollout import GIT_DIFF, Rollout, _head, _work_since, roll_out
from swe_eval.run_dir import RunDir, Trial
from swe_eval.sandbox.capture import SUBMIT as SUBMITTED
from swe_eval.sandbox.local import LocalSandbox, LocalSandboxes
from swe_eval.sandbox.sandbox import Completed
from swe_eval.scheduling.gate import Gate
from swe_eval.serving.server import Endpoint

MARK = SUBMITTED.decode()
TRIAL = Trial("arm", "demo__calc-1")
EDIT = "echo '# touched' >> calc.py"
OVERFLOW = {"error": {"message": "This model's maximum context length is 64 tokens. However, you requested 99 tokens"}}


@pytest.fixture
def rolled(settings, tmp_path):
    """``rolled([answer, ...], "agent.max_turns=2")``: the model gives these answers, the last one for ever.

    An answer may be a call that returns it.
    """

    def roll(answers, *overrides, gate=None, status=200) -> tuple[Rollout, dict]:
        def script(model, messages):
            turn = sum(message["role"] == "assistant" for message in messages)
            answer = answers[min(turn, len(answers) - 1)]
            return answer() if callable(answer) else answer

        chosen, run = settings(*overrides), RunDir(tmp_path / "run")
        [instance] = load(chosen.benchmark.model_copy(update={"instance_ids": (TRIAL.instance_id,)})).instances
        with scripted_endpoint(script, status=status) as endpoint:
            where = Endpoint(endpoint.base_url, "key", "scripted", 4096)
            rollout = roll_out(
                TRIAL, instance, where, chosen, LocalSandboxes(run.id), run, (gate or Gate(1)).turns(TRIAL)
            )
        assert run.read_patch(TRIAL) == rollout.model_patch
        return rollout, json.loads(run.trajectory(TRIAL).read_text())

    return roll


@pytest.fixture
def passes(monkeypatch):
    """``passes(700)``: so many seconds, at once."""
    passed, right = [], time.monotonic
    monkeypatch.setattr("time.monotonic", lambda: right() + sum(passed))
    return passed.append


def test_a_submission_is_the_patch(rolled):
    rollout, trajectory = rolled([bash(f"{EDIT} && git diff > patch.txt"), SUBMIT])
    assert (rollout.exit_status, rollout.source, rollout.turns) == ("Submitted", "submitted", 2)
    assert rollout.model_patch.endswith("+# touched\n")
    assert trajectory["info"]["submission_source"] == "submitted"
    assert trajectory["info"]["git_history"].keys() == {"refs_removed", "objects_removed", "seconds"}


@pytest.mark.parametrize(
    ("answers", "overrides", "exit_status"),
    [
        ([bash(EDIT), bash("true")], ["agent.max_turns=3"], "LimitsExceeded"),
        ([bash(EDIT), "no command here"], [], "RepeatedFormatError"),
        ([bash(EDIT), OVERFLOW], [], "ContextWindowExceededError"),
    ],
)
def test_work_that_was_not_submitted_is_rescued_and_labelled(rolled, answers, overrides, exit_status):
    rollout, trajectory = rolled(answers, *overrides)
    assert (rollout.exit_status, rollout.source) == (exit_status, "rescued")
    assert rollout.model_patch.endswith("+# touched\n")
    info = trajectory["info"]
    assert (info["exit_status"], info["submission_source"]) == (exit_status, "rescued")


def test_work_of_an_agent_whose_time_is_over_is_rescued_too(rolled, passes):
    rollout, _ = rolled([lambda: passes(700) or bash(EDIT), bash("true")], "agent.wall_time_limit=600")
    assert (rollout.exit_status, rollout.source) == ("TimeExceeded", "rescued")
    assert rollout.model_patch.endswith("+# touched\n")


def test_without_rescue_it_is_an_empty_patch(rolled):
    rollout, _ = rolled([bash(EDIT), bash("true")], "agent.max_turns=2", "agent.rescue=false")
    assert (rollout.model_patch, rollout.source) == ("", "none")


def test_work_that_the_agent_committed_is_rescued_too(rolled):
    rollout, _ = rolled([bash(f"{EDIT} && git commit -qam wip"), bash("true")], "agent.max_turns=2")
    assert rollout.model_patch.endswith("+# touched\n")


def test_an_agent_that_did_nothing_leaves_nothing_to_rescue(rolled):
    rollout, trajectory = rolled(["no command"])
    assert (rollout.model_patch, rollout.source) == ("", "none")
    assert trajectory["info"]["submission_source"] == "none"


def test_a_submission_in_any_encoding_survives_byte_for_byte(rolled):
    rollout, _ = rolled([bash(r"printf '+\xe9\r\n' > patch.txt"), SUBMIT])
    assert rollout.model_patch.encode("utf-8", "surrogateescape") == b"+\xe9\r\n"


def test_a_submission_is_whole_however_long_it_is(rolled):
    rollout, _ = rolled([bash("(yes +0123456789 | head -c 20000000; echo) > patch.txt"), SUBMIT])
    assert (len(rollout.model_patch), "cut out" in rollout.model_patch) == (20_000_001, False)


def test_so_is_work_that_was_not_submitted(rolled):
    rollout, _ = rolled([bash("yes '#23456789' | head -c 20000000 >> calc.py")], "agent.max_turns=1")
    assert (rollout.source, rollout.model_patch.count("\n+#23456789")) == ("rescued", 2_000_000)


def test_what_bash_complains_of_is_no_part_of_a_commit_or_of_work():
    """An image may ask for a locale that it does not have; each command then begins with a warning."""

    class Complaining:
        def run(self, command, timeout):
            said = {"git rev-parse HEAD": "0" * 40, f"echo {MARK} && {GIT_DIFF} {'0' * 40}": f"{MARK}\ndiff"}
            return Completed(f"bash: warning: setlocale\n{said[command]}\n".encode(), 0)

    assert _work_since(_head(Complaining()), Complaining()) == "diff\n"


def test_commands_come_as_tool_calls_too(rolled):
    answers = [bash_call(f"{EDIT} && git diff > patch.txt"), bash_call(SUBMIT.splitlines()[2])]
    rollout, _ = rolled(answers, "agent=toolcall")
    assert rollout.exit_status == "Submitted"
    assert rollout.model_patch.endswith("+# touched\n")


def test_the_model_sees_that_its_command_is_no_string(rolled):
    call = bash_call("")
    call["tool_calls"][0]["function"]["arguments"] = json.dumps({"command": ["bash", "-lc", "ls"]})
    rollout, trajectory = rolled([call], "agent=toolcall", "agent.max_turns=1")
    assert rollout.exit_status == "LimitsExceeded"
    assert 'The command is no string: ["bash", "-lc", "ls"]' in trajectory["messages"][3]["content"]


def test_the_model_sees_that_its_command_took_too_long(rolled):
    _, trajectory = rolled([bash("sleep 9"), SUBMIT], "agent.command_timeout=0.5", "agent.max_turns=2")
    seen = trajectory["messages"][3]["content"]
    assert seen.startswith("<exception>The command took more than 0.5 seconds and was killed.</exception>")


def test_an_endpoint_that_fails_is_ours_and_leaves_its_trajectory_alone(rolled, tmp_path):
    error = {"error": {"message": "no such luck", "code": "scripted"}}
    with pytest.raises(InfraError, match="no such luck"):
        rolled([bash(EDIT), error], "agent.model_retries=1")
    assert {path.parent.parent.name for path in (tmp_path / "run").rglob("*") if path.is_file()} == {"trajectories"}


def test_a_key_that_is_refused_is_told_with_where_it_is_from(rolled):
    with pytest.raises(InfraError) as error:
        rolled([bash(EDIT)], status=401)
    advice = "serving.api_key_env must name the variable that holds this endpoint's key"
    assert str(error.value) == f"AuthenticationError: HTTP 401 Unauthorized; {advice}"


def test_an_agent_has_its_own_number_of_attempts_whatever_the_ones_before_had(settings, tmp_path):
    where, sandbox = Endpoint("http://host/v1", "key", "m", None), LocalSandbox(tmp_path)
    for attempts in ("1", "2", "1"):
        make_agent(TRIAL, where, settings(f"agent.model_retries={attempts}"), sandbox, Gate(1).turns(TRIAL))
        assert os.environ["MSWEA_MODEL_RETRY_STOP_AFTER_ATTEMPT"] == attempts


def test_a_run_that_is_being_stopped_leaves_nothing(rolled, tmp_path):
    gate = Gate(1)
    gate.close()
    with pytest.raises(Stopped):
        rolled([bash(EDIT)], gate=gate)
    assert not (tmp_path / "run").exists()


def test_what_it_was_held_back_is_no_part_of_its_time(rolled, passes):
    gate, other = Gate(1), Trial("arm", "before it")
    gate.expect([other])

    def let_it_wait():
        wait_for(lambda: gate.traffic().held)
        passes(700)
        gate.leave(other)

    threading.Thread(target=let_it_wait).start()
    rollout, _ = rolled([bash(f"{EDIT} && git diff > patch.txt"), SUBMIT], "agent.wall_time_limit=600", gate=gate)
    assert rollout.exit_status == "Submitted"
    assert rollout.seconds < 600


@pytest.mark.parametrize(("turns", "exit_status"), [(1, "LimitsExceeded"), (9, "Submitted")])
def test_nor_is_what_the_endpoint_failed(rolled, passes, monkeypatch, turns, exit_status):
    """A request that is lost ends by its own time limit, which is the trial's; and it is lost once."""
    lost, answer = iter([True]), ScriptedEndpoint.answer

    def lose_the_first(endpoint, body):
        if next(lost, False):
            passes(700)
            return 500, {"error": {"message": "lost"}}
        return answer(endpoint, body)

    monkeypatch.setattr(ScriptedEndpoint, "answer", lose_the_first)
    limits = [f"agent.max_turns={turns}", "agent.wall_time_limit=600"]
    rollout, _ = rolled([bash(f"{EDIT} && git diff > patch.txt"), SUBMIT], *limits)
    assert rollout.exit_status == exit_status
    assert 0 < rollout.seconds < 600


def test_a_clock_that_is_set_meanwhile_is_no_part_of_its_time(rolled, tmp_path, monkeypatch):
    """By an hour, as after a machine was asleep."""
    right, is_set = time.time, tmp_path / "set"
    monkeypatch.setattr("time.time", lambda: right() + 3600 * is_set.exists())
    answers = [bash(f"{EDIT} && git diff > patch.txt && touch {is_set}"), SUBMIT]
    assert rolled(answers, "agent.wall_time_limit=600")[0].exit_status == "Submitted"
