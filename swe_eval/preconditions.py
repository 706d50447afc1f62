"""What a run needs of its machine and its model, checked without starting or loading anything."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import Literal

from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from swe_eval.adapters import model_folder
from swe_eval.adapters.base import weight_files
from swe_eval.benchmark.instances import Instance
from swe_eval.cluster import slurm
from swe_eval.run_dir import read_json
from swe_eval.serving.devices import visible_devices
from swe_eval.settings import Settings

GB = 1e9
STORED = {"none": 1.0, "fp8": 0.5, "8bit": 0.55, "4bit": 0.32}
"""Of the checkpoint's bytes in 16 bits, by quantization; measured but for fp8, which is arithmetic."""
CHARACTERS_PER_TOKEN = 3
"""Of code, on the safe side."""
FREE_DISK = 10 * GB


@dataclass(frozen=True)
class Finding:
    """What became of one precondition."""

    state: Literal["ok", "warning", "problem"]
    text: str


def check_machine(settings: Settings) -> Iterator[Finding]:
    """The disk and the GPUs."""
    place = _existing(settings.output_dir)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        yield Finding(
            "problem", f"output_dir={settings.output_dir}: {place} cannot be written to; write output_dir=..."
        )
    free = shutil.disk_usage(place).free
    state: Literal["ok", "warning"] = "ok" if free > FREE_DISK else "warning"
    yield Finding(state, f"disk: {free / GB:.0f} GB are free where the run is written")
    yield from _memory(settings)


def check_slurm() -> Iterator[Finding]:
    """The job that this is part of, if it is one: its GPUs, and the time that it has left; else whether it could be."""
    if job := slurm.this_job():
        devices = os.environ.get("CUDA_VISIBLE_DEVICES") or "none"
        left = (slurm.end_of_this_job() - time.time()) / 3600
        text = f"SLURM: job {job}, GPUs {devices}" + (f", {max(0.0, left):.1f} hours left" if left < inf else "")
        yield Finding("ok" if left > 1 else "warning", text)
    elif partitions := slurm.partitions():
        if find_spec("submitit"):
            yield Finding("ok", f"SLURM: hydra/launcher=slurm can submit to {', '.join(partitions)}")
        else:
            remedy = "write pip install 'swe_eval[slurm]'"
            yield Finding("warning", f"SLURM: hydra/launcher=slurm: submitit is not installed; {remedy}")


def check_chat(settings: Settings, instances: Mapping[str, Instance]) -> Iterator[Finding]:
    """The chat template, and whether the agent's conversation fits the context."""
    if settings.serving.kind == "external" or (folder := model_folder(settings.model)) is None:
        return
    yield from check_template(settings)
    if context := settings.model.max_model_len or read_json(folder / "config.json").get("max_position_embeddings"):
        yield _context(settings, instances, context)


def check_template(settings: Settings) -> Iterator[Finding]:
    """The chat template of a model that is on this machine, unless vLLM is given another one."""
    serving = settings.serving
    if serving.kind == "external" or (folder := model_folder(settings.model)) is None:
        return
    if serving.kind == "vllm" and any(arg.startswith("--chat-template") for arg in serving.args):
        return
    yield _chat_template(settings, folder)


def _memory(settings: Settings) -> Iterator[Finding]:
    """Whether the weights fit, with something left for the KV cache; nothing where there is no GPU to ask."""
    serving = settings.serving
    if serving.kind == "external":
        return
    gpus = _gpu_memory()
    if not gpus:
        if serving.kind == "vllm":
            yield Finding("warning", "serving=vllm: no GPU is visible; only vLLM's CPU build starts without one")
        return
    folder = model_folder(settings.model)
    weights = sum(file.stat().st_size for file in filter(Path.is_file, weight_files(folder))) if folder else 0
    shared = serving.gpus_per_copy(len(gpus)) if serving.kind == "vllm" else 1
    room = min(gpus) * shared * serving.gpu_memory_utilization
    needed = weights * STORED[settings.quantization.kind]
    text = f"GPU memory: {needed / GB:.1f} GB of weights in {room / GB:.0f} GB"
    if needed >= room:
        smaller = "fp8, or more GPUs with serving.tensor_parallel_size" if serving.kind == "vllm" else "4bit"
        yield Finding("problem", f"{text}: they do not fit; write quantization={smaller}")
    elif needed > 0.8 * room:
        yield Finding("warning", f"{text}: little is left for the KV cache; expect few agents at once")
    else:
        yield Finding("ok", text)


