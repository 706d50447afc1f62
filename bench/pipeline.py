"""``python -m bench.pipeline``: a whole evaluation in Docker, against what one runs today without swe_eval.

Today that is mini-swe-agent's batch runner (``mini-extra swebench``), then ``swebench.harness.run_evaluation`` on its
predictions. Both sides run the same instances with the same images, mini-swe-agent's own prompts and the same scripted
endpoint, which takes ``THINK`` seconds per turn: it looks around ``LOOKS`` times, applies the reference patch, writes
the diff and submits. On both sides every instance must end as resolved. It is done with 2 and with 8 rollouts at a
time, and with as many gradings at a time as there are processors; ours first, then today's. A figure is the worse of
the two.

- ``step_overhead_ratio``: the median time of a command in the container, divided by mini-swe-agent's. It is the time
  from answer to observation, by the time stamps in mini-swe-agent's trajectories. The table also has the time that the
  endpoint sees, from an answer to the next request; that includes LiteLLM and the templates, the same on both sides.
- ``grading_ratio``: the mean time of a grading, from before its container starts until it is gone, divided by the
  harness's according to its logs. Ours share the machine with the rollouts.
- ``job_ratio``: the wall time of our command, divided by that of the other two one after the other, imports included.
- ``critical_path_ratio``: the wall time of our command, divided by the least that its rollouts and gradings could have
  taken with so many at a time; see ``critical_path``.
- ``runner_rss_mb``: the peak memory of our command with its child processes; what they share is counted once. No figure
  includes containers or the engine.

By default it runs on the bundled demo's tasks, whose images it builds first; ``--dataset FILE --instances ID ...``
takes others, whose images have to be in the engine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import yaml
from datasets import Dataset
from rich.box import SIMPLE
from rich.table import Table

from bench.output import machine, print_result
from bench.scripted import Message, Turn, scripted_endpoint
from swe_eval.benchmark.instances import Instance, load
from swe_eval.command import settings_of
from swe_eval.sandbox.sandbox import sandboxes
from swe_eval.settings import Settings

THINK = 0.3
"""Seconds."""
LOOKS = 12
WORKERS = (2, 8)
GRADERS = os.cpu_count() or 1
PATCH = "/tmp/model.patch"
LOOK_AT = (
    "ls",
    "git status --short",
    "sed -n 1,80p {file}",
    "wc -l {file}",
    "git log --oneline -5",
    "grep -n 'def ' {file} | head -20",
)
LABEL = "swe_eval.bench"
"""Marks mini-swe-agent's containers, so that only these are waited for."""
ENVIRONMENT = {
    "MSWEA_SILENT_STARTUP": "1",
    "MSWEA_CONFIGURED": "true",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # without a network its download is tried for seconds
    "HF_HUB_OFFLINE": "1",
}


@dataclass(frozen=True)
class Work:
    """What both sides evaluate: a folder with ``test.parquet``, and the rows in it."""

    folder: Path
    rows: Sequence[Mapping[str, Any]]
    looks: int = LOOKS
    think: float = THINK

    @property
    def ids(self) -> list[str]:
        return [row["instance_id"] for row in self.rows]

    @property
    def dataset(self) -> Path:
        return self.folder / "test.parquet"

    def script(self, task: str, number: int) -> Message:
        """The tool call, in this turn, of a model that knows the reference patch."""
        [row] = [row for row in self.rows if row["problem_statement"].strip() in task]
        call = {"name": "bash", "arguments": json.dumps({"command": self.commands(row["patch"])[number]})}
        return {"content": "Next.", "tool_calls": [{"id": f"call_{number}", "type": "function", "function": call}]}

    def commands(self, patch: str) -> list[str]:
        """The commands of all turns on an instance."""
        file = re.findall(r"^\+\+\+ b/(.*)$", patch, re.MULTILINE)[0]
        return [
            *(LOOK_AT[number % len(LOOK_AT)].format(file=file) for number in range(self.looks)),
            f"git apply - <<'END_OF_PATCH'\n{patch}\nEND_OF_PATCH",
            f"git add --all && git diff --cached > {PATCH}",
            f"echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && cat {PATCH}",
        ]


