"""A trajectory reads as turns, however the model gave its commands."""

from __future__ import annotations

from swe_eval.report.turns import Action, Turn, turns_of

FENCE = {"info": {"config": {"model": {"action_regex": r"```mswea_bash_command\s*\n(.*?)\n```"}}}}
USAGE = {"usage": {"prompt_tokens": 7, "completion_tokens": 3}}


def answer(content, *commands, **more):
    extra = {"actions": [{"command": command} for command in commands], "response": USAGE, "seconds": 1.5}
    return {"role": "assistant", "content": content, "extra": extra} | more


def observed(output, returncode=0, problem=""):
    extra = {"raw_output": output, "returncode": returncode, "exception_info": problem}
    return {"role": "user", "content": f"<output>{output}", "extra": extra}


def turns(*messages):
    start = [{"role": "system", "content": "S"}, {"role": "user", "content": "The issue."}]
    return turns_of(FENCE | {"messages": [*start, *messages]})


def test_a_block_of_backticks_is_the_command_and_the_rest_is_the_thought():
    said = "I look.\n\n```mswea_bash_command\nls\n```"
    assert turns(answer(said, "ls"), observed("a.py\n")) == [
        Turn(1, "I look.", [Action("ls", "a.py\n", 0)], "", 1.5, 7, 3)
    ]


def test_several_tool_calls_are_one_turn_each_with_its_output():
    [turn] = turns(answer(None, "ls", "pwd", reasoning_content="Hm."), observed("a.py"), observed("/", 0))
    assert (turn.thought, turn.actions) == ("Hm.", [Action("ls", "a.py", 0), Action("pwd", "/", 0)])


def test_an_answer_without_a_command_is_a_turn_that_was_refused():
    refused = {"choices": [{"message": {"content": "I am done!"}}], **USAGE}
    [turn] = turns({"role": "user", "content": "Write one command.", "extra": {"response": refused}})
    assert (turn.thought, turn.actions, turn.refused) == ("I am done!", [], "Write one command.")


def test_a_tool_call_that_could_not_be_read_is_shown_as_it_was_written():
    function = {"name": "edit", "arguments": '{"path": 1}'}
    refused = {"choices": [{"message": {"content": None, "tool_calls": [{"function": function}]}}], **USAGE}
    [turn] = turns({"role": "user", "content": "Unknown tool.", "extra": {"response": refused}})
    assert turn.thought == 'edit({"path": 1})'


def test_the_command_that_ended_the_rollout_has_no_output_of_its_own():
    exit = {"role": "exit", "content": "diff", "extra": {"exit_status": "Submitted", "submission": "diff"}}
    [turn] = turns(answer("", "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"), exit)
    assert turn.actions == [Action("echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT")]


def test_a_command_that_was_killed_says_why():
    [turn] = turns(answer("", "sleep 99"), observed("", -1, "took more than 60 seconds"))
    assert turn.actions == [Action("sleep 99", "", -1, "took more than 60 seconds")]


def test_no_trajectory_has_no_turns():
    assert turns_of({}) == []
