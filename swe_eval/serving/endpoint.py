"""One served model: its address, and requests that only a working model answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx

from swe_eval.errors import ServingError

QUICK = 10.0


@dataclass(frozen=True)
class Endpoint:
    """Where an OpenAI client reaches one adapter."""

    base_url: str
    """Ends in ``/v1``."""
    api_key: str = field(repr=False)
    model: str
    """Model id at the endpoint."""
    max_model_len: int | None
    """Context in tokens; None if the endpoint does not say."""


def listed_models(base_url: str, api_key: str, timeout: float = QUICK) -> dict[str, int | None]:
    """Context length in tokens (None if not said) by model id, from ``GET /v1/models``.

    Raises:
        httpx.HTTPError: nobody answers within ``timeout`` seconds, or the answer is not 2xx.
        ServingError: the answer is not an OpenAI model list.
    """
    with open_client(base_url, api_key, timeout) as client:
        response = client.get("/models").raise_for_status()
    try:
        return {model["id"]: model.get("max_model_len") for model in response.json()["data"]}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ServingError(f"{response.url} is not an OpenAI model list: {response.text[:200]!r}") from None


def ask_one_token(endpoint: Endpoint, timeout: float) -> None:
    """Have the model generate one token: that it is listed does not prove that it answers.

    Raises:
        httpx.HTTPError: nobody answers within ``timeout`` seconds, or the answer is not 2xx.
        ServingError: the answer is not a chat completion.
    """
    request = {"model": endpoint.model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    with open_client(endpoint.base_url, endpoint.api_key, timeout) as client:
        response = client.post("/chat/completions", json=request).raise_for_status()
    try:
        response.json()["choices"][0]["message"]
    except (ValueError, KeyError, TypeError, IndexError):
        raise ServingError(f"{response.url} is not an OpenAI chat endpoint: {response.text[:200]!r}") from None


def post(endpoint: Endpoint, path: str, body: Mapping[str, object], timeout: float) -> None:
    """Post JSON to a path below the base URL.

    Raises:
        httpx.HTTPError: nobody answers within ``timeout`` seconds, or the answer is not 2xx.
    """
    with open_client(endpoint.base_url, endpoint.api_key, timeout) as client:
        client.post(path, json=body).raise_for_status()


def is_healthy(endpoint: Endpoint) -> bool:
    """False if nothing listens any more, or the server reports an error; a slow answer counts as healthy."""
    root = endpoint.base_url.removesuffix("/v1")
    try:
        with open_client(root, endpoint.api_key, QUICK) as client:
            return client.get("/health").status_code < 500
    except httpx.TimeoutException:
        return True
    except httpx.RequestError:
        return False


def prompt_logprobs(endpoint: Endpoint, prompt: str, timeout: float) -> list[float]:
    """Log-probability, in nats, of every token of ``prompt`` but the first.

    Raises:
        httpx.HTTPError: nobody answers within ``timeout`` seconds, or the answer is not 2xx.
        ServingError: the answer has no scores of the prompt, or one that is not a finite number.
    """
    # one token is generated and left out again: not every server takes max_tokens=0
    request = {"model": endpoint.model, "prompt": prompt, "max_tokens": 1, "echo": True, "logprobs": 1}
    with open_client(endpoint.base_url, endpoint.api_key, timeout) as client:
        response = client.post("/completions", json=request | {"temperature": 0}).raise_for_status()
    try:
        answer = response.json()
        scores: list[float] = answer["choices"][0]["logprobs"]["token_logprobs"][1 : answer["usage"]["prompt_tokens"]]
    except (ValueError, KeyError, TypeError, IndexError):
        scores = []
    if not scores or not all(isinstance(score, float | int) and math.isfinite(score) for score in scores):
        raise ServingError(f"no log-probabilities of the prompt in {response.text[:200]!r}")
    return scores


def reason(error: httpx.HTTPError) -> str:
    """What went wrong, in one line, in the server's own words if it had any."""
    if not isinstance(error, httpx.HTTPStatusError):
        return str(error) or type(error).__name__
    try:
        said = error.response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = error.response.text[:200]
    return f"HTTP {error.response.status_code}: {said}"


def open_client(base_url: str, api_key: str, timeout: float) -> httpx.Client:
    """A client that sends the key, and uses no proxy to reach this machine. ``timeout`` is in seconds."""
    # With a cluster's HTTP_PROXY, requests to this node itself would go out to the proxy.
    is_local = httpx.URL(base_url).host in ("127.0.0.1", "localhost", "::1")
    headers = {"Authorization": f"Bearer {api_key}"}
    return httpx.Client(base_url=base_url, headers=headers, timeout=timeout, trust_env=not is_local)
