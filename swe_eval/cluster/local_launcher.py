"""``hydra/launcher=submitit_local``: the jobs of a sweep on this machine, each with GPUs of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from swe_eval.cluster.launcher import Planned, SweepLauncher, say
from swe_eval.cluster.sweep import Sweep, SweepJob, how_far, is_through
from swe_eval.errors import UserError
from swe_eval.serving.devices import visible_devices
from swe_eval.serving.process import tell_when_parent_dies


class LocalLauncher(SweepLauncher):
    """``hydra/launcher=submitit_local``: on this machine, each job with GPUs of its own, as many as fit at once."""

    def _run(self, sweep: Sweep, todo: Sequence[Planned]) -> int:
        free, waiting = self._places(), list(todo)
        running: dict[str, _Started] = {}
        try:
            while waiting or running:
                while waiting and free:
                    job = waiting.pop(0)
                    running[job.name] = _start(sweep, job, free.pop())
                    sweep.record([running[job.name].row])
                time.sleep(0.2)
                for name in [name for name, each in running.items() if each.process.poll() is not None]:
                    ended = running.pop(name)
                    free.append(ended.devices)
                    say(f"{name}: exit code {ended.process.returncode}; {how_far(sweep.run(name))}")
        finally:
            for started in running.values():
                started.process.terminate()  # SIGINT is ignored where a script has begun us in the background
            for started in running.values():
                started.process.wait()
        return sum(not is_through(sweep.run(job.name), job.settings) for job in todo)

    def _places(self) -> list[Sequence[str]]:
        """The devices of each job that may run at once."""
        devices, each, at_once = visible_devices(), self.params["gpus_per_node"] or 0, self.params["at_once"]
        if at_once is not None and at_once < 1:
            raise UserError(f"hydra.launcher.at_once={at_once}: write a number from 1 on, or leave it out")
        if not each or not devices:
            return [()] * (at_once or 1)
        if each > len(devices):
            raise UserError(f"hydra.launcher.gpus_per_node={each}: this machine has {len(devices)}")
        places: list[Sequence[str]] = [
            devices[first : first + each] for first in range(0, len(devices) - each + 1, each)
        ]
        return places[:at_once]


@dataclass(frozen=True)
class _Started:
    """A job at work."""

    process: subprocess.Popen[bytes]
    devices: Sequence[str]
    row: SweepJob


def _start(sweep: Sweep, job: Planned, devices: Sequence[str]) -> _Started:
    log = sweep.run(job.name).log("job.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "swe_eval", *job.argv],
            env=os.environ | {"CUDA_VISIBLE_DEVICES": ",".join(devices)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches it once, through us
            preexec_fn=tell_when_parent_dies,
        )
    on = f" on GPU {','.join(devices)}" if devices else ""
    say(f"{job.name}: process {process.pid}{on}, log {log}")
    row = SweepJob(job.name, job.overrides, str(process.pid), str(log.relative_to(sweep.root)))
    return _Started(process, devices, row)
