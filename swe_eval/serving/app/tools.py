"""Tool calls in a model's text, in the formats that models use."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from swe_eval.serving.app.protocol import FunctionCall
from swe_eval.serving.app.text import held_back


@dataclass(frozen=True)
class Parsed:
    """An answer taken apart."""

    content: str
    calls: list[FunctionCall] = field(default_factory=list)


Properties = dict[str, Any]
"""JSON schemas of the arguments, by function; whatever the client has sent as such."""


@dataclass(frozen=True)
class ToolParser:
    """One way to write tool calls."""

    markers: tuple[str, ...]
    """A call begins with one of these; what is before the first is content."""
    call_end: str
    read: Callable[[str, Properties], FunctionCall]
    """Reads what is between a marker and the end; raises ValueError for what is no call."""
    content_end: str | None = None

    def parse(self, text: str, tools: list[dict[str, Any]]) -> Parsed:
        """Content and calls; if any call is malformed, it is all content: the client can show the model its mistake."""
        content, *calls = re.split("|".join(map(re.escape, self.markers)), text)
        if self.content_end:
            content = content.partition(self.content_end)[0]
        try:
            return Parsed(content, [self.read(call.partition(self.call_end)[0], _properties(tools)) for call in calls])
        except ValueError:
            return Parsed(text)


def parser_named(name: str, chat_template: str) -> ToolParser | None:
    """A parser of ``PARSERS``; ``auto`` takes the one that the chat template's own words call for, if any."""
    if name != "auto":
        return PARSERS[name]
    if "function call<|role_sep|>" in chat_template or "<|function_call|>" in chat_template:
        return PARSERS["gigachat3"]
    if "<function=" in chat_template:
        return PARSERS["qwen3_coder"]
    return PARSERS["hermes"] if "<tool_call>" in chat_template else None


def _json_call(text: str, _: Properties) -> FunctionCall:
    call = json.loads(text)
    if not (isinstance(call, dict) and isinstance(call.get("name"), str)):
        raise ValueError("not an object with a name")
    arguments = call.get("arguments", {})
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(arguments, dict):
        raise ValueError("arguments are not an object")
    return FunctionCall(name=call["name"], arguments=json.dumps(arguments, ensure_ascii=False))


_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)


def _xml_call(text: str, properties: Properties) -> FunctionCall:
    match = re.fullmatch(r"\s*<function=([^>\n]+)>(.*?)(?:</function>)?\s*", text, re.DOTALL)
    if not match:
        raise ValueError("not a function")
    if "<parameter=" in _PARAMETER.sub("", match[2]):
        raise ValueError("a parameter without an end")
    schema = properties.get(match[1])
    arguments = {name: _typed(value, _within(schema, name)) for name, value in _PARAMETER.findall(match[2])}
    return FunctionCall(name=match[1], arguments=json.dumps(arguments, ensure_ascii=False))


def _typed(value: str, schema: Any) -> Any:
    if (_within(schema, "type") or "string") == "string":
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _properties(tools: list[dict[str, Any]]) -> Properties:
    functions = [tool["function"] for tool in tools]
    return {function["name"]: _within(function.get("parameters"), "properties") for function in functions}


def _within(schema: Any, key: str) -> Any:
    """What an object has under this key; None also of a schema that is none, as ``true``."""
    return schema.get(key) if isinstance(schema, dict) else None


GIGACHAT_CALLS = ("function call<|role_sep|>\n", "<|function_call|>")

PARSERS: dict[str, ToolParser | None] = {
    "hermes": ToolParser(("<tool_call>",), "</tool_call>", _json_call),
    "qwen3_coder": ToolParser(("<tool_call>",), "</tool_call>", _xml_call),
    "gigachat3": ToolParser(GIGACHAT_CALLS, "<|message_sep|>", _json_call, content_end="<|message_sep|>"),
    "none": None,
}
"""By the names that vLLM gives them; Hermes' is also Qwen's, GigaChat3's is also 3.1's."""


class ToolStream:
    """An answer that may contain tool calls, while it is generated."""

    def __init__(self, parser: ToolParser, tools: list[dict[str, Any]], special_tokens: list[str]) -> None:
        self._parser, self._tools, self._special = parser, tools, special_tokens
        self._marks = [*parser.markers, *([parser.content_end] if parser.content_end else [])]
        self._text, self._sent = "", 0

    def push(self, text: str) -> str:
        """Add text; returns new content that will not change: nothing that may turn out to be a call."""
        self._text += text
        starts = [at for at in map(self._text.find, self._marks) if at >= 0]
        held = held_back(self._text, [*self._marks, *self._special])
        return self._new(self._text[: min([*starts, len(self._text) - held])])

    def close(self, most: int | None) -> Parsed:
        """The rest of the content, and the calls: at most so many."""
        parsed = self._parser.parse(self._text, self._tools)
        return Parsed(self._new(parsed.content), parsed.calls[:most])

    def _new(self, content: str) -> str:
        new = content[self._sent :]
        self._sent = max(self._sent, len(content))
        for token in self._special:
            new = new.replace(token, "")
        return new
