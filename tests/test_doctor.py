"""Every precondition of a run, checked with nothing started and nothing written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from adapter_fixtures import Made, modules
from scripted import scripted_endpoint
from test_evaluate import TASKS, external, solve

from swe_eval import doctor
from swe_eval.adapters import WEIGHTS
from swe_eval.benchmark.demo.model import tiny_model
from swe_eval.evaluate import evaluate
from swe_eval.serving.supervised import free_port


@pytest.fixture
def diagnosed(settings, capsys):
    """``diagnosed("lora.path=...")``: the exit code, and the lines that begin with a state."""

    def call(*overrides: str) -> tuple[int, list[str]]:
        code = doctor._doctor(settings(*overrides))
        lines = capsys.readouterr().out.splitlines()
        return code, [" ".join(line.split()) for line in lines if line.startswith(("ok", "warning", "problem"))]

    return call


def test_the_demo_is_well_and_nothing_is_written(diagnosed, tmp_path):
    code, lines = diagnosed()
    assert code == 0
    assert [re.split("[:=]", line)[0] for line in lines if "SLURM" not in line] == [
        "ok model.base_model",
        "ok lora",
        "ok serving",
        "ok disk",
        "ok sandbox",
        "ok benchmark",
        "ok chat template",
        "ok context",
        "ok output_dir",
    ]
    assert not (tmp_path / "run").exists()


def test_the_table_holds_every_adapter_beside_every_backend(settings, tmp_path, capsys):
    sound = Made(modules("self_attn"), r=8, ranks={modules("o_proj")[0]: 2}).write(tmp_path / "a")
    broken = Made(modules("o_proj"), use_dora=True).write(tmp_path / "b")
    arms = f"[{{name: sound, path: {sound}}}, {{name: broken, path: {broken}}}, {{name: none, path: {tmp_path}}}]"
    assert doctor._doctor(settings("lora=list", f"lora.adapters={arms}")) == 2
    rows = {cells[0]: cells for line in capsys.readouterr().out.splitlines() if (cells := line.split())}
    assert rows["adapter"] == ["adapter", "rank", "targets", "MiB", "base", "transformers", "vllm"]
    assert [rows["sound"][1], *rows["sound"][-5:]] == ["2-8", "fits", "ok", "must", "be", "merged"]
    assert rows["broken"] == ["broken", "4", "o_proj", "0.0", "fits", "refused", "refused"]
    assert rows["none"] == ["none", "?", "?", "0.0", "unchecked", "refused", "refused"]


def test_an_adapter_that_would_stop_the_run_is_a_problem(diagnosed, tmp_path):
    folder = Made(modules("shared_experts")).write(tmp_path / "a")
    code, lines = diagnosed("lora=trained", f"lora.path={folder}", "lora.apply=runtime")
    assert code == 2
    assert any(line.startswith("problem lora: trained: serving=transformers: must be merged: PEFT") for line in lines)
    assert not any("output_dir" in line for line in lines)


def test_a_warning_stops_nothing(diagnosed, tmp_path):
    folder = Made(modules("o_proj"), base_model_name_or_path="org/other").write(tmp_path / "a")
    code, lines = diagnosed("lora=trained", f"lora.path={folder}")
    assert code == 0
    assert any(line.startswith("warning lora: trained: ") and "trained on org/other" in line for line in lines)


@pytest.mark.parametrize(
    ("lacking", "line"),
    [
        ("tokenizer.json", "no tokenizer in it; copy the whole model"),
        ("config.json", "config.json cannot be read"),
        ("model.safetensors", "holds no safetensors: adapters cannot be compared with it"),
    ],
)
def test_a_base_model_that_lacks_a_file_is_told(lacking, line, diagnosed, tmp_path):
    base = tmp_path / "model"
    base.mkdir()
    for file in tiny_model().iterdir():
        if file.name != lacking:
            (base / file.name).symlink_to(file)
    _, lines = diagnosed("lora=none", f"model.base_model={base}")
    assert line in lines[0]


def test_a_model_that_is_nowhere_is_a_problem(diagnosed):
    code, lines = diagnosed("model.base_model=/nowhere")
    assert code == 2
    assert lines[0].startswith("problem model.base_model=/nowhere: no such directory")


def test_packages_that_are_not_installed_are_named(diagnosed, monkeypatch):
    monkeypatch.setitem(doctor.PACKAGES, "transformers", ("numpy", "no_such_package"))
    code, lines = diagnosed("lora=none")
    assert code == 2
    assert "problem serving=transformers: not installed: no_such_package; write pip install 'swe_eval[serve]'" in lines


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["serving.host=192.0.2.1"], "problem serving.host=192.0.2.1: Cannot assign requested address"),
        (
            ["serving=external", "serving.base_url=http://host/v1", "serving.api_key_env=NO_SUCH_KEY"],
            "problem serving.api_key_env: the environment variable NO_SUCH_KEY is not set; export it, or write null",
        ),
    ],
)
def test_a_server_that_a_run_would_not_start_or_reach_is_told(overrides, line, diagnosed):
    code, lines = diagnosed("lora=none", *overrides)
    assert code == 2
    assert any(each.startswith(line) for each in lines)


def test_an_external_endpoint_that_does_not_answer_is_a_problem(diagnosed):
    where = f"http://127.0.0.1:{free_port('127.0.0.1')}/v1"
    code, lines = diagnosed("lora=none", "serving=external", f"serving.base_url={where}")
    said = f"problem nothing answers at {where} ([Errno 111] Connection refused): check serving.base_url"
    assert (code, [line for line in lines if line.startswith("problem")]) == (2, [said])


def test_an_external_endpoint_that_refuses_the_key_is_a_problem(diagnosed):
    with scripted_endpoint(solve, key="secret") as endpoint:
        code, lines = diagnosed("lora=none", "serving=external", f"serving.base_url={endpoint.base_url}")
    said = (
        f"problem {endpoint.base_url}: HTTP 401: wrong key; "
        "serving.api_key_env must name the variable that holds this endpoint's key"
    )
    assert (code, [line for line in lines if line.startswith("problem")]) == (2, [said])


@pytest.mark.parametrize(
    ("listed", "line"),
    [
        (["base"], "ok serving=external: {} lists every model that is asked for"),
        (["org/a"], "warning serving=external: base at {}: it lists org/a: map the adapter to one of them in"),
        ([], "warning serving=external: base at {}: it lists no models: check serving.base_url, which usually ends in"),
    ],
)
def test_an_external_endpoint_is_asked_for_its_models(listed, line, diagnosed):
    with scripted_endpoint(solve, models=listed) as endpoint:
        code, lines = diagnosed("lora=none", "serving=external", f"serving.base_url={endpoint.base_url}/")
    assert code == 0
    assert any(each.startswith(line.format(endpoint.base_url)) for each in lines)


def test_where_nothing_is_rolled_out_no_server_is_looked_for(diagnosed):
    chosen = ["lora=none", "stages=[grade]", "serving=external", "serving.base_url=http://127.0.0.1:9/v1"]
    code, lines = diagnosed(*chosen)
    assert (code, [line for line in lines if "127.0.0.1" in line]) == (0, [])


def test_an_engine_that_does_not_answer_and_a_dataset_that_is_not_there_are_told_together(diagnosed):
    code, lines = diagnosed(
        "lora=none", "sandbox=docker", "sandbox.executable=no-such-docker", "benchmark.dataset=/no/rows.jsonl"
    )
    assert code == 2
    assert [line.partition("=")[0] for line in lines if line.startswith("problem")] == [
        "problem sandbox.executable",
        "problem benchmark.dataset",
    ]


def test_it_tells_which_run_would_be_continued(settings, diagnosed, tmp_path):
    with scripted_endpoint(solve) as endpoint:
        command = external(endpoint, "good", tasks=TASKS[:1])
        evaluate(settings(*command))
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
        code, lines = diagnosed(*command)
    assert (code, lines[-1]) == (
        0,
        f"ok output_dir={tmp_path / 'run'}: continues the run in it (1 rolled out, 1 graded)",
    )
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_a_run_of_another_configuration_is_one_problem_over_several_lines(settings, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"identity": {"seed": 7}}))
    assert doctor._doctor(settings("lora=none")) == 2
    lines = capsys.readouterr().out.splitlines()
    first = f"problem  output_dir={tmp_path / 'run'}: holds a run of another configuration; write name=..."
    assert [line for line in lines if line.startswith("problem")] == [first]
    assert "         seed: 7 there, 0 now" in lines[lines.index(first) :]


def test_a_run_directory_that_cannot_be_made_is_a_problem(diagnosed):
    code, lines = diagnosed("lora=none", f"output_dir={__file__}/run")
    said = f"problem output_dir={__file__}/run: {__file__} cannot be written to; write output_dir=..."
    assert (code, [line for line in lines if line.startswith("problem")]) == (2, [said])


def test_what_an_external_server_does_with_an_adapter_is_not_claimed(diagnosed, tmp_path):
    folder = Made(modules("o_proj")).write(tmp_path / "a")
    elsewhere = ["serving=external", "serving.base_url=http://127.0.0.1:9/v1"]
    _, lines = diagnosed("lora=trained", f"lora.path={folder}", *elsewhere)
    assert "warning lora: trained: whether serving=external applies it exactly is not known here" in lines


def test_a_damaged_adapter_is_told_before_its_hash_is_needed(diagnosed, tmp_path):
    folder = Made(modules("o_proj")).write(tmp_path / "a")
    (Path(folder) / WEIGHTS).write_bytes(b"")
    code, lines = diagnosed("lora=trained", f"lora.path={folder}")
    assert code == 2
    assert "is cut off or damaged" in lines[1]


def test_a_tracker_whose_package_is_missing_is_a_problem(diagnosed, monkeypatch):
    assert "ok tracking=mlflow: it is installed" in diagnosed("tracking=mlflow")[1]
    monkeypatch.setattr("swe_eval.tracking.find_spec", lambda name: None)
    code, lines = diagnosed("tracking=mlflow")
    assert (code, "problem tracking=mlflow: mlflow is not installed; pip install 'swe_eval[track]'" in lines) == (
        2,
        True,
    )
