"""Groups of tests that need a service are skipped, in a line, where it is not there; CI requires every group."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from swe_eval.command import settings_of
from swe_eval.errors import UserError
from swe_eval.sandbox.sandbox import connect
from swe_eval.serving.vllm_env import find_python
from swe_eval.settings import Settings

pytest_plugins = ["browser_fixtures", "registry_fixtures", "sandbox_fixtures", "serving_fixtures", "vllm_fixtures"]

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may depend on a network
# a test that takes long once, and not again, is one that this machine kept waiting
hypothesis_settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("patient")
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a script, and by what we start

BASE_IMAGE = os.environ.get("SWE_EVAL_TEST_IMAGE", "swe-eval-test:latest")
"""Has git, python3 and pytest; the demo's images are built on it."""
DEMO_IMAGES = os.environ.get("SWE_EVAL_TEST_IMAGES", "docker-daemon:")
"""Where skopeo finds the demo's images by their names; ``docker-archive:FILE:`` where Docker is another user's."""

CHROMIUM = os.environ.get("SWE_EVAL_TEST_CHROMIUM") or which("chromium")


LEFT_OUT: list[str] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    required = os.environ.get("SWE_EVAL_REQUIRE", "").split()
    for group, why_not in GROUPS.items():
        members = [item for item in items if item.get_closest_marker(group)]
        if not members or not (reason := why_not()):
            continue
        if group in required:
            pytest.exit(f"SWE_EVAL_REQUIRE={group}: {reason}", returncode=1)
        config.hook.pytest_deselected(items=members)
        items[:] = [item for item in items if not item.get_closest_marker(group)]
        LEFT_OUT.append(f"left out: the {len(members)} tests of the group {group}: {reason}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in LEFT_OUT:
        terminalreporter.write_line(line, yellow=True)


@cache
def _why_no_docker() -> str:
    try:
        found = subprocess.run(["docker", "image", "inspect", BASE_IMAGE], capture_output=True, timeout=60)
    except OSError:
        return "no docker command"
    return "" if found.returncode == 0 else f"no Docker engine, or no image {BASE_IMAGE} in it (SWE_EVAL_TEST_IMAGE)"


@cache
def _why_no_slurm() -> str:
    try:
        found = subprocess.run(["sinfo"], capture_output=True, timeout=60)
    except OSError:
        return "no SLURM commands"
    return "" if found.returncode == 0 else "no SLURM controller answers (.ci/slurm start)"


@cache
def _why_no_browser() -> str:
    if not CHROMIUM:
        return "no chromium command (SWE_EVAL_TEST_CHROMIUM)"
    missing = [name for name in ("playwright", "axe_playwright_python") if not find_spec(name)]
    return f"this Python has no {missing[0]}" if missing else ""


@cache
def _why_no_vllm() -> str:
    try:
        find_python(settings_of("serving=vllm").serving)  # type: ignore[arg-type]
    except UserError as error:
        return str(error)
    return ""


@cache
def _why_no_podman() -> str:
    if why_not := _why_not("sandbox=podman"):
        return why_not
    found = subprocess.run(["podman", "image", "exists", BASE_IMAGE], capture_output=True)
    return "" if found.returncode == 0 else f"no image {BASE_IMAGE} in Podman (SWE_EVAL_TEST_IMAGE)"


@cache
def _why_no_bubblewrap() -> str:
    return _why_not("sandbox=bubblewrap")


def _why_not(*overrides: str) -> str:
    """The lines that a user would see, too."""
    if os.geteuid() == 0:
        return "it is for users who are not root"
    try:
        connect(settings_of(*overrides).sandbox, "tests")
    except UserError as error:
        return str(error)
    return ""


@cache
def _why_no_apptainer() -> str:
    return _why_not("sandbox=apptainer")


GROUPS = {
    "apptainer": _why_no_apptainer,
    "browser": _why_no_browser,
    "bubblewrap": _why_no_bubblewrap,
    "docker": _why_no_docker,
    "podman": _why_no_podman,
    "slurm": _why_no_slurm,
    "vllm": _why_no_vllm,
}
"""Why the tests of a group cannot be run, if so."""


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Settings]:
    """``settings("agent.max_turns=3")``: what the command line composes, in a run directory of the test's own."""

    def composed(*overrides: str) -> Settings:
        return settings_of(f"output_dir={tmp_path / 'run'}", *overrides)

    return composed
