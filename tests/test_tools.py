"""Tool calls as models write them, taken out of text, whole or while it comes."""

from __future__ import annotations

import json

import pytest

from swe_eval.serving.app.tools import PARSERS, ToolStream, parser_named

SPECIAL = ["<|role_sep|>", "<|message_sep|>", "<|function_call|>", "<|im_end|>"]
TOOLS = [
    {"type": "function", "function": {"name": "bash", "parameters": {"properties": {"command": {"type": "string"}}}}},
    {"type": "function", "function": {"name": "wait", "parameters": {"properties": {"seconds": {"type": "integer"}}}}},
]
LS = ("bash", {"command": "ls"})
PWD = ("bash", {"command": "pwd"})
LS_JSON = '{"name": "bash", "arguments": {"command": "ls"}}'
PWD_JSON = '{"name": "bash", "arguments": {"command": "pwd"}}'
GIGACHAT_CALL = "function call<|role_sep|>\n"
HERMES_LS = f"<tool_call>\n{LS_JSON}\n</tool_call>"


def parsed(parser, text, pieces=None):
    """(content, [(name, arguments)]) of a text, taken in one piece or several."""
    stream = ToolStream(PARSERS[parser], TOOLS, SPECIAL)
    content = "".join(stream.push(piece) for piece in pieces or [text])
    rest = stream.close(None)
    return content + rest.content, [(call.name, json.loads(call.arguments)) for call in rest.calls]


WRITTEN = [
    ("hermes", f"Let me look.\n{HERMES_LS}", "Let me look.\n", [LS]),
    ("hermes", f"{HERMES_LS}\n<tool_call>\n{PWD_JSON}\n</tool_call>", "", [LS, PWD]),
    ("hermes", f"<tool_call>{LS_JSON}", "", [LS]),
    ("hermes", r'<tool_call>{"name": "bash", "arguments": "{\"command\": \"ls\"}"}</tool_call>', "", [LS]),
    ("hermes", '<tool_call>{"name": "bash"}</tool_call>', "", [("bash", {})]),
    ("hermes", "No call, x < y.", "No call, x < y.", []),
    ("gigachat3", f"function call<|role_sep|>\n{LS_JSON}", "", [LS]),
    ("gigachat3", f"Look.<|message_sep|>\n\nfunction call<|role_sep|>\n{LS_JSON}<|message_sep|>", "Look.", [LS]),
    ("gigachat3", f"Look.<|function_call|>{LS_JSON}<|function_call|>{PWD_JSON}", "Look.", [LS, PWD]),
    ("gigachat3", f"{GIGACHAT_CALL}{LS_JSON}<|message_sep|>\n{GIGACHAT_CALL}{PWD_JSON}", "", [LS, PWD]),
    ("gigachat3", r'<|function_call|>{"name": "bash", "arguments": "{\"command\": \"ls\"}"}', "", [LS]),
    ("gigachat3", "A function call is no call.", "A function call is no call.", []),
    (
        "qwen3_coder",
        "Look.<tool_call>\n<function=bash>\n<parameter=command>\nls\n</parameter>\n</function>\n</tool_call>",
        "Look.",
        [LS],
    ),
    (
        "qwen3_coder",
        "<tool_call><function=wait><parameter=seconds>\n3\n</parameter></function></tool_call>",
        "",
        [("wait", {"seconds": 3})],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("parser", "text", "content", "calls"), WRITTEN)
def test_content_and_calls_are_told_apart(parser, text, content, calls):
    assert parsed(parser, text) == (content, calls)


@pytest.mark.parametrize(("parser", "text", "content", "calls"), WRITTEN)
def test_a_stream_of_single_characters_says_the_same(parser, text, content, calls):
    assert parsed(parser, text, pieces=list(text)) == (content, calls)


@pytest.mark.parametrize(
    ("parser", "text"),
    [
        ("hermes", '<tool_call>{"name": "bash", "arguments": {"command": </tool_call>'),
        ("hermes", f"{HERMES_LS}<tool_call>[1]</tool_call>"),
        ("hermes", '<tool_call>{"arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "bash", "arguments": [1]}</tool_call>'),
        ("qwen3_coder", "<tool_call>bash ls</tool_call>"),
        ("qwen3_coder", "<tool_call><function=bash><parameter=command>\nrm -rf /tmp/a"),
    ],
)
def test_a_malformed_call_is_text(parser, text):
    assert parsed(parser, text) == (text, [])
    assert parsed(parser, text, pieces=list(text)) == (text, [])


@pytest.mark.parametrize("parameters", [None, True, "text", {"properties": None}, {"properties": {"command": True}}])
def test_a_schema_may_be_anything(parameters):
    stream = ToolStream(PARSERS["qwen3_coder"], [{"function": {"name": "bash", "parameters": parameters}}], [])
    stream.push("<tool_call><function=bash><parameter=command>ls</parameter></function></tool_call>")
    [call] = stream.close(None).calls
    assert json.loads(call.arguments) == {"command": "ls"}


def test_special_tokens_are_no_part_of_malformed_text():
    assert parsed("gigachat3", "Look.<|function_call|>{oops<|message_sep|>") == ("Look.{oops", [])


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("... <tool_call>{{ call | tojson }}</tool_call>", "hermes"),
        ("... <tool_call>\n<function={{ name }}>", "qwen3_coder"),
        ("... {{ 'function call<|role_sep|>\n' }}", "gigachat3"),
        ("... <|function_call|>{{ call }}", "gigachat3"),
        ("{{ messages }}", "none"),
    ],
)
def test_the_chat_template_decides(template, name):
    assert parser_named("auto", template) is PARSERS[name]
    assert parser_named("hermes", template) is PARSERS["hermes"]
