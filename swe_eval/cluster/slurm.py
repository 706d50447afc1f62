"""What we ask of SLURM: by its own commands, and never by accounting, which many clusters do not have."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from math import inf
from typing import NamedTuple

PATIENCE = 60.0
"""Seconds for a controller to answer."""


TOO_LARGE = ("PartitionConfig", "BadConstraints")
"""Reasons of a job that will wait for ever, in a cluster that takes it nevertheless."""
ASKED = "hydra.launcher.cpus_per_task, mem_gb, gres and constraint"


class State(NamedTuple):
    """Of a job in the queue."""

    name: str
    """``PENDING``, ``RUNNING``, ..."""
    reason: str
    """Why it waits; ``None`` if it does not."""

    def __str__(self) -> str:
        if self.reason == "None":
            return self.name
        if self.reason in TOO_LARGE:
            return f"{self.name} ({self.reason}): no node of the partition is so large; look at {ASKED}"
        return f"{self.name} ({self.reason})"


def this_job() -> str | None:
    """The id of the job that this process is part of, an array's task by its own; None outside of SLURM."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):  # one task of an array has the array's own SLURM_JOB_ID
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def restarts() -> int:
    """How often this job was requeued."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def end_of_this_job() -> float:
    """When SLURM will end it, in seconds since the epoch; infinity where nobody tells."""
    job = this_job()
    end = _ask("squeue", "--noheader", "--jobs", job, "--format=%e") if job else None
    if end and end[0].isdigit():
        return datetime.fromisoformat(end).timestamp()
    return float(os.environ.get("SLURM_JOB_END_TIME") or inf)  # as of the start; SLURM 22.05 does not set it


def is_running(job: str) -> bool:
    """Whether it goes on as far as SLURM is concerned: it is neither cancelled, nor out of time, nor queued again."""
    return _ask("squeue", "--noheader", "--jobs", job, "--format=%T") == "RUNNING"


def queue() -> dict[str, State] | None:
    """This user's jobs that have not ended, each task of an array by its own id; None if SLURM does not answer."""
    listed = _ask("squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i|%T|%r")
    if listed is None:
        return None
    rows = [line.split("|") for line in listed.splitlines()]
    return {job: State(name, reason) for job, name, reason in rows}


def end_of(job: str) -> str:
    """How a job that ended did so, in SLURM's words, for as long as the controller remembers (``MinJobAge``)."""
    shown = _ask("scontrol", "--oneliner", "show", "job", job) or ""
    found = re.search(r"JobState=(\w+).* ExitCode=(\d+):(\d+)", shown)
    if not found:
        return "ended"
    state, code, number = found.groups()
    return f"{state}, " + (f"signal {number}" if number != "0" else f"exit code {code}")


def partitions() -> list[str]:
    """With their time limits, the default one with a star; none where there is no SLURM."""
    listed = _ask("sinfo", "--noheader", "--format=%P (%l)") or ""
    return list(dict.fromkeys(line.strip() for line in listed.splitlines()))


def requeue(job: str) -> bool:
    """Have the job wait for its turn again, in the same queue under the same id; False if SLURM will not."""
    return _ask("scontrol", "requeue", job) is not None


def max_array_size() -> int:
    """Tasks that an array may have."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config") or "", re.MULTILINE)
    return int(found[1]) if found else 1001


@contextmanager
def outside() -> Iterator[None]:
    """As if this process were not part of a job: what ``sbatch`` would pass on is about that one."""
    hidden = {key: value for key, value in os.environ.items() if key.startswith("SLURM_") and key != "SLURM_CONF"}
    for key in hidden:
        del os.environ[key]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _ask(*command: str) -> str | None:
    """What it printed, times as in ISO 8601; None if it failed."""
    env = os.environ | {"SLURM_TIME_FORMAT": "standard"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=env)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
