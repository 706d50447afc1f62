"""A benchmark ends with its figures, whatever they are."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


def test_overhead_ends_with_one_json_object_of_its_figures():
    command = [sys.executable, "-m", "bench.overhead", "--quick"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures.keys() == {"step_ms", "step_ratio", "trial_s", "grade_s", "help_s", "help_ratio"}
    assert all(math.isfinite(figure) and figure > 0 for figure in figures.values()), figures
