"""The command line as a person meets it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from swe_eval.benchmark.demo.model import tiny_model
from swe_eval.command import exit_code
from swe_eval.help import describe_fields
from swe_eval.settings import PACKAGE


def swe_eval(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("agent.max_turn=3", "swe_eval: agent.max_turn: no such field; did you mean agent.max_turns?"),
        ("seed=1,2 -m agent.max_turn=3", "swe_eval: agent.max_turn: no such field; did you mean agent.max_turns?"),
        ("modle=tiny", "swe_eval: modle: no such field; did you mean model?"),
        ("model=gigachatt", "swe_eval: model=gigachatt: no such option; write one of gigachat, gigachat_fp8, hf,"),
        ("agent.max_turns=abc", "swe_eval: agent.max_turns: input should be a valid integer"),
        ("model=hf", "swe_eval: model.base_model: needs a value: write model.base_model=..."),
        ("lora=trained lora.path=/nowhere", "swe_eval: lora: trained: no adapter_config.json in /nowhere;"),
        ("benchmark.instance_ids=[demo__none-1]", "swe_eval: benchmark.instance_ids: not in"),
        ("sandbox.build_args={A:b} sandbox=docker", "swe_eval: sandbox.build_args: entries are added with a plus"),
        (
            "sandbox.build_args.BASE=x sandbox=docker",
            "swe_eval: sandbox.build_args.BASE: entries are added with a plus: write +sandbox.build_args.BASE=...",
        ),
        ("lora.baseline=/x", "swe_eval: lora.baseline: is a field of lora=ab; write lora=ab, too"),
        ("sandbox.docker.memory=1g", "swe_eval: sandbox.docker.memory: is a field of sandbox=auto; write sandbox=auto"),
        (
            "sandbox.memory=1g",
            "swe_eval: sandbox.memory: is a field of sandbox=apptainer, sandbox=bubblewrap, sandbox=docker or "
            "sandbox=podman; write one of them, too",
        ),
        ("--memory 1g", "swe_eval: --memory: no such option; did you mean sandbox.memory=...?"),
        ("experiment.name=x", "swe_eval: experiment.name: no such field; "),
        (
            "agent.max_turns=[",
            "swe_eval: agent.max_turns: [ cannot be read without quotes; write 'agent.max_turns=\"[\"'",
        ),
        ("name=модель", "swe_eval: name: модель cannot be read without quotes; write 'name=\"модель\"'"),
        ("tiny", "swe_eval: tiny: no value; write FIELD=VALUE"),
        (
            "stages=rollout,grade",
            "swe_eval: stages: several values: write stages=[rollout,grade] for a list, -m before",
        ),
        ("lora=null", "swe_eval: lora=null: no such option; write one of ab, adapter, baseline,"),
        ("model=[tiny,hf]", "swe_eval: model=[tiny,hf]: no such option; write one of gigachat, gigachat_fp8, hf,"),
        ("lora=", "swe_eval: lora=: no such option; write one of ab, adapter, baseline,"),
        ("--base-model x", "swe_eval: --base-model: no such option; did you mean model.base_model=...?"),
        ("--lora.path=/x", "swe_eval: --lora.path=/x: no such option; did you mean lora.path=...?"),
        ("benchmark=local sandbox=docker", "swe_eval: benchmark.dataset: needs a value: write benchmark.dataset=..."),
        ("--quick", "swe_eval: --quick: no such option; fields are written FIELD=VALUE, --help lists them"),
        (
            "model.base_model=/nowhere lora=none",
            "swe_eval: model.base_model=/nowhere: no such directory; write a hub id",
        ),
        ("agent=toolcall", "swe_eval: chat template: it leaves out tool calls; write agent=textbased"),
        ("model.revision=main", f"swe_eval: model.revision=main: {tiny_model()} is no model of the hub; write null"),
        ("serving.host=192.0.2.1", "swe_eval: serving.host=192.0.2.1: Cannot assign requested address"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_leaves_nothing(arguments, line, tmp_path):
    done = swe_eval("swe_eval", *arguments.split(), cwd=tmp_path)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith(line)
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_that_ours_would_hide_is_refused(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tiny.yaml").write_text("name: mine")
    done = swe_eval("swe_eval", f"--config-dir={tmp_path}", "--cfg", "job", cwd=tmp_path)
    said = f"swe_eval: --config-dir={tmp_path}: model/tiny.yaml: swe_eval's own is read first; rename yours\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("swe_eval.report", "swe_eval: the following arguments are required: RUN; python -m swe_eval.report --help"),
        ("swe_eval.images foo", "swe_eval: argument action: invalid choice: 'foo'"),
        ("swe_eval.merging merge", "swe_eval: the following arguments are required: --base, --adapter; python -m"),
        ("swe_eval.grade --predictions", "swe_eval: argument --predictions: expected one argument; python -m"),
        ("swe_eval.grade --prediction p.jsonl", "swe_eval: --prediction: no such option; did you mean --predictions?"),
        ("swe_eval.watch --evry=3", "swe_eval: --evry=3: no such option; did you mean --every?"),
        ("swe_eval.watch --every x", "swe_eval: argument --every: invalid float value: 'x'; python -m swe_eval.watch"),
        ("swe_eval.serve --port 8080", "swe_eval: --port: no such option; did you mean serving.port=...?"),
    ],
)
def test_options_that_a_front_door_does_not_have_are_one_line(arguments, line, tmp_path):
    done = swe_eval(*arguments.split(), cwd=tmp_path)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith(line)


@pytest.mark.parametrize("days", ["-1", "nan"])
@pytest.mark.parametrize("door", ["swe_eval.images prune", "swe_eval.merging clean"])
def test_what_was_unused_for_days_that_are_none_is_not_removed(door, days, tmp_path):
    done = swe_eval(*door.split(), "--days", days, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"swe_eval: --days {days}: write a number of days, 0 or more\n"


@pytest.mark.parametrize("door", ["swe_eval", "swe_eval.serve", "swe_eval.grade", "swe_eval.doctor"])
def test_help_tells_the_commands_and_every_field_with_its_meaning(door, tmp_path):
    done = swe_eval(door, "sandbox=auto", "agent.max_turns=7", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "python -m swe_eval.serve" in done.stdout
    assert re.search(r"  agent\.max_turns=7 +Model calls per trial", done.stdout)
    assert re.search(r"  sandbox\.docker\.network=none +Network of the agent's container", done.stdout)
    assert "  name=${benchmark.name}-${model.name}-" in done.stdout


def test_help_has_the_fields_of_the_option_that_is_chosen_line_by_line():
    tree = {"tracking": {"kind": "wandb", "project": "p" * 40, "entity": None, "mode": "offline"}, "seed": 3}
    assert describe_fields(tree, width=80).splitlines() == [
        "  seed=3                                    Seeds the sampling of every trial.",
        "",
        "tracking=wandb: the report's figures go to Weights & Biases when a run ends.",
        "  tracking.project=pppppppppppppppppppppppppppppppppppppppp",
        "                                            Project that the run belongs to.",
        "  tracking.entity=null                      User or team; null is the owner of",
        "                                            the key.",
        "  tracking.mode=offline                     offline keeps the figures in the run",
        "                                            directory, for a later wandb sync.",
    ]


def test_what_may_not_be_read_is_one_line_and_bad_input(capsys):
    def call() -> None:
        raise PermissionError(13, "Permission denied", "/x")  # root may read anything

    assert exit_code(call) == 2
    said = "swe_eval: [Errno 13] Permission denied: '/x'; put it right, and the same command continues\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("arguments", [["--help"], ["lora=none", "--cfg", "job"]])
def test_a_reader_that_has_read_enough_is_no_error(arguments, tmp_path):
    command = [sys.executable, "-m", "swe_eval", *arguments]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""


def test_the_configuration_is_printed_with_its_checkpoints_found(tmp_path):
    (tmp_path / "grpo").mkdir()
    (tmp_path / "grpo" / "checkpoint-5").symlink_to(PACKAGE / "benchmark" / "demo" / "adapter")
    done = swe_eval("swe_eval", "lora=checkpoints", "lora.run=grpo", "--cfg", "job", "--resolve", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert yaml.safe_load(done.stdout)["lora"]["adapters"] == [
        {"name": "base", "path": None},
        {"name": "grpo-5", "path": "grpo/checkpoint-5"},
    ]


@pytest.mark.parametrize("door", ["", ".doctor", ".grade", ".images", ".report", ".serve", ".watch"])
def test_ctrl_c_while_a_front_door_is_being_imported_is_one_line(door, tmp_path):
    (tmp_path / "hydra.py").write_text("import signal; signal.raise_signal(signal.SIGINT)")
    done = swe_eval(f"swe_eval{door}", cwd=tmp_path)
    said = "swe_eval: interrupted: the same command continues\n"
    assert (done.returncode, done.stdout, done.stderr) == (130, "", said)


def test_where_the_locale_has_ascii_alone_files_are_utf8_and_the_output_has_question_marks(tmp_path, monkeypatch):
    for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0"}.items():
        monkeypatch.setenv(name, value)
    asked = ["--predictions", "gold", "benchmark.instance_ids=[demo__calc-1]", 'name="мой"']
    done = swe_eval("swe_eval.grade", *asked, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"The run is in {tmp_path}/outputs/???\n" in done.stdout
    assert "мой" in (tmp_path / "outputs" / "мой" / "report.html").read_text("utf-8")


def test_a_grading_tells_the_command_that_grades_the_same_again(tmp_path):
    done = swe_eval("swe_eval.grade", "--predictions", "gold", "benchmark.instance_ids=[demo__calc-1]", cwd=tmp_path)
    [page] = tmp_path.glob("outputs/*/report.html")
    assert "python -m swe_eval.grade --predictions gold &#39;benchmark" in page.read_text(), done.stderr


@pytest.mark.parametrize("arguments", ["--cfg job", "lora=trained lora.path=/nowhere"])
def test_what_is_answered_at_once_imports_nothing_heavy(arguments, tmp_path):
    heavy = "torch litellm datasets transformers swebench minisweagent scipy"
    code = f"""
