"""The part of OpenAI's chat completion request that this server honours; the rest is refused, never ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, model_validator

from swe_eval.serving.app.engine import Sampling

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "stream": (False,),
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
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
    "tool_calls": ([],),
    "annotations": ([],),
}
"""Values that change nothing, of fields (and fields of a message) that are not supported."""

HARMLESS = frozenset({
    "user", "metadata", "store", "service_tier", "stream_options", "parallel_tool_calls", "safety_identifier",
    "prompt_cache_key", "provider_specific_fields",
})  # fmt: skip
"""Fields that never change the answer, or only together with one that is refused."""


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


class Message(_Refusing):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_text)] = ""
    name: str | None = None


class ChatRequest(_Refusing):
    """What a client may ask for, with OpenAI's defaults."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Annotated[str, Field(min_length=1)] | list[Annotated[str, Field(min_length=1)]] = []

    @property
    def conversation(self) -> list[dict[str, str]]:
        """The messages as the chat template takes them."""
        return [message.model_dump(include={"role", "content", "name"}, exclude_none=True) for message in self.messages]

    @property
    def sampling(self) -> Sampling:
        """How to answer."""
        return Sampling(
            max_tokens=self.max_completion_tokens or self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop),
        )
