"""Trajectories as mini-swe-agent leaves them, of commands that a test names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripted import scripted_endpoint
from test_evaluate import external

from swe_eval.command import settings_of
from swe_eval.evaluate import evaluate
from swe_eval.run_dir import RunDir

Step = str | tuple[str, str] | tuple[str, str, int]
"""A command; with its output; with its return code."""


def trajectory(
    *steps: Step, scrubbed: bool = False, network: str = "bridge", issue: str = "It fails."
) -> dict[str, Any]:
    """One turn per step."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": "S"}, {"role": "user", "content": issue}]
    for step in steps:
        command, output, code = (step, "some output", 0) if isinstance(step, str) else (*step, 0)[:3]
        usage = {"prompt_tokens": 10, "completion_tokens": 5}
        extra = {"actions": [{"command": command}], "response": {"usage": usage}, "seconds": 0.5}
        messages += [
            {"role": "assistant", "content": "I look.", "extra": extra},
            {"role": "user", "content": output, "extra": {"raw_output": output, "returncode": code}},
        ]
    info = {"config": {"environment": {"network": network}}} | ({"git_history": {}} if scrubbed else {})
    return {"info": info, "messages": messages}


def evaluated(folder: Path, answer: Callable[..., Any]) -> RunDir:
    """Two tasks under the arms `bad` and `good`; every part real but the model (see ``scripted_endpoint``)."""
    with scripted_endpoint(answer) as endpoint:
        evaluate(settings_of(f"output_dir={folder}", *external(endpoint, "bad", "good")))
    return RunDir(folder)
