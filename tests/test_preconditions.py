"""What a machine and a model lack is told before anything is started."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from swe_eval.benchmark import instances
from swe_eval.benchmark.demo.model import tiny_model
from swe_eval.cluster.slurm import end_of_this_job
from swe_eval.preconditions import Finding, check_chat, check_machine, check_slurm

CALLS = "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}"
TOOLS = "{% for m in messages %}{{ m.content }}" + CALLS + "{% endfor %}"


@pytest.fixture
def model(tmp_path: Path) -> Callable[[str], Path]:
    """``model(template)``: the tiny model with another chat template."""

    def made(template: str) -> Path:
        folder = Path(shutil.copytree(tiny_model(), tmp_path / "model"))
        (folder / "chat_template.jinja").write_text(template)
        return folder

    return made


@pytest.fixture
def chat(settings, model):
    """``chat(template, overrides...)``: what is found of the chat template."""

    def found(template: str, *overrides: str) -> Finding:
        return next(iter(check_chat(settings(f"model.base_model={model(template)}", *overrides), {})))

    return found


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """``gpu(24)``: nvidia-smi tells of one with so many GiB, ``gpu(24, 2)`` of two."""

    def installed(gib: int, count: int = 1) -> None:
        (tmp_path / "bin").mkdir()
        script = tmp_path / "bin" / "nvidia-smi"
        script.write_text("#!/bin/sh\n" + f"echo {gib * 1024}\n" * count)
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(script.parent), prepend=":")

    return installed


class TestChatTemplate:
    def test_one_that_shows_all_is_well(self, chat):
        assert chat(TOOLS, "agent=toolcall") == Finding(
            "ok", "chat template: tool calls and their results come through"
        )

    def test_one_that_drops_tool_calls_is_a_problem_of_agents_that_make_them(self, chat):
        plain = "{% for m in messages %}{{ m.content }}{% endfor %}"
        lost = "chat template: it leaves out tool calls; write agent=textbased"
        assert chat(plain, "agent=toolcall") == Finding("problem", lost)

    def test_one_that_refuses_system_messages_is_told(self, chat):
        refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        assert "no system role" in chat(refusing).text

    def test_one_that_drops_the_system_message_is_a_problem(self, chat):
        assert chat("{{ messages[-1].content }}").text == "chat template: it leaves out the system message"


class TestContext:
    def found(self, settings, *overrides: str) -> Finding:
        given = settings(*overrides)
        selected = {each.instance_id: each for each in instances.load(given.benchmark).instances}
        return list(check_chat(given, selected))[-1]

    def test_it_is_counted_in_turns_of_the_longest_observations(self, settings):
        found = self.found(settings, "model.max_model_len=6000")
        assert found == Finding("warning", "context: 6000 tokens hold at least 4 of agent.max_turns=10 turns")

    def test_one_without_room_for_a_task_and_an_answer_is_a_problem(self, settings):
        found = self.found(settings, "model.max_model_len=500", "agent.max_tokens=400")
        assert found.state == "problem"
        assert "write a larger model.max_model_len or a smaller agent.max_tokens" in found.text


class TestSlurm:
    def test_where_there_is_none_nothing_is_said(self, monkeypatch):
        monkeypatch.setenv("PATH", "")
        assert list(check_slurm()) == []

    @pytest.mark.parametrize(("hours", "state"), [(5.05, "ok"), (0.55, "warning")])
    def test_a_job_that_ends_soon_is_a_warning(self, hours, state, monkeypatch):
        job = {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0,1", "SLURM_JOB_END_TIME": time.time() + 3600 * hours}
        for name, value in {**job, "PATH": ""}.items():
            monkeypatch.setenv(name, str(value))
        assert list(check_slurm()) == [Finding(state, f"SLURM: job 7, GPUs 0,1, {hours - 0.05:.1f} hours left")]

    def test_however_the_user_wants_to_see_times_the_job_ends_when_it_does(self, tmp_path, monkeypatch):
        """A made-up squeue that heeds SLURM_TIME_FORMAT, as the real one does."""
        squeue = tmp_path / "squeue"
        squeue.write_text('#!/bin/sh\n[ "$SLURM_TIME_FORMAT" = standard ] && echo 2030-01-02T03:04:05 || echo 03:04\n')
        squeue.chmod(0o755)
        for name, value in {"PATH": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_TIME_FORMAT": "relative"}.items():
            monkeypatch.setenv(name, value)
        assert end_of_this_job() == datetime(2030, 1, 2, 3, 4, 5).timestamp()

    @pytest.mark.slurm
    def test_where_jobs_can_be_submitted_it_says_to_which_partitions(self):
        [found] = check_slurm()
        assert found.state == "ok"
        assert found.text.startswith("SLURM: hydra/launcher=slurm can submit to gpu* (infinite), ")


class TestMemory:
    @pytest.fixture
    def weights(self, tmp_path) -> Path:
        """A model of 21.4 GB, by its files' sizes: nothing is written."""
        folder = tmp_path / "big"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({}))
        with (folder / "model.safetensors").open("wb") as file:
            file.truncate(21_400_000_000)
        return folder

    def found(self, settings, weights, *overrides: str) -> str:
        return list(check_machine(settings("lora=none", f"model.base_model={weights}", *overrides)))[-1].text

    def test_weights_that_fit_are_well(self, settings, weights, gpu):
        gpu(40)
        assert self.found(settings, weights, "serving=vllm") == "GPU memory: 21.4 GB of weights in 39 GB"

    def test_weights_that_do_not_are_told_with_a_way_out(self, settings, weights, gpu):
        gpu(16)
        assert "they do not fit; write quantization=fp8, or more GPUs" in self.found(settings, weights, "serving=vllm")
        assert "they do not fit; write quantization=4bit" in self.found(settings, weights)
        assert "6.8 GB of weights in 15 GB" in self.found(settings, weights, "quantization=4bit")

    def test_each_copy_of_the_weights_has_a_part_of_the_gpus(self, settings, weights, gpu):
        gpu(16, 2)
        assert "of weights in 31 GB" in self.found(settings, weights, "serving=vllm")
        copies = self.found(settings, weights, "serving=vllm", "serving.data_parallel_size=2")
        assert "of weights in 15 GB: they do not fit" in copies

    def test_weights_that_lie_there_twice_are_loaded_once(self, settings, weights, gpu):
        """Mistral's repositories have them in a format of their own, too."""
        gpu(40)
        (weights / "consolidated.safetensors").hardlink_to(weights / "model.safetensors")
        assert self.found(settings, weights, "serving=vllm") == "GPU memory: 21.4 GB of weights in 39 GB"

    def test_a_gpu_that_is_hidden_is_none(self, settings, weights, gpu, monkeypatch):
        gpu(40)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert "no GPU is visible" in self.found(settings, weights, "serving=vllm")

    def test_no_gpu_is_said_of_vllm(self, settings, weights, monkeypatch):
        monkeypatch.setenv("PATH", "/nonexistent")
        assert "no GPU is visible" in self.found(settings, weights, "serving=vllm")
