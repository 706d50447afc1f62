"""Launchers for the jobs of a sweep: each is the command line that a person would give, in a run directory of its own.

What submitit's own launchers do otherwise: SLURM never sees that a job failed; the first failure hides the others; a
job that is cancelled is waited for forever where there is no accounting; everything is run again; ``scancel`` takes
half a minute and cleans nothing; jobs of one machine share its first GPU.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
from omegaconf import DictConfig, OmegaConf, open_dict

from swe_eval.cluster import slurm
from swe_eval.cluster.job import Job
from swe_eval.cluster.sweep import Sweep, SweepJob, how_far, is_through
from swe_eval.errors import SweEvalError, UserError
from swe_eval.serving.devices import visible_devices
from swe_eval.settings import Settings, settings_from

POLL, AGAIN = 3.0, 0.5
"""Seconds between two looks at the queue; where a job has just left it, another look makes sure."""
OURS = {"submitit_folder", "max_num_timeout", "wait"}
"""Fields that are no parameters of a submission."""
ANY_CLUSTER = {
    *("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name"),
    "stderr_to_stdout",
}
"""Parameters that submitit has for every kind of cluster; the others begin with its name."""


@dataclass(frozen=True)
class Planned:
    """A job that the sweep asks for."""

    name: str
    overrides: list[str]
    argv: tuple[str, ...]
    settings: Settings


class SweepLauncher(BaseSubmititLauncher):
    """What the launchers share: which jobs there are, and which of them are through."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run every job that is not through.

        Raises:
            UserError: before anything is submitted: a job's settings are wrong, or two jobs have one directory.
            SweEvalError: in the end, some are not through.
        """
        sweep = Sweep(Path(str(self.config.hydra.sweep.dir)))
        planned = [self._planned(sweep, list(each), initial_job_idx + n) for n, each in enumerate(job_overrides)]
        _refuse_shared([job.name for job in planned])
        todo = [job for job in planned if not is_through(sweep.run(job.name), job.settings)]
        for job in planned:
            if job not in todo:
                _say(f"{job.name}: through already")
        left = self._run(sweep, todo)
        if left:
            raise SweEvalError(f"{left} of {len(planned)} jobs are not through; the same command runs what is missing")
        done = [JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED) for job in planned]
        for each in done:
            each.return_value = 0
        return done

    def _run(self, sweep: Sweep, todo: Sequence[Planned]) -> int:
        """Returns how many of these jobs are not through in the end."""
        raise NotImplementedError

    def _planned(self, sweep: Sweep, overrides: list[str], number: int) -> Planned:
        config = self._composed(overrides, number)
        name = str(config.hydra.sweep.subdir)
        own = [f"output_dir={_quoted(str(sweep.root / name))}", f"hydra.job.num={number}", "hydra/launcher=basic"]
        with open_dict(config):
            del config["hydra"]
        tree: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
        settings = settings_from(tree | {"output_dir": str(sweep.root / name)})
        return Planned(name, overrides, (*self._hydra_flags(), *overrides, *own), settings)

    def _composed(self, overrides: list[str], number: int) -> DictConfig:
        config: DictConfig = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.num = config.hydra.job.id = number
        HydraConfig.instance().set_config(config.copy())
        return config

    def _hydra_flags(self) -> Iterator[str]:
        """Where the command line said that the configuration is."""
        yield f"--config-name={self.config.hydra.job.config_name}"
        for source in self.config.hydra.runtime.config_sources:
            if source.provider == "command-line":
                yield f"--config-dir={source.path}"


class SlurmLauncher(SweepLauncher):
    """``hydra/launcher=slurm``: a task of a job array for every job."""

    def _run(self, sweep: Sweep, todo: Sequence[Planned]) -> int:
        queued, submitted = slurm.queue() or {}, sweep.jobs()
        rows = {
            job.name: row
            for job in todo
            if (row := submitted.get(job.name)) and row.job_id in queued and row.overrides == job.overrides
        }
        for row in rows.values():
            _say(f"{row.name}: in the queue already, job {row.job_id}")
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
            _say(f"{row.name}: submitted as job {row.job_id}, log {sweep.root / row.log}")
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
                _say(f"{name}: {slurm.end_of(rows[name].job_id)}; {how_far(sweep.run(name))}")
        except KeyboardInterrupt:
            ids = " ".join(sorted({row.job_id.partition("_")[0] for row in rows.values()}))
            _say(f"the jobs go on: the same command waits for them again, scancel {ids} ends them")
            raise
        return sum(not is_through(sweep.run(job.name), job.settings) for job in jobs)


class LocalLauncher(SweepLauncher):
    """``hydra/launcher=submitit_local``: on this machine, each job with GPUs of its own, as many as fit at once."""

    def _run(self, sweep: Sweep, todo: Sequence[Planned]) -> int:
        free, waiting = self._places(), list(todo)
        running: dict[str, _Process] = {}
        try:
            while waiting or running:
                while waiting and free:
                    job = waiting.pop(0)
                    running[job.name] = _Process(sweep, job, free.pop())
                    sweep.record([running[job.name].row])
                time.sleep(0.2)
                for name in [name for name, process in running.items() if process.has_ended()]:
                    process = running.pop(name)
                    free.append(process.devices)
                    _say(f"{name}: exit code {process.code}; {how_far(sweep.run(name))}")
        finally:
            for process in running.values():
                process.interrupt()
            for process in running.values():
                process.wait()
        return sum(not is_through(sweep.run(job.name), job.settings) for job in todo)

    def _places(self) -> list[Sequence[str]]:
        """The devices of each job that may run at once."""
        devices, each = visible_devices(), self.params["gpus_per_node"] or 0
        if not each or not devices:
            return [()] * (self.params["at_once"] or 1)
        if each > len(devices):
            raise UserError(f"hydra.launcher.gpus_per_node={each}: this machine has {len(devices)}")
        places: list[Sequence[str]] = [
            devices[first : first + each] for first in range(0, len(devices) - each + 1, each)
        ]
        return places[: self.params["at_once"]]


class _Process:
    """A job of this machine."""

    def __init__(self, sweep: Sweep, job: Planned, devices: Sequence[str]) -> None:
        self.devices = devices
        log = sweep.run(job.name).log("job.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "swe_eval", *job.argv],
                env=os.environ | {"CUDA_VISIBLE_DEVICES": ",".join(devices)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches it once, through us
            )
        self.row = SweepJob(job.name, job.overrides, str(self._process.pid), str(log.relative_to(sweep.root)))
        on = f" on GPU {','.join(devices)}" if devices else ""
        _say(f"{job.name}: process {self._process.pid}{on}, log {log}")

    @property
    def code(self) -> int | None:
        return self._process.returncode

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def wait(self) -> None:
        self._process.wait()


def _leaving(rows: Mapping[str, SweepJob]) -> Iterator[str]:
    """The jobs as they leave the queue; says what becomes of them meanwhile."""
    waiting, said, missed = dict(rows), dict.fromkeys(rows, ""), Counter[str]()
    while waiting:
        queued = slurm.queue()
        for name, row in list(waiting.items() if queued is not None else ()):
            state = (queued or {}).get(row.job_id)
            if state and said[name] != str(state):
                said[name] = str(state)
                _say(f"{name}: {state}")
            missed[name] = 0 if state else missed[name] + 1
            if missed[name] == 2:  # once may be between two states
                del waiting[name]
                yield name
        if waiting:
            time.sleep(AGAIN if 1 in missed.values() else POLL)


def _row(sweep: Sweep, job: Planned, submitted: Any) -> SweepJob:
    log = os.path.relpath(submitted.paths.stdout, sweep.root)
    return SweepJob(job.name, job.overrides, submitted.job_id, log)


def _refuse_shared(names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        remedy = "write one that names what differs, such as '${span:${lora.only}}-seed-${seed}'"
        raise UserError(f"hydra.sweep.subdir: two jobs have the directory {twice[0]}; {remedy}")


def _quoted(text: str) -> str:
    """As Hydra's grammar has a string that may hold anything."""
    return "'" + text.replace("'", "\\'") + "'"


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def _say(line: str) -> None:
    print(line, flush=True)
