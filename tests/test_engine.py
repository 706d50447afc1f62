"""The engine of our server, in this process: many requests at once, and none of them notices."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any

import pytest
import torch
from engines import GREEDY, complete, complete_all
from fastapi.testclient import TestClient
from serving_fixtures import NAMES, random_adapter
from test_process import eventually
from transformers import AutoModelForCausalLM, MistralConfig, Qwen3Config, Qwen3MoeConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

from swe_eval.serving.app import batch, prefix_cache
from swe_eval.serving.app.engine import Busy, Engine, Stopping
from swe_eval.serving.app.http import create_app
from swe_eval.serving.app.sampling import IMPOSSIBLE, Sampler, score
from swe_eval.serving.app.sequence import Piece, Request
from swe_eval.serving.app.weights import Source, load

WORDS = "the agent looks at the file and finds a loop that ends too early "


@pytest.fixture(scope="module")
def loaded(random_adapters: dict[str, Path], talkative: Path):
    """Weights of an engine's own: it changes which adapters are active."""
    adapters = {name: str(path) for name, path in random_adapters.items()}
    return lambda: load(Source(str(talkative)), adapters, ["base"])


@pytest.fixture
def engine(loaded):
    engine = Engine(loaded())
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def forgetful(loaded):
    """Without a prefix cache, one request at a time."""
    engine = Engine(loaded(), prefix_cache_bytes=0, max_running=1)
    yield engine
    engine.close()


def requests(engine: Engine, count: int = 9) -> list[Request]:
    """Of all models in turn, with prompts and answers of many lengths."""
    prompts = [[{"role": "user", "content": f"{number} {WORDS * (number % 5)}"}] for number in range(count)]
    return [
        Request(NAMES[number % 3], engine.chat_prompt(prompt, None), replace(GREEDY, max_tokens=4 + 5 * (number % 4)))
        for number, prompt in enumerate(prompts)
    ]


def gauge(engine: Engine, name: str) -> int:
    lines = engine.metrics.exposition().decode().splitlines()
    return int(float(next(line for line in lines if line.startswith(f"swe_eval_{name} ")).split()[1]))


def texts(pieces: list[Piece]) -> list[str]:
    return [piece.text for piece in pieces]


class TestRows:
    def test_a_row_says_what_it_says_alone(self, engine, forgetful):
        """Whatever models, lengths and ends its neighbours have."""
        asked = requests(engine)
        assert texts(complete_all(engine, *asked)) == [complete_all(forgetful, one)[0].text for one in asked]

    def test_rows_join_and_leave_between_steps(self, engine, forgetful, monkeypatch):
        """A short answer is there before a long one that was begun before it was asked for."""
        sampling = [replace(GREEDY, max_tokens=tokens) for tokens in (40, 2)]
        long, short = (replace(one, sampling=how) for one, how in zip(requests(engine, 2), sampling, strict=True))
        is_begun, is_joined, steps, step = Event(), Event(), count(), engine._scheduler.step

        def step_or_wait():
            if next(steps) == 3:
                is_begun.set()
                is_joined.wait(60)
            step()

        monkeypatch.setattr(engine._scheduler, "step", step_or_wait)
        answers = SimpleQueue()
        engine.submit(long, answers.put)
        assert is_begun.wait(60)
        engine.submit(short, answers.put)
        is_joined.set()
        assert answers.get(timeout=60).completion_tokens == 2
        assert answers.get(timeout=60).text == complete_all(forgetful, long)[0].text

    def test_a_seed_says_the_same_in_company(self, engine, forgetful):
        sampling = replace(GREEDY, temperature=1, top_p=0.9, seed=7, max_tokens=12)
        sampled = replace(requests(engine)[4], sampling=sampling)
        together = complete_all(engine, sampled, *requests(engine))[0]
        assert together.text == complete_all(forgetful, sampled)[0].text

    def test_adapters_of_fused_experts_are_served_side_by_side(self, talkative, random_adapters, tmp_path):
        """PEFT cannot mix those in one pass: each model has its own."""
        experts = ["experts.gate_up_proj", "experts.down_proj"]
        fused = random_adapter(talkative, tmp_path, seed=2, target_modules=[], target_parameters=experts)
        adapters = {"sft": str(random_adapters["sft"]), "rl-step.900": str(fused)}
        engine = Engine(load(Source(str(talkative)), adapters, ["base"]))
        alone = Engine(load(Source(str(talkative)), adapters, ["base"]), prefix_cache_bytes=0, max_running=1)
        asked = requests(engine)
        assert texts(complete_all(engine, *asked)) == [complete_all(alone, one)[0].text for one in asked]
        assert len({complete(alone, name).text for name in NAMES}) == 3


