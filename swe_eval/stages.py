"""The boundary of a trial: what goes wrong inside becomes a recorded outcome, the model's doing or ours."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from swe_eval.benchmark.instances import Instance
from swe_eval.errors import InfraError, SandboxError
from swe_eval.grading import INFRA, grade
from swe_eval.mini import Stopped
from swe_eval.progress import ROLLED_OUT, Progress
from swe_eval.rollout import Rollout, roll_out
from swe_eval.run_dir import RunDir, Trial
from swe_eval.sandbox.sandbox import Sandboxes
from swe_eval.scheduling.gate import Turns
from swe_eval.serving.server import Server
from swe_eval.settings import GRADE, Settings

log = logging.getLogger("swe_eval")


class Stages:
    """What is done with one trial, stage by stage."""

    def __init__(
        self,
        settings: Settings,
        instances: Mapping[str, Instance],
        run: RunDir,
        backend: Sandboxes,
        server: Server | None,
        progress: Progress,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._settings, self._instances, self._run = settings, instances, run
        self._backend, self._server, self._progress = backend, server, progress
        self._is_stopping = is_stopping

    def roll_out(self, trial: Trial, turns: Turns) -> bool:
        """Leave a trajectory and a prediction; returns whether there is one to grade now.

        Raises:
            ServingError: the server is gone, so every further trial would fail.
        """
        assert self._server, "rollouts need a server"
        self._progress.started(trial)
        while True:
            endpoint = self._server.endpoints[trial.adapter]
            try:
                return self._has_rolled_out(trial, _how(self._rolled_out(trial, self._server, turns)))
            except Stopped:
                self._progress.stopped(trial)
                return False
            except Exception as error:
                if self._is_stopping() or not self._server.recovered(trial.adapter, endpoint):
                    self._failed(trial, "rollout", error)
                    return False
                turns = turns.anew()
                log.warning("rollout of %s from its start again: the server had died", trial, exc_info=error)

    def _rolled_out(self, trial: Trial, server: Server, turns: Turns) -> Rollout:
        with server.using(trial.adapter) as endpoint:
            instance = self._instances[trial.instance_id]
            return roll_out(trial, instance, endpoint, self._settings, self._backend, self._run, turns)

    def _has_rolled_out(self, trial: Trial, how: str) -> bool:
        """Say so; returns whether it is to be graded now."""
        if self._is_in_doubt(trial, self._run.prediction(trial)):
            return False
        if GRADE in self._settings.stages:
            self._progress.rolled_out(trial, how)
            return True
        self._ended(trial, ROLLED_OUT, how)
        return False

    def grade(self, trial: Trial) -> None:
        """Leave a report."""
        self._progress.started(trial)
        try:
            report = grade(
                self._instances[trial.instance_id],
                trial.arm,
                self._run.read_patch(trial),
                self._backend,
                self._run.evaluation(trial),
                self._settings.benchmark.grading_timeout,
            )
        except Exception as error:
            self._failed(trial, "grading", error)
            return
        if not self._is_in_doubt(trial, self._run.report(trial)):
            self._ended(trial, report["outcome"], f"graded in {report['seconds']:.1f} s")
            before = self._run.previous_outcome(trial)
            if before not in (None, report["outcome"]):
                self._progress.say(f"{trial}: {report['outcome']} now, {before} before")

    def _ended(self, trial: Trial, outcome: str, how: str) -> None:
        self._backend.done_with(self._instances[trial.instance_id])
        self._progress.ended(trial, outcome, how)

    def _is_in_doubt(self, trial: Trial, done: Path) -> bool:
        """Whether the run is being stopped: what ends just then is not believed, and owed again.

        SLURM stops a job by a signal to all its processes. One of them may have been the command that this trial was
        at, which then looks as if it had failed by itself.
        """
        if self._is_stopping():
            done.unlink(missing_ok=True)
            self._progress.stopped(trial)
            return True
        return False

    def _failed(self, trial: Trial, stage: str, error: Exception) -> None:
        """Ours: recorded, not scored, owed again. What fails while the run is being stopped is no failure."""
        if self._is_stopping():
            self._progress.stopped(trial)
            return
        log.error("%s of %s", stage, trial, exc_info=error)
        self._run.record_infra(trial, stage, error)
        text = str(error) if isinstance(error, InfraError) else f"{type(error).__name__}: {error}"
        line, *_ = text.splitlines() or [""]  # libraries put whole tracebacks into their messages
        self._ended(trial, INFRA, f"{stage}: {line}")
        if isinstance(error, SandboxError):
            self._backend.check()


def _how(rollout: Rollout) -> str:
    rescued = ", patch rescued" if rollout.source == "rescued" else ""
    return f"{rollout.exit_status}{rescued}, {rollout.turns} turns, {rollout.seconds:.1f} s"
