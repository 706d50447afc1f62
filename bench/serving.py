"""``python -m bench.serving``: our Transformers server against ``transformers serve``, on a tiny DeepSeek-V3 model.

Both serve the demo's model, with random weights that never end an answer, on the CPU with one thread each. They run at
the same time and are asked in turn, round by round, so that drift affects them alike. Decoding is greedy; every answer
must have the length that was asked for.

- ``throughput_ratio_16``: tokens per second that 16 concurrent clients get from our server (the base model; different
  prompts of about 200 tokens, answers of 64), divided by what they get from ``transformers serve``.
- ``reuse_speedup_20_turns``: the seconds of a conversation of 20 turns on ``transformers serve``, which reads all of it
  again at every turn, divided by those on ours. Each turn adds about 340 tokens and an answer of 32; the last prompt
  has 7,700.
- ``reuse_speedup_own``: the seconds of the same conversation on our server with ``--prefix-cache-bytes=0``, divided by
  those with the cache. Both include the decoding of 640 tokens.
- ``mixed_adapters_ratio``: tokens per second of the 16 clients with two LoRA adapters, eight clients each, divided by
  those with one adapter.

A ratio of throughputs is the median of the ratios of each round; the table has the median [lowest, highest] round. In
the conversation, the servers take turns, too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.box import SIMPLE
from rich.table import Table

from bench.output import machine, print_result, ratio, spread
from swe_eval.benchmark.demo.model import tiny_model
from swe_eval.serving.supervised import free_port

CLIENTS = 16
KEY = "benchmark"
STARTUP = 300.0
WORDS = "the agent looks at the file and finds a loop that ends too early so it writes a patch runs the tests and ends"


@dataclass(frozen=True)
class Server:
    """Its URL, and the name of the model that it serves."""

    url: str
    model: str

    def ask(self, messages: Sequence[dict[str, str]], max_tokens: int, model: str | None = None) -> str:
        """The text of an answer with exactly ``max_tokens``."""
        body = {"model": model or self.model, "messages": messages, "max_tokens": max_tokens, "temperature": 0}
        headers = {"Authorization": f"Bearer {KEY}"}
        answer = httpx.post(f"{self.url}/v1/chat/completions", json=body, headers=headers, timeout=600)
        done = answer.raise_for_status().json()
        if done["usage"]["completion_tokens"] != max_tokens:
            raise RuntimeError(f"{done['usage']} instead of {max_tokens} tokens from {self.url}")
        return str(done["choices"][0]["message"]["content"])


def throughput(server: Server, max_tokens: int, models: Sequence[str] = ()) -> float:
    """Tokens per second that ``CLIENTS`` clients get together; each asks for one of the models, in rotation."""
    salt = time.time_ns()  # no prompt is another round's: the prefix cache must not help

    def one(client: int) -> str:
        words = f"{client} {salt} {' '.join([WORDS] * 5)}"
        model = models[client % len(models)] if models else None
        return server.ask([{"role": "user", "content": words}], max_tokens, model)

    with ThreadPoolExecutor(CLIENTS) as clients:
        began = time.perf_counter()
        list(clients.map(one, range(CLIENTS)))
        return CLIENTS * max_tokens / (time.perf_counter() - began)


def conversation(servers: Sequence[Server], turns: int) -> list[float]:
    """Seconds that each server takes for an agent's conversation, in which every prompt holds all earlier turns."""
    messages = [{"role": "user", "content": f"{time.time_ns()} {' '.join([WORDS] * 10)}"}]
    seconds = [0.0] * len(servers)
    for turn in range(turns):
        for index, server in enumerate(servers):
            began = time.perf_counter()
            answer = server.ask(messages, max_tokens=32)
            seconds[index] += time.perf_counter() - began
        observation = f"<returncode>{turn}</returncode>\n<output>\n{' '.join([WORDS] * 8)}\n</output>"
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": observation}]
    return seconds


def talkative_model(folder: Path) -> Path:
    """The demo's model, changed so that an answer ends only at its limit."""
    from safetensors.numpy import load_file, save_file

    model = Path(shutil.copytree(tiny_model(), folder / "model"))
    weights = load_file(model / "model.safetensors")
    weights["lm_head.weight"][json.loads((model / "config.json").read_text())["eos_token_id"]] = 0
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    return model


