"""A benchmark ends with its figures, whatever they are."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import BASE_IMAGE
from transformers import AutoModelForCausalLM, DeepseekV3Config

from bench.pipeline import critical_path
from bench.true_size import DIMENSIONS, LAYERS, config_of, parameters

CHECKOUT = Path(__file__).resolve().parent.parent

RATES = ("base_1", "base_16", "adapter_1", "adapter_16", "mixed_16")
FIGURES = {
    "overhead": {"step_ms", "step_ratio", "trial_s", "grade_s", "help_s", "help_ratio"},
    "true_size": {f"4bit.{figure}" for figure in ("weights_gb", "host_peak_gb", "load_s", *RATES)},
    "sandboxes": {
        *("step_ms", "step_ms_8", "bash_ms", "bash_ms_8", "step_ratio_of_mini", "step_ratio_of_mini_8"),
        *("start_s", "stop_s"),
    },
    "admission": {"auto_over_best_fixed"},
    "pipeline": {"step_overhead_ratio", "grading_ratio", "job_ratio", "critical_path_ratio", "runner_rss_mb"},
    "statistics": {"coverage_50", "coverage_500", "false_positive_50", "false_positive_500"},
    "sweep_report": {"seconds", "cpu_s", "rss_mb", "from_files_seconds", "from_files_rss_mb", "page_mb"},
    "trajectories": {
        *("write_seconds", "write_rss_mb", "data_mb", "first_list_seconds", "instance_seconds", "list_again_seconds"),
    },
    "page": {"first_paint_ms", "filter_ms", "size_mb"},
    "serving": {"throughput_ratio_16", "reuse_speedup_20_turns", "reuse_speedup_own", "mixed_adapters_ratio"},
}


IN_DOCKER = {"sandboxes": ["--base", BASE_IMAGE], "pipeline": ["--base", BASE_IMAGE]}
"""Options of those that need an engine."""


GROUPS = {**dict.fromkeys(IN_DOCKER, pytest.mark.docker), "page": pytest.mark.browser}


@pytest.mark.parametrize("name", [pytest.param(name, marks=GROUPS.get(name, ())) for name in FIGURES])
def test_a_benchmark_ends_with_one_json_object_of_its_figures(name):
    command = [sys.executable, "-m", f"bench.{name}", "--quick", *IN_DOCKER.get(name, ())]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures.keys() == FIGURES[name]
    assert all(math.isfinite(figure) and figure > 0 for figure in figures.values()), figures


def test_the_model_of_true_size_has_as_many_parameters_as_gigachat3():
    config = DeepseekV3Config(**config_of(LAYERS, DIMENSIONS))
    with torch.device("meta"):
        sizes = {name: weight.numel() for name, weight in AutoModelForCausalLM.from_config(config).named_parameters()}
    experts = sum(size for name, size in sizes.items() if ".experts." in name)
    assert (round(sum(sizes.values()) / 1e9, 1), round(experts / 1e9, 1)) == (10.7, 9.4)
    assert f"{sum(sizes.values()):.6g}" == f"{parameters(config_of(LAYERS, DIMENSIONS)):.6g}"


@pytest.mark.parametrize(
    ("workers", "graders", "least"),
    [
        (3, 3, 5 + 4),  # b is rolled out, then graded
        (1, 3, 2 + 5 + 5 + 3),  # all are rolled out in turn, then at least a is graded
        (3, 1, 2 + 3 + 4 + 4),  # once a is rolled out, all are graded in turn
    ],
)
def test_the_critical_path_is_the_longest_of_three(workers, graders, least):
    rollouts, gradings = {"a": 2, "b": 5, "c": 5}, {"a": 3, "b": 4, "c": 4}
    assert critical_path(rollouts, gradings, workers, graders) == least
