"""Our Transformers server, as its clients see it: a real process, driven over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
import torch
from engines import GREEDY, complete, complete_all
from fastapi.testclient import TestClient
from parrot import Parrot
from peft import PeftModel
from serving_fixtures import HELLO, NAMES, serving_settings, transformers_serving
from test_process import eventually
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

from swe_eval.errors import ServingError
from swe_eval.serving.app.__main__ import main
from swe_eval.serving.app.completions import Completions
from swe_eval.serving.app.engine import Engine
from swe_eval.serving.app.http import create_app
from swe_eval.serving.app.sampling import Sampler, TokenLogprob
from swe_eval.serving.app.sequence import Request
from swe_eval.serving.app.weights import CannotServe, Source, load
from swe_eval.serving.parts import serve
from swe_eval.serving.server import Endpoint, Server
from swe_eval.serving.supervised import SupervisedServer

RUNNING = "swe_eval_requests_running"
ANSWERED = 'swe_eval_requests_total{model="base",outcome="length"}'
LS = '{"name": "bash", "arguments": {"command": "ls"}}'
BASH: Any = {"type": "function", "function": {"name": "bash", "description": "Run it.", "parameters": {}}}


@pytest.fixture(scope="module")
def engine(random_adapters: dict[str, Path], talkative: Path) -> Engine:
    """The server's engine in this process, with a context of 64 tokens."""
    adapters = {name: str(path) for name, path in random_adapters.items()}
    return Engine(load(Source(str(talkative), max_model_len=64), adapters, ["base"]))


@pytest.fixture
def parrot(talkative: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parrot]:
    """A parrot that writes tool calls as Hermes and Qwen do."""
    parrot = Parrot(talkative)
    monkeypatch.setattr(Sampler, "draw", lambda sampler, _: parrot.draw(sampler))
    yield parrot
    parrot.engine.close()


def ask(server: Server, name: str = "base", messages: Any = HELLO, **fields: Any) -> Any:
    """A completion by the openai client; greedy, 24 tokens, unless ``fields`` say otherwise."""
    endpoint = server.endpoints[name]
    with openai.OpenAI(base_url=endpoint.base_url, api_key=endpoint.api_key, max_retries=0) as client:
        fields = {"temperature": 0, "max_tokens": 24, **fields}
        return client.chat.completions.create(model=endpoint.model, messages=messages, **fields)


def text(server: Server, name: str = "base", messages: Any = HELLO, **fields: Any) -> str:
    """The text of ``ask``."""
    return str(ask(server, name, messages, **fields).choices[0].message.content)


def post(server: Server, body: Any, key: str | None = None) -> httpx.Response:
    """A raw request: JSON, or bytes as they are."""
    endpoint = server.endpoints["base"]
    headers = {"Authorization": f"Bearer {key or endpoint.api_key}", "Content-Type": "application/json"}
    content = {"content": body} if isinstance(body, bytes) else {"json": body}
    return httpx.post(f"{endpoint.base_url}/chat/completions", headers=headers, timeout=60, **content)


@contextmanager
def streamed(server: Server, path: str = "chat/completions", **fields: Any) -> Iterator[Iterator[str]]:
    """The lines of an answer's stream, the first of which has come."""
    endpoint = server.endpoints["base"]
    what = {"messages": HELLO} if path.startswith("chat") else {"prompt": "hello"}
    how = {"headers": {"Authorization": f"Bearer {endpoint.api_key}"}, "timeout": 60}
    body = {"model": "base", "stream": True, **what, **fields}
    with httpx.stream("POST", f"{endpoint.base_url}/{path}", json=body, **how) as stream:
        lines = stream.iter_lines()
        next(lines)
        yield lines


def error(response: httpx.Response) -> tuple[int, str | None, str]:
    """Status, code and message of an answer in OpenAI's error form."""
    body = response.json()["error"]
    return response.status_code, body["code"], body["message"]


def metrics(server: Server) -> dict[str, float]:
    """Sample by name and labels."""
    exposition = httpx.get(server.endpoints["base"].base_url.removesuffix("/v1") + "/metrics", timeout=60).text
    samples = [line.rsplit(" ", 1) for line in exposition.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in samples}


