"""Our server around a model that says what it is told to say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
from fastapi.testclient import TestClient
from serving_fixtures import HELLO

from swe_eval.serving.app.engine import Engine
from swe_eval.serving.app.http import create_app
from swe_eval.serving.app.tools import PARSERS
from swe_eval.serving.app.weights import Source, load

TEMPLATE = """\
{% if tools %}<tools>{% for tool in tools %}{{ tool.function.name }}{% endfor %}</tools>{% endif %}\
{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}{% for call in message.tool_calls or [] %}\
<tool_call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</tool_call>\
{% endfor %}<|im_end|>
{% endfor %}<|im_start|>assistant
"""
SPECIAL = ["<|role_sep|>", "<|message_sep|>", "<|function_call|>"]


class Parrot:
    """Answers every request with the same tokens, and remembers what it was asked."""

    def __init__(self, model: Path) -> None:
        weights = load(Source(str(model)), {}, ["parrot"])
        weights.tokenizer.chat_template = TEMPLATE
        weights.tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
        weights.bare.resize_token_embeddings(len(weights.tokenizer))
        self.heard: list[str] = []
        self.engine = Engine(weights)
        self._tokenizer, self._submit = weights.tokenizer, self.engine.submit
        self.engine.submit = self._listen  # type: ignore[method-assign]
        self.speaks("hermes").says("")

    def speaks(self, parser: str) -> Parrot:
        """Tool calls in this form."""
        app = create_app(self.engine, "key", PARSERS[parser])
        self._client = openai.OpenAI(base_url="http://testserver/v1", api_key="key", http_client=TestClient(app))
        return self

    def says(self, text: str) -> None:
        """From now on."""
        self._tokens = [*self._tokenizer.encode(text), self._tokenizer.eos_token_id]

    def draw(self, sampler: Any) -> int:
        """The next token of a sequence, in place of its sampler's choice."""
        return int(next(vars(sampler).setdefault("script", iter(self._tokens))))

    def ask(self, messages: Any = HELLO, **fields: Any) -> Any:
        """By the openai client."""
        return self._client.chat.completions.create(model="parrot", messages=messages, **fields)

    def ask_litellm(self, messages: Any, **fields: Any) -> Any:
        """By LiteLLM."""
        import litellm

        return litellm.completion(model="openai/parrot", messages=messages, client=self._client, **fields)

    def _listen(self, request: Any, deliver: Any) -> Any:
        self.heard.append(self._tokenizer.decode(request.prompt))
        return self._submit(request, deliver)
