"""Watching a training run for days: what passes is told and outlived, on a SLURM of scripts and on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from test_command import swe_eval

from swe_eval.settings import PACKAGE

SLURM = ["hydra/launcher=slurm", "experiment=checkpoints", "lora.run=grpo", "lora.with_base=false"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a training run with a checkpoint; a SLURM with an empty queue takes every job, and runs none."""
    for name, body in {"squeue": "", "srun": "", "scontrol": "exit 1", "sbatch": "echo Submitted batch job 7"}.items():
        command(tmp_path, name, body)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path, 1)
    return tmp_path


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
