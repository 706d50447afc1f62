"""``hydra/launcher=submitit_local``: the jobs of a sweep on this machine, each with GPUs of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence

from swe_eval.cluster.launcher import Planned, SweepLauncher, say
from swe_eval.cluster.sweep import Sweep, SweepJob, how_far, is_through
from swe_eval.errors import UserError
from swe_eval.serving.devices import visible_devices
from swe_eval.serving.process import tell_when_parent_dies


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
                    say(f"{name}: exit code {process.code}; {how_far(sweep.run(name))}")
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
                preexec_fn=tell_when_parent_dies,
            )
        self.row = SweepJob(job.name, job.overrides, str(self._process.pid), str(log.relative_to(sweep.root)))
        on = f" on GPU {','.join(devices)}" if devices else ""
        say(f"{job.name}: process {self._process.pid}{on}, log {log}")

    @property
    def code(self) -> int | None:
        return self._process.returncode

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def interrupt(self) -> None:
        self._process.terminate()  # not SIGINT, which is ignored where a script has begun us in the background

    def wait(self) -> None:
        self._process.wait()