SMALL = {
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "eos_token_id": None,
}


@pytest.mark.parametrize(
    "config",
    [
        Qwen3Config(**SMALL),
        Qwen3MoeConfig(**SMALL, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32),
        MistralConfig(**SMALL, sliding_window=24),
    ],
    ids=lambda config: config.model_type,
)
def test_other_architectures_say_what_transformers_says(config, talkative, tmp_path):
    """Whoever is beside them, beyond a sliding window too."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.get_output_embeddings().weight.data *= 8  # apart: no two tokens are nearly as likely
    model.save_pretrained(tmp_path)
    for file in talkative.glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    engine = Engine(load(Source(str(tmp_path)), {}, ["base"]))
    engine.served["sft"] = engine.served["rl-step.900"] = engine.served["base"]  # type: ignore[index]
    asked = requests(engine)
    expected = []
    for one in asked:
        ids = torch.tensor([one.prompt])
        new = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=one.sampling.max_tokens
        )
        expected.append(engine.text(new[0, len(one.prompt) :].tolist()))
    assert texts(complete_all(engine, *asked)) == expected
    engine.close()


def test_a_token_that_is_impossible_has_a_score_that_json_can_tell():
    """vLLM's; minus infinity would be an HTTP 500."""
    [scored] = score(torch.tensor([[0.0, -torch.inf]]), [1], 2)
    assert (scored.logprob, scored.top) == (IMPOSSIBLE, ((0, 0.0), (1, IMPOSSIBLE)))


def test_sixteen_bits_do_not_keep_a_rare_token_from_being_drawn():
    """One in 550: its probability is lost where the sum of all is rounded to 16 bits."""
    sampler = Sampler(replace(GREEDY, temperature=1, seed=0), torch.device("cpu"))
    logits = torch.tensor([0, -6.3], dtype=torch.bfloat16)
    assert 2 <= sum(sampler.draw(logits) for _ in range(5000)) <= 20


