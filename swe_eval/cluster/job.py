"""What a job of a sweep runs: a command line of ``python -m swe_eval``, and the same again after each restart."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from swe_eval.cluster import slurm
from swe_eval.cluster.scratch import scratch
from swe_eval.errors import OutOfTime

EARLY = 90.0
"""Seconds by which SLURM may send its warning (USR2) too early; one that is earlier still tells of preemption."""
INTERRUPTED = 128 + signal.SIGINT
TOLD_BY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)


@dataclass(frozen=True)
class Job:
    """Is pickled, and called in the job."""

    argv: tuple[str, ...]
    """What follows ``python -m swe_eval``."""
    run_dir: str
    max_restarts: int
    warned: float
    """Seconds before the end of the job's time at which SLURM is to send USR2."""

    def __call__(self) -> None:
        """Run it, and leave the process with its exit code; queued again first if it is to go on."""
        stop, before = _Stop(), self._done()
        try:
            code = self._run()
        except KeyboardInterrupt:  # while it was still being imported
            code = INTERRUPTED
        is_out_of_time = code == OutOfTime.exit_code
        if is_out_of_time or (code == INTERRUPTED and stop.is_by_slurm()):
            self._go_on(is_out_of_time or stop.is_at_the_end(self.warned), self._done() > before)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # a thread may still wait for a model's answer

    def _run(self) -> int:
        from swe_eval import command  # late: it imports the launchers
        from swe_eval.__main__ import evaluated

        sys.argv = ["swe_eval", *self.argv]
        with scratch():
            return command.main(evaluated)

    def _go_on(self, is_time_up: bool, has_progressed: bool) -> None:
        if is_time_up and not has_progressed:
            _say("not one trial was done in this job's time; write a larger hydra.launcher.timeout_min")
        elif slurm.restarts() >= self.max_restarts:
            _say(f"restarted {slurm.restarts()} times (hydra.launcher.max_num_timeout); the same command continues")
        elif job := slurm.this_job():
            for number in TOLD_BY:  # SLURM will now tell us to end, which we are about to do
                signal.signal(number, signal.SIG_IGN)
            _say("to be continued" if slurm.requeue(job) else "SLURM does not restart it; the same command continues")

    def _done(self) -> int:
        """Files that stand for something done."""
        run = Path(self.run_dir)
        return sum(1 for pattern in ("predictions/*/*.diff", "evaluation/*/*/report.json") for _ in run.glob(pattern))


class _Stop:
    """Signals that tell this process to stop; the first is a KeyboardInterrupt, the others must not cut it short."""

    def __init__(self) -> None:
        self._number: int | None = None
        for number in TOLD_BY:
            signal.signal(number, self._told)

    def _told(self, number: int, _frame: FrameType | None) -> None:
        if self._number is None:
            self._number = number
            raise KeyboardInterrupt

    def is_by_slurm(self) -> bool:
        """Whether it is to go on later: warned by SLURM, or preempted; not cancelled."""
        if self._number == signal.SIGUSR2:
            return True
        job = slurm.this_job()
        return self._number == signal.SIGTERM and job is not None and slurm.is_running(job)

    def is_at_the_end(self, warned: float) -> bool:
        """Whether the job's time is over, as opposed to a job with a higher priority taking its place."""
        return self._number == signal.SIGUSR2 and slurm.end_of_this_job() - time.time() < warned + EARLY


def _say(line: str) -> None:
    print(f"swe_eval: {line}", file=sys.stderr)