def reference(base: Path, adapter: Path | None) -> Any:
    """Tokenizer and model by transformers and peft alone."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return AutoTokenizer.from_pretrained(base), PeftModel.from_pretrained(model, adapter) if adapter else model


def greedy(base: Path, adapter: Path | None) -> str:
    """24 tokens after HELLO."""
    tokenizer, model = reference(base, adapter)
    prompt = tokenizer.apply_chat_template(HELLO, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**prompt, do_sample=False, max_new_tokens=24)
    return str(tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))


class TestAdapters:
    def test_each_name_says_what_transformers_and_peft_say(
        self, server: Server, random_adapters: dict[str, Path], talkative: Path
    ) -> None:
        """Served text is the text of the model that the name promises, and no two are alike."""
        said = [text(server, name) for name in NAMES]
        assert said == [greedy(talkative, random_adapters.get(name)) for name in NAMES]
        assert len({*said}) == 3

    def test_models_are_listed(self, server: Server, talkative: Path) -> None:
        """GET /v1/models names every model, its base model and its context."""
        endpoint = server.endpoints["sft"]
        with openai.OpenAI(base_url=endpoint.base_url, api_key=endpoint.api_key) as client:
            listed = {model.id: model.model_dump() for model in client.models.list()}
        assert list(listed) == NAMES
        assert listed["base"]["parent"] is None
        assert listed["sft"]["parent"] == str(talkative)
        assert listed["sft"]["max_model_len"] == endpoint.max_model_len == 8192

    def test_failed_generation_leaves_nothing_behind(self, engine: Engine, monkeypatch: Any) -> None:
        """After an exception in the middle of a pass the next answers are what they were."""
        before = [complete(engine, name) for name in NAMES]
        requests = [Request(name, engine.chat_prompt(HELLO, None), GREEDY) for name in NAMES]
        with monkeypatch.context() as patch:
            patch.setattr(DeepseekV3MoE, "forward", explode_at(5))
            with pytest.raises(RuntimeError, match="in the middle"):
                complete_all(engine, *requests)
        assert [complete(engine, name).text for name in reversed(NAMES)] == [piece.text for piece in before[::-1]]
        assert [piece.text for piece in complete_all(engine, *requests)] == [piece.text for piece in before]


class TestSampling:
    def test_temperature_zero_is_greedy(self, server: Server) -> None:
        """Greedy answers are the same whatever the seed."""
        assert text(server, seed=1) == text(server, seed=2) == text(server)

    def test_seed_decides_the_text(self, server: Server) -> None:
        """The same seed gives the same text, another seed another, and no seed a new one each time."""
        assert text(server, temperature=1, seed=7) == text(server, temperature=1, seed=7)
        assert text(server, temperature=1, seed=7) != text(server, temperature=1, seed=8)
        assert text(server, temperature=1) != text(server, temperature=1)

    def test_top_p_narrows_the_choice(self, server: Server) -> None:
        """A tiny nucleus is the greedy choice."""
        assert text(server, temperature=1, top_p=1e-6, seed=7) == text(server)

    def test_max_tokens_ends_the_answer(self, server: Server) -> None:
        """max_tokens and max_completion_tokens are the same thing, and usage counts what was made."""
        done = ask(server, max_tokens=5)
        assert done.choices[0].finish_reason == "length"
        assert done.usage.completion_tokens == 5
        assert done.usage.total_tokens == done.usage.prompt_tokens + 5
        assert text(server, max_tokens=openai.omit, max_completion_tokens=5) == done.choices[0].message.content

    def test_end_of_turn_ends_the_answer(self, talkative: Path, tmp_path: Path) -> None:
        """Any of the model's end tokens ends the answer, counts as a token, and is no text."""
        before = complete(Engine(load(Source(str(talkative)), {}, ["base"]))).text
        model = shutil.copytree(talkative, tmp_path / "model")
        end = AutoTokenizer.from_pretrained(model).encode(before, add_special_tokens=False)[4]
        (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, end]}))
        done = complete(Engine(load(Source(str(model)), {}, ["base"])))
        assert done.finish_reason == "stop"
        assert before.startswith(done.text)
        assert done.completion_tokens <= 5

    @pytest.mark.parametrize("as_list", [False, True])
    def test_stop_cuts_the_text(self, server: Server, as_list: bool) -> None:
        """The text ends before the stop string, and generation ends with it."""
        whole = text(server)
        stop = whole[12:18]
        done = ask(server, stop=["never said", stop] if as_list else stop)
        assert done.choices[0].message.content == whole[: whole.index(stop)]
        assert done.choices[0].finish_reason == "stop"
        assert done.usage.completion_tokens < 24

    def test_answer_is_the_rest_of_the_context_by_default(self, engine: Engine) -> None:
        """Without max_tokens the answer may fill what the prompt leaves."""
        done = complete(engine, sampling=replace(GREEDY, max_tokens=None))
        assert len(engine.chat_prompt(HELLO, None)) + done.completion_tokens == engine.context
        assert done.finish_reason == "length"

    def test_content_may_be_parts(self, server: Server) -> None:
        """Text parts are joined by newlines, and null is empty."""
        parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
        assert text(server, messages=[{"role": "user", "content": parts}]) == text(
            server, messages=[{"role": "user", "content": "one\ntwo"}]
        )
        conversation = [*HELLO, {"role": "assistant", "content": None}, *HELLO]
        assert text(server, messages=conversation) == text(
            server, messages=[*HELLO, {"role": "assistant", "content": ""}, *HELLO]
        )


