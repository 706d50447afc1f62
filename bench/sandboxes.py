"""``python -m bench.sandboxes``: our sandboxes, no sandbox, and with Docker also mini-swe-agent's own environment.

``--sandbox podman``, ``bubblewrap`` and ``apptainer`` have no such environment, and images from ``--source``. Sandboxes
of the demo's image are started and run ``true``, with mini-swe-agent's variables for SWE-bench, by the call that an
agent's turn makes: ``Sandbox.run`` or ``DockerEnvironment.execute``. There is no model and no agent loop.

- ``step_ms``: the median of commands that run one after the other in one container; ``step_ms_8``: in eight containers
  at once, with a thread for each.
- ``bash_ms``, ``bash_ms_8``: as many of ``bash -c true`` alone. What a step takes beyond that is the sandbox's.
- ``step_ratio_of_mini``, ``step_ratio_of_mini_8``: these, divided by mini-swe-agent's.
- ``start_s``: from the call to the first command's answer.
- ``stop_s``: from the call until the engine has no such container any more; mini-swe-agent does not wait for that.

They take turns, round by round; the table has the median [lowest, highest] round, of bash the median, and a ratio is
the median of the ratios of each round.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from threading import Barrier

from rich.box import SIMPLE
from rich.table import Table

from bench.output import machine, print_result, ratio, spread
from swe_eval.benchmark.instances import Instance, load
from swe_eval.command import settings_of
from swe_eval.mini import mini_config  # before what is mini-swe-agent's
from swe_eval.sandbox.bubblewrap import BubblewrapSandbox
from swe_eval.sandbox.docker import DockerSandbox
from swe_eval.sandbox.sandbox import Sandboxes, sandboxes
from swe_eval.settings import Settings

AT_ONCE = 8


@dataclass(frozen=True)
class Opened:
    """An open sandbox: how to run ``true`` in it, and, once it is closed, whether anything of it is left."""

    step: Callable[[], object]
    is_left: Callable[[], bool]


Open = Callable[[], AbstractContextManager[Opened]]


@dataclass(frozen=True)
class Round:
    """Seconds, as measured in one round; of steps the median."""

    start: float
    step: float
    step_of_many: float
    stop: float


@contextmanager
def by_swe_eval(backend: Sandboxes, instance: Instance, settings: Settings) -> Iterator[Opened]:
    """Open it as ``rollout.py`` does, to run commands as ``mini.py`` does."""
    env = mini_config(settings.agent)["environment"]["env"]
    with backend.start(instance, "rollout") as sandbox:
        step = partial(sandbox.run, "true", timeout=60, env=env)
        if isinstance(sandbox, BubblewrapSandbox):
            yield Opened(step, sandbox.folder.exists)
        else:
            assert isinstance(sandbox, DockerSandbox)
            yield Opened(step, partial(is_known, settings.sandbox.kind, sandbox.container))


@contextmanager
def by_bash() -> Iterator[Opened]:
    """Nothing to open."""
    yield Opened(partial(subprocess.run, ["bash", "-c", "true"], capture_output=True, check=True), lambda: False)


@contextmanager
def by_mini(instance: Instance, settings: Settings) -> Iterator[Opened]:
    """Open it as mini-swe-agent's batch runner does."""
    from minisweagent.environments.docker import DockerEnvironment

    logging.getLogger("minisweagent").setLevel(logging.WARNING)
    stock = mini_config(settings.agent)["environment"]
    config = {key: value for key, value in stock.items() if key != "environment_class"}
    environment = DockerEnvironment(image=instance.image, **config)
    assert environment.container_id
    try:
        step = partial(environment.execute, {"command": "true"})
        yield Opened(step, partial(is_known, "docker", environment.container_id))
    finally:
        environment.cleanup()


def measure(opened: Open, steps: int) -> Round:
    """Take so many steps in one sandbox, then as many in each of ``AT_ONCE`` sandboxes at once."""
    starting = time.perf_counter()
    with opened() as one:
        one.step()
        start = time.perf_counter() - starting
        alone = seconds_of(one.step, steps)
        stopping = time.perf_counter()
    wait_for_end_of(one)
    stop = time.perf_counter() - stopping
    with ExitStack() as stack, ThreadPoolExecutor(AT_ONCE) as pool:
        many = [stack.enter_context(opened()) for _ in range(AT_ONCE)]
        all_open = Barrier(AT_ONCE)
        together = list(pool.map(lambda one: seconds_of(one.step, steps, all_open.wait), many))
    wait_for_end_of(*many)
    return Round(start, median(alone), median(second for each in together for second in each), stop)