class TestTrouble:
    def test_out_of_memory_makes_fewer_run(self, engine, forgetful, monkeypatch):
        """What does not fit beside others is computed after them, and nobody notices."""
        asked = requests(engine)
        forward = DeepseekV3MoE.forward

        def small(self: Any, hidden_states: torch.Tensor) -> Any:
            if len(hidden_states) > 3:
                raise torch.OutOfMemoryError("a small device")
            return forward(self, hidden_states)

        with monkeypatch.context() as patch:
            patch.setattr(DeepseekV3MoE, "forward", small)
            together = texts(complete_all(engine, *asked))
        assert together == [complete_all(forgetful, one)[0].text for one in asked]

    def test_out_of_memory_alone_is_an_error(self, engine, monkeypatch):
        def never(self: Any, hidden_states: torch.Tensor) -> Any:
            raise torch.OutOfMemoryError("a tiny device")

        with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
            patch.setattr(DeepseekV3MoE, "forward", never)
            complete(engine)
        assert complete(engine).finish_reason == "length"

    @pytest.mark.parametrize("copy", ["selected", "below"])
    def test_out_of_memory_between_steps_is_noticed_by_nobody_either(self, engine, forgetful, monkeypatch, copy):
        """Where rows join and leave, all keys and values are copied."""
        asked = requests(engine)
        copies = count()
        original = getattr(batch, copy)

        def scarce(*args: Any) -> Any:
            if next(copies) in (3, 5):
                raise torch.OutOfMemoryError("a small device")
            return original(*args)

        with monkeypatch.context() as patch:
            patch.setattr(batch, copy, scarce)
            together = texts(complete_all(engine, *asked))
        assert next(copies) > 5
        assert together == [complete_all(forgetful, one)[0].text for one in asked]

    def test_a_prefix_that_does_not_fit_is_not_kept(self, engine, monkeypatch):
        def never(_: Any) -> Any:
            raise torch.OutOfMemoryError("a tiny device")

        complete(engine)
        with monkeypatch.context() as patch:
            patch.setattr(prefix_cache, "copied", never)
            assert complete(engine, "sft").finish_reason == "length"
        assert gauge(engine, "prefix_cache_bytes") == gauge(engine, "prefix_cache_entries") == 0

    def test_a_device_that_has_failed_is_told(self, engine, monkeypatch):
        """CUDA answers nothing more to a process after such an error: whoever watches it must start it again."""

        def broken(self: Any, hidden_states: torch.Tensor) -> Any:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

        client = TestClient(create_app(engine, "key"))
        assert client.get("/health").status_code == 200
        monkeypatch.setattr(DeepseekV3MoE, "forward", broken)
        with pytest.raises(torch.AcceleratorError):
            complete(engine)
        assert client.get("/health").status_code == 503

    def test_a_cancelled_request_stops(self, engine):
        answer = SimpleQueue()
        sequence = engine.submit(replace(requests(engine)[0], sampling=replace(GREEDY, max_tokens=8000)), answer.put)
        assert eventually(lambda: gauge(engine, "requests_running") == 1)
        sequence.cancel()
        assert answer.get(timeout=60).completion_tokens < 8000
        assert eventually(lambda: gauge(engine, "requests_running") == 0)

    def test_a_full_queue_is_told(self, loaded):
        engine = Engine(loaded(), max_running=1, max_waiting=1)
        endless = replace(requests(engine)[0], sampling=replace(GREEDY, max_tokens=8000))
        answers: SimpleQueue[Piece | Exception] = SimpleQueue()
        with pytest.raises(Busy):
            for _ in range(9):
                engine.submit(endless, answers.put)
        engine.close()
        assert isinstance(answers.get(timeout=60), Stopping)
        with pytest.raises(Stopping):
            engine.submit(endless, answers.put)


class TestPrefixCache:
    def turns(self, engine: Engine, model: str, count: int = 4) -> list[Piece]:
        messages: list[dict[str, Any]] = [{"role": "user", "content": WORDS * 3}]
        pieces = []
        for _ in range(count):
            asked = Request(model, engine.chat_prompt(messages, None), replace(GREEDY, max_tokens=16))
            pieces += complete_all(engine, asked)
            messages += [{"role": "assistant", "content": pieces[-1].text}, {"role": "user", "content": WORDS}]
        return pieces

    def test_a_conversation_reads_only_what_is_new(self, engine, forgetful):
        """And says what it would say if it read everything."""
        turns = self.turns(engine, "sft")
        cached = [turn.cached_tokens for turn in turns]
        assert cached[0] == 0
        assert cached == sorted(set(cached))
        assert texts(turns) == texts(self.turns(forgetful, "sft"))
        assert {turn.cached_tokens for turn in self.turns(forgetful, "sft")} == {0}

    def test_another_adapter_s_memory_is_not_used(self, engine):
        self.turns(engine, "sft")
        assert self.turns(engine, "base", count=1)[0].cached_tokens == 0

    def test_its_memory_is_bounded(self, loaded):
        """A conversation takes one entry; the least recently used leaves."""
        engine = Engine(loaded(), prefix_cache_bytes=400_000)
        sizes = []
        for model in NAMES * 2:
            self.turns(engine, model)
            sizes.append((gauge(engine, "prefix_cache_bytes"), gauge(engine, "prefix_cache_entries")))
        assert all(0 < size <= 400_000 and entries in (1, 2) for size, entries in sizes), sizes
        engine.close()