class TestStreaming:
    def stream(self, server: Server, name: str = "base", **fields: Any) -> list[Any]:
        endpoint = server.endpoints[name]
        with openai.OpenAI(base_url=endpoint.base_url, api_key=endpoint.api_key, max_retries=0) as client:
            fields = {"temperature": 0, "max_tokens": 24, **fields}
            return list(client.chat.completions.create(model=name, messages=HELLO, stream=True, **fields))

    def test_a_stream_says_what_an_answer_says(self, server: Server) -> None:
        """Text in several chunks, the reason for its end in the last."""
        chunks = self.stream(server, "sft")
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text(server, "sft")
        assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "length"]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert len(chunks) > 10

    def test_usage_comes_last_if_asked_for(self, server: Server) -> None:
        """In a chunk of its own; without stream_options there is none."""
        chunks = self.stream(server, stream_options={"include_usage": True})
        assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
        assert chunks[-1].usage.completion_tokens == 24
        assert all(chunk.usage is None for chunk in self.stream(server))

    def test_a_stop_string_is_never_sent(self, server: Server) -> None:
        """Not even its beginning, whichever tokens it comes in."""
        whole = text(server)
        stop = whole[12:18]
        chunks = self.stream(server, stop=stop)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole[: whole.index(stop)]
        assert chunks[-1].choices[0].finish_reason == "stop"

    def test_the_wire_is_server_sent_events(self, server: Server) -> None:
        """Every line is data, the last one is [DONE]."""
        response = post(server, {"model": "base", "messages": HELLO, "max_tokens": 2, "stream": True})
        lines = [line for line in response.text.split("\n\n") if line]
        assert response.headers["content-type"].startswith("text/event-stream")
        assert all(json.loads(line.removeprefix("data: ")) for line in lines[:-1])
        assert lines[-1] == "data: [DONE]"

    def test_errors_before_the_first_chunk_have_their_status(self, server: Server) -> None:
        """A stream that cannot begin is no stream."""
        asked = {"model": "base", "messages": HELLO, "max_tokens": 8192, "stream": True}
        assert error(post(server, asked))[:2] == (400, "context_length_exceeded")

    def test_several_answers_in_one_stream(self, server: Server) -> None:
        """Each chunk says which one it belongs to."""
        chunks = self.stream(server, n=2)
        for index in range(2):
            own = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
            assert "".join(choice.delta.content or "" for choice in own) == text(server)


class TestChoices:
    def test_n_answers(self, server: Server) -> None:
        """Each is drawn on its own; with a seed, the same ones again."""
        done = ask(server, n=3, temperature=1, seed=5)
        said = [choice.message.content for choice in done.choices]
        assert [choice.index for choice in done.choices] == [0, 1, 2]
        assert len(set(said)) == 3
        assert done.usage.completion_tokens == 72
        assert said == [choice.message.content for choice in ask(server, n=3, temperature=1, seed=5).choices]

    def test_logprobs_are_the_model_s(self, server: Server, random_adapters: dict[str, Path], talkative: Path) -> None:
        """Of every token, and of the likeliest at its place, first of which is the greedy choice."""
        choice = ask(server, "sft", max_tokens=5, logprobs=True, top_logprobs=2).choices[0]
        scored = choice.logprobs.content
        assert "".join(score.token for score in scored) == choice.message.content
        assert [score.top_logprobs[0].token for score in scored] == [score.token for score in scored]
        tokenizer, model = reference(talkative, random_adapters["sft"])
        prompt = tokenizer.apply_chat_template(HELLO, add_generation_prompt=True, return_dict=True)["input_ids"]
        expected = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1).topk(2).values.tolist()
        assert [top.logprob for top in scored[0].top_logprobs] == pytest.approx(expected, abs=1e-4)

    def test_top_logprobs_alone_are_a_mistake(self, server: Server) -> None:
        """As at OpenAI."""
        assert error(post(server, {"model": "base", "messages": HELLO, "top_logprobs": 2}))[0] == 400


