"""The part of OpenAI's requests that this server supports; the rest is refused, never ignored."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from swe_eval.serving.app.sampling import Sampling

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "top_k": (-1, 0),
    "min_p": (0,),
    "annotations": ([],),
    "suffix": ("",),
}
"""Values that change nothing, of fields (and fields of a message) that are not supported."""

HARMLESS = frozenset({
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "provider_specific_fields",
})  # fmt: skip
"""Fields that never change the answer."""

MOST_ALTERNATIVES = 20
MOST_CHOICES = 128


def _text(content: Any) -> Any:
    """``content`` as one string: parts of a list are joined by newlines, as vLLM does."""
    if content is None:
        return ""
    if not isinstance(content, list):
        return content
    for part in content:
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise ValueError(f"only text parts are supported, not {part!r:.80}")
    return "\n".join(part["text"] for part in content)


class _Refusing(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _refuse_unsupported(self) -> _Refusing:
        for field, value in (self.model_extra or {}).items():
            if field in HARMLESS or value in NEUTRAL.get(field, ()):
                continue
            instead = f" or send {NEUTRAL[field][0]!r}" if field in NEUTRAL else ""
            raise ValueError(f"{field}={value!r:.80} is not supported by this server: leave it out{instead}")
        return self


class FunctionCall(BaseModel):
    """A function's name and its arguments as JSON, as a model gave them."""

    name: str
    arguments: str = "{}"

    def for_template(self) -> dict[str, Any]:
        """With the arguments as an object, as chat templates expect them; unchanged if they are not one."""
        try:
            arguments = json.loads(self.arguments)
        except ValueError:
            arguments = None
        return {"name": self.name, "arguments": arguments if isinstance(arguments, dict) else self.arguments}


class ToolCall(BaseModel):
    """A tool call of an earlier answer."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall

    def for_template(self) -> dict[str, Any]:
        return {"id": self.id, "type": self.type, "function": self.function.for_template()}


class Message(_Refusing):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str, BeforeValidator(_text)] = ""
    name: str | None = None
    tool_calls: list[ToolCall] = []
    tool_call_id: str | None = None

    def for_template(self) -> dict[str, Any]:
        """As chat templates take it."""
        plain = {"role", "content", "name", "tool_call_id"}
        message: dict[str, Any] = self.model_dump(include=plain, exclude_none=True)
        if self.tool_calls:
            message["tool_calls"] = [call.for_template() for call in self.tool_calls]
        return message


class Function(BaseModel):
    """A function that the model may call; whatever else describes it goes to the chat template as it is."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Field(min_length=1)]


class Tool(BaseModel):
    """A tool that the model may call."""

    model_config = ConfigDict(extra="allow")

    type: Literal["function"]
    function: Function


class StreamOptions(BaseModel):
    """What a stream contains besides text."""

    include_usage: bool = False


class _Generation(_Refusing):
    """What both kinds of request have in common, with OpenAI's defaults."""

    model: str
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Annotated[str, Field(min_length=1)] | list[Annotated[str, Field(min_length=1)]] = []
    n: Annotated[PositiveInt, Field(le=MOST_CHOICES)] = 1
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    def _sampling(self, index: int, max_tokens: int | None, logprobs: int | None, of_prompt: bool = False) -> Sampling:
        seed = None if self.seed is None else (self.seed + index + 2**63) % 2**64 - 2**63  # each choice has its own
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        return Sampling(max_tokens, self.temperature, self.top_p, seed, stop, logprobs, of_prompt)


class ChatRequest(_Generation):
    """What a client may ask for at ``/v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None
    logprobs: bool = False
    top_logprobs: Annotated[NonNegativeInt, Field(le=MOST_ALTERNATIVES)] = 0
    tools: list[Tool] = []
    tool_choice: Literal["none", "auto"] = "auto"
    parallel_tool_calls: bool = True

    @model_validator(mode="before")
    @classmethod
    def _refuse_constrained(cls, data: Any) -> Any:
        choice = data.get("tool_choice") if isinstance(data, dict) else None
        if choice not in (None, "none", "auto"):
            raise ValueError(f"tool_choice={choice!r:.80} is not supported by this server: leave it out or send 'auto'")
        return data

    @model_validator(mode="after")
    def _asks_for_scores(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs=true")
        return self

    @property
    def conversation(self) -> list[dict[str, Any]]:
        """The messages as the chat template takes them."""
        return [message.for_template() for message in self.messages]

    @property
    def offered(self) -> list[dict[str, Any]]:
        """The tools as the chat template takes them; none if the model must not call any."""
        return [tool.model_dump() for tool in self.tools] if self.tool_choice == "auto" else []

    @property
    def most_calls(self) -> int | None:
        """The most calls in one answer; None is any number."""
        return None if self.parallel_tool_calls else 1

    def sampling(self, index: int) -> Sampling:
        """How to make the choice of this index."""
        wanted = self.max_completion_tokens or self.max_tokens
        return self._sampling(index, wanted, self.top_logprobs if self.logprobs else None)


class CompletionRequest(_Generation):
    """What a client may ask for at ``/v1/completions``; prompts may be text or tokens, one or several."""

    prompt: str | list[int] | Annotated[list[str] | list[list[int]], Field(min_length=1)]
    max_tokens: NonNegativeInt = 16
    logprobs: Annotated[NonNegativeInt, Field(le=MOST_ALTERNATIVES)] | None = None
    echo: bool = False

    @model_validator(mode="after")
    def _produces_something(self) -> CompletionRequest:
        if not (self.max_tokens or self.echo):
            raise ValueError("max_tokens=0 needs echo=true")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """One by one."""
        if isinstance(self.prompt, str) or all(isinstance(part, int) for part in self.prompt):
            return [self.prompt]  # type: ignore[list-item]
        return list(self.prompt)  # type: ignore[arg-type]

    def sampling(self, index: int) -> Sampling:
        """How to make the choice of this index."""
        return self._sampling(index, self.max_tokens, self.logprobs, of_prompt=self.echo and self.logprobs is not None)