def seconds_of(step: Callable[[], object], times: int, wait: Callable[[], object] = lambda: None) -> list[float]:
    """How long each of so many steps takes, after one that is not counted; ``wait`` is called in between."""
    step()
    wait()
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        step()
        taken.append(time.perf_counter() - started)
    return taken


def is_known(engine: str, container: str) -> bool:
    """Whether the engine has the container."""
    return subprocess.run([engine, "container", "inspect", container], capture_output=True).returncode == 0


def wait_for_end_of(*opened: Opened) -> None:
    """Wait until nothing of them is left."""
    for one in opened:
        while one.is_left():
            time.sleep(0.02)


def table_of(ours: Sequence[Round], bash: Sequence[Round], theirs: Sequence[Round]) -> Table:
    """The figures as a table for people."""
    beside = ["mini-swe-agent", "ratio"] if theirs else []
    table = Table("", "swe_eval \\[lowest, highest]", "bash alone", *beside, box=SIMPLE)
    for label, field, scale, digits in (
        ("step, ms", "step", 1000, 1),
        (f"  of {AT_ONCE} at once", "step_of_many", 1000, 1),
        ("start, s", "start", 1, 2),
        ("stop, s", "stop", 1, 2),
    ):
        us, them = ([scale * seconds for seconds in column(rounds, field)] for rounds in (ours, theirs))
        alone = f"{scale * median(column(bash, field)):.{digits}f}" if field.startswith("step") else ""
        cells = [spread(them, digits), f"{ratio(us, them):.2f}"] if theirs else []
        table.add_row(label, spread(us, digits), alone, *cells)
    return table


def figures_of(ours: Sequence[Round], bash: Sequence[Round], theirs: Sequence[Round]) -> dict[str, float]:
    """The figures as one object for programs; what they mean is at the top."""
    figures = {
        "step_ms": 1000 * median(column(ours, "step")),
        "step_ms_8": 1000 * median(column(ours, "step_of_many")),
        "bash_ms": 1000 * median(column(bash, "step")),
        "bash_ms_8": 1000 * median(column(bash, "step_of_many")),
        "start_s": median(column(ours, "start")),
        "stop_s": median(column(ours, "stop")),
    }
    if theirs:
        figures["step_ratio_of_mini"] = ratio(column(ours, "step"), column(theirs, "step"))
        figures["step_ratio_of_mini_8"] = ratio(column(ours, "step_of_many"), column(theirs, "step_of_many"))
    return figures


def column(rounds: Sequence[Round], field: str) -> list[float]:
    """One figure of each round."""
    return [getattr(one, field) for one in rounds]


def configured(sandbox: str, base: str | None, source: str | None) -> Settings:
    """Settings for the demo, with images built on ``base`` or taken from ``source``."""
    overrides = [f"sandbox={sandbox}", "agent=toolcall"]
    overrides += [f"+sandbox.build_args.BASE={base}"] if base else []
    overrides += [f"sandbox.source={source}"] if source else []
    return settings_of(*overrides)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.sandboxes")
    parser.add_argument("--sandbox", choices=["docker", "podman", "bubblewrap", "apptainer"], default="docker")
    parser.add_argument("--source", help="bubblewrap, apptainer: where the demo's images are: docker-daemon:")
    parser.add_argument("--base", help="image to build the demo's on, where there is no network")
    parser.add_argument("--quick", action="store_true", help="once, few steps: whether it runs, not how fast")
    given = parser.parse_args()
    settings = configured(given.sandbox, given.base, given.source)
    instance = load(settings.benchmark).instances[0]
    before = machine()
    rounds, steps = (1, 3) if given.quick else (5, 20)
    with sandboxes(settings, "bench") as backend:
        with backend.start(instance, "rollout"):
            pass  # the image is there now
        ways: list[Open] = [partial(by_swe_eval, backend, instance, settings), by_bash]
        ways += [partial(by_mini, instance, settings)] if given.sandbox == "docker" else []
        ours, bash, *rest = zip(*([measure(way, steps) for way in ways] for _ in range(rounds)), strict=True)
    theirs = rest[0] if rest else ()
    print_result(figures_of(ours, bash, theirs), table_of(ours, bash, theirs), before)


if __name__ == "__main__":
    main()
