"""What produced a run: versions, commit, hardware."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from typing import Any

from swe_eval import __version__
from swe_eval.cluster import slurm
from swe_eval.settings import PACKAGE

PACKAGES = "mini-swe-agent litellm swebench datasets hydra-core omegaconf pydantic torch transformers peft bitsandbytes"


def provenance() -> dict[str, Any]:
    """JSON-ready; what is not installed or not known is null."""
    return {
        "swe_eval": __version__,
        "commit": _commit(),
        "command": [re.sub(r"(api_key=).+", r"\1...", argument) for argument in sys.argv],
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES.split()},
        "platform": platform.platform(),
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "gpus": _gpus(),
        "slurm_job": slurm.this_job(),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Of the checkout that this package is run from, ``-dirty`` if it has changes."""
    return _first_line("git", "-C", str(PACKAGE), "describe", "--always", "--dirty", "--abbrev=40")


def _gpus() -> list[str]:
    listed = _first_line("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader", whole=True)
    return listed.splitlines() if listed else []


def _first_line(*command: str, whole: bool = False) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    text = done.stdout.strip()
    return (text if whole else text.partition("\n")[0]) if done.returncode == 0 and text else None
