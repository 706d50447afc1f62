"""``python -m bench.admission``: ``workers=auto`` against fixed numbers of workers, with three sizes of KV cache.

The model server is simulated (``bench/kv_server.py``) behind a real OpenAI endpoint with vLLM's ``/metrics``. It reads
8,000 prompt tokens per second, writes 49 tokens per second for a single answer and 28 for each of 32, and becomes slow
where its KV cache is too small for the conversations, as real engines do. Agents are conversations: a first prompt of
4,000 tokens, then about 16 turns, each with an answer of about 200 tokens and, some seconds later, about 1,000 tokens
of command output. They go through the ``Schedule``, ``Gate`` and ``admission`` of a real run; only the clock is
``SPEED`` times as fast.

- ``auto_over_best_fixed``: the time that all agents take with the best fixed number of workers, divided by the time
  with auto, which does not know the size of the cache; the worst of the three sizes.

A fixed number is given up once it takes ``HOPELESS`` times as long as the best one so far.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE
from rich.table import Table

from bench.output import machine, print_result
from swe_eval.run_dir import Trial
from swe_eval.scheduling import admission
from swe_eval.scheduling.gate import Gate, Turns
from swe_eval.scheduling.schedule import Schedule
from swe_eval.serving.endpoint import Endpoint
from swe_eval.serving.load import LoadReader

SPEED = 120.0
KV_TOKENS = (200_000, 400_000, 800_000)
FIXED = (8, 16, 32, 12, 24, 64, 4, 2, 1)
"""Likely winners first, so that the others are given up early."""
HOPELESS = 1.15
FIRST_PROMPT = 4000
POLL = 2.0
"""Simulated seconds between two looks at the server."""


class GivenUp(Exception):
    """The job takes too long."""


@dataclass(frozen=True)
class Turn:
    """Tokens of the answer and of the command's output, and the seconds that the command takes."""

    answer: int
    output: int
    seconds: float


@dataclass(frozen=True)
class Job:
    """The work that every number of workers is given."""

    agents: int
    turns: int
    speed: float

    def trials(self) -> list[Trial]:
        return [Trial("simulated", str(number)) for number in range(self.agents)]

    def conversation(self, trial: Trial) -> list[Turn]:
        """The turns of an agent, the same each time."""
        chance = random.Random(trial.instance_id)

        def about(middle: float, spread: float) -> float:
            return chance.lognormvariate(math.log(middle), spread)

        length = max(2, round(about(self.turns, 0.35)))
        return [Turn(round(about(200, 0.5)), round(about(1000, 0.6)), about(2, 0.7)) for _ in range(length)]


@dataclass(frozen=True)
class Taken:
    """Simulated seconds of the whole job, None if it was given up, and the part of the prompts that was cached."""

    seconds: float | None
    hit_rate: float


def measure(job: Job, kv_tokens: int, workers: int | Literal["auto"], limit: float = math.inf) -> Taken:
    """Do the job on a new server; give up after ``limit`` simulated seconds."""
    with served(kv_tokens, job.speed) as endpoint, tempfile.TemporaryDirectory() as folder:
        gate = Gate(job.agents if workers == "auto" else workers)
        log = Path(folder) / "load.jsonl"
        steered = admission.steered(lambda: [endpoint], gate, "auto", log, print, POLL / job.speed)
        began = time.perf_counter()

        def roll_out(trial: Trial, turns: Turns) -> bool:
            converse(job, trial, turns, endpoint, began + limit / job.speed)
            return False

        seconds: float | None = None
        with steered if workers == "auto" else nullcontext():
            try:
                Schedule(gate, grade_workers=1).run(job.trials(), [], roll_out, lambda trial: None, lambda: None)
                seconds = (time.perf_counter() - began) * job.speed
            except GivenUp:
                pass
        return Taken(seconds, hit_rate(endpoint))


def converse(job: Job, trial: Trial, turns: Turns, endpoint: Endpoint, deadline: float) -> None:
    """One agent, from its first prompt to its last answer."""
    connection = HTTPConnection(endpoint.base_url.removeprefix("http://").removesuffix("/v1"))
    tokens = [FIRST_PROMPT]
    for turn in job.conversation(trial):
        if not turns.begin():
            return
        if time.perf_counter() > deadline:
            raise GivenUp
        answer = ask(connection, trial, [*tokens, turn.answer])
        turns.end(answer["usage"]["total_tokens"])
        tokens += [turn.answer, turn.output]
        time.sleep(turn.seconds / job.speed)


def ask(connection: HTTPConnection, trial: Trial, tokens: Sequence[int]) -> dict[str, Any]:
    """Ask for a chat completion with messages that stand for so many tokens."""
    messages = [{"role": "user", "content": str(count)} for count in tokens]
    body = json.dumps({"model": "simulated", "user": str(trial), "messages": messages})
    connection.request("POST", "/v1/chat/completions", body)
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    return answer


@contextmanager
def served(kv_tokens: int, speed: float) -> Iterator[Endpoint]:
    """A server in a process of its own."""
    command = [sys.executable, "-m", "bench.kv_server", str(kv_tokens), str(speed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield Endpoint(f"http://127.0.0.1:{int(process.stdout.readline())}/v1", "none", "simulated", None)
        finally:
            process.kill()


def hit_rate(endpoint: Endpoint) -> float:
    """The part of all prompt tokens that came from the prefix cache."""
    with closing(LoadReader(lambda: [endpoint])) as reader:
        load = reader.read()
    return load.prefix_hits / load.prefix_queries if load and load.prefix_queries else math.nan


def compare(job: Job, kv_tokens: int, fixed: Sequence[int]) -> dict[int | str, Taken]:
    """Measure every fixed number, then auto."""
    found: dict[int | str, Taken] = {}
    for workers in fixed:
        found[workers] = measure(job, kv_tokens, workers, HOPELESS * best(found))
    return {**{workers: found[workers] for workers in sorted(fixed)}, "auto": measure(job, kv_tokens, "auto")}


def best(found: dict[int | str, Taken]) -> float:
    """The least time of a fixed number."""
    return min(
        (taken.seconds for workers, taken in found.items() if workers != "auto" and taken.seconds), default=math.inf
    )


def ratio(found: dict[int | str, Taken]) -> float:
    """The time of the best fixed number, divided by that of auto."""
    auto = found["auto"].seconds
    assert auto
    return best(found) / auto


def table_of(by_size: dict[int, dict[int | str, Taken]]) -> Table:
    """The figures as a table for people."""
    table = Table("workers", *(f"KV cache of {size // 1000}k" for size in by_size), box=SIMPLE)
    for workers in next(iter(by_size.values())):
        table.add_row(str(workers), *(cell(found[workers], best(found)) for found in by_size.values()))
    table.add_row("best / auto", *(f"{ratio(found):.2f}" for found in by_size.values()))
    return table


def cell(taken: Taken, least: float) -> str:
    """The time, and the part of the prompts that was cached."""
    seconds = f"{taken.seconds:.0f} s" if taken.seconds else f"> {HOPELESS * least:.0f} s"
    return f"{seconds}, {taken.hit_rate:.0%}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.admission")
    parser.add_argument("--quick", action="store_true", help="a small job: whether it runs, not how good auto is")
    quick = parser.parse_args().quick
    job, fixed = (Job(8, 4, 2 * SPEED), (8, 2)) if quick else (Job(64, 16, SPEED), FIXED)
    before = machine()
    by_size = {size: compare(job, size, fixed) for size in KV_TOKENS}
    print_result({"auto_over_best_fixed": min(map(ratio, by_size.values()))}, table_of(by_size), before)


if __name__ == "__main__":
    main()
