"""The demo's instances, and sandboxes of every backend. ``pytest_plugins`` in conftest.py has these."""

from __future__ import annotations

import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from conftest import BASE_IMAGE, DEMO_IMAGES

from swe_eval.benchmark.instances import Instance, load
from swe_eval.command import settings_of
from swe_eval.errors import SandboxError
from swe_eval.sandbox.docker import LABEL
from swe_eval.sandbox.local import LocalSandbox
from swe_eval.sandbox.sandbox import Sandbox, Sandboxes, sandboxes
from swe_eval.settings import PACKAGE, Settings

DEMO_IDS = sorted(task.name for task in (PACKAGE / "benchmark/demo/tasks").iterdir())
BASE = f"+sandbox.build_args.BASE={BASE_IMAGE}"
OVERRIDES = {
    "local": ["sandbox=local"],
    "docker": ["sandbox=docker", BASE],
    "podman": ["sandbox=podman", BASE],
    "apptainer": ["sandbox=apptainer", f"sandbox.source={DEMO_IMAGES}"],
    "bubblewrap": ["sandbox=bubblewrap", f"sandbox.source={DEMO_IMAGES}"],
}
ENGINES = [pytest.param(kind, marks=pytest.mark.__getattr__(kind)) for kind in ("docker", "podman")]
STORES = [pytest.param(kind, marks=getattr(pytest.mark, kind)) for kind in ("bubblewrap", "apptainer")]
CONTAINERS = [*ENGINES, *STORES]
BACKENDS = ["local", *CONTAINERS]


@pytest.fixture(scope="session")
def demo() -> dict[str, Instance]:
    """The bundled tasks by instance_id."""
    settings = settings_of("benchmark=demo")
    return {instance.instance_id: instance for instance in load(settings.benchmark).instances}


@pytest.fixture
def calc(demo: dict[str, Instance]) -> Instance:
    """One of them."""
    return demo["demo__calc-1"]


@pytest.fixture(params=BACKENDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The backend's name in ``sandbox=...``."""
    return str(request.param)


@pytest.fixture
def run_id() -> str:
    """No other test's, and no other process's."""
    return uuid.uuid4().hex[:12]


@pytest.fixture
def backend(kind: str, settings: Callable[..., Settings], run_id: str) -> Iterator[Sandboxes]:
    """Each backend in turn, as a run uses it."""
    with sandboxes(settings(*OVERRIDES[kind]), run_id) as backend:
        yield backend


@pytest.fixture
def sandbox(backend: Sandboxes, calc: Instance) -> Iterator[Sandbox]:
    """A fresh sandbox for an agent."""
    with backend.start(calc, "rollout") as sandbox:
        yield sandbox


@pytest.fixture
def nap() -> str:
    """A ``sleep`` that no other process on this machine is doing."""
    return f"sleep 300.{uuid.uuid4().int % 10**12:012}"


def hold(settings: Settings, run_id: str, instance: Instance, is_ready: Event) -> None:
    """A run with a sandbox, until it is killed; here, because a process of its own imports what is beside it."""
    with sandboxes(settings, run_id) as backend, backend.start(instance, "rollout"):
        is_ready.set()
        time.sleep(300)


def start_on(scratch: Path, command: str, fill: int) -> None:
    """The command in a sandbox there, where ``fill`` bytes are written already: prints the error and what is left."""
    settings = settings_of(*OVERRIDES["bubblewrap"], f"sandbox.scratch={scratch}")
    with suppress(OSError):
        (scratch / "fill").write_bytes(bytes(fill))
    try:
        with sandboxes(settings, "small") as backend:
            with backend.start(load(settings.benchmark).instances[0], "rollout") as sandbox:
                sandbox.run(command, timeout=60)
    except SandboxError as error:
        print(error)
    print([path.name for path in scratch.iterdir()])


def is_running(sandbox: Sandbox, command: str) -> bool:
    """Whether a process with this command line is there; one that was killed may still be for a moment."""
    lines = "for process in /proc/[0-9]*; do tr '\\0' ' ' < $process/cmdline; echo; done 2> /dev/null"
    look = f"{lines} | grep --line-regexp --quiet '{command} '"
    if isinstance(sandbox, LocalSandbox):  # from outside: its commands see no process but their own
        return subprocess.run(["bash", "-c", look]).returncode == 0
    return sandbox.run(look, timeout=60).returncode == 0


def what_is_left(kind: str, run_id: str) -> list[str]:
    """Directories or containers of that run."""
    if kind in ("local", "bubblewrap", "apptainer"):
        return [path.name for path in Path(tempfile.gettempdir()).glob(f"swe_eval-{run_id}-*")]
    command = [kind, "ps", "--all", "--quiet", "--filter", f"label={LABEL}={run_id}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
