"""``python -m bench.overhead``: the time that swe_eval itself takes per agent step, per trial and at start-up.

**Steps and trials.** A scripted endpoint on loopback stands in for the model; everything else is real. ``python -m
swe_eval`` runs the demo's tasks against it (serving=external, agent=compact, sandbox=local, one rollout at a time): 20
times ``true``, then the submission of an empty patch. mini-swe-agent alone, its ``DefaultAgent`` with
``LitellmTextbasedModel`` and ``LocalEnvironment``, takes the same turns with the same prompts. The endpoint measures
the time from each of its answers to the next request, none of which is the model's.

- ``step_ms``: the median within a trial. It includes the command in the sandbox, which has a process namespace of its
  own (``bash -c true`` alone is printed beside it), mini-swe-agent's parsing and templates, LiteLLM, and loopback.
- ``step_ratio``: ``step_ms`` divided by mini-swe-agent's.
- ``trial_s``: the median from the last answer of a trial to the first request of the next. It includes the submission,
  removing the sandbox, writing trajectory and prediction, making the next sandbox with its repository, and the first
  prompt. The verdict on the empty patch is written meanwhile, by another thread.
- ``grade_s``: the median grading of one of the demo's reference patches, by ``python -m swe_eval.grade --predictions
  gold``, one at a time. It includes sandbox, patch, pytest (most of the time) and verdict.

**Start-up.** Wall time, including that of the interpreter.

- ``help_s``: ``python -m swe_eval --help``.
- ``help_ratio``: ``help_s`` divided by the time of ``python -c 'import hydra'``. Printed beside it: the help of a Hydra
  application that has nothing of ours but ``conf/``.

No figure includes the imports of a run, the check that the endpoint answers, or the first trial of a process. What is
compared takes turns, round by round; the table has the median [lowest, highest] round, and a ratio is the median of the
ratios of each round.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TypeVar

import yaml
from rich.box import SIMPLE
from rich.table import Table

from bench.output import machine, print_result, ratio, spread
from bench.scripted import Message, scripted_endpoint
from swe_eval.settings import PACKAGE, conf_dir

T = TypeVar("T")
COMMANDS = 20
"""In each trial, before the submission."""
SCRIPT = [*["true"] * COMMANDS, "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"]
NO_MODEL = ["model.base_model=scripted", "lora=none"]
BARE_HYDRA = "import hydra; hydra.main(config_path={!r}, config_name='config', version_base='1.3')(print)()"
BARE_HELP = "hydra.help.template='$APP_CONFIG_GROUPS $CONFIG'"
"""Ours tells what every field means, which Hydra does not know."""


def answer(_task: str, number: int) -> Message:
    """The command of a turn, in mini-swe-agent's textual format."""
    return {"content": f"Next.\n```mswea_bash_command\n{SCRIPT[number]}\n```"}


@dataclass(frozen=True)
class Pace:
    """Seconds from an answer to the next request: within a trial, and from one trial to the next."""

    step: float
    trial: float


def pace_of(play: Callable[[str, int], None], tasks: int) -> Pace:
    """Have ``play(base_url, tasks)`` run the script on so many of the demo's tasks, one by one."""
    with scripted_endpoint(answer) as endpoint:
        play(endpoint.base_url, tasks)
    if [turn.number for turn in endpoint.turns] != [*range(len(SCRIPT))] * tasks:
        raise RuntimeError(f"not the script's turns, {tasks} times over: {endpoint.turns}")
    warm = list(pairwise(endpoint.turns[COMMANDS:]))  # from the end of the first trial on
    return Pace(
        step=median(turn.arrived - before.left for before, turn in warm if turn.number > 0),
        trial=median(turn.arrived - before.left for before, turn in warm if turn.number == 0),
    )


def by_swe_eval(base_url: str, tasks: int) -> None:
    """As a user runs it."""
    with tempfile.TemporaryDirectory() as folder:
        serving = ["serving=external", f"serving.base_url={base_url}", *NO_MODEL]
        agent = ["agent=compact", f"agent.max_turns={len(SCRIPT)}", f"benchmark.max_instances={tasks}"]
        _python("-m", "swe_eval", *serving, *agent, "workers=1", "grade_workers=1", f"output_dir={folder}")


