"""OpenAI's HTTP API over an engine."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from swe_eval.serving.app.chat import Chat
from swe_eval.serving.app.completions import Completions
from swe_eval.serving.app.engine import Engine
from swe_eval.serving.app.errors import ApiError, handle_errors
from swe_eval.serving.app.protocol import ChatRequest, CompletionRequest
from swe_eval.serving.app.tools import ToolParser

Asked = TypeVar("Asked", ChatRequest, CompletionRequest)


def create_app(engine: Engine, api_key: str, tool_parser: ToolParser | None = None) -> FastAPI:
    """``/v1`` for holders of ``api_key``, ``/health`` and ``/metrics`` for everyone."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close)

    app = FastAPI(title="swe_eval", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    handle_errors(app)
    app.add_api_route("/health", lambda: _health(engine))
    app.add_api_route("/metrics", lambda: Response(engine.metrics.exposition(), media_type=CONTENT_TYPE_LATEST))
    app.include_router(_api(engine, tool_parser), prefix="/v1", dependencies=[Depends(_key_check(api_key))])
    return app


def _health(engine: Engine) -> JSONResponse:
    return JSONResponse({"status": "broken"}, 503) if engine.is_broken else JSONResponse({"status": "ok"})


def _key_check(api_key: str) -> Any:
    expected = f"Bearer {api_key}".encode()

    def check(request: Request) -> None:
        given = request.headers.get("authorization", "").encode()
        if not secrets.compare_digest(given, expected):
            raise ApiError(401, "Incorrect API key provided: send `Authorization: Bearer <key>`.", "invalid_api_key")

    return check


def _api(engine: Engine, tool_parser: ToolParser | None) -> APIRouter:
    api = APIRouter()
    started = int(time.time())
    chat, completions = Chat(engine, tool_parser), Completions(engine)
    tokenizing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenizing")  # megabytes take seconds

    @api.get("/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(engine, name, started) for name in engine.served]}

    @api.post("/chat/completions")
    async def chat_completions(asked: ChatRequest, http: Request) -> Response:
        return await respond(chat, asked, http)

    @api.post("/completions")
    async def text_completions(asked: CompletionRequest, http: Request) -> Response:
        return await respond(completions, asked, http)

    async def respond(kind: Any, asked: Asked, http: Request) -> Response:
        if asked.model not in engine.served:
            served = ", ".join(engine.served)
            raise ApiError(404, f"The model {asked.model!r} does not exist. Served: {served}.", "model_not_found")
        requests = await asyncio.get_running_loop().run_in_executor(tokenizing, kind.requests, asked)
        response: Response = await kind.respond(asked, requests, http)
        return response

    return api


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
