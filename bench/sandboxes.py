"""``python -m bench.sandboxes``: our Docker sandbox beside mini-swe-agent's own Docker environment.

Both start containers of the demo's image and run ``true`` in them, with mini-swe-agent's variables for SWE-bench, by
the call that an agent's turn makes: ``Sandbox.run`` and ``DockerEnvironment.execute``. No model, no agent loop.

- ``step_ms``: the median of one command after the other in one container; ``step_ms_8`` of eight containers at once,
  each with a thread of its own.
- ``step_ratio_of_mini``, ``step_ratio_of_mini_8``: those over mini-swe-agent's.
- ``start_s``: from the call to the first command's answer.
- ``stop_s``: from the call until the engine knows the container no more. mini-swe-agent does not wait for it.

The two are measured in turn, round by round; the table has the median [lowest, highest] round, and a ratio is the
median of the rounds' own.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from swe_eval.benchmark.instances import Instance, load
from swe_eval.command import conf_dir
from swe_eval.mini import mini_config  # before what is mini-swe-agent's
from swe_eval.sandbox.docker import DockerSandboxes
from swe_eval.sandbox.sandbox import sandboxes
from swe_eval.settings import Settings, settings_from

AT_ONCE = 8


@dataclass(frozen=True)
class Opened:
    """A container, and how to run ``true`` in it."""

    container: str
    step: Callable[[], object]


Open = Callable[[], AbstractContextManager[Opened]]


@dataclass(frozen=True)
class Round:
    """Seconds of one round: medians where there are many."""

    start: float
    step: float
    step_of_many: float
    stop: float


@contextmanager
def by_swe_eval(backend: DockerSandboxes, instance: Instance, settings: Settings) -> Iterator[Opened]:
    """As ``rollout.py`` starts one and ``mini.py`` runs commands in it."""
    env = mini_config(settings.agent)["environment"]["env"]
    with backend.start(instance, "rollout") as sandbox:
        yield Opened(sandbox.container, partial(sandbox.run, "true", timeout=60, env=env))


@contextmanager
def by_mini(instance: Instance, settings: Settings) -> Iterator[Opened]:
    """As mini-swe-agent's batch runner starts one."""
    from minisweagent.environments.docker import DockerEnvironment

    logging.getLogger("minisweagent").setLevel(logging.WARNING)
    stock = mini_config(settings.agent)["environment"]
    config = {key: value for key, value in stock.items() if key != "environment_class"}
    environment = DockerEnvironment(image=instance.image, **config)
    assert environment.container_id
    try:
        yield Opened(environment.container_id, partial(environment.execute, {"command": "true"}))
    finally:
        environment.cleanup()


def measure(opened: Open, steps: int) -> Round:
    """One container that takes so many steps, then ``AT_ONCE`` of them at once."""
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
        together = list(pool.map(lambda one: seconds_of(one.step, steps), many))
    wait_for_end_of(*many)
    return Round(start, median(alone), median(second for each in together for second in each), stop)


def seconds_of(step: Callable[[], object], times: int) -> list[float]:
    """How long a step takes, so many times; before them one that is not counted."""
    step()
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        step()
        taken.append(time.perf_counter() - started)
    return taken


def wait_for_end_of(*opened: Opened) -> None:
    """Until the engine knows none of them."""
    for one in opened:
        while subprocess.run(["docker", "container", "inspect", one.container], capture_output=True).returncode == 0:
            time.sleep(0.02)


def table_of(ours: Sequence[Round], theirs: Sequence[Round]) -> Table:
    """For people."""
    table = Table("", "swe_eval \\[lowest, highest]", "mini-swe-agent", "ratio", box=SIMPLE)
    for label, field, scale, digits in (
        ("step, ms", "step", 1000, 1),
        (f"  of {AT_ONCE} at once", "step_of_many", 1000, 1),
        ("start, s", "start", 1, 2),
        ("stop, s", "stop", 1, 2),
    ):
        cells = []
        for rounds in (ours, theirs):
            values = [scale * getattr(one, field) for one in rounds]
            middle, low, high = (f"{pick(values):.{digits}f}" for pick in (median, min, max))
            cells.append(f"{middle} \\[{low}, {high}]")
        table.add_row(label, *cells, f"{ratio(ours, theirs, field):.2f}")
    return table


def figures_of(ours: Sequence[Round], theirs: Sequence[Round]) -> dict[str, float]:
    """For programs."""
    figures = {
        "step_ms": 1000 * median(one.step for one in ours),
        "step_ms_8": 1000 * median(one.step_of_many for one in ours),
        "step_ratio_of_mini": ratio(ours, theirs, "step"),
        "step_ratio_of_mini_8": ratio(ours, theirs, "step_of_many"),
        "start_s": median(one.start for one in ours),
        "stop_s": median(one.stop for one in ours),
    }
    return {name: float(f"{figure:.4g}") for name, figure in figures.items()}


def ratio(ours: Sequence[Round], theirs: Sequence[Round], field: str) -> float:
    """The median of the rounds' own."""
    ratios: list[float] = [getattr(a, field) / getattr(b, field) for a, b in zip(ours, theirs, strict=True)]
    return median(ratios)


def configured(base: str | None) -> Settings:
    """The demo in Docker, its images built on ``base``."""
    overrides = ["sandbox=docker", "agent=toolcall", *([f"+sandbox.build_args.BASE={base}"] if base else [])]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        tree = OmegaConf.to_container(compose("config", overrides), resolve=True)
    return settings_from(tree)  # type: ignore[arg-type]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.sandboxes")
    parser.add_argument("--base", help="image to build the demo's on, where there is no network")
    parser.add_argument("--quick", action="store_true", help="once, few steps: whether it runs, not how fast")
    given = parser.parse_args()
    settings = configured(given.base)
    instance = load(settings.benchmark).instances[0]
    machine = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start"
    rounds, steps = (1, 3) if given.quick else (5, 20)
    with sandboxes(settings, "bench") as backend:
        assert isinstance(backend, DockerSandboxes)
        with backend.start(instance, "rollout"):
            pass  # the image is there now
        both = [partial(by_swe_eval, backend, instance, settings), partial(by_mini, instance, settings)]
        taken = [[measure(opened, steps) for opened in both] for _ in range(rounds)]
    ours, theirs = zip(*taken, strict=True)
    Console().print(table_of(ours, theirs), machine)
    print(json.dumps(figures_of(ours, theirs)))


if __name__ == "__main__":
    main()
