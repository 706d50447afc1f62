"""Watching a training run for days: what passes is told and outlived, on a SLURM of scripts and on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted import scripted_endpoint
from test_command import swe_eval
from test_demo_run import wait_for
from test_evaluate import TASKS, solve
from test_launcher import LOCAL, jobs
from test_slurm import held

from swe_eval.settings import PACKAGE

RUN = ["experiment=checkpoints", "lora.run=grpo", "lora.with_base=false"]
SLURM = ["hydra/launcher=slurm", *RUN]


class Watch:
    """Of a person at a terminal."""

    def __init__(self, folder: Path, *overrides: str, every: float) -> None:
        self.folder, self.log = folder, folder / "log"
        argv = [sys.executable, "-m", "swe_eval.watch", f"--every={every}", *overrides]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(argv, cwd=folder, stdout=log, stderr=log, start_new_session=True)

    def says(self, line: str) -> None:
        """Wait for it."""
        wait_for(lambda: line in self.log.read_text() or self.process.poll() is not None, 180)
        assert line in self.log.read_text(), self.log.read_text()

    def stop(self) -> None:
        next(self.folder.glob("multirun_outputs/*")).joinpath("stop").touch()

    def ends(self) -> str:
        """How it does, in its last words."""
        assert self.process.wait(180) == 0, self.log.read_text()
        return self.log.read_text().splitlines()[-1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a training run with a checkpoint; a SLURM with an empty queue takes every job, and runs none."""
    for name, body in {"squeue": "", "srun": "", "scontrol": "exit 1", "sbatch": "echo Submitted batch job 7"}.items():
        command(tmp_path, name, body)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    write_checkpoint(tmp_path, 1)
    return tmp_path


@pytest.fixture
def started(folder: Path) -> Iterator[list[Watch]]:
    """Ends those that a test leaves."""
    watches: list[Watch] = []
    yield watches
    for each in watches:
        if each.process.poll() is None:
            os.killpg(each.process.pid, signal.SIGKILL)
            each.process.wait()


@pytest.fixture
def at_slurm(folder: Path, started: list[Watch]) -> Watch:
    """With its first job submitted."""
    started.append(Watch(folder, *SLURM, every=0.2))
    started[0].says("grpo-1: submitted as job 7,")
    return started[0]


def command(folder: Path, name: str, body: str) -> None:
    """Put another in its place, whole."""
    file = folder / "bin" / name
    file.parent.mkdir(exist_ok=True)
    file.with_suffix(".new").write_text(f"#!/bin/sh\n{body}\n")
    file.with_suffix(".new").chmod(0o755)
    file.with_suffix(".new").rename(file)


def write_checkpoint(folder: Path, step: int) -> None:
    (folder / "grpo").mkdir(exist_ok=True)
    (folder / f"grpo/checkpoint-{step}").symlink_to(PACKAGE / "benchmark" / "demo" / "adapter")


def test_an_sbatch_that_fails_without_a_word_is_said_to(folder):
    command(folder, "sbatch", "exit 1")
    done = swe_eval("swe_eval", "-m", *SLURM, cwd=folder)
    said = "swe_eval: hydra/launcher=slurm: sbatch failed without a word\n"
    assert (done.returncode, done.stderr) == (2, said)


def test_a_slurm_that_does_not_answer_for_a_while_is_asked_again_without_a_further_checkpoint(folder, at_slurm):
    command(folder, "squeue", "exit 1")
    write_checkpoint(folder, 2)
    at_slurm.says("squeue does not answer")
    at_slurm.says("exit code 2: tried again in 0.2 s, or with the next checkpoint")
    command(folder, "squeue", "")
    at_slurm.says("grpo-2: submitted as job 7_1")
    at_slurm.stop()
    assert at_slurm.ends() == "stopped; jobs go on, and the sweep's own command waits for them"


def test_a_training_run_that_is_away_for_a_while_is_told_once_and_looked_at_again(folder, at_slurm):
    (folder / "grpo").rename(folder / "away")
    at_slurm.says("lora.run=grpo: no such directory")
    time.sleep(1)
    (folder / "away").rename(folder / "grpo")
    write_checkpoint(folder, 2)
    at_slurm.says("new: grpo-2")
    assert at_slurm.log.read_text().count("no such directory") == 1


def test_a_job_that_left_the_queue_with_something_owed_is_submitted_again_within_the_hour(folder):
    """An hour of a second; the second submission ends the watch."""
    stop = "multirun_outputs/demo-tiny-grpo/stop"
    command(folder, "sbatch", f"test -e once && touch {stop}; touch once; echo Submitted batch job 7")
    hasty = "from swe_eval import watch; watch.LATEST = 1.0; watch.main()"
    argv = [sys.executable, "-c", hasty, "--every=0.2", *SLURM]
    assert subprocess.run(argv, cwd=folder, timeout=300).returncode == 0


@pytest.mark.parametrize("how", ["file", "Ctrl-C"])
def test_a_sweep_under_way_is_waited_for_with_its_jobs(how, folder, started):
    """Its jobs end with it on Ctrl-C; where there is a file, by themselves, and the watch at once: not 600 s later."""
    with scripted_endpoint(solve) as endpoint, held(endpoint):
        what = ["serving=external", f"serving.base_url={endpoint.base_url}", f"benchmark.instance_ids=[{TASKS[0]}]"]
        started.append(Watch(folder, LOCAL, *RUN, *what, every=600))
        wait_for(lambda: endpoint.turns)
        [job] = jobs(folder)
        if how == "Ctrl-C":
            os.killpg(started[0].process.pid, signal.SIGINT)
            assert started[0].ends() == "stopped; no job goes on"
            assert not Path(f"/proc/{job['job_id']}").exists()
            assert "swe_eval: interrupted: the same command continues" in started[0].log.read_text()
        else:
            started[0].stop()
    if how == "file":
        assert started[0].ends() == "stopped; no job goes on"
