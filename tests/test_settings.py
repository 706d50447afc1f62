"""The configuration: every option composes, every mistake is one line that names the field."""

from __future__ import annotations

import pytest

from swe_eval.command import settings_of
from swe_eval.errors import UserError
from swe_eval.settings import PACKAGE, Settings, conf_dir, result_settings

OPTIONS = sorted(f"{path.parent.relative_to(conf_dir())}={path.stem}" for path in conf_dir().glob("*/**/*.yaml"))
NEEDED = {
    "lora=list": ["lora.adapters=[{name: a, path: /a}]"],
    "lora=ab": ["lora.baseline=/a", "lora.trained=/b"],
    "lora=checkpoints": ["lora.run=TMP"],
    "experiment=checkpoints": ["lora.run=TMP"],
    "lora=adapter": ["lora.path=/a/step-9"],
    "lora=baseline": ["lora.path=/a"],
    "lora=trained": ["lora.path=/a"],
    "serving=external": ["serving.base_url=http://host/v1"],
    "model=hf": ["model.base_model=org/name"],
    "quantization=fp8": ["serving=vllm"],
    "benchmark=local": ["benchmark.dataset=/rows.jsonl", "sandbox=docker"],
    "benchmark=lite": ["sandbox=docker"],
    "benchmark=multilingual": ["sandbox=docker"],
    "benchmark=verified": ["sandbox=docker"],
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_every_group_makes_valid_settings(option, tmp_path):
    (tmp_path / "checkpoint-1").symlink_to(PACKAGE / "benchmark" / "demo" / "adapter")
    settings_of(option, *(each.replace("TMP", str(tmp_path)) for each in NEEDED.get(option, [])))


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["agent.max_turns=abc"], "agent.max_turns: input should be a valid integer"),
        (["serving.port=70000"], "serving.port: input should be less than or equal to 65535, not 70000"),
        (["+agent.speed=9"], "agent.speed: unknown key; take it out"),
        (["lora=trained"], "lora.path: needs a value: write lora.path=..."),
        (["benchmark=verified", "sandbox=local"], "sandbox=local: benchmark=verified would run foreign code"),
        (["quantization=4bit", "serving=external", "serving.base_url=http://host/v1"], "quantization=4bit: serving="),
        (["agent=toolcall", "model.tool_call_parser=none"], "agent.actions=toolcall: model.tool_call_parser=none"),
        (["lora.proof=reference", "quantization=4bit"], "lora.proof=reference: quantization=4bit rounds the weights"),
        (
            ["quantization=4bit", "serving=vllm"],
            "quantization=4bit: bitsandbytes left vLLM in 0.28; write",
        ),
        (["quantization=fp8"], "quantization=fp8: serving=transformers has 8bit and 4bit; write one of them"),
        (
            ["agent=toolcall", "serving=vllm"],
            "agent.actions=toolcall: vLLM must be told how the model writes",
        ),
        (
            ["lora=trained", "lora.path=/a", "lora.apply=merge", "serving=external", "serving.base_url=http://host/v1"],
            "lora.apply=merge: serving=external is a server that already runs; have it serve what python -m",
        ),
        (["model.max_model_len=64", "agent.max_tokens=64"], "agent.max_tokens=64: no room for a prompt"),
        (["lora=list", "lora.adapters=[{name: a, path: /x}, {name: a, path: /y}]"], "lora: two adapters are named 'a'"),
        (["lora=list", "lora.adapters=[{name: comparison, path: /x}]"], "lora.adapters.0.name: 'comparison' cannot be"),
        (["lora=list", "lora.adapters=[{name: a}]"], "lora.adapters.0.path: needs a value"),
        (["lora=list", "lora.adapters=[{name: a, path: ''}]"], "lora.adapters.0.path: string should have at least 1"),
        (["lora=trained", "lora.path="], "lora.path: string should have at least 1 character, not ''"),
        (["lora=ab", "lora.baseline=", "lora.trained=/b"], "lora.baseline: string should have at least 1 character"),
        (["model.base_model="], "model.base_model: string should have at least 1 character, not ''"),
        (["stages=grade"], "stages: is a list; write [grade]"),
        (["name=''"], "name: '' names no directory below outputs; write a name, or output_dir=... to go elsewhere"),
        (["name=../a"], "name: '../a' names no directory below outputs"),
        (["name=/a"], "name: '/a' names no directory below outputs"),
        (["output_dir=null"], "output_dir: should be a path, not None"),
        (["output_dir=''"], "output_dir: is empty"),
        (["benchmark.instance_ids=[]"], "benchmark.instance_ids: tuple should have at least 1 item"),
        (["benchmark.filter='('"], "benchmark.filter: '(' is not a regular expression (missing )"),
        (["benchmark.slice=5"], "benchmark.slice: input should be a valid string, not 5"),
        (["benchmark.slice='1:2:0'"], "benchmark.slice: '1:2:0' is no slice; write START:STOP as Python does: 0:50"),
        (["benchmark.shard=5/4"], "benchmark.shard: '5/4' is no part of a whole; write 1/4, 2/4, 3/4 or 4/4"),
        (["benchmark.sample=0"], "benchmark.sample: input should be greater than 0, not 0"),
        (["stages=[]"], "stages: is empty; write [rollout,grade], or one of them"),
        (["stages=[report]"], "stages.0: input should be 'rollout' or 'grade', not 'report'"),
        (["agent.temperature=inf"], "agent.temperature: input should be a finite number"),
        (["serving=external", "serving.base_url=http://me:secret@host/v1"], "serving.base_url: string should match"),
        (["serving=external", "serving.base_url=http://host:99999/v1"], "serving.base_url: 'http://host:99999/v1' is"),
        (["serving=external", "serving.base_url='http://[::1/v1'"], "serving.base_url: 'http://[::1/v1' is"),
        (["serving.api_key='ключ'"], "serving.api_key: has characters that HTTP cannot send"),
        (["model.reasoning_parser=qwen3"], "model.reasoning_parser=qwen3: serving=transformers leaves thoughts in"),
        (
            ["sandbox=docker", "sandbox.memory=1k"],
            "sandbox.memory: '1k' is too little for a container; write 8g, or 512m",
        ),
        (["workers=0"], "workers: write auto, or how many rollouts at once, not 0"),
        (["workers=many"], "workers: write auto, or how many rollouts at once, not 'many'"),
        (["lora=list", "lora.adapters=[{name: a/b, path: /x}]"], "lora.adapters.0.name: 'a/b' cannot be a file name"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_field(overrides, line):
    with pytest.raises(UserError) as error:
        settings_of(*overrides)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_every_mistake_is_told_at_once():
    with pytest.raises(UserError) as error:
        settings_of("agent.max_turns=0", "workers=0", "+sandbox.x=1")
    assert len(str(error.value).splitlines()) == 3


def test_a_real_model_brings_the_real_benchmark_and_isolation():
    settings = settings_of("model=gigachat", "lora=trained", "lora.path=/ckpt")
    assert (settings.benchmark.name, settings.sandbox.kind) == ("verified", "docker")


def test_the_command_line_wins_over_what_a_model_brings():
    settings = settings_of("model=gigachat", "benchmark=lite", "experiment=quick")
    assert (settings.benchmark.name, settings.benchmark.max_instances) == ("lite", 10)


def test_arms_come_with_the_reference_first():
    """`lora=ab` compares trained with baseline; `with_base` puts the base model first."""
    pair = settings_of("lora=ab", "lora.baseline=null", "lora.trained=/b")
    assert [(arm.name, arm.path) for arm in pair.adapters] == [("baseline", None), ("trained", "/b")]
    assert [arm.name for arm in settings_of().adapters] == ["base", "demo"]


def test_what_may_change_between_continuations_is_no_part_of_the_result():
    before = settings_of()
    after = settings_of("workers=7", "serving.port=8080", "benchmark.max_instances=3", "name=x")
    assert result_settings(before) == result_settings(after)
    assert result_settings(before) != result_settings(settings_of("agent.max_turns=7"))


def test_a_key_is_never_written_down():
    settings = settings_of("serving.api_key=hush")
    assert "hush" not in f"{settings!r} {settings.model_dump(mode='json')}"


def test_every_field_is_described():
    def fields(model, path):
        for name, field in model.model_fields.items():
            if hasattr(field.annotation, "model_fields"):
                yield from fields(field.annotation, f"{path}{name}.")
            else:
                yield f"{path}{name}", field.description

    undescribed = [path for path, text in fields(Settings, "") if not text]
    assert undescribed == ["lora", "serving", "sandbox"]  # unions: their members are described


def test_a_sample_is_drawn_with_the_seed_of_the_run_unless_told_otherwise():
    assert settings_of("seed=7").benchmark.sample_seed == 7
    assert settings_of("seed=7", "benchmark.sample_seed=3").benchmark.sample_seed == 3


@pytest.mark.parametrize("text", [":", "0:50", "-20:", ":-1", "::2", "5:1:-1"])
def test_a_slice_is_pythons(text):
    assert settings_of(f"benchmark.slice={text}").benchmark.slice == text