import sys
sys.argv = ["swe_eval", *{arguments.split()!r}]
import swe_eval.doctor
from swe_eval.__main__ import main
try: main()
except SystemExit: print([name for name in {heavy.split()!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_a_sweep_gives_every_job_its_own_run_directory(tmp_path):
    """Each job fails here, for want of an adapter, after its configuration was composed and checked."""
    done = swe_eval("swe_eval", "-m", "lora=trained", "lora.path=/a,/b", cwd=tmp_path)
    assert done.returncode == 2
    assert [line.split("in ")[-1][:2] for line in done.stderr.splitlines() if "adapter_config" in line] == ["/a", "/b"]


def test_the_log_of_a_server_that_dies_at_once_is_there_to_be_read(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = swe_eval("swe_eval.serve", "lora=none", "serving=vllm", "serving.command=ls", cwd=tmp_path)
    [log] = tmp_path.glob("swe_eval-serve-*/server.log")
    first, *_ = done.stderr.splitlines()
    assert (done.returncode, first) == (1, f"swe_eval: the model server ended with exit code 2; {log} ends with")
    assert log.read_text().startswith("$ ls ")


def test_each_job_of_a_sweep_says_what_it_is(tmp_path):
    done = swe_eval("swe_eval", "-m", "stages=[grade]", "lora=none,demo", "seed=3", cwd=tmp_path)
    assert done.stdout.splitlines() == ["job 1 of the sweep: lora=none", "job 2 of the sweep: lora=demo"]
