"""One trial -> one rollout: mini-swe-agent's own agent, prompts and trajectory format, in one of our sandboxes.

Every way to end is an ``exit_status``. Submitted, LimitsExceeded, TimeExceeded, RepeatedFormatError and
ContextWindowExceededError are the model's doing and leave a prediction, be it empty. Whatever else ends a rollout is
ours: it is raised, leaves its trajectory but no prediction, and so the trial stays owed.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

from swe_eval.benchmark.instances import Instance
from swe_eval.errors import InfraError, SandboxError
from swe_eval.mini import Agent, AuthenticationError, ContextWindowExceededError, Stopped, make_agent
from swe_eval.run_dir import RunDir, Trial, write_text
from swe_eval.sandbox.capture import SUBMIT
from swe_eval.sandbox.history import scrub
from swe_eval.sandbox.sandbox import Sandbox, Sandboxes
from swe_eval.scheduling.gate import Turns
from swe_eval.serving.external import NAME_THE_KEY
from swe_eval.serving.server import Endpoint
from swe_eval.settings import Settings

# whatever the agent has configured, the patch must apply; binary files included
GIT_DIFF = (
    "git -c core.fileMode=false diff --binary --no-color --no-ext-diff --no-textconv --src-prefix=a/ --dst-prefix=b/"
)


@dataclass(frozen=True)
class Rollout:
    """How a rollout ended."""

    exit_status: str
    model_patch: str
    source: Literal["submitted", "rescued", "none"]
    """Where the patch is from: the agent's submission, or its unsubmitted work in the repository."""
    turns: int
    seconds: float
    """Without those that it was held back."""


def roll_out(
    trial: Trial,
    instance: Instance,
    endpoint: Endpoint,
    settings: Settings,
    sandboxes: Sandboxes,
    run: RunDir,
    turns: Turns,
) -> Rollout:
    """Run the agent; leave ``trajectories/<arm>/<id>.traj.json`` and ``predictions/<arm>/<id>.diff``.

    Raises:
        InfraError: our side failed; only the trajectory is left.
        Stopped: the run is being stopped; nothing is left.
    """
    started = time.monotonic()
    with sandboxes.start(instance, "rollout") as sandbox:
        base = _head(sandbox)
        about: dict[str, Any] = {"git_history": asdict(scrub(sandbox))}
        agent = make_agent(trial, endpoint, settings, sandbox, turns)
        try:
            exit_status, patch = _run(agent, instance)
        except InfraError as error:
            about |= {"exit_status": type(error.__cause__ or error).__name__, "submission": ""}
            _save(agent, run, trial, about)
            raise
        source: Literal["submitted", "rescued", "none"] = "submitted" if exit_status == "Submitted" else "none"
        if source == "none" and settings.agent.rescue and (patch := _work_since(base, sandbox)):
            source = "rescued"
    rollout = Rollout(exit_status, patch, source, agent.n_calls, time.monotonic() - started - agent.held)
    about |= {"exit_status": exit_status, "submission": patch}
    _save(agent, run, trial, about | {"submission_source": source, "seconds": rollout.seconds})
    write_text(run.prediction(trial), patch)  # last: this is what makes the rollout done
    return rollout


def _run(agent: Agent, instance: Instance) -> tuple[str, str]:
    """(exit_status, submission); raises InfraError for whatever is not the model's doing."""
    try:
        ended = agent.run(instance.problem_statement)
    except ContextWindowExceededError as error:
        return type(error).__name__, ""
    except AuthenticationError as error:  # to which mini adds advice about a configuration of its own
        raise InfraError(f"AuthenticationError: HTTP 401 Unauthorized; {NAME_THE_KEY}") from error
    except (Stopped, InfraError):
        raise
    except Exception as error:
        raise InfraError(f"{type(error).__name__}: {error}") from error
    return ended["exit_status"], ended["submission"]


def _head(sandbox: Sandbox) -> str:
    done = sandbox.run("git rev-parse HEAD", timeout=60)
    found = re.search(r"^[0-9a-f]{40,64}$", done.text, re.MULTILINE)  # bash may have complained first
    if done.returncode or not found:
        raise SandboxError(f"the image has no git repository to work in: {done.text.strip()[-500:]}")
    return found[0]


def _work_since(base: str, sandbox: Sandbox) -> str:
    """The agent's changes to tracked files, committed or not; nothing if it broke its repository."""
    said = SUBMIT.decode()  # because a submission is kept whole
    done = sandbox.run(f"echo {said} && {GIT_DIFF} {base}", timeout=300)
    if done.timed_out:
        raise SandboxError("git diff took more than 300 seconds")
    patch = done.output.partition(SUBMIT + b"\n")[2]
    return patch.decode("utf-8", "surrogateescape") if done.returncode == 0 else ""


def _save(agent: Agent, run: RunDir, trial: Trial, info: dict[str, Any]) -> None:
    about = {"info": info, "instance_id": trial.instance_id, "adapter": trial.adapter, "sample": trial.sample}
    write_text(run.trajectory(trial), json.dumps(agent.save(None, about), indent=1))