class TestCompletions:
    def create(self, server: Server, prompt: Any, name: str = "base", **fields: Any) -> Any:
        endpoint = server.endpoints[name]
        client = openai.OpenAI(base_url=endpoint.base_url, api_key=endpoint.api_key, max_retries=0)
        return client.completions.create(model=name, prompt=prompt, temperature=0, **fields)

    @pytest.mark.parametrize("name", NAMES)
    def test_a_given_text_is_scored(
        self, server: Server, random_adapters: dict[str, Path], talkative: Path, name: str
    ) -> None:
        """echo with logprobs tells how likely each token of the prompt is to this adapter; nothing is generated."""
        prompt = "def add(a, b):\n    return a + b\n"
        choice = self.create(server, prompt, name, max_tokens=0, echo=True, logprobs=1).choices[0]
        tokenizer, model = reference(talkative, random_adapters.get(name))
        tokens = tokenizer.encode(prompt)
        logprobs = model(torch.tensor([tokens])).logits[0].log_softmax(-1).detach()
        expected = [float(logprobs[at, token]) for at, token in enumerate(tokens[1:])]
        assert (choice.text, choice.finish_reason) == (prompt, "length")
        assert choice.logprobs.token_logprobs[0] is None
        assert choice.logprobs.token_logprobs[1:] == pytest.approx(expected, abs=1e-4)
        assert "".join(choice.logprobs.tokens) == prompt
        assert choice.logprobs.text_offset[-1] == len(prompt) - len(choice.logprobs.tokens[-1])

    def test_a_long_text_is_scored_in_parts(self, server: Server, talkative: Path) -> None:
        """A prompt that is read in several passes has a score for every token all the same."""
        tokens = [3 + number * 7 % 900 for number in range(1200)]
        choice = self.create(server, tokens, max_tokens=0, echo=True, logprobs=0).choices[0]
        _, model = reference(talkative, None)
        logprobs = model(torch.tensor([tokens])).logits[0].log_softmax(-1).detach()
        expected = [float(logprobs[at, token]) for at, token in enumerate(tokens[1:])]
        assert choice.logprobs.token_logprobs[1:] == pytest.approx(expected, abs=1e-3)

    def test_the_places_of_many_tokens_are_counted_together(self) -> None:
        """Token by token, a text of 50,000 would keep every client waiting for half a minute."""
        engine: Any = SimpleNamespace(token_text=str)
        began = time.monotonic()
        told = Completions(engine)._logprobs([TokenLogprob(7, -1.0)] * 50_000)
        assert told["text_offset"] == list(range(50_000))
        assert time.monotonic() - began < 5

    def test_text_and_its_tokens_go_on_alike(self, server: Server, talkative: Path) -> None:
        """A prompt is a string or token ids, one or several."""
        tokens = AutoTokenizer.from_pretrained(talkative).encode("import os\n")
        one = self.create(server, "import os\n", max_tokens=8).choices[0].text
        both = self.create(server, [tokens, tokens], max_tokens=8).choices
        assert [choice.text for choice in both] == [one, one]
        assert self.create(server, tokens, max_tokens=8, echo=True).choices[0].text == f"import os\n{one}"

    def test_streams(self, server: Server) -> None:
        """As chat does."""
        chunks = list(self.create(server, "import os\n", max_tokens=8, stream=True))
        whole = self.create(server, "import os\n", max_tokens=8).choices[0].text
        assert "".join(chunk.choices[0].text for chunk in chunks) == whole

    @pytest.mark.parametrize(
        ("body", "names"),
        [
            ({"prompt": ""}, "at least one token"),
            ({"prompt": [5000]}, "the vocabulary of 1024 tokens has no 5000"),
            ({"prompt": "x", "max_tokens": 0}, "max_tokens=0 needs echo=true"),
            ({"prompt": "x", "echo": True, "stream": True}, "echo=true is not supported in a stream"),
            ({"prompt": "x", "suffix": "y"}, "suffix='y' is not supported"),
        ],
    )
    def test_mistakes(self, server: Server, body: dict[str, Any], names: str) -> None:
        """A request that cannot be honoured is 400 and says why."""
        endpoint = server.endpoints["base"]
        headers = {"Authorization": f"Bearer {endpoint.api_key}"}
        response = httpx.post(
            f"{endpoint.base_url}/completions", json={"model": "base", **body}, headers=headers, timeout=60
        )
        status, _, message = error(response)
        assert status == 400
        assert names in message


