"""What a person sees while a run goes on: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from swe_eval.run_dir import Trial

ROLLED_OUT = "rolled out"
"""What is said of a trial whose grading was not asked for."""


class Progress:
    """Counts the trials of each arm. Thread-safe."""

    def __init__(self, trials: Sequence[Trial], done: Iterable[tuple[Trial, str]], console: Console) -> None:
        """``done`` are the trials that an earlier call left with their outcomes."""
        self._console = console
        self._lock = threading.Lock()
        self._ending = threading.Lock()
        """Held while the line is said, too; the live table, drawn anew around a line, takes the other lock."""
        self._total = Counter(trial.arm for trial in trials)
        self._counts: dict[str, Counter[str]] = {arm: Counter() for arm in self._total}
        for trial, outcome in done:
            self._counts[trial.arm][outcome] += 1
        self._running: Counter[str] = Counter()
        self._rolled_out: dict[Trial, str] = {}
        self._started = time.monotonic()
        self._fresh = 0

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the live table inside the block, if the console is a terminal."""
        if not self._console.is_terminal:
            yield
            return
        with Live(get_renderable=self._table, console=self._console, refresh_per_second=4):
            yield

    def say(self, line: str) -> None:
        """A line of news."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def started(self, trial: Trial) -> None:
        """A stage of the trial begins."""
        with self._lock:
            self._running[trial.arm] += 1

    def rolled_out(self, trial: Trial, how: str) -> None:
        """The rollout is over; the trial waits for its grading."""
        with self._lock:
            self._running[trial.arm] -= 1
            self._rolled_out[trial] = how

    def stopped(self, trial: Trial) -> None:
        """The stage was left off, because the run is being stopped."""
        with self._lock:
            self._running[trial.arm] -= 1

    def ended(self, trial: Trial, outcome: str, detail: str) -> None:
        """The trial has its outcome."""
        with self._ending:  # or the line of the next one may come first
            line = self._count(trial, outcome, detail)
            if not self._console.is_terminal or outcome == "infra":
                self.say(line)

    def _count(self, trial: Trial, outcome: str, detail: str) -> str:
        """Returns the line to say of it."""
        with self._lock:
            self._running[trial.arm] -= 1
            self._counts[trial.arm][outcome] += 1
            self._fresh += 1
            how = "; ".join(filter(None, [self._rolled_out.pop(trial, ""), detail]))
            return f"[{self._done():{len(str(self._all()))}}/{self._all()}] {trial}: {outcome} ({how})"

    def _done(self) -> int:
        return sum(sum(counts.values()) for counts in self._counts.values())

    def _all(self) -> int:
        return sum(self._total.values())

    def _table(self) -> Table:
        table = Table("arm", "done", "running", "resolved", "infra", box=None, caption=self._time_left())
        with self._lock:
            for arm, counts in self._counts.items():
                done = f"{sum(counts.values())}/{self._total[arm]}"
                table.add_row(arm, done, *(str(n) for n in (self._running[arm], counts["resolved"], counts["infra"])))
        return table

    def _time_left(self) -> str:
        """At the pace so far."""
        owed = self._all() - self._done()
        if not self._fresh or not owed:
            return ""
        seconds = (time.monotonic() - self._started) / self._fresh * owed
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"
