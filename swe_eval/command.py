"""What every front door shares: compose with Hydra, validate, say what is wrong in one line, exit with a code."""

from __future__ import annotations

import argparse
import difflib
import gc
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import swe_eval.cluster.config  # conf/ uses what these register
import swe_eval.resolvers  # noqa: F401
from swe_eval.errors import OutOfTime, SweEvalError, UserError
from swe_eval.settings import PACKAGE, Settings, flatten, settings_from

OK, FAILED, BAD_INPUT, OUT_OF_TIME, INTERRUPTED = 0, 1, 2, OutOfTime.exit_code, 130
MULTIRUN = ("-m", "--multirun")
STDOUT = 1
GC_THRESHOLD = 50_000
"""Objects between two collections; with 700, Python's own, they take a fifth of the time of the imports."""


class Arguments(argparse.ArgumentParser):
    """Says in one line what is wrong with them."""

    def error(self, message: str) -> NoReturn:
        sys.exit(_say(f"{message}; {self.prog} --help says more", BAD_INPUT))


def conf_dir() -> Path:
    """``conf/``: inside an installed wheel, beside the package in a checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def run(task: Callable[[Settings], int]) -> NoReturn:
    """Run ``task`` on the configuration that the command line composes, and exit; the exit codes are ``main``'s."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # under nohup, or in the background of a script
            signal.signal(number, _told_to_stop)
    leave(main(task))


def _told_to_stop(_number: int, _frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but not where it would cut short what another one has begun to clean up."""
    error: BaseException | None = sys.exc_info()[1]
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    if error:
        os.write(2, b"swe_eval: cleaning up, wait a moment\n")  # print may have been interrupted
    else:
        raise KeyboardInterrupt


def main(task: Callable[[Settings], int]) -> int:
    """Run ``task`` on the configuration that ``sys.argv`` composes.

    Returns:
        0 done, 1 something failed or is owed, 2 bad input, 75 out of the SLURM job's time, 130 interrupted.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises what it otherwise prints over many lines
    gc.set_threshold(GC_THRESHOLD)
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda each: each not in MULTIRUN)  # argparse wants its flags together
    codes = []

    @hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
    def composed(config: DictConfig) -> None:
        codes.append(_code_of(lambda: task(settings_from(_resolved(config)))))  # an interrupt ends a sweep, too

    codes.append(exit_code(lambda: _refuse(sys.argv[1:])) or exit_code(composed))
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
    """What a command line of these would be, also while another is at work."""
    is_at_work = GlobalHydra.instance().is_initialized()
    with nullcontext() if is_at_work else hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        tree = OmegaConf.to_container(hydra.compose("config", list(overrides)), resolve=True)
    return settings_from(tree)  # type: ignore[arg-type]


def exit_code(call: Callable[[], int | None]) -> int:
    """What ``call`` returns, or the code of what it raised, which is said on standard error."""
    try:
        return _code_of(call)
    except KeyboardInterrupt:
        return _say("interrupted: the same command continues", INTERRUPTED)


def _code_of(call: Callable[[], int | None]) -> int:
    """See ``exit_code``; interrupts are not its matter."""
    try:
        return call() or OK
    except UserError as error:
        return _say(str(error), BAD_INPUT)
    except (HydraException, OmegaConfBaseException) as error:
        return _say(_explain(error), BAD_INPUT)
    except OutOfTime as error:
        return _say(str(error), OUT_OF_TIME)
    except SweEvalError as error:
        return _say(str(error), FAILED)
    except OSError as error:  # the disk is full, a file system went away: nothing is lost, nothing is scored
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return FAILED
        return _say(f"{error}; put it right, and the same command continues", FAILED)


def _refuse(arguments: Sequence[str]) -> int:
    """Raise UserError for what Hydra would answer with its usage over many lines, or with a traceback."""
    given, unknown = get_args_parser().parse_known_args(arguments)
    if unknown:
        field = unknown[0].partition("=")[0].strip("-").replace("-", "_")
        near = [key for key in sorted(_fields()) if f".{key}".endswith(f".{field}")] or _close(field)
        remedy = f"did you mean {near[0]}=...?" if near else "fields are written FIELD=VALUE, --help lists them"
        raise UserError(f"{unknown[0]}: no such option; {remedy}")
    for override in given.overrides:
        group, equals, option = override.partition("=")
        if equals and (conf_dir() / group).is_dir() and re.fullmatch(r"(?i)null|true|false|[\d.]*", option):
            raise UserError(_no_option(group, option))
    return OK


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


def _say(message: str, code: int) -> int:
    for line in message.splitlines():
        print(f"swe_eval: {line}", file=sys.stderr)
    return code


def _explain(error: Exception) -> str:
    """Hydra's message as one line that says what to write instead."""
    text = str(error)
    if found := re.match(r"UserError raised while resolving interpolation: (.+)", text):  # ours, by a resolver
        return found[1]
    if "Could not load 'hydra/launcher/swe_eval_" in text:  # what cluster/config.py registers if it can
        return "hydra/launcher: submitit is not installed; write pip install 'swe_eval[slurm]'"
    if isinstance(error, OverrideParseException):
        return _unread(error.override)
    if found := re.match(r"Ambiguous value for argument '(.+?)=(.+)'", text):
        return f"{found[1]}: several values: write {found[1]}=[{found[2]}] for a list, -m before it for a job each"
    if isinstance(error, MissingConfigException) and (found := re.search(r"Could not find '(.+)/(.+?)'", text)):
        return _no_option(*found.groups())
    if found := re.search(r"Could not override '(.+?)'", text):
        return f"{found[1]}: {_nearest(found[1])}"
    if found := re.search(r"Interpolation key '(.+?)' not found|Missing mandatory value: (\S+)", text):
        key = found[1] or found[2]
        return f"{key}: needs a value: write {key}=..."
    why = f" ({str(error.__cause__).splitlines()[0]})" if error.__cause__ else ""
    return f"command line: {text.strip().splitlines()[0]}{why}"


def _no_option(group: str, option: str) -> str:
    options = {path.stem for path in (conf_dir() / group).glob("*.yaml")}
    options |= {"basic"} if group == "hydra/launcher" else set()  # Hydra's own
    return f"{group}={option}: no such option; write one of {', '.join(sorted(options))}"


def _unread(override: str) -> str:
    """What Hydra's grammar of overrides does not take."""
    field, equals, value = override.partition("=")
    if not equals:
        return f"{override}: no value; write FIELD=VALUE"
    quoted = value.replace('"', r"\"")
    return f"{field}: {value} cannot be read without quotes; write '{field}=\"{quoted}\"'"


def _nearest(field: str) -> str:
    """What was probably meant."""
    if field in _fields():
        return f"entries are added with a plus: write +{field}.KEY=..."
    near = _close(field)
    return f"no such field; {f'did you mean {near[0]}?' if near else 'python -m swe_eval --help lists the fields'}"


def _close(field: str) -> list[str]:
    return difflib.get_close_matches(field, _fields() - {field.partition(".")[0]}, n=1)


def _fields() -> set[str]:
    """Every field of every option, and the groups."""
    known = {path.name for path in conf_dir().iterdir()}
    for file in conf_dir().rglob("*.yaml"):
        group = "".join(f"{part}." for part in file.relative_to(conf_dir()).parent.parts)
        tree = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        known |= {f"{group}{key}" for key, _ in flatten(tree)}  # type: ignore[arg-type]
    return known
