"""``python -m bench.sweep_report``: how long the report of a sweep takes, of 200 checkpoints on 500 instances.

The runs are synthetic and have all files that concluded runs leave: trajectories (of three turns; real ones are longer,
but are not read), predictions, verdicts, ``run.json`` and the table of trials. ``python -m swe_eval.report`` is then
run on the sweep:

- ``seconds``: the wall time of the process, with all imports, ``comparison.json``, ``report.html``, ``report.md`` and
  the curve; the median of three.
- ``cpu_s``: its processor time, which depends less on what else the machine does.
- ``rss_mb``: its peak memory.
- ``from_files_seconds``, ``from_files_rss_mb``: the same if no run has its table, as while all runs are at work, so
  that every file of every trial is read.
- ``page_mb``: the size of ``report.html``.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from rich.box import SIMPLE
from rich.table import Table

from bench.output import machine, print_result
from bench.synthetic_runs import instance_ids, make_run
from swe_eval.report.results import collect
from swe_eval.report.runs import read_run
from swe_eval.report.trials import CONCLUDED, write_trials
from swe_eval.run_dir import RunDir, read_json, write_json

CHECKPOINTS, INSTANCES, ROUNDS = 200, 500, 3
STEP = 50
"""Of training, between two checkpoints."""


@dataclass(frozen=True)
class Spent:
    """What one process took."""

    seconds: float
    cpu_s: float
    rss_mb: float


def make_sweep(folder: Path, checkpoints: int, instances: int) -> list[RunDir]:
    """Make a run for the base model and for each checkpoint; they get better, and level off."""
    arms = {"base": 0.2} | {f"grpo-{STEP * at}": 0.2 + 0.12 * at / (at + 40) for at in range(1, checkpoints + 1)}
    ids = instance_ids(instances)
    with ProcessPoolExecutor() as pool:
        made = [pool.submit(_make, folder / name, name, rate, ids) for name, rate in arms.items()]
        return [RunDir(each.result()) for each in made]


def _make(folder: Path, name: str, rate: float, ids: Sequence[str]) -> Path:
    run = make_run(folder, {name: rate}, ids)
    saved = read_run(folder)
    write_trials(run, collect(run, saved.trials))
    record = read_json(run.run_json)
    write_json(run.run_json, record | {CONCLUDED: len(record["invocations"])})
    return folder


def report(sweep: Path) -> Spent:
    """Make the report."""
    began = time.perf_counter()
    process = os.posix_spawn(
        sys.executable, [sys.executable, "-m", "swe_eval.report", str(sweep)], os.environ, file_actions=_silent()
    )
    _, status, usage = os.wait4(process, 0)
    seconds = time.perf_counter() - began
    if os.waitstatus_to_exitcode(status) not in (0, 1):  # 1: a few trials are owed
        raise RuntimeError(f"swe_eval.report ended with {os.waitstatus_to_exitcode(status)}")
    return Spent(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def _silent() -> list[tuple[int, int, str, int, int]]:
    return [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.sweep_report")
    parser.add_argument("--quick", action="store_true", help="three checkpoints of ten instances: whether it runs")
    is_quick = parser.parse_args().quick
    checkpoints, instances = (3, 10) if is_quick else (CHECKPOINTS, INSTANCES)
    described = f"{checkpoints} checkpoints and the base model, {instances} instances, {machine()}"
    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder) / "sweep"
        runs = make_sweep(sweep, checkpoints, instances)
        told = [report(sweep) for _ in range(1 if is_quick else ROUNDS)]
        page_mb = (sweep / "report.html").stat().st_size / 1e6
        for run in runs:
            run.trials_jsonl.unlink()
        read = report(sweep)
    usual = Spent(
        median(each.seconds for each in told), median(each.cpu_s for each in told), max(each.rss_mb for each in told)
    )
    from_files = {"from_files_seconds": read.seconds, "from_files_rss_mb": read.rss_mb}
    print_result(asdict(usual) | from_files | {"page_mb": page_mb}, table_of(usual, read), described)


def table_of(usual: Spent, read: Spent) -> Table:
    """The figures as a table for people."""
    table = Table("", "seconds", "of a core", "memory, MB", box=SIMPLE)
    for name, spent in {"report": usual, "  without the tables of trials": read}.items():
        table.add_row(name, f"{spent.seconds:.1f}", f"{spent.cpu_s:.1f}", f"{spent.rss_mb:.0f}")
    return table


if __name__ == "__main__":
    main()
