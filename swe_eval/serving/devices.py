"""The GPUs of this job."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence


def visible_devices() -> list[str]:
    """Their names, as ``CUDA_VISIBLE_DEVICES`` takes them; if it is set (SLURM sets it), those in it alone."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True)
    except OSError:
        return []
    return listed.stdout.decode().split() if listed.returncode == 0 else []


def only(devices: Sequence[str] | None) -> dict[str, str]:
    """Environment that restricts a server to these devices; None does not restrict it."""
    return {} if devices is None else {"CUDA_VISIBLE_DEVICES": ",".join(devices)}