@dataclass(frozen=True)
class Ran:
    """What a command took: seconds, and at its peak the bytes of memory held by it and its children."""

    seconds: float
    memory: int


@dataclass(frozen=True)
class Job:
    """One whole evaluation; times are in seconds."""

    parts: Sequence[Ran]
    steps: Sequence[float]
    gaps: Sequence[float]
    """Between an answer and the next request, as the endpoint saw them."""
    rollouts: Mapping[str, float]
    gradings: Mapping[str, float]

    @property
    def seconds(self) -> float:
        return sum(part.seconds for part in self.parts)

    @property
    def memory(self) -> int:
        return max(part.memory for part in self.parts)


def by_swe_eval(work: Work, workers: int, folder: Path) -> Job:
    """Evaluate as a user of swe_eval does."""
    with scripted_endpoint(work.script, work.think) as endpoint:
        serving = ["serving=external", f"serving.base_url={endpoint.base_url}"]
        model = ["model=hf", "model.base_model=scripted", "model.tool_call_parser=hermes", "agent=toolcall"]
        benchmark = ["benchmark=local", f"benchmark.dataset={work.dataset}", "benchmark.name=bench"]
        at_once = [f"workers={workers}", f"grade_workers={GRADERS}"]
        ran = watch("swe_eval", *model, *serving, *benchmark, *at_once, f"output_dir={folder / 'run'}", cwd=folder)
    trajectories = {path.stem.removesuffix(".traj"): read(path) for path in folder.glob("run/trajectories/*/*.json")}
    reports = [read(path) for path in folder.glob("run/evaluation/*/*/report.json")]
    graded = {key: report for by_id in reports for key, report in by_id.items()}
    all_resolved(work, [key for key, report in graded.items() if report["resolved"]], folder)
    return Job(
        parts=[ran],
        steps=[step for trajectory in trajectories.values() for step in steps_of(trajectory)],
        gaps=gaps_of(endpoint.turns),
        rollouts={key: trajectory["info"]["seconds"] for key, trajectory in trajectories.items()},
        gradings={key: report["seconds"] for key, report in graded.items()},
    )


def by_mini_and_harness(work: Work, workers: int, folder: Path) -> Job:
    """Evaluate as the documentation of the two projects says."""
    run = f"bench-{uuid.uuid4().hex[:12]}"
    label = f"{LABEL}={run}"
    with scripted_endpoint(work.script, work.think) as endpoint:
        (folder / "mini.yaml").write_text(yaml.safe_dump(mini_settings(endpoint.base_url, label)))
        batch = ["swebench", "--subset", str(work.folder), "--split", "test", "--output", "preds"]
        how = ["--workers", str(workers), "-c", "swebench.yaml", "-c", "mini.yaml"]
        rolled = watch("minisweagent.run.utilities.mini_extra", *batch, *how, cwd=folder)
    graded = watch(
        "swebench.harness.run_evaluation",
        *("--dataset_name", str(work.dataset), "--predictions_path", "preds/preds.json", "--run_id", run),
        *("--max_workers", str(GRADERS)),
        cwd=folder,
    )
    wait_for_end_of(label)
    trajectories = {path.parent.name: read(path) for path in folder.glob("preds/*/*.traj.json")}
    [summary] = folder.glob(f"*.{run}.json")
    all_resolved(work, read(summary)["resolved_ids"], folder)
    logs = folder.glob("logs/run_evaluation/*/*/*/run_instance.log")
    return Job(
        parts=[rolled, graded],
        steps=[step for trajectory in trajectories.values() for step in steps_of(trajectory)],
        gaps=gaps_of(endpoint.turns),
        rollouts={},
        gradings={path.parent.name: duration_of(path.read_text()) for path in logs},
    )


def mini_settings(base_url: str, label: str) -> dict[str, Any]:
    """What mini-swe-agent needs besides its own benchmark configuration."""
    where = {"api_base": base_url, "api_key": "EMPTY"}
    model = {"model_name": "openai/base", "model_kwargs": where, "cost_tracking": "ignore_errors"}
    return {"model": model, "environment": {"run_args": ["--rm", "--label", label]}}


