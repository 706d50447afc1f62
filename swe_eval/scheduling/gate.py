"""Who may take a turn: the trials that come first, as many of them as fit at once."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from swe_eval.run_dir import Trial

NEW = 4096
"""Tokens that a conversation counts for before its first answer."""


@dataclass(frozen=True)
class Traffic:
    """What goes through a gate; counts are since it was made."""

    agents: int
    """Free to take turns."""
    held: int
    """Waiting to be."""
    tokens: int
    """Of the conversations of those that are free."""
    turns: int
    """Ended."""
    known: int
    """Tokens of prompts that the server has read before, in turns of agents that were not held since."""


class Gate:
    """Lets the trials that have not ended take turns in their order: so many, and while their conversations fit.

    What is free stays free until its turn ends; the first always is. A trial that is held back waits before its next
    turn, and goes on before those behind it. Thread-safe.
    """

    def __init__(self, agents: int, pauses: bool = True) -> None:
        """``pauses``: a trial may be held back before any turn; otherwise before its first one only."""
        self.agents = agents
        """At most, ever."""
        self._agents, self._tokens = agents, math.inf
        self._pauses = pauses
        self._begun: set[Trial] = set()
        self._sizes: dict[Trial, int] = {}
        """Tokens by trial, in order, of all that have not ended."""
        self._held = self._turns = self._known = 0
        self._changed = threading.Condition()
        self._is_closed = False

    def expect(self, trials: Iterable[Trial]) -> None:
        """Say who will come, in order."""
        with self._changed:
            self._sizes = dict.fromkeys(trials, NEW)

    def allow(self, agents: int | None = None, tokens: float | None = None) -> None:
        """Change how many may take turns, or how many tokens their conversations may have together."""
        with self._changed:
            self._agents = self._agents if agents is None else min(agents, self.agents)
            self._tokens = self._tokens if tokens is None else tokens
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody through any more; who waits is told."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def turns(self, trial: Trial) -> Turns:
        """The turns of a trial; one that nobody expected comes last."""
        with self._changed:
            self._sizes.setdefault(trial, NEW)
        return Turns(self, trial)

    def leave(self, trial: Trial) -> None:
        """The trial has ended."""
        with self._changed:
            self._sizes.pop(trial, None)
            self._changed.notify_all()

    def traffic(self) -> Traffic:
        """As of now."""
        with self._changed:
            free = self._free()
            tokens = sum(self._sizes[trial] for trial in free)
            return Traffic(len(free), self._held, tokens, self._turns, self._known)

    def begin(self, trial: Trial, known: int) -> bool:
        """See ``Turns.begin``."""
        with self._changed:
            if not self._may_go_on(trial):
                known = 0  # by the time that it goes on, the server may well have forgotten it
                self._held += 1
                self._changed.wait_for(lambda: self._may_go_on(trial))
                self._held -= 1
            self._begun.add(trial)
            self._known += known
            return not self._is_closed

    def end(self, trial: Trial, tokens: int) -> None:
        """See ``Turns.end``."""
        with self._changed:
            self._sizes[trial] = tokens
            self._turns += 1

    def _may_go_on(self, trial: Trial) -> bool:
        must = self._is_closed or (trial in self._begun and not self._pauses)
        return must or trial in self._free()

    def _free(self) -> list[Trial]:
        free: list[Trial] = []
        left = self._tokens
        for trial, tokens in self._sizes.items():
            left -= tokens
            if free and (left < 0 or len(free) >= self._agents):
                break
            free.append(trial)
        return free


class Turns:
    """The turns of one trial, one after the other."""

    def __init__(self, gate: Gate, trial: Trial) -> None:
        self._gate, self._trial = gate, trial
        self._read = 0

    def begin(self) -> bool:
        """Wait until the trial may take its next turn; False if the run is being stopped."""
        return self._gate.begin(self._trial, self._read)

    def anew(self) -> Turns:
        """Those of the same trial from its start again."""
        return Turns(self._gate, self._trial)

    def end(self, tokens: int) -> None:
        """The model has answered; prompt and answer had so many tokens together."""
        self._read = tokens
        self._gate.end(self._trial, tokens)
