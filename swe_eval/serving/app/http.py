"""OpenAI's HTTP API over an engine."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from swe_eval.serving.app.engine import BadPrompt, Completion, ContextOverflow, Engine
from swe_eval.serving.app.protocol import ChatRequest

POLL = 0.5
"""Seconds between two looks at whether the client is still there."""

CLIENT_GONE = 499

logger = logging.getLogger(__name__)


class ApiError(Exception):
    """An answer that is an error, in OpenAI's form."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def create_app(engine: Engine, api_key: str) -> FastAPI:
    """``/v1/chat/completions`` and ``/v1/models`` for holders of ``api_key``, ``/health`` for everyone."""
    app = FastAPI(title="swe_eval", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_internal_error)
    app.add_api_route("/health", lambda: {"status": "ok"})
    app.include_router(_api(engine), prefix="/v1", dependencies=[Depends(_key_check(api_key))])
    return app


def _key_check(api_key: str) -> Any:
    expected = f"Bearer {api_key}".encode()

    def check(request: Request) -> None:
        given = request.headers.get("authorization", "").encode()
        if not secrets.compare_digest(given, expected):
            raise ApiError(401, "Incorrect API key provided: send `Authorization: Bearer <key>`.", "invalid_api_key")

    return check


def _api(engine: Engine) -> APIRouter:
    api = APIRouter()
    worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
    started = int(time.time())

    @api.get("/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(engine, name, started) for name in engine.served]}

    @api.post("/chat/completions")
    async def chat(asked: ChatRequest, request: Request) -> JSONResponse:
        if asked.model not in engine.served:
            served = ", ".join(engine.served)
            raise ApiError(404, f"The model {asked.model!r} does not exist. Served: {served}.", "model_not_found")
        began = time.monotonic()
        done = await _complete(engine, worker, asked, request)
        if done is None:
            return JSONResponse(None, CLIENT_GONE)
        seconds = time.monotonic() - began
        logger.info("%s: %d + %d tokens, %.2f s", asked.model, done.prompt_tokens, done.completion_tokens, seconds)
        return JSONResponse(_answer(asked.model, done))

    return api


async def _complete(
    engine: Engine, worker: ThreadPoolExecutor, asked: ChatRequest, request: Request
) -> Completion | None:
    """The engine's answer, or None if the client went away: then a queued request is dropped, a running one stopped."""
    cancelled = Event()
    work = asyncio.get_running_loop().run_in_executor(
        worker, engine.complete, asked.model, asked.conversation, asked.sampling, cancelled
    )
    try:
        while not (await asyncio.wait([work], timeout=POLL))[0]:
            if await request.is_disconnected():
                return None
        return work.result()
    except ContextOverflow as error:
        raise ApiError(400, str(error), "context_length_exceeded") from error
    except BadPrompt as error:
        raise ApiError(400, str(error)) from error
    finally:
        cancelled.set()
        work.cancel()


def _model(engine: Engine, name: str, created: int) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "swe_eval",
        "root": engine.served[name].root,
        "parent": engine.served[name].parent,
        "max_model_len": engine.context,
    }


def _answer(model: str, done: Completion) -> dict[str, Any]:
    message = {"role": "assistant", "content": done.text}
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": done.finish_reason, "logprobs": None}],
        "usage": {
            "prompt_tokens": done.prompt_tokens,
            "completion_tokens": done.completion_tokens,
            "total_tokens": done.prompt_tokens + done.completion_tokens,
        },
    }


async def _on_api_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return _error(error.status, str(error), error.code)


async def _on_invalid_request(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _error(400, f"The body is not JSON: {first['ctx']['error']}")
    where = ".".join(str(part) for part in first["loc"][1:])  # the first part is "body"
    what = first["msg"].removeprefix("Value error, ")
    return _error(400, f"{where}: {what}" if where else what)


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, f"{request.method} {request.url.path}: {error.detail}")


async def _on_internal_error(_: Request, error: Exception) -> JSONResponse:
    return _error(500, f"{type(error).__name__}: {error}")  # uvicorn logs the traceback


def _error(status: int, message: str, code: str | None = None) -> JSONResponse:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": code}}, status)