def random_adapter(model: Path, folder: Path) -> Path:
    """A LoRA adapter of rank 16 on the attention."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    targets = ["q_proj", "kv_a_proj_with_mqa", "o_proj"]
    config = LoraConfig(task_type="CAUSAL_LM", r=16, target_modules=targets, init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(folder)
    return folder


@contextmanager
def ours(model: Path, *options: str) -> Iterator[Server]:
    """Our server; it serves the base model as ``base``."""
    port = free_port("127.0.0.1")
    argv = [sys.executable, "-m", "swe_eval.serving.app", f"--model={model}", "--base-name=base", f"--port={port}"]
    with _running([*argv, "--device=cpu", "--dtype=float32", *options], port):
        yield Server(f"http://127.0.0.1:{port}", "base")


@contextmanager
def theirs(model: Path) -> Iterator[Server]:
    """``transformers serve``; continuous batching, which fails for this architecture, stays off."""
    port = free_port("127.0.0.1")
    cli = "from transformers.cli.transformers import main; main()"
    argv = [sys.executable, "-c", cli, "serve", str(model), f"--port={port}", "--device=cpu", "--dtype=float32"]
    with _running(argv, port):
        yield Server(f"http://localhost:{port}", str(model))


@contextmanager
def _running(argv: list[str], port: int) -> Iterator[None]:
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "SWE_EVAL_API_KEY": KEY}
    with tempfile.NamedTemporaryFile() as log:
        process = subprocess.Popen(argv, env={**os.environ, **quiet}, stdout=log, stderr=log)
        try:
            _await_health(process, port, Path(log.name))
            yield
        finally:
            process.terminate()
            process.wait()


def _await_health(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + STARTUP
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            if httpx.get(f"http://localhost:{port}/health").status_code == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"{process.args} does not serve:\n{log.read_text()[-2000:]}")


@dataclass(frozen=True)
class Taken:
    """Tokens per second, round by round, and seconds of a conversation."""

    ours: Sequence[float]
    theirs: Sequence[float]
    one_adapter: Sequence[float]
    two_adapters: Sequence[float]
    reusing: float
    recomputing: float
    recomputing_theirs: float


def measure(rounds: int, max_tokens: int, turns: int) -> Taken:
    """Start the servers and ask them in turn."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = talkative_model(folder)
        adapters = [f"--adapter={name}={random_adapter(model, folder / name)}" for name in "ab"]
        server = stack.enter_context(ours(model, *adapters))
        forgetful = stack.enter_context(ours(model, "--prefix-cache-bytes=0"))
        upstream = stack.enter_context(theirs(model))
        measures: list[Callable[[], float]] = [
            lambda: throughput(server, max_tokens),
            lambda: throughput(upstream, max_tokens),
            lambda: throughput(server, max_tokens, ["a"]),
            lambda: throughput(server, max_tokens, ["a", "b"]),
        ]
        for one in (server, forgetful, upstream):
            throughput(one, 2)  # the first requests of a process also load what they need
        taken = [[one() for one in measures] for _ in range(rounds)]
        return Taken(*zip(*taken, strict=True), *conversation([server, forgetful, upstream], turns))


def table_of(taken: Taken) -> Table:
    """The figures as a table for people."""
    table = Table("", "median \\[lowest, highest]", box=SIMPLE)
    for label, values in (
        (f"{CLIENTS} clients, tokens/s: our server", taken.ours),
        ("  transformers serve", taken.theirs),
        ("  our server, one adapter", taken.one_adapter),
        ("  our server, two adapters mixed", taken.two_adapters),
        ("conversation, s: our server", [taken.reusing]),
        ("  our server without its prefix cache", [taken.recomputing]),
        ("  transformers serve", [taken.recomputing_theirs]),
    ):
        table.add_row(label, spread(values))
    return table


def figures_of(taken: Taken) -> dict[str, float]:
    """The figures as one object for programs; what they mean is at the top."""
    return {
        "throughput_ratio_16": ratio(taken.ours, taken.theirs),
        "reuse_speedup_20_turns": taken.recomputing_theirs / taken.reusing,
        "reuse_speedup_own": taken.recomputing / taken.reusing,
        "mixed_adapters_ratio": ratio(taken.two_adapters, taken.one_adapter),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving")
    parser.add_argument("--quick", action="store_true", help="once, a few tokens: whether it runs, not how fast")
    quick = parser.parse_args().quick
    before = machine()
    taken = measure(rounds=1, max_tokens=4, turns=2) if quick else measure(rounds=5, max_tokens=64, turns=20)
    print_result(figures_of(taken), table_of(taken), before)


if __name__ == "__main__":
    main()
