"""The bundled demo: sound tasks, a model that loads, an adapter that fits both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from swebench.harness.grading import get_eval_report
from swebench.harness.utils import make_test_spec
from swebench.task.checks import check_task_repo
from swebench.task.repo import load_task_repo
from transformers import AutoModelForCausalLM

from swe_eval.benchmark import demo
from swe_eval.benchmark.demo.model import tiny_model

DEMO = Path(demo.__file__).parent
Task = dict[str, Any]
each_task = pytest.mark.parametrize("task", load_task_repo(DEMO), ids=lambda task: task["instance_id"])


def test_the_task_repo_passes_swebenchs_own_check() -> None:
    assert check_task_repo(DEMO) == []


@each_task
def test_the_setup_makes_the_commit_that_the_task_names(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the user's own git is set to."""
    (tmp_path / ".gitconfig").write_text("[core]\nautocrlf = true\n[commit]\ngpgsign = true\n[user]\nname = Someone\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_COMMITTER_EMAIL", "someone@example.org")
    repository = _set_up(task, tmp_path)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, capture_output=True, text=True, check=True)
    assert head.stdout.strip() == task["base_commit"]


@each_task
def test_without_a_patch_the_fail_to_pass_tests_fail(task: Task, tmp_path: Path) -> None:
    """With the gold patch every test passes: see ``test_grading.py``."""
    assert _passing(task, tmp_path) == set(task["PASS_TO_PASS"])


def test_the_tiny_model_loads_with_nothing_missing_and_nothing_left_over() -> None:
    _, loading = AutoModelForCausalLM.from_pretrained(tiny_model(), output_loading_info=True)
    assert not any(loading.values()), loading


def test_the_tiny_model_is_made_once_however_many_ask_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWE_EVAL_CACHE", str(tmp_path))
    with ThreadPoolExecutor(4) as pool:
        made = set(pool.map(lambda _: tiny_model(), range(4)))
    assert made == set(tmp_path.iterdir())


def test_the_shipped_adapter_was_trained_on_the_demo_as_it_is_now() -> None:
    from swe_eval.benchmark.demo import train  # late: it brings litellm

    trained = json.loads((train.ADAPTER / "training.json").read_text())
    now = train.fingerprint(train.conversations())
    assert trained == {"fingerprint": now}, "the adapter is stale: run python -m swe_eval.benchmark.demo.train"


def _set_up(task: Task, folder: Path) -> Path:
    subprocess.run(["bash", DEMO / "tasks" / task["instance_id"] / "setup.sh", folder / "testbed"], check=True)
    return folder / "testbed"


def _passing(task: Task, folder: Path) -> set[str]:
    """The tests that pass, as swebench reads the log of eval.sh."""
    repository, log, spec = _set_up(task, folder), folder / "test_output.txt", make_test_spec(task)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = os.environ | {"PATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    argv = ["bash", "-c", spec.eval_script]
    with log.open("w") as output:
        subprocess.run(argv, cwd=repository, env=env, stdout=output, stderr=output, check=True)
    prediction = {"instance_id": task["instance_id"], "model_name_or_path": "test", "model_patch": ""}
    report = get_eval_report(spec, prediction, str(log), include_tests_status=True)[task["instance_id"]]
    return {test for status in report["tests_status"].values() for test in status["success"]}
