"""What the launchers share: a job of a sweep is the command line that a person would give, in its own run directory.

What submitit's own launchers do otherwise: SLURM never sees that a job failed; the first failure hides the others; a
job that is cancelled is waited for forever where there is no accounting; everything is run again; ``scancel`` takes
half a minute and cleans nothing; jobs of one machine share its first GPU.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
from omegaconf import DictConfig, OmegaConf, open_dict

from swe_eval import tracking
from swe_eval.cluster.sweep import Sweep, is_through
from swe_eval.errors import SweEvalError, UserError
from swe_eval.settings import Settings, settings_from


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
            UserError: before anything is submitted: a job's settings are wrong, its tracker has no key, or two jobs
                have one directory.
            SweEvalError: in the end, some are not through.
        """
        sweep = Sweep(Path(str(self.config.hydra.sweep.dir)))
        planned = [self._planned(sweep, list(each), initial_job_idx + n) for n, each in enumerate(job_overrides)]
        _refuse_shared([job.name for job in planned])
        todo = [job for job in planned if not is_through(sweep.run(job.name), job.settings)]
        for settings in {job.settings.tracking: job.settings for job in todo}.values():
            if line := tracking.check(settings):
                say(line)
        for job in planned:
            if job not in todo:
                say(f"{job.name}: through already")
        left = self._run(sweep, todo)
        if left:
            raise SweEvalError(f"{left} of {len(planned)} jobs are not through; the same command runs what is missing")
        return [JobReturn(job.overrides, status=JobStatus.COMPLETED, _return_value=0) for job in planned]

    @abstractmethod
    def _run(self, sweep: Sweep, todo: Sequence[Planned]) -> int:
        """Returns how many of these jobs are not through in the end."""

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


def _refuse_shared(names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        remedy = "write one that names what differs, such as '${span:${lora.only}}-seed-${seed}'"
        raise UserError(f"hydra.sweep.subdir: two jobs have the directory {twice[0]}; {remedy}")


def _quoted(text: str) -> str:
    """As Hydra's grammar has a string that may hold anything."""
    return "'" + text.replace("'", "\\'") + "'"


def say(line: str) -> None:
    """A line of news."""
    print(line, flush=True)
