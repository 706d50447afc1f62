"""The lines of a run on the screen: said in the order in which they are counted, however many trials end at once."""

from __future__ import annotations

import threading
from io import StringIO
from typing import Any

from rich.console import Console

from swe_eval.progress import Progress
from swe_eval.run_dir import Trial


class Slow(Console):
    """Before its first line, the other thread has the time for a line of its own."""

    other: threading.Thread

    def print(self, *args: Any, **kwargs: Any) -> None:
        if not self.other.ident:
            self.other.start()
            self.other.join(0.5)
        super().print(*args, **kwargs)


def test_lines_come_in_the_order_of_their_numbers():
    first, second = trials = [Trial("base", "first"), Trial("base", "second")]
    console = Slow(file=StringIO(), width=100)
    progress = Progress(trials, [], console)
    console.other = threading.Thread(target=progress.ended, args=(second, "resolved", "2 s"))
    progress.ended(first, "resolved", "1 s")
    console.other.join()
    assert console.file.getvalue() == "[1/2] base first: resolved (1 s)\n[2/2] base second: resolved (2 s)\n"


def test_a_failure_is_said_above_the_live_table():
    """The table is drawn anew around the line, from the counts that the line has just changed."""
    [trial] = trials = [Trial("base", "first")]
    console = Console(file=StringIO(), width=100, force_terminal=True)
    progress = Progress(trials, [], console)
    with progress.shown():
        ending = threading.Thread(target=progress.ended, args=(trial, "infra", "rollout: gone"), daemon=True)
        ending.start()
        ending.join(30)
        assert not ending.is_alive()
    assert "[1/1] base first: infra (rollout: gone)" in console.file.getvalue()
