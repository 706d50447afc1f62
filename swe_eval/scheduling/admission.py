"""``workers=auto``: as many agents at once as the server has memory for, found out while they work.

A server that computes more conversations than its KV cache holds throws away what it will need a turn later: the prefix
hits of its agents fall from nearly all to nearly none, and every turn reads its whole conversation again (InferenceX,
issue 2268: 97% with 8 agents, 39% with 16, 5% with 32). How many fit depends on the model, the device and how long the
conversations are by now, so what is steered is the number of tokens that conversations may have together: it is doubled
until the server shows trouble, then lowered by a part, and raised by a little. Agents that began first go first; the
newest ones wait before their next turn.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

from swe_eval.run_dir import now
from swe_eval.scheduling.gate import NEW, Gate, Traffic
from swe_eval.serving.load import Load, LoadReader
from swe_eval.serving.server import Endpoint

# these were found with the engine of bench/kv_server.py: conversations long and short, commands fast and slow
FIRST = 4 * NEW
"""Tokens to begin with."""
LOWER = 0.85
RAISE = 0.25
"""Of a conversation of mean length, in the first round after trouble ..."""
PATIENCE = 10
"""... and twice as much after so many more: the trouble may have passed, or was none."""
HASTE = 0.1
"""Part of a round after which trouble is believed."""
FADE = 0.98
"""Per round, of the best reuse that is remembered."""
UNTOLD = 4
"""Agents at once where the server tells no load."""
POLL = 1.0
"""Seconds between two looks at the server."""
SPACING = 1.0
"""Seconds between two lines of ``load.jsonl``; in a long run, a thousandth of its age: a few thousand lines in all."""


@dataclass(frozen=True)
class Look:
    """The server and its agents at one moment."""

    load: Load
    traffic: Traffic


@dataclass(frozen=True)
class Round:
    """What was seen while every free agent took about a turn."""

    looks: Sequence[Look]
    best: float
    """``reuse`` of earlier rounds."""

    @property
    def length(self) -> float:
        """1 when as many turns have ended as there are free agents."""
        return (self.looks[-1].traffic.turns - self.looks[0].traffic.turns) / self._agents

    @property
    def is_troubled(self) -> bool:
        """The server loses what it has computed, or is about to."""
        is_queueing = self._waiting > 2 + self._agents / 4
        return self._is_forgetting or self._preempted or self._kv_use > 0.95 or is_queueing

    @property
    def is_calm(self) -> bool:
        """The server has room for more."""
        return self.reuse >= 0.95 * self.best and self._kv_use < 0.9 and self._waiting < 1

    @property
    def reuse(self) -> float:
        """Of what the server had read of these conversations before, the part that it did not read again."""
        return min(1.0, self._hits / self._known) if self._known else self.best

    @property
    def _is_forgetting(self) -> bool:
        """More was lost than a turn or two that the server looks up in one round, and the gate counted in another."""
        lost, turn = self.best * self._known - self._hits, self.looks[-1].traffic.tokens / self._agents
        return self.reuse < 0.8 * self.best and lost > 2 * turn

    @property
    def _known(self) -> int:
        return self.looks[-1].traffic.known - self.looks[0].traffic.known

    @property
    def _hits(self) -> int:
        return self.looks[-1].load.prefix_hits - self.looks[0].load.prefix_hits

    @property
    def _preempted(self) -> bool:
        return self.looks[-1].load.preemptions > self.looks[0].load.preemptions

    @property
    def _agents(self) -> float:
        return max(1.0, fmean(look.traffic.agents for look in self.looks))

    @property
    def _kv_use(self) -> float:
        return fmean(look.load.kv_use or 0.0 for look in self.looks)

    @property
    def _waiting(self) -> float:
        return fmean(look.load.waiting for look in self.looks)


class Budget:
    """How many tokens the conversations of free agents may have together."""

    def __init__(self) -> None:
        self.tokens: float = FIRST
        self._looks: list[Look] = []
        self._best = 0.0
        self._is_doubling = True
        self._raised = 0
        """Times, since it was lowered."""
        self._is_settling = False
        """For a round after it was lowered: what is under way is still too much."""

    def saw(self, look: Look) -> float:
        """Take one more look into account; returns the tokens from now on."""
        if self._looks and look.load.prefix_queries < self._looks[-1].load.prefix_queries:
            self._begin_round(look, is_settling=True)  # the server was started anew, and counts from 0
        self._looks.append(look)
        seen = Round(self._looks, self._best)
        if seen.is_troubled and not self._is_settling:
            if seen.length >= HASTE:
                self._lower(look)
        elif seen.length >= 1:
            if seen.is_calm and look.traffic.held and not self._is_settling:
                self._raise(look.traffic)
            self._best = max(seen.reuse, FADE * self._best)
            self._begin_round(look, is_settling=False)
        return self.tokens

    def _raise(self, traffic: Traffic) -> None:
        mean = traffic.tokens / max(1, traffic.agents)
        self.tokens += self.tokens if self._is_doubling else RAISE * 2 ** (self._raised / PATIENCE) * mean
        self._raised += 1

    def _lower(self, look: Look) -> None:
        self.tokens = max(NEW, LOWER * min(self.tokens, look.traffic.tokens))
        self._is_doubling, self._raised = False, 0
        self._begin_round(look, is_settling=True)

    def _begin_round(self, look: Look, is_settling: bool) -> None:
        self._looks, self._is_settling = [look], is_settling


def most_agents(workers: int | Literal["auto"]) -> int:
    """Agents that may ever be free at once. Each has a sandbox here, and uses it while others wait for the model."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(128, 8 * cores) if workers == "auto" else workers


