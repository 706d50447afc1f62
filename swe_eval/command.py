"""What every front door shares: compose with Hydra, validate, say what went wrong, exit with a code."""

from __future__ import annotations

import argparse
import gc
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import FrameType
from typing import Any, NoReturn

import hydra
from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import swe_eval.cluster.config  # conf/ uses what these register
import swe_eval.resolvers  # noqa: F401
from swe_eval.errors import OutOfTime, SweEvalError, UserError
from swe_eval.mistakes import explain, refuse
from swe_eval.settings import Settings, conf_dir, settings_from

OK, FAILED, BAD_INPUT, OUT_OF_TIME, INTERRUPTED = 0, 1, 2, OutOfTime.exit_code, 130
MULTIRUN = ("-m", "--multirun")
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STDOUT = 1
GC_THRESHOLD = 50_000
"""Objects between two collections; with 700, Python's own, they take a fifth of the time of the imports."""


class Arguments(argparse.ArgumentParser):
    """Says in one line what is wrong with them."""

    def error(self, message: str) -> NoReturn:
        sys.exit(_say(f"{message}; {self.prog} --help says more", BAD_INPUT))


def run(task: Callable[[Settings], int], own: Sequence[str] = ()) -> NoReturn:
    """Run ``task`` on the configuration that the command line composes, and exit; the exit codes are ``main``'s."""
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # under nohup, or in the background of a script
            signal.signal(number, _told_to_stop)
    leave(main(task, own))


def _told_to_stop(_number: int, _frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but not where it would cut short what another one has begun to clean up."""
    error: BaseException | None = sys.exc_info()[1]
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    if error:
        os.write(2, b"swe_eval: cleaning up, wait a moment\n")  # print may have been interrupted
    else:
        raise KeyboardInterrupt


def main(task: Callable[[Settings], int], own: Sequence[str] = ()) -> int:
    """Run ``task`` on the configuration that ``sys.argv`` composes; ``own`` is ``refuse``'s.

    Returns:
        0 done, 1 something failed or is owed, 2 bad input, 75 out of the SLURM job's time, 130 interrupted.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises what it otherwise prints over many lines
    gc.set_threshold(GC_THRESHOLD)
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda each: each not in MULTIRUN)  # argparse wants its flags together
    codes = []

    @hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
    def composed(config: DictConfig) -> None:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            print(_job(HydraConfig.get()), flush=True)
        codes.append(_code_of(lambda: task(settings_from(_resolved(config)))))  # an interrupt ends a sweep, too

    codes.append(exit_code(lambda: refuse(sys.argv[1:], own)) or exit_code(composed))
    return max(codes)


def leave(code: int) -> NoReturn:
    """End this process."""
    if code == INTERRUPTED:  # a thread may still wait for a model's answer
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)
    _nobody_reads()
    gc.freeze()  # or all that was imported is gone through again, for a second or more
    sys.exit(code)


def settings_of(*overrides: str) -> Settings:
    """The settings of a command line, also while another one is at work."""
    return settings_from(tree_of(*overrides))


def tree_of(*overrides: str) -> dict[str, Any]:
    """The resolved configuration of a command line, before it is validated."""
    is_at_work = GlobalHydra.instance().is_initialized()
    with nullcontext() if is_at_work else hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        tree: dict[str, Any] = OmegaConf.to_container(hydra.compose("config", list(overrides)), resolve=True)  # type: ignore[assignment]
    return tree


def exit_code(call: Callable[[], int | None]) -> int:
    """What ``call`` returns, or the code of what it raised, which is said on standard error."""
    try:
        return _code_of(call)
    except KeyboardInterrupt:
        for number in STOPS:
            if signal.getsignal(number) is _told_to_stop:  # nothing is left that it could cut short
                signal.signal(number, signal.SIG_IGN)
        return _say("interrupted: the same command continues", INTERRUPTED)


def _code_of(call: Callable[[], int | None]) -> int:
    """See ``exit_code``; interrupts are not its matter."""
    try:
        return call() or OK
    except UserError as error:
        return _say(str(error), BAD_INPUT)
    except (HydraException, OmegaConfBaseException) as error:
        return _say(explain(error), BAD_INPUT)
    except OutOfTime as error:
        return _say(str(error), OUT_OF_TIME)
    except SweEvalError as error:
        return _say(str(error), FAILED)
    except OSError as error:  # the disk is full, a file system went away: nothing is lost, nothing is scored
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return FAILED
        code = BAD_INPUT if isinstance(error, PermissionError) else FAILED
        return _say(f"{error}; put it right, and the same command continues", code)


def _nobody_reads() -> bool:
    """Whether what standard output is piped to, such as head, has ended; from then on it leads nowhere."""
    poll = select.poll()
    poll.register(STDOUT, 0)
    if is_gone := any(event & select.POLLERR for _, event in poll.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
    return is_gone


def _resolved(config: DictConfig) -> dict[str, Any]:
    tree: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    launcher = HydraConfig.get().runtime.choices["hydra/launcher"]
    if HydraConfig.get().mode == RunMode.MULTIRUN:  # every job of a sweep has its own run directory
        tree["output_dir"] = HydraConfig.get().runtime.output_dir
    elif launcher != "basic":
        raise UserError(f"hydra/launcher={launcher}: launches the jobs of a sweep; write -m before the overrides")
    return tree


def _job(hydra_config: HydraConf) -> str:
    """Which job of a sweep this is: what it has in place of the lists on the command line."""
    own = [each for each in hydra_config.overrides.task if each not in sys.argv]
    return f"job {hydra_config.job.num + 1} of the sweep: {' '.join(own)}".removesuffix(": ")


def _say(message: str, code: int) -> int:
    for line in message.splitlines():
        print(f"swe_eval: {line}", file=sys.stderr)
    return code
