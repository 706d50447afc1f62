"""A tracker of experiments is told the report's figures; one that fails costs a line, one that is missing a second."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from scripted import scripted_endpoint
from test_evaluate import external, solve

from swe_eval import tracking
from swe_eval.adapters.checkpoints import step_of
from swe_eval.command import settings_of
from swe_eval.errors import UserError
from swe_eval.evaluate import evaluate
from swe_eval.run_dir import RunDir, write_json
from swe_eval.settings import result_settings
from swe_eval.tracking import Figures, figures

FIGURES = {
    **{"bad/resolved": 0.0, "bad/low": 0.0, "bad/high": 0.6576, "bad/n": 2, "bad/infra": 0},
    **{"good/resolved": 1.0, "good/low": 0.3424, "good/high": 1.0, "good/n": 2, "good/infra": 0},
    **{"good-vs-bad/difference": 1.0, "good-vs-bad/low": 0.0701, "good-vs-bad/high": 1.0, "good-vs-bad/p": 0.5},
}
"""Of two tasks that `good` alone resolves: 2 of 2 and 0 of 2 by Wilson, two flips in one direction."""


def mlflow_run(uri: str) -> Any:
    """The one run that it knows."""
    client = mlflow.MlflowClient(tracking_uri=uri)
    [found] = client.search_runs([client.get_experiment_by_name("swe_eval").experiment_id])
    return found


@pytest.fixture
def uri(tmp_path) -> str:
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_mlflow_is_told_the_figures_and_the_settings(settings, uri, capfd):
    with scripted_endpoint(solve) as endpoint:
        assert evaluate(settings(*external(endpoint, "bad", "good"), "tracking=mlflow", f"tracking.uri={uri}")) == 0
    told = mlflow_run(uri)
    assert told.data.metrics == pytest.approx(FIGURES, abs=5e-3)
    assert told.data.params["agent.max_turns"] == "10"
    assert told.info.status == "FINISHED"
    assert capfd.readouterr().err == ""


def test_a_run_that_is_continued_is_told_to_the_same_run(settings, uri):
    with scripted_endpoint(solve) as endpoint:
        for arms in (["bad"], ["bad", "good"]):
            evaluate(settings(*external(endpoint, *arms), "tracking=mlflow", f"tracking.uri={uri}"))
    assert mlflow_run(uri).data.metrics == pytest.approx(FIGURES, abs=5e-3)


def wandb_records(file: Path) -> Iterator[Any]:
    """What an offline run has kept: a LevelDB log (blocks of 32 KiB, records in parts) after seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32_768 - at % 32_768 < 7:  # no header fits: the rest of the block is nothing
            at += 32_768 - at % 32_768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def test_wandb_keeps_the_figures_in_the_run_directory_when_offline(settings, tmp_path, capfd):
    with scripted_endpoint(solve) as endpoint:
        offline = ["tracking=wandb", "tracking.mode=offline"]
        assert evaluate(settings(*external(endpoint, "bad", "good"), *offline)) == 0
    [file] = (tmp_path / "run" / "logs" / "wandb").glob("offline-run-*/run-*.wandb")
    summary, config = {}, {}
    for record in wandb_records(file):
        items = record.summary.update
        summary |= {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
        config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    assert {key: summary[key] for key in FIGURES} == pytest.approx(FIGURES, abs=5e-3)
    assert config["agent.max_turns"] == 10
    assert "wandb" not in "".join(capfd.readouterr()).replace(str(tmp_path), "")


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "nonsense://x"])
def test_a_tracker_that_fails_costs_a_line_at_either_end(settings, capsys, uri):
    with scripted_endpoint(solve) as endpoint:
        assert evaluate(settings(*external(endpoint, "good"), "tracking=mlflow", f"tracking.uri={uri}")) == 0
    begin, end = [line for line in capsys.readouterr().err.splitlines() if line.startswith("swe_eval: ")]
    assert begin.startswith("swe_eval: tracking=mlflow: cannot be told now (")
    assert end.startswith("swe_eval: tracking=mlflow: not told (")