class TestTools:
    """A model that says what the test lets it say, behind the real server and the clients that people use."""

    def test_a_tool_call_comes_back_as_one(self, parrot: Parrot) -> None:
        """Content and calls apart, each with an id; the reason for the end says so."""
        parrot.says(f"Let me look.\n<tool_call>\n{LS}\n</tool_call>\n<tool_call>\n{LS}\n</tool_call>")
        choice = parrot.ask(tools=[BASH]).choices[0]
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me look.\n")
        assert [call.function.name for call in choice.message.tool_calls] == ["bash", "bash"]
        assert json.loads(choice.message.tool_calls[0].function.arguments) == {"command": "ls"}
        assert len({call.id for call in choice.message.tool_calls}) == 2
        assert len(parrot.ask(tools=[BASH], parallel_tool_calls=False).choices[0].message.tool_calls) == 1

    def test_a_stream_holds_calls_back_until_they_are_whole(self, parrot: Parrot) -> None:
        """No chunk's content has a part of a call in it."""
        parrot.says(f"Let me look.\n<tool_call>\n{LS}\n</tool_call>")
        chunks = [chunk.choices[0] for chunk in parrot.ask(tools=[BASH], stream=True)]
        assert "".join(chunk.delta.content or "" for chunk in chunks) == "Let me look.\n"
        [calls] = [chunk.delta.tool_calls for chunk in chunks if chunk.delta.tool_calls]
        assert (calls[0].index, json.loads(calls[0].function.arguments)) == (0, {"command": "ls"})
        assert chunks[-1].finish_reason == "tool_calls"

    @pytest.mark.parametrize("form", ["function call<|role_sep|>\n", "<|function_call|>"])
    def test_gigachat_s_forms_are_special_tokens(self, parrot: Parrot, form: str) -> None:
        """Which the text of an answer usually leaves out."""
        parrot.speaks("gigachat3").says(f"Look.<|message_sep|>{form}{LS}")
        message = parrot.ask(tools=[BASH]).choices[0].message
        assert (message.content, message.tool_calls[0].function.name) == ("Look.", "bash")
        assert "<|message_sep|>" not in parrot.ask().choices[0].message.content

    def test_special_tokens_are_no_text_with_tools_either(self, parrot: Parrot) -> None:
        """Not even one that the tokenizer's configuration does not name."""
        parrot.says("Look.<|im_start|>")
        assert [parrot.ask(**fields).choices[0].message.content for fields in ({}, {"tools": [BASH]})] == ["Look."] * 2

    def test_without_tools_a_call_is_text(self, parrot: Parrot) -> None:
        """Nobody who did not offer tools gets calls."""
        parrot.says(f"<tool_call>{LS}</tool_call>")
        for fields in ({}, {"tools": [BASH], "tool_choice": "none"}):
            choice = parrot.ask(**fields).choices[0]
            assert (choice.finish_reason, choice.message.tool_calls) == ("stop", None)
            assert choice.message.content == f"<tool_call>{LS}</tool_call>"

    def test_a_history_of_calls_reaches_the_model(self, parrot: Parrot) -> None:
        """Contents, calls with their arguments as an object, results, and the offered tools."""
        parrot.says(f"Let me look.\n<tool_call>\n{LS}\n</tool_call>")
        answer = parrot.ask(tools=[BASH]).choices[0].message
        result = {"role": "tool", "tool_call_id": answer.tool_calls[0].id, "content": "a.py"}
        parrot.ask([*HELLO, answer.model_dump(exclude_none=True), result], tools=[BASH])
        assert parrot.heard[-1] == (
            "<tools>bash</tools><|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nLet me look.\n"
            '<tool_call>{"name": "bash", "arguments": {"command": "ls"}}</tool_call><|im_end|>\n'
            "<|im_start|>tool\na.py<|im_end|>\n<|im_start|>assistant"
        )

    def test_mini_swe_agent_s_client_understands_calls(self, parrot: Parrot) -> None:
        """LiteLLM, whose messages are sent back as they came."""
        parrot.says(f"<tool_call>{LS}</tool_call>")
        answer = parrot.ask_litellm(HELLO, tools=[BASH]).choices[0].message
        assert answer.tool_calls[0].function.name == "bash"
        result = {"role": "tool", "tool_call_id": answer.tool_calls[0].id, "content": "a.py"}
        assert parrot.ask_litellm([*HELLO, answer.model_dump(), result], tools=[BASH]).choices

    def test_a_model_without_tools_refuses_them(self, server: Server) -> None:
        """The demo's chat template knows none."""
        with pytest.raises(openai.BadRequestError, match="tools= is not supported by this model"):
            ask(server, tools=[BASH])


