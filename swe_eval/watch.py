"""``python -m swe_eval.watch``: a job for each checkpoint as training writes it, until it is told to stop.

It takes the arguments of the sweep, ``python -m swe_eval -m experiment=checkpoints lora.run=...``, and gives that
command whenever there is a new checkpoint: what is through or in the queue already is left alone, what failed is tried
again, also without a new one. Ctrl-C, or a file ``stop`` in the sweep's directory, ends it; SLURM's jobs go on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from math import inf
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from swe_eval import command
from swe_eval.cluster.sweep import Sweep
from swe_eval.errors import UserError
from swe_eval.mistakes import refuse
from swe_eval.resolvers import written
from swe_eval.settings import BASE, conf_dir, settings_from

DESCRIPTION = """Submit a job for each checkpoint as training writes it. Takes the arguments of the sweep:
experiment=checkpoints lora.run=... hydra/launcher=slurm. Jobs that are complete or queued are left alone, failed ones
are submitted again. Ctrl-C, or a file named stop in the sweep's directory, ends the watch; SLURM's jobs go on."""
EVERY = "--every"
LOOK = 60.0
"""Seconds between two looks at the training run's directory."""
DAY = 86_400.0
"""Seconds between two looks at most."""
LATEST = 3600.0
"""Seconds after which what failed is tried again at the latest."""


def main() -> None:
    """Console entry point."""
    given, overrides = parser().parse_known_args()
    overrides = [each for each in overrides if each not in command.MULTIRUN]
    sys.exit(command.exit_code(lambda: watch(overrides, given.every)))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = command.Arguments(prog="python -m swe_eval.watch", description=DESCRIPTION, allow_abbrev=False)
    made.add_argument(
        EVERY,
        type=float,
        default=LOOK,
        metavar="SECONDS",
        help=f"between two looks for checkpoints (default: {LOOK:g})",
    )
    return made


def watch(overrides: Sequence[str], every: float = LOOK) -> int:
    """Submit what is new, look again every so many seconds.

    Raises:
        UserError: the sweep is none of checkpoints, or the command line is wrong.
    """
    if not 0 < every <= DAY:
        raise UserError(f"--every {every:g}: write seconds, such as {LOOK:g}")
    refuse(overrides, own=[EVERY])
    if options := [each for each in overrides if each.startswith("-")]:
        raise UserError(f"{options[0]}: a watch takes no option but --every; write its fields as FIELD=VALUE")
    config = _composed(overrides)
    sweep = Sweep(Path(str(config.hydra.sweep.dir)))
    sweep.stop.unlink(missing_ok=True)
    _say(f"watching {config.lora.run}; Ctrl-C, or touch {sweep.stop}, ends it")
    watching = _Watch(overrides, config, every)
    try:
        if watching.until(sweep.stop) == command.BAD_INPUT:
            return command.BAD_INPUT
    except KeyboardInterrupt:
        watching.wait()
    _say(f"stopped; {watching.what_is_left()}")
    return command.OK


class _Watch:
    """What is known of the training run, and when a sweep is due."""

    def __init__(self, overrides: Sequence[str], config: DictConfig, every: float) -> None:
        self.is_queued = "wait" in config.hydra.launcher
        at_once = ["hydra.launcher.wait=false"] if self.is_queued else []
        self.argv = [sys.executable, "-m", "swe_eval", "-m", *overrides, *at_once]
        self.lora, self.every = config.lora, every
        self.known: set[str] = set()
        self.sweep: subprocess.Popen[bytes] | None = None
        self.due, self.pause = inf, every

    def until(self, stop: Path) -> int:
        """0 once this file is there; 2 where the first sweep is refused, for later ones meet what will pass."""
        trouble = ""
        while True:
            code, is_first = None, self.sweep is None
            try:
                if stop.exists():
                    return command.OK
                code = self._look()
                trouble = ""
            except (OSError, UserError) as error:
                if str(error) != trouble:
                    _say(f"{error}; looking again every {self.every:g} s")
                trouble = str(error)
            if code is None:
                time.sleep(self.every)
            elif code == command.BAD_INPUT and is_first:
                return code
            else:
                self._plan(code)

    def _look(self) -> int | None:
        """The exit code of a sweep if one is due."""
        there = written(self.lora)
        if there - self.known:
            _say(f"new: {', '.join(sorted(there - self.known))}")
        elif time.monotonic() < self.due:
            return None
        self.sweep = subprocess.Popen(self.argv)
        code = self.sweep.wait()
        self.known = there
        return code

    def _plan(self, code: int) -> None:
        """The next sweep, should no checkpoint come: after a failure later each time; of queued jobs, some may fail."""
        if code == command.OK:
            self.due, self.pause = time.monotonic() + LATEST if self.is_queued else inf, self.every
            return
        _say(f"exit code {code}: tried again in {self.pause:g} s, or with the next checkpoint")
        self.due = time.monotonic() + self.pause
        self.pause = min(2 * self.pause, max(self.every, LATEST))

    def wait(self) -> None:
        """Until the sweep under way has ended, which a terminal's Ctrl-C has reached as well."""
        if self.sweep and self.sweep.poll() is None:
            _say("waiting for the sweep to end; Ctrl-C again does not wait")
            with suppress(KeyboardInterrupt):
                self.sweep.wait()

    def what_is_left(self) -> str:
        if self.is_queued:
            return "jobs go on, and the sweep's own command waits for them"
        is_ending = self.sweep and self.sweep.poll() is None
        return "the sweep is still ending its jobs" if is_ending else "no job goes on"


def _composed(overrides: Sequence[str]) -> DictConfig:
    """The configuration, all but its checkpoints known to be good."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("config", list(overrides), return_hydra_config=True)
        if config.lora.kind != "checkpoints" or "lora.only" not in (config.hydra.sweeper.params or {}):
            raise UserError("lora: no checkpoints to watch; write experiment=checkpoints lora.run=...")
        if config.lora.every != 1:
            raise UserError(f"lora.every={config.lora.every}: is counted from the last, which none is; leave it out")
        if config.lora.per_job != 1:
            raise UserError(f"lora.per_job={config.lora.per_job}: jobs would change as checkpoints come; leave it out")
        without = compose("config", [*overrides, f"lora.only=[{BASE}]"])
    settings_from(OmegaConf.to_container(without, resolve=True))  # type: ignore[arg-type]
    return config


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