def test_wandb_without_a_key_is_one_line_before_anything_starts(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(UserError, match=r"^tracking=wandb: no key; run wandb login, or write tracking\.mode=offline$"):
        evaluate(settings("tracking=wandb"))
    assert list(tmp_path.iterdir()) == []


def test_wandb_has_a_key_whatever_mode_the_environment_names(monkeypatch):
    """In a process of its own: wandb keeps a key that it has seen."""
    for name, value in {"WANDB_MODE": "offline", "WANDB_API_KEY": "0" * 40}.items():
        monkeypatch.setenv(name, value)
    asked = "from swe_eval import command, tracking; print([tracking.check(command.settings_of('tracking=wandb'))])"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("['']\n", "")


@pytest.mark.parametrize("kind", ["wandb", "mlflow"])
def test_a_package_that_is_missing_is_one_line_before_anything_starts(settings, kind, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"^tracking={kind}: {kind} is not installed; pip install 'swe_eval"):
        evaluate(settings("serving=external", "serving.base_url=http://127.0.0.1:9/v1", f"tracking={kind}"))


def test_the_command_ends_with_2_where_the_package_is_missing(tmp_path):
    """As a user meets it; a finder that knows no mlflow stands for an environment without it."""
    code = "import sys; sys.modules['mlflow'] = None; from swe_eval.__main__ import main; main()"
    argv = [sys.executable, "-c", code, "tracking=mlflow", f"output_dir={tmp_path / 'run'}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.strip()) == (
        2,
        "swe_eval: tracking=mlflow: mlflow is not installed; pip install 'swe_eval[track]'",
    )
    assert not (tmp_path / "run").exists()


def test_who_is_told_is_no_part_of_the_result():
    told, untold = (settings_of(f"tracking={kind}") for kind in ("wandb", "none"))
    assert result_settings(told) == result_settings(untold)


@pytest.mark.parametrize(
    ("path", "step"),
    [
        ("/ckpt/grpo/checkpoint-300", 300),
        ("/ckpt/rl-step-900", 900),
        ("/ckpt/run/global_step_40/actor/lora_adapter", 40),
        ("/ckpt/rl", None),
        ("/ckpt/step-5/a/b/c", None),
    ],
)
def test_the_step_of_a_checkpoint_is_in_the_name_of_its_directory(path, step):
    assert step_of(Path(path)) == step


def test_checkpoints_are_told_under_their_steps(tmp_path):
    run = RunDir(tmp_path)
    write_json(run.run_json, {"identity": {}, "trials": {"late": ["a__a-1"], "early": ["a__a-1"], "base": ["a__a-1"]}})
    rates = {"base": 0.0, "early": 0.25, "late": 0.5}
    told = {name: {"resolved": {"mean": rate, "n": 4, "interval": [0, 1]}} for name, rate in rates.items()}
    write_json(run.comparison, {"adapters": told, "comparisons": []})
    found = figures(run, {"late": 600, "early": 300})
    assert {step: values["resolved"] for step, values in found.by_step.items()} == {300: 0.25, 600: 0.5}
    assert list(found.by_step) == [300, 600]
    assert found.flat["base/resolved"] == 0.0


def test_adapters_of_the_same_step_are_told_as_no_curve(tmp_path):
    """Of two training runs, or a baseline and what was trained of it."""
    run = RunDir(tmp_path)
    write_json(run.run_json, {"identity": {}, "trials": {"a": ["a__a-1"], "b": ["a__a-1"]}})
    told = {name: {"resolved": {"mean": 0.5, "n": 4, "interval": [0, 1]}} for name in ("a", "b")}
    write_json(run.comparison, {"adapters": told, "comparisons": []})
    found = figures(run, {"a": 300, "b": 300})
    assert (found.by_step, found.flat["a/resolved"], found.flat["b/resolved"]) == ({}, 0.5, 0.5)


def test_no_difference_is_told_where_the_report_gives_no_verdict(tmp_path):
    run = RunDir(tmp_path)
    write_json(run.run_json, {"identity": {}, "trials": {}})
    refused = {"a": "a", "b": "b", "n": 9, "is_refused": True, "difference": 0.5, "interval": [0, 1], "p_value": 0.01}
    write_json(run.comparison, {"adapters": {}, "comparisons": [refused]})
    assert figures(run, {}) == Figures({}, {})
