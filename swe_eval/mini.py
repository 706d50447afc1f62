"""mini-swe-agent as we run it: its prompts and loop, our limits, our sandbox, our endpoint.

Import this module before anything of mini-swe-agent or litellm: both read the environment when they are imported.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

import platformdirs

# before mini-swe-agent and litellm are imported: no banner, no set-up wizard, no download of a price list
os.environ.setdefault("MSWEA_SILENT_STARTUP", "1")
os.environ.setdefault("MSWEA_CONFIGURED", "true")
os.environ.setdefault("MSWEA_GLOBAL_CONFIG_DIR", str(platformdirs.user_cache_path("swe_eval") / "mini-swe-agent"))
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
# a cluster's proxy cannot reach the server on this machine's own loopback
for variable in ("NO_PROXY", "no_proxy"):
    os.environ[variable] = ",".join(filter(None, [os.environ.get(variable), "127.0.0.1", "localhost"]))

import litellm
import yaml
from litellm.exceptions import AuthenticationError as AuthenticationError  # re-exported
from litellm.exceptions import ContextWindowExceededError as ContextWindowExceededError
from minisweagent.agents.default import DefaultAgent
from minisweagent.config import builtin_config_dir
from minisweagent.exceptions import FormatError, Submitted
from minisweagent.models.litellm_model import LitellmModel
from minisweagent.models.litellm_textbased_model import LitellmTextbasedModel

from swe_eval.run_dir import Trial, write_json
from swe_eval.sandbox.capture import SUBMIT
from swe_eval.sandbox.sandbox import Completed, Sandbox
from swe_eval.scheduling.gate import Turns
from swe_eval.serving.server import Endpoint
from swe_eval.settings import AgentSettings, Settings

litellm.suppress_debug_info = True

COSTS = (
    *("input_cost_per_token", "output_cost_per_token"),
    *("cache_creation_input_token_cost", "cache_read_input_token_cost"),
)
OF_AGENT, OF_MODEL = {"system_template", "instance_template"}, {"observation_template", "format_error_template"}
"""Templates, by the part of mini-swe-agent's configuration that has them."""


class Stopped(Exception):
    """The run was told to stop; the trial is neither done nor failed."""