@contextmanager
def steered(
    endpoints: Callable[[], Iterable[Endpoint]],
    gate: Gate,
    workers: int | Literal["auto"],
    log: Path,
    say: Callable[[str], None],
    poll: float,
) -> Iterator[None]:
    """Look at the server while the block runs: steer ``gate`` if ``workers`` is auto, write what is seen to ``log``.

    Args:
        log: file that takes a JSON object per line (see ``_LoadLog``); nothing if the server tells no load.
        say: takes one line: what is done where auto has nothing to go by.
        poll: seconds between two looks.
    """
    with closing(LoadReader(endpoints)) as reader:
        if not (reader.read() or reader.read()):  # the first answer may come late
            if workers == "auto":
                gate.allow(agents=UNTOLD)
                say(f"workers=auto: the server tells no load at /metrics, so {UNTOLD} at once; or write workers=N")
            yield
            return
        watch = _Watch(reader, gate, Budget() if workers == "auto" else None, _LoadLog(log))
        is_over = threading.Event()
        thread = threading.Thread(target=watch.run, args=(poll, is_over), name="admission", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


class _Watch:
    """Looks, steers, writes down."""

    def __init__(self, reader: LoadReader, gate: Gate, budget: Budget | None, log: _LoadLog) -> None:
        self._reader, self._gate, self._budget, self._log = reader, gate, budget, log
        if budget:
            gate.allow(tokens=budget.tokens)

    def run(self, poll: float, is_over: threading.Event) -> None:
        while not is_over.is_set():
            self._look(is_last=False)
            is_over.wait(poll)
        self._look(is_last=True)

    def _look(self, is_last: bool) -> None:
        traffic = self._gate.traffic()  # first: whatever was counted here has nearly always been looked up there
        load = self._reader.read()
        if not load:
            return  # too busy to tell, or gone: whose calls fail then will say so
        look = Look(load, traffic)
        if self._budget:
            self._gate.allow(tokens=self._budget.saw(look))
        self._log.take(look, self._budget, is_last)


class _LoadLog:
    """A line per ``SPACING``: gauges as they are, counts since the line before."""

    COUNTS = ("preemptions", "prefix_hits", "prefix_queries")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._began = time.monotonic()
        self._written = float("-inf")
        self._before: Load | None = None

    def take(self, look: Look, budget: Budget | None, is_last: bool) -> None:
        """Write a line, if it is time for one or there will be no more."""
        age = time.monotonic() - self._began
        if age - self._written < max(SPACING, age / 1000) and not is_last:
            return
        load, traffic = look.load, look.traffic
        line = {
            "time": now(),
            **{"agents": traffic.agents, "held": traffic.held, "tokens": traffic.tokens},
            "budget": budget and round(budget.tokens),
            **{"running": load.running, "waiting": load.waiting, "kv_use": load.kv_use},
            **{name: self._since(name, load) for name in self.COUNTS},
        }
        with suppress(OSError), self._path.open("a") as file:  # no reason to stop a run
            file.write(json.dumps(line) + "\n")
        self._written, self._before = age, load

    def _since(self, name: str, load: Load) -> int:
        """0 in the first line: what was before it may be another run's."""
        count: int = getattr(load, name)
        before: int = getattr(self._before or load, name)
        return count - before if count >= before else count  # a server that was started anew counts from 0