def watch(module: str, *arguments: str, cwd: Path) -> Ran:
    """Run ``python -m module`` to its end, and look at its memory twice a second."""
    folder = {"MSWEA_GLOBAL_CONFIG_DIR": str(cwd), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    started, memory = time.perf_counter(), 0
    with (cwd / "output.txt").open("a") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=cwd,
            env=os.environ | ENVIRONMENT | folder,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        while process.poll() is None:
            memory = max(memory, memory_of(process.pid))
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.5)  # to look takes milliseconds of a processor
    if process.returncode:
        raise RuntimeError(f"{module} failed:\n{(cwd / 'output.txt').read_text()}")
    return Ran(time.perf_counter() - started, memory)


def memory_of(pid: int) -> int:
    """Bytes held by a process and its descendants; what they share is counted once."""
    try:
        shares = re.findall(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        lists = [file.read_text().split() for file in Path(f"/proc/{pid}/task").glob("*/children")]
        below = [int(child) for children in lists for child in children]
        return 1024 * int(shares[0]) + sum(memory_of(child) for child in below if is_another(child, pid))
    except OSError:  # it has just ended
        return 0


def is_another(child: int, parent: int) -> bool:
    """Whether a child runs a program of its own: between fork and exec it still has its parent's memory."""
    command, own = (Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (parent, child))
    return own != command


def steps_of(trajectory: Mapping[str, Any]) -> list[float]:
    """Seconds from each answer to the observation of its command."""
    stamped = [message for message in trajectory["messages"] if "timestamp" in message.get("extra", {})]
    pairs = [pair for pair in pairwise(stamped) if [m["role"] for m in pair] == ["assistant", "tool"]]
    return [after["extra"]["timestamp"] - before["extra"]["timestamp"] for before, after in pairs]


def gaps_of(turns: Sequence[Turn]) -> list[float]:
    """Seconds from each answer to its conversation's next request."""
    in_turn = sorted(turns, key=lambda turn: (turn.task, turn.number))
    return [turn.arrived - before.left for before, turn in pairwise(in_turn) if before.task == turn.task]


def duration_of(log: str) -> float:
    """Seconds from the first line of the harness's log to the last one."""
    stamps = re.findall(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) - ", log, re.MULTILINE)
    first, last = (datetime.strptime(stamps[end], "%Y-%m-%d %H:%M:%S,%f") for end in (0, -1))
    return (last - first).total_seconds()


def critical_path(rollouts: Mapping[str, float], gradings: Mapping[str, float], workers: int, graders: int) -> float:
    """The least wall time with so many rollouts and gradings at a time. No schedule is faster than any of three:

    the longest instance, rolled out and graded; all rollouts, evenly distributed, then the shortest grading; the
    shortest rollout, then all gradings, evenly distributed.
    """
    longest = max(rollouts[key] + gradings[key] for key in rollouts)
    rolling = sum(rollouts.values()) / workers + min(gradings.values())
    grading = min(rollouts.values()) + sum(gradings.values()) / graders
    return max(longest, rolling, grading)


def all_resolved(work: Work, resolved: Sequence[str], folder: Path) -> None:
    """Raise RuntimeError, with all output and logs, unless every instance is resolved."""
    if missing := set(work.ids) - set(resolved):
        logs = [path for path in folder.rglob("run_instance.log") if path.parent.name in missing]
        said = "\n".join(path.read_text() for path in (folder / "output.txt", *logs))
        raise RuntimeError(f"not resolved: {', '.join(sorted(missing))}\n{said}")


def wait_for_end_of(label: str) -> None:
    """Wait until the engine has no container with the label: mini-swe-agent stops its own in the background."""
    listing = ["docker", "ps", "--all", "--quiet", "--filter", f"label={label}"]
    while subprocess.run(listing, capture_output=True, text=True, check=True).stdout:
        time.sleep(0.5)


def read(path: Path) -> Any:
    """The JSON in a file."""
    return json.loads(path.read_text())


@dataclass(frozen=True)
class Pair:
    """The same work done by both sides."""

    workers: int
    ours: Job
    theirs: Job

    @property
    def path(self) -> float:
        return critical_path(self.ours.rollouts, self.ours.gradings, self.workers, GRADERS)

    @property
    def step_ratio(self) -> float:
        return median(self.ours.steps) / median(self.theirs.steps)

    @property
    def grading_ratio(self) -> float:
        return mean(self.ours.gradings.values()) / mean(self.theirs.gradings.values())

    @property
    def job_ratio(self) -> float:
        return self.ours.seconds / self.theirs.seconds


def measure(work: Work, workers: int) -> Pair:
    """Have ours do the work, then theirs."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("ours", "theirs"):
            (Path(folder) / name).mkdir()
        ours = by_swe_eval(work, workers, Path(folder) / "ours")
        return Pair(workers, ours, by_mini_and_harness(work, workers, Path(folder) / "theirs"))


def table_of(pair: Pair) -> Table:
    """The figures as a table for people."""
    ours, theirs = pair.ours, pair.theirs
    table = Table(f"{pair.workers} workers", "swe_eval", "today", "ratio", box=SIMPLE)
    for label, one, other, unit, digits in (
        ("wall time, s", ours.seconds, theirs.seconds, 1, 1),
        ("a grading, s: mean", mean(ours.gradings.values()), mean(theirs.gradings.values()), 1, 1),
        ("a step, ms: median", median(ours.steps), median(theirs.steps), 1e3, 1),
        ("  from answer to request", median(ours.gaps), median(theirs.gaps), 1e3, 1),
        ("memory, MB", ours.memory, theirs.memory, 1e-6, 0),
    ):
        table.add_row(label, f"{one * unit:.{digits}f}", f"{other * unit:.{digits}f}", f"{one / other:.2f}")
    rolled, graded = theirs.parts
    table.caption = (
        f"critical path {pair.path:.1f} s, {ours.seconds / pair.path:.2f} times that taken; "
        f"today {rolled.seconds:.1f} s to roll out and {graded.seconds:.1f} s to grade"
    )
    return table


def figures_of(pairs: Sequence[Pair]) -> dict[str, float]:
    """The figures as one object for programs: the worst of each."""
    return {
        "step_overhead_ratio": max(pair.step_ratio for pair in pairs),
        "grading_ratio": max(pair.grading_ratio for pair in pairs),
        "job_ratio": max(pair.job_ratio for pair in pairs),
        "critical_path_ratio": max(pair.ours.seconds / pair.path for pair in pairs),
        "runner_rss_mb": max(pair.ours.memory for pair in pairs) / 1e6,
    }


def chosen(given: argparse.Namespace) -> Settings:
    """Settings with the instances that the command line names, and with sandboxes for them."""
    selection = [f"benchmark.instance_ids=[{','.join(given.instances)}]"] if given.instances else []
    source = ["benchmark=local", f"benchmark.dataset={given.dataset}"] if given.dataset else ["benchmark=demo"]
    base = [f"+sandbox.build_args.BASE={given.base}"] if given.base else []
    return settings_of("sandbox=docker", *source, *selection, *base)


def ensure_images(settings: Settings, instances: Sequence[Instance]) -> None:
    """Build or find the image of each instance."""
    with sandboxes(settings, uuid.uuid4().hex) as backend:
        for instance in instances:
            with backend.start(instance, "grading"):
                pass


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.pipeline")
    parser.add_argument("--base", help="image to build the demo's on, where there is no network")
    parser.add_argument("--dataset", type=Path, help="rows of swebench: .json, .jsonl or .parquet")
    parser.add_argument("--instances", nargs="+", metavar="ID", help="of the dataset; all without it")
    parser.add_argument("--quick", action="store_true", help="two instances, few turns: whether it runs, not how fast")
    given = parser.parse_args()
    settings = chosen(given)
    instances = load(settings.benchmark).instances[: 2 if given.quick else None]
    ensure_images(settings, instances)
    described = f"{len(instances)} instances, {machine()}"
    with tempfile.TemporaryDirectory() as folder:
        rows = [dict(instance.row) for instance in instances]
        work = Work(Path(folder), rows, *((2, 0.0) if given.quick else ()))
        Dataset.from_list(rows).to_parquet(work.dataset)
        pairs = [measure(work, workers) for workers in (WORKERS[:1] if given.quick else WORKERS)]
    print_result(figures_of(pairs), *map(table_of, pairs), described)


if __name__ == "__main__":
    main()
