"""A trajectory as turns: what the model thought, which commands it gave, what they printed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Message = Mapping[str, Any]


@dataclass
class Action:
    """A command of a turn."""

    command: str
    output: str = ""
    """In full, even if the model was shown less."""
    returncode: int | None = None
    """None if the rollout ended with the command: by a submission, or by a limit."""
    problem: str = ""
    """Why it did not end by itself, for example a time limit."""


@dataclass
class Turn:
    """One answer of the model."""

    number: int
    """From 1, as the agent counts its calls."""
    thought: str
    """What it wrote around its commands, after the reasoning of a reasoning model."""
    actions: list[Action] = field(default_factory=list)
    refused: str = ""
    """The agent's complaint about an answer in which it found no command; there are no actions then."""
    seconds: float | None = None
    """How long the model took to answer."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


def turns_of(trajectory: Mapping[str, Any]) -> list[Turn]:
    """The turns of a trajectory in mini-swe-agent's format; an empty trajectory has none."""
    fence = trajectory.get("info", {}).get("config", {}).get("model", {}).get("action_regex")
    turns: list[Turn] = []
    waiting: Iterator[Action] = iter(())
    for message in trajectory.get("messages", []):
        extra = message.get("extra", {})
        if message.get("role") == "assistant" or "response" in extra:
            turns.append(_turn(len(turns) + 1, message, fence))
            waiting = iter(turns[-1].actions)
        elif "raw_output" in extra and (action := next(waiting, None)):
            action.output, action.returncode = extra["raw_output"] or "", extra.get("returncode")
            action.problem = extra.get("exception_info") or ""
    return turns


def text_of(content: Any) -> str:
    """The text of a message's content, which may be a list of parts."""
    if isinstance(content, list):
        return "\n".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    return str(content or "")


def _turn(number: int, message: Message, fence: str | None) -> Turn:
    extra = message.get("extra", {})
    response = extra.get("response") or {}
    usage = response.get("usage") or {}
    is_refused = message.get("role") != "assistant"
    said = _answer(response) if is_refused else message
    content = text_of(said.get("content"))
    thought = content if is_refused or not fence else re.sub(fence, "", content, flags=re.DOTALL)
    return Turn(
        number,
        "\n\n".join(
            filter(None, [text_of(said.get("reasoning_content")).strip(), thought.strip(), _calls(said, extra)])
        ),
        [Action(str(action.get("command", ""))) for action in extra.get("actions", [])],
        text_of(message.get("content")) if is_refused else "",
        extra.get("seconds"),
        usage.get("prompt_tokens") or 0,
        usage.get("completion_tokens") or 0,
    )


def _answer(response: Mapping[str, Any]) -> Message:
    choices: Sequence[Any] = response.get("choices") or [{}]
    found: Message = choices[0].get("message") or {}
    return found


def _calls(said: Message, extra: Mapping[str, Any]) -> str:
    """Tool calls in which the agent found no command, as the model wrote them."""
    if extra.get("actions"):
        return ""
    functions = [call.get("function") or {} for call in said.get("tool_calls") or []]
    return "\n".join(f"{function.get('name')}({function.get('arguments')})" for function in functions)
