"""``serving=external``: an OpenAI-compatible endpoint that already runs, and that we neither start nor stop."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from swe_eval.errors import ServingError, UserError
from swe_eval.serving.endpoint import Endpoint, ask_one_token, listed_models, reason
from swe_eval.serving.server import Server
from swe_eval.settings import ExternalServing, Settings, is_header

NO_KEY = "EMPTY"  # clients insist on some key; vLLM's documentation uses this one
REFUSED, NOT_FOUND = (401, 403), 404  # of HTTP
NAME_THE_KEY = "serving.api_key_env must name the variable that holds this endpoint's key"


@dataclass(frozen=True)
class ExternalServer(Server):
    """An endpoint per adapter at one base URL."""

    endpoints: Mapping[str, Endpoint]

    def check(self) -> None:
        """Raise ServingError if nobody listens at the base URL any more; any HTTP answer, or a slow one, is enough."""
        endpoint = next(iter(self.endpoints.values()))
        try:
            listed_models(endpoint.base_url, endpoint.api_key)
        except (httpx.ReadTimeout, httpx.HTTPStatusError, ServingError):
            pass
        except httpx.RequestError as error:
            raise _no_answer(endpoint.base_url, error) from None


@contextmanager
def connect_external(
    settings: Settings, _: Sequence[str] | None, log: Path, say: Callable[[str], None]
) -> Iterator[ExternalServer]:
    """Have every adapter's model answer once at the endpoint.

    Raises:
        UserError: the environment variable with the key is not set.
        ServingError: a model does not answer; says why and which field to change.
    """
    serving = settings.serving
    assert isinstance(serving, ExternalServing)
    base_url, key = serving.base_url.rstrip("/"), key_of(serving)
    listed = _listed(base_url, key)
    endpoints = {}
    for adapter in settings.adapters:
        model = serving.models.get(adapter.name, adapter.name)
        endpoints[adapter.name] = Endpoint(base_url, key, model, listed.get(model))
        _prove(endpoints[adapter.name], listed, serving.startup_timeout)
        say(f"{adapter.name}: {model} at {base_url} answers")
    yield ExternalServer(endpoints)


def unlisted(settings: Settings) -> str:
    """A line about the models that the endpoint does not list, which it may serve all the same; empty if it lists all.

    Raises:
        UserError: see ``key_of``.
        ServingError: nothing answers, or the key is refused.
    """
    serving = settings.serving
    assert isinstance(serving, ExternalServing)
    base_url, key = serving.base_url.rstrip("/"), key_of(serving)
    try:
        listed = listed_models(base_url, key)
    except httpx.RequestError as error:
        raise _no_answer(base_url, error) from None
    except httpx.HTTPStatusError as error:
        if error.response.status_code in REFUSED:
            raise ServingError(f"{base_url}: {reason(error)}; {NAME_THE_KEY}") from None
        listed = {}
    except ServingError:
        listed = {}
    models = [serving.models.get(adapter.name, adapter.name) for adapter in settings.adapters]
    missing = ", ".join(model for model in models if model not in listed)
    return f"{missing} at {base_url}: {_advice(NOT_FOUND, listed)}" if missing else ""


def key_of(serving: ExternalServing) -> str:
    """The endpoint's key.

    Raises:
        UserError: the environment variable that should hold it is not set, or holds no key.
    """
    variable = serving.api_key_env
    if variable is None:
        return NO_KEY
    key = os.environ.get(variable)
    if not key:
        raise UserError(
            f"serving.api_key_env: the environment variable {variable} is not set; export it, or write null"
        )
    if not is_header(key):
        raise UserError(f"serving.api_key_env: {variable} has characters that HTTP cannot send; export the key alone")
    return key


def _listed(base_url: str, key: str) -> dict[str, int | None]:
    try:
        return listed_models(base_url, key)
    except httpx.RequestError as error:
        raise _no_answer(base_url, error) from None
    except (httpx.HTTPStatusError, ServingError):
        return {}  # not every endpoint has a list; the completions decide


def _prove(endpoint: Endpoint, listed: Mapping[str, int | None], timeout: float) -> None:
    try:
        ask_one_token(endpoint, timeout)
    except httpx.RequestError as error:
        raise _no_answer(endpoint.base_url, error) from None
    except httpx.HTTPStatusError as error:
        advice = _advice(error.response.status_code, listed)
        raise ServingError(f"{endpoint.model} at {endpoint.base_url}: {reason(error)}; {advice}") from None


def _advice(status: int, listed: Mapping[str, int | None]) -> str:
    if status in REFUSED:
        return NAME_THE_KEY
    if status == NOT_FOUND and listed:
        return f"it lists {', '.join(listed)}: map the adapter to one of them in serving.models"
    if status == NOT_FOUND:
        return "it lists no models: check serving.base_url, which usually ends in /v1"
    return "see the endpoint's own log"


def _no_answer(base_url: str, error: httpx.RequestError) -> ServingError:
    return ServingError(f"nothing answers at {base_url} ({reason(error)}): check serving.base_url")