class Agent(DefaultAgent):
    """mini's agent, which takes each turn by leave; what it waits for that is no part of its time limit.

    Nor are calls that the endpoint failed, until one succeeds.
    """

    def __init__(self, *args: Any, turns: Turns, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._turns, self._began = turns, time.monotonic()
        self.held = 0.0
        """Seconds that it has waited for either."""

    def query(self) -> dict[str, Any]:
        asked = time.monotonic()
        if not self._turns.begin():
            raise Stopped
        now = time.monotonic()
        self.held += now - asked
        self._start_time = time.time() - (now - self._began - self.held)  # mini's limit is by a clock that may be set
        model = cast(_Served, self.model)
        model.failing = 0.0  # or a query that a limit ends counts the one before it again
        try:
            return cast(dict[str, Any], super().query())
        finally:
            self.held += model.failing


def make_agent(trial: Trial, endpoint: Endpoint, settings: Settings, sandbox: Sandbox, turns: Turns) -> Agent:
    """The agent of a trial; its ``query`` raises Stopped once the run is being stopped."""
    config = mini_config(settings.agent)
    os.environ["MSWEA_MODEL_RETRY_STOP_AFTER_ATTEMPT"] = str(settings.agent.model_retries)  # mini has no other way
    model = _model(trial, endpoint, settings, turns, config["model"])
    environment = SandboxEnvironment(sandbox, settings, config["environment"]["env"])
    return Agent(model, environment, turns=turns, **config["agent"])


@cache
def mini_config(settings: AgentSettings) -> dict[str, Any]:
    """mini-swe-agent's benchmark configuration with our settings over it: keys agent, model, environment."""
    path = Path(builtin_config_dir) / "benchmarks" / f"{settings.mini_config}.yaml"
    stock = yaml.safe_load(path.read_text())
    return {
        "agent": stock["agent"]
        | settings.model_dump(include=OF_AGENT, exclude_none=True)
        | {
            "step_limit": settings.max_turns,
            "cost_limit": 0.0,
            "wall_time_limit_seconds": max(1, round(settings.wall_time_limit)),
        },
        "model": {name: stock["model"][name] for name in OF_MODEL}
        | settings.model_dump(include=OF_MODEL, exclude_none=True),
        "environment": stock["environment"],
    }


def write_registry(path: Path, endpoints: Mapping[str, Endpoint]) -> None:
    """LiteLLM's model registry for these endpoints: no cost, the true context length."""
    entries = {
        f"openai/{endpoint.model}": {
            "litellm_provider": "openai",
            "mode": "chat",
            "max_tokens": endpoint.max_model_len,
            "max_input_tokens": endpoint.max_model_len,
            **dict.fromkeys(COSTS, 0.0),
        }
        for endpoint in endpoints.values()
    }
    write_json(path, entries)
    litellm.register_model(entries)


class SandboxEnvironment:
    """mini-swe-agent's ``Environment`` protocol on a sandbox of ours."""

    def __init__(self, sandbox: Sandbox, settings: Settings, env: Mapping[str, str]) -> None:
        self.config = settings.sandbox
        self._sandbox, self._env, self._timeout = sandbox, env, settings.agent.command_timeout

    def execute(self, action: dict[str, Any], cwd: str = "") -> dict[str, Any]:
        """Run the action's command; raises mini's ``Submitted`` when its output is a submission."""
        if not isinstance(action["command"], str):  # a tool call's argument is whatever JSON the model writes
            problem = f"The command is no string: {json.dumps(action['command'])}"
            return {"output": "", "returncode": -1, "exception_info": problem}
        done = self._sandbox.run(action["command"], timeout=self._timeout, env=self._env)
        _raise_if_submitted(done)
        if done.timed_out:
            problem = f"The command took more than {self._timeout:g} seconds and was killed."
            return {"output": done.text, "returncode": -1, "exception_info": problem}
        return {"output": done.text, "returncode": done.returncode, "exception_info": ""}

    def get_template_vars(self, **kwargs: Any) -> dict[str, Any]:
        return kwargs

    def serialize(self) -> dict[str, Any]:
        config = {"environment": self.config.model_dump(mode="json"), "environment_type": "swe_eval.sandbox"}
        return {"info": {"config": config}}


def _raise_if_submitted(done: Completed) -> None:
    first, _, rest = done.output.lstrip().partition(b"\n")
    if first.strip() == SUBMIT and done.returncode == 0:
        submission = rest.decode("utf-8", "surrogateescape")  # as bytes: a patch may hold any encoding
        extra = {"exit_status": "Submitted", "submission": submission}
        raise Submitted({"role": "exit", "content": submission, "extra": extra})


def _model(
    trial: Trial, endpoint: Endpoint, settings: Settings, turns: Turns, templates: Mapping[str, str]
) -> LitellmModel:
    agent = settings.agent
    keyword_arguments = {
        "temperature": agent.temperature,
        "top_p": agent.top_p,
        "max_tokens": agent.max_tokens,
        "seed": settings.seed + trial.sample - 1,
        "timeout": agent.wall_time_limit,
        "max_retries": 0,  # mini retries; twice over is an hour
        "drop_params": True,
    }
    served = _ServedToolcall if agent.actions == "toolcall" else _ServedText
    return served(
        endpoint,
        turns,
        model_name=f"openai/{endpoint.model}",
        model_kwargs=keyword_arguments,
        cost_tracking="ignore_errors",
        **templates,
    )


class _Served:
    """Gives the endpoint to each call instead of to the configuration, which is written into the trajectory.

    Into that goes how long the answer took, beside it: ``extra.seconds``.
    """

    def __init__(self, endpoint: Endpoint, turns: Turns, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._endpoint, self._turns = endpoint, turns
        self._seconds = 0.0
        self.failing = 0.0
        """Seconds until the call began that was answered, of the latest query."""

    def query(self, messages: list[dict[str, Any]], **kwargs: Any) -> dict[str, Any]:
        self._begun = time.monotonic()
        try:
            message: dict[str, Any] = super().query(messages, **kwargs)  # type: ignore[misc]
        except FormatError as error:
            error.messages[0]["extra"]["seconds"] = self._seconds
            raise
        message["extra"]["seconds"] = self._seconds
        return message

    def _query(self, messages: list[dict[str, Any]], **kwargs: Any) -> Any:
        where = {"api_base": self._endpoint.base_url, "api_key": self._endpoint.api_key}
        asked = time.monotonic()
        response = super()._query(messages, **where, **kwargs)  # type: ignore[misc]
        self._seconds, self.failing = time.monotonic() - asked, asked - self._begun
        self._turns.end(response.usage.total_tokens)
        return response


class _ServedToolcall(_Served, LitellmModel):
    pass


class _ServedText(_Served, LitellmTextbasedModel):
    pass