def by_mini(base_url: str, tasks: int) -> None:
    """By mini-swe-agent alone, in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        process.submit(_mini, base_url, tasks).result()


def _mini(base_url: str, tasks: int) -> None:
    quiet = {"MSWEA_SILENT_STARTUP": "1", "MSWEA_CONFIGURED": "true", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(quiet, MSWEA_GLOBAL_CONFIG_DIR=folder)  # read by the imports below
        from minisweagent.agents.default import DefaultAgent
        from minisweagent.environments.local import LocalEnvironment
        from minisweagent.models.litellm_textbased_model import LitellmTextbasedModel

        compact = yaml.safe_load((conf_dir() / "agent" / "compact.yaml").read_text())
        templates = {key: text for key, text in compact.items() if key.endswith("_template")}  # each takes its own
        where = {"api_base": base_url, "api_key": "EMPTY"}
        for problem in sorted(PACKAGE.glob("benchmark/demo/tasks/*/problem_statement.md"))[:tasks]:
            model = LitellmTextbasedModel(
                model_name="openai/base", model_kwargs=where, cost_tracking="ignore_errors", **templates
            )
            DefaultAgent(model, LocalEnvironment(cwd=folder), **templates).run(problem.read_text())


def grading_times(patches: int) -> list[float]:
    """Grade so many reference patches; the seconds that each of them took."""
    with tempfile.TemporaryDirectory() as folder:
        gold = ["--predictions", "gold", f"benchmark.max_instances={patches}", *NO_MODEL]
        _python("-m", "swe_eval.grade", *gold, "grade_workers=1", f"output_dir={folder}")
        reports = [json.loads(file.read_text()) for file in Path(folder).glob("evaluation/gold/*/report.json")]
    return [report["seconds"] for by_id in reports for report in by_id.values()]


def wall_time(*command: str) -> float:
    """Seconds that a command takes."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def in_turn(rounds: int, *measures: Callable[[], T]) -> list[list[T]]:
    """Take all measures in every round, so that drift affects them alike; returns the values of each measure."""
    taken = [[measure() for measure in measures] for _ in range(rounds)]
    return [list(column) for column in zip(*taken, strict=True)]


def _python(*arguments: str) -> None:
    done = subprocess.run([sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"python {' '.join(arguments)} failed:\n{done.stdout}")


@dataclass(frozen=True)
class Taken:
    """Every measurement, in seconds, round by round."""

    steps: Sequence[float]
    mini_steps: Sequence[float]
    bash: Sequence[float]
    trials: Sequence[float]
    gradings: Sequence[float]
    helps: Sequence[float]
    bare_helps: Sequence[float]
    imports: Sequence[float]


def measure(rounds: int, tasks: int, starts: int) -> Taken:
    """Time the steps of ``tasks`` tasks and a grading ``rounds`` times, start-up ``starts`` times."""
    python = sys.executable
    ours, mini = in_turn(rounds, lambda: pace_of(by_swe_eval, tasks), lambda: pace_of(by_mini, tasks))
    [bash] = in_turn(20, lambda: wall_time("bash", "-c", SCRIPT[0]))
    gradings = grading_times(rounds)
    helps, bare_helps, imports = in_turn(
        starts,
        lambda: wall_time(python, "-m", "swe_eval", "--help"),
        lambda: wall_time(python, "-c", BARE_HYDRA.format(str(conf_dir())), "--help", BARE_HELP),
        lambda: wall_time(python, "-c", "import hydra"),
    )
    steps, mini_steps = [pace.step for pace in ours], [pace.step for pace in mini]
    trials = [pace.trial for pace in ours]
    return Taken(steps, mini_steps, bash, trials, gradings, helps, bare_helps, imports)


def table_of(taken: Taken) -> Table:
    """The figures as a table for people."""
    table = Table("", "ms: median \\[lowest, highest]", "swe_eval / this", box=SIMPLE)
    for label, seconds, ours in (
        ("step", taken.steps, None),
        ("  by mini-swe-agent alone", taken.mini_steps, taken.steps),
        ("  bash -c true alone", taken.bash, None),
        ("trial", taken.trials, None),
        ("grading", taken.gradings, None),
        ("--help", taken.helps, None),
        ("  by Hydra alone", taken.bare_helps, taken.helps),
        ("  import hydra", taken.imports, taken.helps),
    ):
        ms = [1000 * each for each in seconds]
        table.add_row(label, spread(ms), f"{ratio(ours, seconds):.2f}" if ours else "")
    return table


def figures_of(taken: Taken) -> dict[str, float]:
    """The figures as one object for programs; what they mean is at the top."""
    return {
        "step_ms": 1000 * median(taken.steps),
        "step_ratio": ratio(taken.steps, taken.mini_steps),
        "trial_s": median(taken.trials),
        "grade_s": median(taken.gradings),
        "help_s": median(taken.helps),
        "help_ratio": ratio(taken.helps, taken.imports),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.overhead")
    parser.add_argument("--quick", action="store_true", help="once, on two tasks: whether it runs, not how fast")
    quick = parser.parse_args().quick
    before = machine()
    taken = measure(rounds=1, tasks=2, starts=1) if quick else measure(rounds=3, tasks=5, starts=5)
    print_result(figures_of(taken), table_of(taken), before)


if __name__ == "__main__":
    main()