def _gpu_memory() -> list[float]:
    """Bytes of every visible GPU."""
    if not (visible := visible_devices()):
        return []
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits", f"--id={','.join(visible)}"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True)
    except OSError:
        return []
    return [float(line) * 2**20 for line in listed.stdout.split()] if listed.returncode == 0 else []


def _chat_template(settings: Settings, folder: Path) -> Finding:
    """Render a short conversation of the agent's, with a tool call and its result if that is how it acts."""
    template = _template(folder)
    if template is None:
        return Finding("problem", f"model.base_model={folder}: its tokenizer has no chat template; add one")
    said = [{"role": "system", "content": "S-1"}, {"role": "user", "content": "U-2"}]
    tools = None
    if settings.agent.actions == "toolcall":
        function = {"name": "bash", "arguments": {"command": "C-3"}}
        call = {"id": "call_1", "type": "function", "function": function}
        said += [{"role": "assistant", "content": "A-4", "tool_calls": [call]}]  # type: ignore[dict-item]
        said += [{"role": "tool", "tool_call_id": "call_1", "content": "T-5"}]
        tools = [{"type": "function", "function": {"name": "bash", "parameters": {"type": "object"}}}]
    wanted = ["S-1", "U-2", *(["C-3", "T-5"] if tools else [])]
    try:
        rendered = _environment().from_string(template).render(messages=said, tools=tools, add_generation_prompt=True)
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        return Finding("warning", f"chat template: cannot be rendered here ({error}); the server will tell")
    if lost := [mark for mark in wanted if mark not in rendered]:
        names = {"S-1": "the system message", "U-2": "the user's", "C-3": "tool calls", "T-5": "their results"}
        remedy = "; write agent=textbased" if tools else ""
        return Finding("problem", f"chat template: it leaves out {' and '.join(map(names.__getitem__, lost))}{remedy}")
    return Finding(
        "ok", f"chat template: {'tool calls and their results come' if tools else 'a conversation comes'} through"
    )


def _context(settings: Settings, instances: Mapping[str, Instance], context: int) -> Finding:
    from swe_eval.mini import mini_config  # late: it brings litellm, and mistakes are answered in a second

    agent = settings.agent
    config = mini_config(agent)
    longest = max((len(instance.problem_statement) for instance in instances.values()), default=0)
    templates = config["agent"]["system_template"] + config["agent"]["instance_template"]
    first = (len(templates) + longest) // CHARACTERS_PER_TOKEN
    endless = {"output": "x" * 10**6, "returncode": 0, "exception_info": ""}
    seen = _environment().from_string(config["model"]["observation_template"]).render(output=endless)
    room = context - first - agent.max_tokens
    if room < 0:
        return Finding(
            "problem",
            f"context: {context} tokens hold no longest task (about {first}) and an answer (agent.max_tokens="
            f"{agent.max_tokens}); write a larger model.max_model_len or a smaller agent.max_tokens",
        )
    turns = min(agent.max_turns, room // (len(seen) // CHARACTERS_PER_TOKEN))
    text = f"context: {context} tokens hold at least {turns} of agent.max_turns={agent.max_turns} turns"
    return Finding("ok" if turns >= min(5, agent.max_turns) else "warning", text)


def _template(folder: Path) -> str | None:
    if (file := folder / "chat_template.jinja").is_file():
        return file.read_text()
    found = read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):  # several, each with a name
        found = {each["name"]: each["template"] for each in found}.get("default")
    return found


class _Generation(Extension):
    """``{% generation %}`` marks what the model says, for training; here it marks nothing."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    """As transformers makes it for chat templates (``utils/chat_template_utils.py``)."""

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": lambda _: "", "bos_token": ""}
    return environment


def _existing(path: Path) -> Path:
    return next(each for each in [path.absolute(), *path.absolute().parents] if os.path.exists(each))
