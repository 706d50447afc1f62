"""Run directories with invented results, in the files and formats of real ones, to measure what reads them."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swe_eval.run_dir import RunDir, Trial
from swe_eval.scheduling.order import DIFFICULTIES

REPOSITORIES = {
    "django__django": 231,
    "sympy__sympy": 75,
    "sphinx-doc__sphinx": 44,
    "matplotlib__matplotlib": 34,
    "scikit-learn__scikit-learn": 32,
    "astropy__astropy": 22,
    "pydata__xarray": 22,
    "pytest-dev__pytest": 19,
    "pylint-dev__pylint": 10,
    "psf__requests": 8,
    "mwaskom__seaborn": 2,
    "pallets__flask": 1,
}
"""How many instances SWE-bench Verified has of each."""
IDENTITY = {
    "seed": 0,
    "model.name": "made",
    "model.base_model": "made/base-10B",
    "model.dtype": "bfloat16",
    "quantization.kind": "none",
    "benchmark.name": "verified",
    "benchmark.fingerprint": "f" * 64,
    "agent.max_turns": 100,
    "agent.temperature": 0.7,
    "agent.samples": 1,
    "sandbox.kind": "docker",
}
CALL = {
    "started": "2026-11-25T08:00:00+00:00",
    "swe_eval": "0.1.0",
    "commit": "0" * 40,
    "python": "3.11.7",
    "command": ["swe_eval/__main__.py", "model=hf", "lora=ab"],
    "packages": {"swebench": "5.0.2"},
    "platform": "Linux",
    "host": "made",
    "cpus": 64,
    "gpus": ["NVIDIA H100, 81559 MiB"],
}
TURNS = 3
"""In each trajectory; real ones have dozens."""


def instance_ids(n: int) -> list[str]:
    """So many instance_ids, at most 500, of Verified's repositories in about their proportions."""
    everything = [f"{name}-{10_000 + number}" for name, count in REPOSITORIES.items() for number in range(count)]
    return sorted(random.Random(0).sample(everything, min(n, len(everything))))


def make_run(folder: Path, arms: Mapping[str, float], ids: Sequence[str], seed: int = 0, samples: int = 1) -> RunDir:
    """Write the files that rollouts and gradings leave, but not those of the report.

    Args:
        folder: the run's.
        arms: by name, the mean probability that an instance is resolved; instances are easy or hard for all arms alike.
        ids: the instance_ids.
        seed: of the verdicts.
        samples: of each instance.
    """
    run = RunDir(folder)
    adapters = {f"adapters.{name}": "base" if name == "base" else f"{name:0<64}"[:64] for name in arms}
    record = {
        "identity": IDENTITY | adapters | {"agent.samples": samples},
        "invocations": [CALL],
        "trials": {trial.arm: list(ids) for name in arms for trial in _tries(name, ids[0], samples)},
        "comparisons": [(next(iter(arms)), name) for name in [*arms][1:]],
        "difficulties": {key: _drawn("difficulty", key).choices(DIFFICULTIES, (194, 261, 42, 3))[0] for key in ids},
        "updated": "2026-11-25T12:00:00+00:00",
        "proof": {"tokens": 264, "distances": [], "off_reference": None},
    }
    _write(run.run_json, record)
    for name, rate in arms.items():
        for trial in (trial for key in ids for trial in _tries(name, key, samples)):
            _write_trial(run, trial, rate, _drawn(seed, str(trial)))
    return run


def _tries(name: str, instance_id: str, samples: int) -> list[Trial]:
    return [Trial(name, instance_id, sample, samples) for sample in range(1, samples + 1)]


def _write_trial(run: RunDir, trial: Trial, rate: float, drawn: random.Random) -> None:
    ease = _drawn("ease", trial.instance_id).betavariate(0.6, 0.6)
    chance = min(1.0, 2 * rate * ease)
    if drawn.random() < 0.004:  # infra: rolled out, and never graded
        outcome = None
    else:
        outcome = "resolved" if drawn.random() < chance else drawn.choices(("unresolved", "empty_patch"), (5, 1))[0]
    patch = f"diff --git a/a.py b/a.py\n--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-{trial}\n+x\n"
    _write_text(run.prediction(trial), "" if outcome == "empty_patch" else patch)
    _write(run.trajectory(trial), _trajectory(trial, drawn))
    if outcome:
        report = {"outcome": outcome, "resolved": outcome == "resolved", "seconds": 9.0}
        if drawn.random() < 0.01:
            report["suspicious"] = {"test configuration": ["conftest.py"]}
        _write(run.report(trial), {trial.instance_id: report})


def _trajectory(trial: Trial, drawn: random.Random) -> dict[str, Any]:
    began, messages = 1_790_000_000.0 + drawn.random() * 3_600, []
    for turn in range(TURNS):
        seconds = drawn.lognormvariate(1.0, 0.6)
        usage = {"prompt_tokens": 4_000 + 900 * turn, "completion_tokens": int(40 * seconds) + 20}
        usage["prompt_tokens_details"] = {"cached_tokens": 3_500 + 850 * turn}
        began += seconds + 1
        extra = {"response": {"usage": usage}, "seconds": seconds, "timestamp": began}
        messages += [{"role": "assistant", "content": "ls", "extra": extra}, {"role": "user", "content": "a.py"}]
    exits = drawn.choices(("Submitted", "LimitsExceeded", "RepeatedFormatError"), (85, 12, 3))[0]
    real_turns = min(100, int(drawn.lognormvariate(3.4, 0.5)) + 1)
    info = {"exit_status": exits, "seconds": 15.0 * real_turns, "model_stats": {"api_calls": real_turns}}
    return {"info": info, "messages": messages, "instance_id": trial.instance_id, "adapter": trial.adapter}


def _drawn(*of: object) -> random.Random:
    return random.Random(repr(of))


def _write(path: Path, value: Any) -> None:
    _write_text(path, json.dumps(value))


def _write_text(path: Path, text: str) -> None:
    """Not atomically, as a real run would: there are hundreds of thousands of files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
