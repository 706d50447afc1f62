"""An endpoint that already runs: ours, taken for somebody else's."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from serving_fixtures import serving_settings

from swe_eval.errors import ServingError, UserError
from swe_eval.serving import endpoint
from swe_eval.serving.external import ExternalServer
from swe_eval.serving.parts import serve
from swe_eval.serving.server import Endpoint, Server
from swe_eval.serving.supervised import free_port
from swe_eval.settings import ExternalServing

KEY_ENV = "SWE_EVAL_TEST_KEY"


@pytest.fixture
def url(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The base URL of a running endpoint whose key is in the environment."""
    monkeypatch.setenv(KEY_ENV, server.endpoints["base"].api_key)
    return server.endpoints["base"].base_url


def connect(base_url: str, api_key_env: str | None = KEY_ENV, **models: str) -> dict[str, Endpoint]:
    """The endpoints of two adapters, ``baseline`` and ``trained``, at ``base_url``."""
    fields: dict[str, Any] = {"kind": "external", "startup_timeout": 30, "models": models}
    serving = ExternalServing(base_url=base_url, api_key_env=api_key_env, **fields)
    settings = serving_settings(Path("unused"), {"baseline": None, "trained": Path("somewhere")}, serving)
    with serve([settings], Path("unused.log"), print) as external:
        external.check()
        return dict(external.endpoints)


def test_adapters_are_mapped_to_models(url: str, server: Server) -> None:
    """Each adapter gets the model that serving.models names, with the context that the endpoint lists."""
    endpoints = connect(f"{url}/", baseline="base", trained="sft")
    assert endpoints == {"baseline": server.endpoints["base"], "trained": server.endpoints["sft"]}


def test_unset_key(url: str) -> None:
    """A key variable that is not set is the user's error, by the field's name."""
    with pytest.raises(UserError, match=r"serving\.api_key_env: the environment variable NOT_THERE is not set"):
        connect(url, api_key_env="NOT_THERE")


def test_key_with_the_rest_of_its_file(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line break in a key is the user's error, and is not sent."""
    monkeypatch.setenv(KEY_ENV, "secret\n")
    with pytest.raises(UserError, match=rf"serving\.api_key_env: {KEY_ENV} has characters that HTTP cannot send"):
        connect(url)


def test_wrong_key(url: str) -> None:
    """A refused key names the field that holds it, and the key stays secret."""
    with pytest.raises(ServingError, match=r"HTTP 401: Incorrect API key.*serving\.api_key_env"):
        connect(url, api_key_env=None)


def test_unknown_model(url: str) -> None:
    """A model that is not served comes with the names that are."""
    with pytest.raises(ServingError, match=r"trained at .*HTTP 404.*it lists base, sft, rl-step\.900.*serving\.models"):
        connect(url, baseline="base")


def test_nothing_there() -> None:
    """An endpoint that does not run is named, with the field."""
    with pytest.raises(ServingError, match=r"nothing answers at http://127.0.0.1:\d+/v1.*serving\.base_url"):
        connect(f"http://127.0.0.1:{free_port('127.0.0.1')}/v1", api_key_env=None)


def test_url_without_v1(url: str) -> None:
    """The usual slip has its own advice."""
    with pytest.raises(ServingError, match=r"HTTP 404.*usually ends in /v1"):
        connect(url.removesuffix("/v1"))


def test_endpoint_that_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Busy is not gone: it is how a trial may have failed after which ``check`` is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listening:  # and never answers
        monkeypatch.setattr(endpoint.listed_models, "__defaults__", (0.1,))
        silent = Endpoint(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", "key", "base", None)
        ExternalServer({"base": silent}).check()


def test_endpoint_that_went_away() -> None:
    """``check`` tells when nobody listens any more."""
    gone = Endpoint(f"http://127.0.0.1:{free_port('127.0.0.1')}/v1", "key", "base", None)
    with pytest.raises(ServingError, match="nothing answers"):
        ExternalServer({"base": gone}).check()
