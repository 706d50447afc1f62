"""``python -m bench.overhead``: what swe_eval adds to the model's time per agent step, per trial and at start-up.

**Steps and trials.** A scripted endpoint on loopback stands in for the model; everything else is real. ``python -m
swe_eval`` runs the demo's tasks against it (serving=external, agent=compact, sandbox=local, one rollout at a time). Then
mini-swe-agent alone, its ``DefaultAgent`` with ``LitellmTextbasedModel`` and ``LocalEnvironment``, makes the same turns
with the same prompts. Trials of ``FEW`` and of ``MANY`` commands (``true``, then the submission of an empty patch)
alternate, so that whatever drifts hits both. The endpoint holds the clock: a trial lasts from the arrival of its first
request to that of the next trial's, less the time from each request's arrival to its answer's departure. The line
through the medians of the two kinds gives

- ``step_ms``, its slope: LiteLLM and the HTTP exchange, mini's parsing and templates, and the command's process
  (``bash -c true``, whose bare time is printed beside it), in a conversation of a dozen turns;
- ``trial_s``, its height at no steps: sandbox made and removed, repository set up in it, trajectory and prediction on
  disk, next trial begun (the verdict on the empty patch is written meanwhile, in another thread);
- ``step_ratio``, swe_eval's slope over mini-swe-agent's.

``grade_s`` is the median grading of a patch that has tests to run, one at a time, by ``python -m swe_eval.grade
--predictions gold``: sandbox, patch, pytest (most of it), verdict.

**Start-up.** ``help_s`` is the wall time of ``python -m swe_eval --help``, ``help_ratio`` that over ``python -c 'import
hydra'``; medians of runs in turn. A bare Hydra application that prints the same help tells Hydra's part from ours.

In no figure: what a run imports, the check that the endpoint answers, and the first trial of each process.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from swe_eval.command import conf_dir
from swe_eval.settings import PACKAGE

FEW, MANY = 2, 22
COMMAND, SUBMIT = "true", "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
BARE_HELP = f"import hydra; hydra.main(config_path={str(conf_dir())!r}, config_name='config', version_base='1.3')(print)()"


@dataclass
class Played:
    """A trial as the endpoint sees it; times in seconds."""

    commands: int
    began: float
    answering: float = 0.0


class ScriptedEndpoint(ThreadingHTTPServer):
    """An OpenAI endpoint whose trials, one at a time, take ``FEW`` and ``MANY`` commands in turn."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.base_url = f"http://127.0.0.1:{self.server_port}/v1"
        self.played: list[Played] = []
        self._lengths = itertools.cycle([FEW, MANY])

    def answer(self, body: Mapping[str, Any], arrived: float) -> dict[str, Any]:
        """A chat completion with the next command of the conversation in ``body``."""
        messages = body["messages"]
        turn = sum(message["role"] == "assistant" for message in messages)
        if turn == 0 and messages[0]["role"] == "system":  # the check that the endpoint answers has no system message
            self.played.append(Played(next(self._lengths), arrived))
        command = SUBMIT if self.played and turn == self.played[-1].commands else COMMAND
        message = {"role": "assistant", "content": f"Next.\n```mswea_bash_command\n{command}\n```"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        head = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
        return head | {"choices": [choice], "usage": usage}

    def answered(self, arrived: float) -> None:
        """The answer to what came at ``arrived`` has left."""
        if self.played:
            self.played[-1].answering += time.perf_counter() - arrived


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together: apart, the body would wait for the client's delayed ACK
    server: ScriptedEndpoint

    def parse_request(self) -> bool:
        self._arrived = time.perf_counter()
        return super().parse_request()

    def do_GET(self) -> None:
        self._send({"object": "list", "data": [{"id": "base", "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._send(self.server.answer(body, self._arrived))
        self.server.answered(self._arrived)

    def _send(self, value: Mapping[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def scripted_endpoint() -> Iterator[ScriptedEndpoint]:
    """Serve until the block ends."""
    with ScriptedEndpoint() as endpoint:
        threading.Thread(target=endpoint.serve_forever, daemon=True).start()
        try:
            yield endpoint
        finally:
            endpoint.shutdown()


@dataclass(frozen=True)
class Cost:
    """What a trial costs beside the model: ``trial + calls * step`` seconds."""

    step: float
    trial: float


def cost_of(play: Callable[[str], object]) -> Cost:
    """Time the trials that ``play`` runs against the endpoint whose URL it is given."""
    with scripted_endpoint() as endpoint:
        play(endpoint.base_url)
    few, many = (median(_seconds(endpoint.played, commands)) for commands in (FEW, MANY))
    step = (many - few) / (MANY - FEW)
    return Cost(step, trial=few - (FEW + 1) * step)


def _seconds(played: Sequence[Played], commands: int) -> list[float]:
    after_warm_up = itertools.pairwise(played[1:])
    return [after.began - it.began - it.answering for it, after in after_warm_up if it.commands == commands]


def run_swe_eval(base_url: str, samples: int) -> None:
    """Run every task of the demo ``samples`` times, as a user would."""
    with tempfile.TemporaryDirectory() as folder:
        model = ["serving=external", f"serving.base_url={base_url}", "model.base_model=scripted", "lora=none"]
        agent = ["agent=compact", f"agent.max_turns={MANY + 1}", f"agent.samples={samples}"]
        _python("-m", "swe_eval", *model, *agent, "workers=1", "grade_workers=1", f"output_dir={folder}")


def run_mini(base_url: str, samples: int) -> None:
    """The same turns by mini-swe-agent alone, in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        process.submit(_mini, base_url, samples).result()


def _mini(base_url: str, samples: int) -> None:
    quiet = {"MSWEA_SILENT_STARTUP": "1", "MSWEA_CONFIGURED": "true", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(quiet, MSWEA_GLOBAL_CONFIG_DIR=folder)  # read when the following are imported
        from minisweagent.agents.default import DefaultAgent
        from minisweagent.environments.local import LocalEnvironment
        from minisweagent.models.litellm_textbased_model import LitellmTextbasedModel

        compact = yaml.safe_load((conf_dir() / "agent" / "compact.yaml").read_text())
        templates = {key: text for key, text in compact.items() if key.endswith("_template")}
        where = {"api_base": base_url, "api_key": "EMPTY"}
        for problem in sorted(PACKAGE.glob("benchmark/demo/tasks/*/problem_statement.md")) * samples:
            model = LitellmTextbasedModel(
                model_name="openai/base", model_kwargs=where, cost_tracking="ignore_errors", **templates
            )
            DefaultAgent(model, LocalEnvironment(cwd=folder), **templates).run(problem.read_text())


def grading_seconds() -> float:
    """The median grading of the demo's reference patches."""
    with tempfile.TemporaryDirectory() as folder:
        gold = ["--predictions", "gold", "model.base_model=scripted", "lora=none"]
        _python("-m", "swe_eval.grade", *gold, "grade_workers=1", f"output_dir={folder}")
        reports = [json.loads(path.read_text()) for path in Path(folder).glob("evaluation/gold/*/report.json")]
    return median(report["seconds"] for by_id in reports for report in by_id.values())


def wall_seconds(repeats: int, *commands: Sequence[str]) -> list[float]:
    """The median wall time of each command, run in turn."""
    taken = [[_wall(command) for command in commands] for _ in range(repeats)]
    return [median(times) for times in zip(*taken, strict=True)]


def _wall(command: Sequence[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def _python(*arguments: str) -> None:
    done = subprocess.run([sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{arguments} failed:\n{done.stdout}")


def main() -> None:
    """Measure, print the table, print the JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.overhead")
    parser.add_argument("--quick", action="store_true", help="a few trials only: does it run? the figures mean little")
    samples, starts = (1, 1) if parser.parse_args().quick else (4, 5)
    python = sys.executable

    ours = cost_of(lambda url: run_swe_eval(url, samples))
    mini = cost_of(lambda url: run_mini(url, samples))
    grade = grading_seconds()
    [bash] = wall_seconds(50, ["bash", "-c", COMMAND])
    shown, bare, imported = wall_seconds(
        starts, [python, "-m", "swe_eval", "--help"], [python, "-c", BARE_HELP, "--help"], [python, "-c", "import hydra"]
    )

    table = Table("", "swe_eval", "instead", "ratio")
    table.add_row("step", f"{1e3 * ours.step:.1f} ms", f"{1e3 * mini.step:.1f} ms mini-swe-agent alone", f"{ours.step / mini.step:.2f}")
    table.add_row("  of it bash -c true", f"{1e3 * bash:.1f} ms")
    table.add_row("trial", f"{ours.trial:.3f} s", f"{mini.trial:.3f} s mini-swe-agent alone")
    table.add_row("grading", f"{grade:.2f} s")
    table.add_row("--help", f"{shown:.2f} s", f"{imported:.2f} s import hydra", f"{shown / imported:.2f}")
    table.add_row("", "", f"{bare:.2f} s bare", f"{shown / bare:.2f}")
    Console().print(table)
    print(json.dumps({"step_ms": 1e3 * ours.step, "trial_s": ours.trial, "grade_s": grade, "step_ratio": ours.step / mini.step, "help_s": shown, "help_ratio": shown / imported}))


if __name__ == "__main__":
    main()
