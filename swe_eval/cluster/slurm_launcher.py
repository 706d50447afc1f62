"""``hydra/launcher=slurm``: a task of a job array for every job of a sweep."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from swe_eval.cluster import slurm
from swe_eval.cluster.job import Job
from swe_eval.cluster.launcher import Planned, SweepLauncher, say
from swe_eval.cluster.sweep import Sweep, SweepJob, how_far, is_through
from swe_eval.errors import UserError

POLL, AGAIN = 3.0, 0.5
"""Seconds between two looks at the queue; where a job has just left it, another look makes sure."""
OURS = {"submitit_folder", "max_num_timeout", "wait"}
"""Fields that are no parameters of a submission."""
ANY_CLUSTER = {
    *("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name"),
    "stderr_to_stdout",
}
"""Parameters that submitit has for every kind of cluster; the others begin with its name."""


class SlurmLauncher(SweepLauncher):
    """``hydra/launcher=slurm``: a task of a job array for every job."""

    def _run(self, sweep: Sweep, todo: Sequence[Planned]) -> int:
        if (queued := slurm.queue()) is None:
            raise UserError("hydra/launcher=slurm: squeue does not answer; give the command where jobs are submitted")
        submitted = sweep.jobs()
        rows = {
            job.name: row
            for job in todo
            if (row := submitted.get(job.name)) and row.job_id in queued and row.overrides == job.overrides
        }
        for row in rows.values():
            say(f"{row.name}: in the queue already, job {row.job_id}")
        rows |= self._submit(sweep, [job for job in todo if job.name not in rows])
        return self._wait(sweep, todo, rows) if self.params["wait"] else 0

    def _submit(self, sweep: Sweep, jobs: Sequence[Planned]) -> dict[str, SweepJob]:
        """In arrays that SLURM admits."""
        size = slurm.max_array_size()
        rows: dict[str, SweepJob] = {}
        for first in range(0, len(jobs), size):
            some = jobs[first : first + size]
            array = [_row(sweep, *each) for each in zip(some, self._submit_array(sweep, some), strict=True)]
            sweep.record(array)
            rows |= {row.name: row for row in array}
        for row in rows.values():
            say(f"{row.name}: submitted as job {row.job_id}, log {sweep.root / row.log}")
        return rows

    def _submit_array(self, sweep: Sweep, jobs: Sequence[Planned]) -> list[Any]:
        import submitit  # late: Hydra imports every launcher at every start

        limits = self.params["max_num_timeout"], self.params["signal_delay_s"]
        calls = [Job(job.argv, str(sweep.root / job.name), *limits) for job in jobs]
        try:
            executor = submitit.AutoExecutor(folder=self.params["submitit_folder"], cluster="slurm")
            executor.update_parameters(**self._parameters())
            with slurm.outside():
                return list(executor.map_array(Job.__call__, calls))
        except (RuntimeError, submitit.core.utils.FailedJobError) as error:  # no sbatch here, or it said no
            raise UserError(f"hydra/launcher=slurm: {_last_line(str(error))}") from None

    def _parameters(self) -> dict[str, Any]:
        given = {key: value for key, value in self.params.items() if key not in OURS and value is not None}
        return {key if key in ANY_CLUSTER else f"slurm_{key}": value for key, value in given.items()}

    def _wait(self, sweep: Sweep, jobs: Sequence[Planned], rows: Mapping[str, SweepJob]) -> int:
        """Until none is in the queue any more; whether it is through, its files say."""
        try:
            for name in _leaving(rows):
                say(f"{name}: {slurm.end_of(rows[name].job_id)}; {how_far(sweep.run(name))}")
        except KeyboardInterrupt:
            ids = " ".join(sorted({row.job_id.partition("_")[0] for row in rows.values()}))
            say(f"the jobs go on: the same command waits for them again, scancel {ids} ends them")
            raise
        return sum(not is_through(sweep.run(job.name), job.settings) for job in jobs)


def _leaving(rows: Mapping[str, SweepJob]) -> Iterator[str]:
    """The jobs as they leave the queue; says what becomes of them meanwhile."""
    waiting, said, missed = dict(rows), dict.fromkeys(rows, ""), Counter[str]()
    while waiting:
        queued = slurm.queue()
        for name, row in list(waiting.items() if queued is not None else ()):
            state = (queued or {}).get(row.job_id)
            if state and said[name] != str(state):
                said[name] = str(state)
                say(f"{name}: {state}")
            missed[name] = 0 if state else missed[name] + 1
            if missed[name] == 2:  # once may be between two states
                del waiting[name]
                yield name
        if waiting:
            time.sleep(AGAIN if 1 in missed.values() else POLL)


def _row(sweep: Sweep, job: Planned, submitted: Any) -> SweepJob:
    log = os.path.relpath(submitted.paths.stdout, sweep.root)
    return SweepJob(job.name, job.overrides, submitted.job_id, log)


def _last_line(text: str) -> str:
    return (text.strip() or "sbatch failed without a word").splitlines()[-1]
