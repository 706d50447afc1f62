"""Whether another trial may begin, by the time that the job has left and by what trials took so far."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from math import inf

CLOSING = 20.0
"""Seconds to stop the server, remove the sandboxes and write the report."""
QUANTILE = 0.95
"""Of the trials so far that must fit; the few that take longer are begun again after the restart."""
KNOWN_FOR = 30.0
"""Seconds for which the end of the job is not asked for again."""


class Walltime:
    """The end of the job, held against what a trial takes. Thread-safe."""

    def __init__(self, end: Callable[[], float] = lambda: inf, earlier: Iterable[float] = ()) -> None:
        """Nothing has run out yet.

        Args:
            end: in seconds since the epoch; asked for again and again, for an administrator may move it.
            earlier: seconds of the run's trials before this job, as far as they are known.
        """
        self._ask, self._seconds = end, sorted(earlier)
        self._asked, self._end = time.monotonic(), end()
        self._lock = threading.Lock()
        self.is_over = False
        """Whether a trial was kept from beginning."""

    def allows_another(self) -> bool:
        """Whether a trial that begins now will have ended in time, most likely; once not, never again."""
        if self._is_to_ask():
            self._end = self._ask()  # without the lock: meanwhile others go by what was said last
        with self._lock:
            self.is_over = self.is_over or self._end - time.time() < self._margin()
            return not self.is_over

    def took(self, seconds: float) -> None:
        """A trial has ended."""
        with self._lock:
            self._seconds = sorted([*self._seconds, seconds])

    def _is_to_ask(self) -> bool:
        """Whether it is time to, and up to this thread."""
        with self._lock:
            if time.monotonic() - self._asked < KNOWN_FOR:
                return False
            self._asked = time.monotonic()
            return True

    def _margin(self) -> float:
        known = self._seconds
        return CLOSING + (known[int(QUANTILE * (len(known) - 1) + 0.5)] if known else 0.0)
