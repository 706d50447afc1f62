"""The whole job as a newcomer meets it: every part real, the model and its adapter too."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import openai
import pytest
from conftest import BASE_IMAGE

from swe_eval.errors import UserError
from swe_eval.grade import _grade

OUTCOMES = ["resolved", "unresolved", "resolved", "resolved", "unresolved", "resolved", "resolved"]


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", *arguments]
    return subprocess.Popen(argv, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def outcomes(run: Path, arm: str) -> list[str]:
    reports = [json.loads(path.read_text()) for path in sorted(run.glob(f"evaluation/{arm}/*/report.json"))]
    return [entry["outcome"] for report in reports for entry in report.values()]


def child_of(pid: int, command: bytes) -> int | None:
    """The process that this one started, with ``command`` in its command line."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = re.search(r"^PPid:\s+(\d+)", (entry / "status").read_text(), re.MULTILINE)
            if parent and int(parent[1]) == pid and command in (entry / "cmdline").read_bytes():
                return int(entry.name)
        except OSError:
            continue  # it ended meanwhile
    return None


def server_of(pid: int) -> int | None:
    """The model server of this run: a child of its guard."""
    guard = child_of(pid, b"guard.py")
    return guard and child_of(guard, b"swe_eval.serving.app")


def wait_for(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """``python -m swe_eval``, killed with SIGKILL while its server loads, and again."""
    folder = tmp_path_factory.mktemp("demo")
    killed = start("swe_eval", cwd=folder)
    server = wait_for(lambda: server_of(killed.pid))
    killed.kill()
    killed.wait()
    wait_for(lambda: not Path(f"/proc/{server}").exists())
    again = start("swe_eval", cwd=folder)
    return again.communicate()[0], again.returncode, folder / "outputs" / "demo-tiny-demo"


def test_the_base_solves_none_and_the_adapter_most(demo):
    out, code, run = demo
    assert code == 0, out
    assert outcomes(run, "base") == ["empty_patch"] * 7
    assert outcomes(run, "demo") == OUTCOMES


def test_the_table_never_shows_a_number_without_its_interval(demo):
    out, _, _ = demo
    assert "base   0/7 = 0.0% [0.0, 35.4]" in out
    assert "demo   5/7 = 71.4% [35.9, 91.8]   2            0             0" in out
    assert re.search(r"base vs demo +0 +0 +5 +2 +\+71.4 \[\+21.2, \+91.8\] +0.0625", out)


def test_how_each_rollout_ended_is_kept(demo):
    _, _, run = demo
    infos = [json.loads(path.read_text())["info"] for path in sorted(run.glob("trajectories/demo/*"))]
    ended = [f"{info['exit_status']} {info['submission_source']}" for info in infos]
    assert ended == ["Submitted submitted"] * 4 + ["LimitsExceeded rescued"] + ["Submitted submitted"] * 2


def test_run_json_says_what_produced_it(demo):
    _, _, run = demo
    record = json.loads((run / "run.json").read_text())
    assert re.fullmatch("[0-9a-f]{64}", record["identity"]["adapters.demo"])
    assert [call["command"][1:] for call in record["invocations"]] == [[], []]
    assert record["totals"]["demo"]["turns"] == 32
    assert record["seconds"].keys() == {path.parent.name for path in run.glob("evaluation/demo/*/report.json")}
    [found] = record["proof"]["distances"]
    assert (found["a"], found["b"]) == ("base", "demo")
    assert found["nats"] > 1 > found["noise"]
    assert record["totals"]["base"]["completion_tokens"] > 0


def test_a_server_that_dies_is_started_again_and_nothing_is_lost(tmp_path):
    """What was in flight is rolled out again from its start; nobody is told but by a line."""
    process = start("swe_eval", "lora.with_base=false", "workers=2", "agent.model_retries=1", cwd=tmp_path)
    run = tmp_path / "outputs" / "demo-tiny-demo"
    wait_for(lambda: list(run.glob("predictions/demo/*.diff")))
    os.kill(server_of(process.pid), signal.SIGKILL)
    out = process.communicate(timeout=600)[0]
    assert process.returncode == 0, out
    assert "the model server ended with exit code -9: something killed it" in out
    assert outcomes(run, "demo") == OUTCOMES
    assert not (run / "logs" / "infra.jsonl").exists()


def test_serve_says_how_to_use_it_and_serves_until_ctrl_c(tmp_path):
    process = start("swe_eval.serve", "serving.api_key=sesame", cwd=tmp_path)
    lines = []
    while not lines or not lines[-1].startswith("Ctrl-C"):
        lines.append(process.stdout.readline().strip())
    told = dict(line.split(maxsplit=2)[::2] for line in lines if line.startswith(("base URL", "API key")))
    client = openai.OpenAI(base_url=told["URL"] if "URL" in told else told["base"], api_key="sesame")
    assert [model.id for model in client.models.list()] == ["base", "demo"]
    curl = next(line for line in lines if line.startswith("curl"))
    answer = subprocess.run(curl, shell=True, capture_output=True, text=True, timeout=60).stdout
    assert json.loads(answer)["model"] == "demo"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.docker
def test_the_demo_in_docker_gives_the_same_verdicts(tmp_path):
    docker = ["sandbox=docker", f"+sandbox.build_args.BASE={BASE_IMAGE}", "sandbox.memory=1g", "lora.with_base=false"]
    process = start("swe_eval", *docker, cwd=tmp_path)
    out = process.communicate()[0]
    assert process.returncode == 0, out
    run = tmp_path / "outputs" / "demo-tiny-demo"
    assert outcomes(run, "demo") == OUTCOMES
    images = json.loads((run / "run.json").read_text())["images"]
    assert len(images) == 7
    assert all(digest.startswith("sha256:") for digest in images.values())


def test_grade_gives_every_gold_patch_its_due(tmp_path):
    process = start("swe_eval.grade", "--predictions", "gold", cwd=tmp_path)
    out = process.communicate()[0]
    assert process.returncode == 0, out
    assert outcomes(tmp_path / "outputs" / "grade-gold", "gold") == ["resolved"] * 7


def test_predictions_are_graded_whatever_their_file_is_called(tmp_path):
    row = {"instance_id": "demo__calc-1", "model_name_or_path": "m", "model_patch": ""}
    (tmp_path / "ответы, $x=[1].jsonl").write_text(json.dumps(row), "utf-8-sig")
    process = start("swe_eval.grade", "--predictions", "ответы, $x=[1].jsonl", cwd=tmp_path)
    out = process.communicate()[0]
    assert process.returncode == 0, out
    assert outcomes(tmp_path / "outputs" / "grade-ответы-x-1-", "m") == ["empty_patch"]


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("p.txt", "", "--predictions p.txt: write a .json or .jsonl file, or gold"),
        (
            "p.jsonl",
            '{"instance_id": "x", "model_name_or_path": "m"}\n{',
            "--predictions p.jsonl, line 2: is no JSON (Exp",
        ),
        ("p.json", "[" * 100_000, "--predictions p.json: is no JSON (maximum recursion depth"),
        ("предсказания [1].jsonl", "", "предсказания [1].jsonl: no predictions in it"),
        ("p.jsonl", '{"instance_id": "x"}', "p.jsonl: row 1 has no model_name_or_path"),
        ("p.jsonl", '{"instance_id": "x", "model_name_or_path": "m"}', "p.jsonl: not in the benchmark: x"),
        (
            "p.jsonl",
            '{"instance_id": "demo__calc-1", "model_name_or_path": "m", "model_patch": "-\\ud83d"}',
            r"p.jsonl: row 1: model_patch has '\ud83d', half a character, at 1; write the whole, or leave it out",
        ),
    ],
)
def test_a_predictions_file_that_cannot_be_graded_is_one_line(name, text, line, settings, tmp_path, monkeypatch):
    (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"^{re.escape(line)}.*$"):
        _grade(settings(), name)
    assert not (tmp_path / "run").exists()
