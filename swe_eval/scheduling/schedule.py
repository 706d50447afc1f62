"""Rollouts and gradings at the same time, on separate budgets, until nothing is owed or the run is told to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from swe_eval.cluster.walltime import Walltime
from swe_eval.run_dir import Trial
from swe_eval.scheduling.gate import Gate, Turns


class Schedule:
    """Two pools: a trial that was rolled out goes to the graders at once, while others still roll."""

    def __init__(self, gate: Gate, grade_workers: int, walltime: Walltime | None = None) -> None:
        self._gate, self._walltime = gate, walltime or Walltime()
        self._rollers = ThreadPoolExecutor(gate.agents, thread_name_prefix="rollout")
        self._graders = ThreadPoolExecutor(grade_workers, thread_name_prefix="grading")
        self._stopping = threading.Event()
        self._failure: BaseException | None = None

    def is_stopping(self) -> bool:
        """Whether work in progress should leave off."""
        return self._stopping.is_set()

    def run(
        self,
        to_roll_out: Sequence[Trial],
        to_grade: Iterable[Trial],
        roll_out: Callable[[Trial, Turns], bool],
        grade: Callable[[Trial], None],
        on_interrupt: Callable[[], None],
    ) -> None:
        """Do all of it that there is time for, in the given order as far as several at once have one.

        Args:
            roll_out: begins each turn by the leave of ``Turns``; returns whether the trial can be graded now.
            on_interrupt: cuts short what is in progress.

        Raises:
            BaseException: the first that ``roll_out`` or ``grade`` raised; all work has ended. KeyboardInterrupt: what
                is in progress, such as a model call, is left to its thread, and counts for nothing.
        """
        self._gate.expect(to_roll_out)
        for trial in to_grade:
            self._graders.submit(self._guarded, self._grade_alone, trial, grade)
        rolling = [
            self._rollers.submit(self._guarded, self._roll_out_then_grade, trial, roll_out, grade)
            for trial in to_roll_out
        ]
        try:
            wait(rolling)
            self._graders.shutdown()
        except KeyboardInterrupt:
            self._stop()
            for pool in (self._rollers, self._graders):
                pool.shutdown(wait=False, cancel_futures=True)
            on_interrupt()
            raise
        self._rollers.shutdown()
        if self._failure:
            raise self._failure

    def _roll_out_then_grade(
        self, trial: Trial, roll_out: Callable[[Trial, Turns], bool], grade: Callable[[Trial], None]
    ) -> None:
        turns = self._gate.turns(trial)
        try:
            may_begin = turns.begin() and self._walltime.allows_another()
            began = time.monotonic()
            is_gradable = may_begin and roll_out(trial, turns)
        finally:
            self._gate.leave(trial)
        if is_gradable:
            self._graders.submit(self._guarded, self._grade_begun, trial, began, grade)
        elif may_begin:
            self._walltime.took(time.monotonic() - began)

    def _grade_begun(self, trial: Trial, began: float, grade: Callable[[Trial], None]) -> None:
        grade(trial)
        self._walltime.took(time.monotonic() - began)

    def _grade_alone(self, trial: Trial, grade: Callable[[Trial], None]) -> None:
        if self._walltime.allows_another():
            grade(trial)

    def _guarded(self, stage: Callable[..., object], *arguments: object) -> None:
        if self.is_stopping():
            return
        try:
            stage(*arguments)
        except BaseException as error:  # raised again by run(), in the main thread
            self._failure = self._failure or error
            self._stop()

    def _stop(self) -> None:
        self._stopping.set()
        self._gate.close()