class TestCrowd:
    def test_64_clients_at_once(self, server: Server) -> None:
        """Everybody gets the answer that they would get alone."""
        apart = {name: text(server, name) for name in NAMES}
        asked = [NAMES[number % 3] for number in range(64)]
        with ThreadPoolExecutor(64) as clients:
            said = list(clients.map(lambda name: text(server, name), asked))
        assert said == [apart[name] for name in asked]

    def test_a_body_of_two_megabytes(self, server: Server) -> None:
        """Is read, found too long, and answered so; meanwhile others are served."""
        long = [{"role": "user", "content": "def f():\n    pass\n" * 120_000}]
        with ThreadPoolExecutor(1) as client:
            refused = client.submit(post, server, {"model": "base", "messages": long})
            assert ask(server, max_tokens=2).usage.completion_tokens == 2
            assert error(refused.result())[:2] == (400, "context_length_exceeded")

    def test_a_full_queue_says_when_to_come_back(self, talkative: Path) -> None:
        """429 with Retry-After, which clients obey; all answers of a request are queued, or none."""
        engine = Engine(load(Source(str(talkative)), {}, ["base"]), max_waiting=3)
        client = TestClient(create_app(engine, "key"), headers={"Authorization": "Bearer key"})
        asked = {"model": "base", "messages": HELLO, "max_tokens": 8000, "n": 128}
        response = client.post("/v1/chat/completions", json=asked)
        assert error(response)[:2] == (429, "rate_limit_exceeded")
        assert int(response.headers["retry-after"]) > 0
        engine.close()
        assert client.post("/v1/chat/completions", json={**asked, "n": 1}).status_code == 503

    def test_metrics(self, server: Server) -> None:
        """Prometheus can read what was done, by model, without a key."""
        ask(server, "sft")
        before = metrics(server)
        ask(server, "sft")
        after = metrics(server)
        totals = [name for name in after if "_total{" in name]
        changed = {name: after[name] - before[name] for name in totals if after[name] != before.get(name)}
        prompt = changed.pop('swe_eval_prompt_tokens_total{model="sft"}')
        assert changed.pop('swe_eval_cached_tokens_total{model="sft"}') == prompt - 1
        assert changed == {
            'swe_eval_requests_total{model="sft",outcome="length"}': 1,
            'swe_eval_completion_tokens_total{model="sft"}': 24,
            'swe_eval_prefix_cache_queries_total{model="sft"}': prompt,
            'swe_eval_prefix_cache_hits_total{model="sft"}': prompt - 1,
        }


class TestLitellm:
    """The client that mini-swe-agent uses."""

    def complete(self, endpoint: Endpoint, messages: Any, **fields: Any) -> Any:
        import litellm

        return litellm.completion(
            model=f"openai/{endpoint.model}",
            api_base=endpoint.base_url,
            api_key=endpoint.api_key,
            messages=messages,
            **{"temperature": 0, "max_tokens": 24, **fields},
        )

    def test_answer_can_be_sent_back(self, server: Server) -> None:
        """A conversation that holds an answer as litellm returned it is understood."""
        done = self.complete(server.endpoints["sft"], HELLO)
        answer = done.choices[0].message
        assert answer.content == text(server, "sft")
        again = self.complete(server.endpoints["sft"], [*HELLO, answer.model_dump(), *HELLO])
        assert again.usage.prompt_tokens > done.usage.prompt_tokens

    def test_overflow_is_recognised(self, server: Server) -> None:
        """An overflow is litellm's ContextWindowExceededError, which the agent ends on."""
        import litellm

        with pytest.raises(litellm.ContextWindowExceededError, match="maximum context length is 8192 tokens"):
            self.complete(server.endpoints["sft"], HELLO, max_tokens=8192)


