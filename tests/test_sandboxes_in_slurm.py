"""bubblewrap's sandboxes inside a real SLURM job, of a user who is not root."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox_fixtures import OVERRIDES, what_is_left
from test_process import eventually
from test_shell import runs_here

from swe_eval.benchmark.instances import load
from swe_eval.command import settings_of
from swe_eval.sandbox.sandbox import sandboxes

pytestmark = [pytest.mark.slurm, pytest.mark.bubblewrap]

SMALL = ("--ntasks=1", "--cpus-per-task=1", "--mem=1000", "--time=5")


def in_job(code: str) -> list[str]:
    """A command that runs Python in a job."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from {Path(__file__).stem} import *; {code}"
    )
    return ["srun", "--quiet", *SMALL, sys.executable, "-c", code]


def run_one(run_id: str, command: str) -> None:
    """The command in a sandbox; what it prints is printed."""
    settings = settings_of(*OVERRIDES["bubblewrap"])
    instance = load(settings.benchmark).instances[0]
    with sandboxes(settings, run_id) as backend, backend.start(instance, "rollout") as sandbox:
        sys.stdout.buffer.write(sandbox.run(command, timeout=300).output)


@pytest.fixture
def started(run_id: str) -> Iterator[subprocess.Popen[bytes]]:
    """A job that sleeps in a sandbox, once it does."""
    job = subprocess.Popen(in_job(f"run_one({run_id!r}, 'sleep 300.{run_id}')"))
    assert eventually(lambda: runs_here(f"sleep 300.{run_id}"), 120)
    yield job
    job.wait(60)


@pytest.fixture
def run_id() -> str:
    """Digits, because it is a part of a number of seconds."""
    return f"{time.time_ns() % 10**10:010}"


def test_a_command_sees_nothing_of_the_job(run_id):
    done = subprocess.run(in_job(f"run_one({run_id!r}, 'env; echo done')"), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")
    assert "SLURM" not in done.stdout


def test_predictions_are_graded_in_a_job(tmp_path):
    command = [sys.executable, "-m", "swe_eval.grade", "--predictions", "gold", *OVERRIDES["bubblewrap"]]
    more = ["benchmark.instance_ids=[demo__calc-1,demo__lru-3]", f"output_dir={tmp_path / 'run'}"]
    done = subprocess.run(["srun", "--quiet", *SMALL, *command, *more], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "2/2 = 100.0%" in done.stdout


def test_scancel_leaves_nothing_that_runs(started, run_id):
    """Killed at once, without the time to clean up; the next run on the node does that."""
    job = subprocess.run(
        ["squeue", "--me", "--noheader", "--format=%i"], capture_output=True, text=True, check=True
    ).stdout.split()
    subprocess.run(["scancel", "--signal=KILL", "--full", *job], check=True)
    assert eventually(lambda: not runs_here(f"sleep 300.{run_id}"), 30)
    settings = settings_of(*OVERRIDES["bubblewrap"])
    with sandboxes(settings, "another"):
        assert eventually(lambda: what_is_left("bubblewrap", run_id) == [])
