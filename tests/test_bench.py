"""A benchmark ends with its figures, whatever they are."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent


FIGURES = {
    "overhead": {"step_ms", "step_ratio", "trial_s", "grade_s", "help_s", "help_ratio"},
    "admission": {"auto_over_best_fixed"},
    "serving": {"throughput_ratio_16", "reuse_speedup_20_turns", "reuse_speedup_own", "mixed_adapters_ratio"},
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_benchmark_ends_with_one_json_object_of_its_figures(name):
    command = [sys.executable, "-m", f"bench.{name}", "--quick"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures.keys() == FIGURES[name]
    assert all(math.isfinite(figure) and figure > 0 for figure in figures.values()), figures
