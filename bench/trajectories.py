"""``python -m bench.trajectories``: how long ``--trajectories`` and ``--serve`` take on trajectories of true size.

Of 500 instances under two arms with 50 turns each; ``--instances`` and ``--turns`` take others.

- ``write_seconds``, ``write_rss_mb``: of ``--trajectories``, as a process of its own; ``data_mb``: what it leaves.
- ``first_list_seconds``, ``instance_seconds``, ``list_again_seconds``: until ``--serve`` has answered with the list of
  instances, with one instance, and with the list again, for a run whose verdicts were not read before.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from bench.output import machine, print_result
from bench.synthetic_runs import instance_ids, make_run
from swe_eval.report.runs import SavedRun, read_run
from swe_eval.report.trajectories.data import Shown
from swe_eval.report.trajectories.server import make_server
from swe_eval.run_dir import RunDir, Trial, read_json

CHARACTERS = 6_000
"""Of an output, at most."""
LOOKS = (
    "grep -rn 'def resolve' --include=*.py . | head -40",
    "sed -n '120,220p' package/core/query.py",
    "git log --oneline -5",
    "python -m pytest -q tests/test_query.py 2>&1 | tail -30",
    "cat > reproduce.py <<'EOF'\nfrom package.core import query\n\nprint(query.resolve('a'))\nEOF\npython reproduce.py",
    "git diff",
)
"""What agents do, turn after turn."""


def fill(run: RunDir, trials: list[Trial], turns: int, characters: int) -> None:
    """Give the trajectories of a made run thoughts, commands and outputs; the first turns are the same in every arm."""
    for trial in trials:
        data = read_json(run.trajectory(trial))
        data["messages"] = _messages(trial, turns, characters)
        data["info"]["model_stats"] = {"api_calls": turns}
        run.trajectory(trial).write_text(json.dumps(data, indent=1))


def _messages(trial: Trial, turns: int, characters: int) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [
        {"role": "system", "content": "You fix bugs."},
        {"role": "user", "content": "The issue."},
    ]
    same = random.Random(trial.instance_id).randrange(1, max(2, turns // 3))
    for turn in range(turns):
        drawn = random.Random(repr((trial.instance_id, turn, turn >= same and trial.adapter)))
        command = f"cd /testbed && {drawn.choice(LOOKS)}"
        thought = f"Turn {turn + 1}: I look at what {drawn.choice(('resolve', 'query', 'the test'))} does."
        output = _output(drawn, characters)
        usage = {"prompt_tokens": 3_000 + 900 * turn, "completion_tokens": 120}
        extra = {"actions": [{"command": command}], "response": {"usage": usage, "choices": []}, "seconds": 2.5}
        made += [
            {"role": "assistant", "content": thought, "extra": extra},
            {
                "role": "user",
                "content": output,
                "extra": {"raw_output": output, "returncode": int(drawn.random() < 0.1)},
            },
        ]
    return made


def _output(drawn: random.Random, characters: int) -> str:
    lines = drawn.randrange(1, max(2, characters // 30))
    return "".join(f"package/core/query.py:{drawn.randrange(999)}: value = {drawn.random()}\n" for _ in range(lines))


def main() -> None:
    """Console entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.trajectories")
    parser.add_argument("--instances", type=int, default=500)
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="ten instances, three turns")
    given = parser.parse_args()
    before = machine()
    instances, turns = (10, 3) if given.quick else (given.instances, given.turns)
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "run", {"base": 0.3, "rl": 0.35}, instance_ids(instances))
        saved = read_run(run.root)
        fill(run, list(saved.trials), turns, CHARACTERS)
        size = sum(path.stat().st_size for path in run.root.rglob("*.traj.json"))
        print(f"{instances} instances x 2 arms x {turns} turns: {size / 1e6:.0f} MB of trajectories")
        figures = _write(run) | _serve(run, saved)
    print_result(figures, before)


def _write(run: RunDir) -> dict[str, float]:
    """In a process of its own, as a user has it."""
    code = (
        "import sys; from pathlib import Path; from swe_eval.report.outputs import write_trajectories; "
        "write_trajectories([Path(sys.argv[1])])"
    )
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", code, str(run.root)], check=True)
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    size = sum(path.stat().st_size for path in (run.root / "trajectories.data").iterdir()) / 1e6
    print(f"--trajectories: {seconds:.1f} s, peak {peak:.0f} MB; {size:.0f} MB of data")
    return {"write_seconds": seconds, "write_rss_mb": peak, "data_mb": size}


def _serve(run: RunDir, saved: SavedRun) -> dict[str, float]:
    """Of a run at work: no table of its trials is there yet."""
    figures = {}
    with make_server(Shown(run, saved.trials, saved.comparisons)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}/trajectories.data/"
        for what, name in (("first_list", "index"), ("instance", saved.trials[0].instance_id), ("list_again", "index")):
            started = time.monotonic()
            with urllib.request.urlopen(f"{base}{name}.js") as answer:
                answer.read()
            figures[f"{what}_seconds"] = time.monotonic() - started
            print(f"--serve: {what.replace('_', ' ')} after {figures[f'{what}_seconds']:.3f} s")
        server.shutdown()
    return figures


if __name__ == "__main__":
    main()