class TestRefusals:
    def test_unknown_model(self, server: Server) -> None:
        """A model that is not served is 404, with the names that are."""
        status, code, message = error(post(server, {"model": "gpt-9", "messages": HELLO}))
        assert (status, code) == (404, "model_not_found")
        assert "base, sft, rl-step.900" in message

    def test_wrong_key(self, server: Server) -> None:
        """Nothing under /v1 is answered without the key; /health is."""
        assert error(post(server, {"model": "base", "messages": HELLO}, key="guess"))[:2] == (401, "invalid_api_key")
        base_url = server.endpoints["base"].base_url
        assert httpx.get(f"{base_url}/models", timeout=60).status_code == 401
        assert httpx.get(f"{base_url.removesuffix('/v1')}/health", timeout=60).json() == {"status": "ok"}

    def test_overflow(self, server: Server) -> None:
        """Prompt and answer that do not fit are refused in OpenAI's words."""
        status, code, message = error(post(server, {"model": "base", "messages": HELLO, "max_tokens": 8192}))
        assert (status, code) == (400, "context_length_exceeded")
        assert message.startswith(
            "This model's maximum context length is 8192 tokens. However, you requested 8208 tokens"
        )

    @pytest.mark.parametrize(
        ("body", "names"),
        [
            (b"{not json", "not JSON: Expecting property name"),
            (b"[]", "dictionary"),
            ({"messages": HELLO}, "model"),
            ({"model": "base", "messages": []}, "messages"),
            ({"model": "base", "messages": "hello"}, "messages"),
            ({"model": "base", "messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
            ({"model": "base", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "only text parts"),
            ({"model": "base", "messages": [{"role": "robot", "content": "ok"}]}, "messages.0.role"),
            ({"model": "base", "messages": [{**HELLO[0], "tool_calls": [{"id": "1"}]}]}, "tool_calls"),
            (rb'{"model": "base", "messages": [{"role": "user", "content": "\ud800"}]}', "chat template"),
            ({"model": "base", "messages": HELLO, "temperature": "hot"}, "temperature"),
            (b'{"model": "base", "messages": [{"role": "user"}], "temperature": NaN}', "temperature"),
            ({"model": "base", "messages": HELLO, "max_tokens": 0}, "max_tokens"),
            ({"model": "base", "messages": HELLO, "stop": [""]}, "stop"),
            ({"model": "base", "messages": HELLO, "seed": 2**63}, "seed"),
        ],
    )
    def test_malformed_request(self, server: Server, body: Any, names: str) -> None:
        """A request that cannot be understood is 400 and says which part."""
        status, _, message = error(post(server, body))
        assert status == 400
        assert names in message

    @pytest.mark.parametrize(
        "field",
        [
            {"tools": [{"type": "function", "function": {"name": "bash"}}]},
            {"tool_choice": "required"},
            {"response_format": {"type": "json_object"}},
            {"presence_penalty": 0.5},
            {"frequency_penalty": 0.5},
            {"logit_bias": {"5": 1}},
            {"top_k": 40},
            {"a_new_field": 1},
        ],
        ids=str,
    )
    def test_unsupported_field(self, server: Server, field: dict[str, Any]) -> None:
        """What would change the answer and is not supported is refused by name, never ignored."""
        status, _, message = error(post(server, {"model": "base", "messages": HELLO, **field}))
        assert status == 400
        assert message.startswith(f"{next(iter(field))}=")
        assert "leave it out" in message

    def test_neutral_values(self, server: Server) -> None:
        """The same fields are welcome with values that change nothing."""
        neutral = {
            "stream": False,
            "n": 1,
            "tools": [],
            "tool_choice": "none",
            "top_k": -1,
            "logprobs": None,
            "user": "me",
        }
        assert post(server, {"model": "base", "messages": HELLO, "max_tokens": 1, **neutral}).status_code == 200

    def test_internal_error(self, talkative: Path, random_adapters: dict[str, Path]) -> None:
        """What goes wrong inside is 500 in the same form, and the server lives on."""
        weights = load(Source(str(talkative)), {name: str(path) for name, path in random_adapters.items()}, ["base"])
        weights.model.delete_adapter(weights.served["sft"].adapter)
        client = TestClient(create_app(Engine(weights), "key"), raise_server_exceptions=False)
        client.headers["Authorization"] = "Bearer key"
        asked = {"messages": HELLO, "max_tokens": 1}
        status, _, message = error(client.post("/v1/chat/completions", json={"model": "sft", **asked}))
        assert (status, message[:20]) == (500, "ValueError: Adapter ")
        assert client.post("/v1/chat/completions", json={"model": "rl-step.900", **asked}).status_code == 200

    def test_unknown_path(self, server: Server) -> None:
        """Other paths are 404 in the same form."""
        response = httpx.get(server.endpoints["base"].base_url + "/embeddings", timeout=60)
        assert error(response) == (404, None, "GET /v1/embeddings: Not Found")


class TestClientsThatLeave:
    @pytest.mark.parametrize("path", ["chat/completions", "completions"])
    def test_a_stream_that_is_closed_stops(self, server: Server, path: str) -> None:
        """Nothing is computed for a client that has heard enough."""
        before = metrics(server)[ANSWERED]
        with streamed(server, path, max_tokens=8000):
            assert eventually(lambda: metrics(server)[RUNNING] == 1)
        assert eventually(lambda: not metrics(server)[RUNNING])
        assert metrics(server)[ANSWERED] == before

    def test_abandoned_requests_do_not_block_the_next(self, server: Server) -> None:
        """The running request of a client that left is stopped, its queued ones are never started."""
        endless = {"model": "base", "messages": HELLO, "temperature": 0, "max_tokens": 8000}
        endpoint, before = server.endpoints["base"], metrics(server)[ANSWERED]
        headers = {"Authorization": f"Bearer {endpoint.api_key}"}
        for _ in range(3):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{endpoint.base_url}/chat/completions", json=endless, headers=headers, timeout=0.3)
        assert ask(server, max_tokens=3).usage.completion_tokens == 3
        assert eventually(lambda: not metrics(server)[RUNNING])
        assert metrics(server)[ANSWERED] == before + 1


class TestStop:
    def test_what_is_being_answered_is_answered(self, talkative: Path, tmp_path: Path) -> None:
        """After SIGTERM the server takes nothing new, and leaves when it is done."""
        settings = serving_settings(talkative, {"base": None})
        with serve([settings], tmp_path / "log", print) as server:
            assert isinstance(server, SupervisedServer)
            with streamed(server, max_tokens=100, stream_options={"include_usage": True}) as lines:
                os.kill(server.pid, signal.SIGTERM)
                *_, usage, end = filter(None, lines)
            assert ('"completion_tokens": 100' in usage, end) == (True, "data: [DONE]")
            with pytest.raises(ServingError, match="exit code"):
                eventually(lambda: bool(server.check()))


class TestStart:
    def test_key_is_not_on_the_command_line(self, server: SupervisedServer) -> None:
        """Every user of a machine can read the arguments of its processes."""
        if sys.platform != "linux":
            pytest.skip("needs /proc")
        key = server.endpoints["base"].api_key
        assert key.encode() not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
        assert key not in repr(server.endpoints)

    def test_taken_port(self, server: Server, tmp_path: Path, talkative: Path) -> None:
        """A fixed port that another server holds is an error that names the setting, even if that one answers."""
        port = httpx.URL(server.endpoints["base"].base_url).port
        settings = serving_settings(talkative, {"base": None}, transformers_serving(port))
        with pytest.raises(ServingError, match=r"serving\.port is taken"), serve([settings], tmp_path / "log", print):
            pass

    def test_adapter_that_does_not_fit(self, random_adapters: dict[str, Path], tmp_path: Path, talkative: Path) -> None:
        """Weights that find no place in the model are refused, where PEFT would serve the base model in their stead."""
        misnamed = shutil.copytree(random_adapters["sft"], tmp_path / "misnamed")
        rename_weights(misnamed / "adapter_model.safetensors", ".layers.0.", ".layers.9.")
        with pytest.raises(CannotServe, match="adapter misnamed: 4 weights are not in this model"):
            load(Source(str(talkative)), {"misnamed": str(misnamed)}, [])

    def test_adapter_with_missing_weights(
        self, random_adapters: dict[str, Path], tmp_path: Path, talkative: Path
    ) -> None:
        """An adapter that lacks weights is refused, where PEFT would leave them random."""
        partial = shutil.copytree(random_adapters["sft"], tmp_path / "partial")
        rename_weights(partial / "adapter_model.safetensors", ".layers.0.", None)
        with pytest.raises(CannotServe, match="adapter partial: 4 weights are missing in the adapter"):
            load(Source(str(talkative)), {"partial": str(partial)}, [])

    def test_adapter_of_another_rank(self, random_adapters: dict[str, Path], tmp_path: Path, talkative: Path) -> None:
        """Weights whose shapes contradict the adapter's own configuration are refused."""
        other = shutil.copytree(random_adapters["sft"], tmp_path / "other")
        config = other / "adapter_config.json"
        config.write_text(config.read_text().replace('"r": 8', '"r": 4'))
        with pytest.raises(CannotServe, match=r"adapter other: .*size mismatch"):
            load(Source(str(talkative)), {"other": str(other)}, [])

    def test_model_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A base model that cannot be found is named in one line, by which the hint in ``process.HINTS`` goes."""
        monkeypatch.setenv("SWE_EVAL_API_KEY", "key")
        monkeypatch.setattr("sys.argv", ["app", "--model=/no/such/model", "--port=0"])
        with pytest.raises(SystemExit, match=r"^error: model /no/such/model: "):
            main()

    def test_model_without_chat_template(self, tmp_path: Path, talkative: Path) -> None:
        """Without a chat template there is no chat."""
        bare = shutil.copytree(talkative, tmp_path / "bare")
        config = bare / "tokenizer_config.json"
        config.write_text(config.read_text().replace("chat_template", "no_chat_template"))
        with pytest.raises(CannotServe, match="no chat template"):
            load(Source(str(bare)), {}, ["base"])

    def test_context_longer_than_the_model(self, talkative: Path) -> None:
        """A context beyond the model's positions is refused instead of answered with noise."""
        with pytest.raises(CannotServe, match="--max-model-len 9000: the model has 8192 positions"):
            load(Source(str(talkative), max_model_len=9000), {}, ["base"])


def explode_at(call: int) -> Any:
    """The forward pass of an MoE layer, that raises when it is called for the n-th time."""
    forward, calls = DeepseekV3MoE.forward, count(1)

    def exploding(self: Any, hidden_states: Any) -> Any:
        if next(calls) == call:
            raise RuntimeError("in the middle")
        return forward(self, hidden_states)

    return exploding


def rename_weights(file: Path, old: str, new: str | None) -> None:
    """Replace ``old`` in the names of a safetensors file; None drops the weights with such names."""
    from safetensors.torch import load_file, save_file

    weights = {name: weight for name, weight in load_file(file).items() if new is not None or old not in name}
    save_file({name.replace(old, new or ""): weight for name, weight in weights.items()}, file)
