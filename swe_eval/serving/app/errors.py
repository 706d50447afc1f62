"""What can go wrong with a request, in OpenAI's form."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from swe_eval.serving.app.engine import BadPrompt, Busy, ContextOverflow, Stopping

RETRY_AFTER = "5"
"""Seconds."""


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code

    @property
    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": None, "code": self.code}}

    @property
    def response(self) -> JSONResponse:
        headers = {"Retry-After": RETRY_AFTER} if self.status in (429, 503) else None
        return JSONResponse(self.body, self.status, headers)


def as_api_error(error: Exception) -> ApiError:
    """The API's form of whatever was raised, or delivered by the engine."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextOverflow):
        return ApiError(400, str(error), "context_length_exceeded")
    if isinstance(error, BadPrompt):
        return ApiError(400, str(error))
    if isinstance(error, Busy):
        return ApiError(429, str(error), "rate_limit_exceeded")
    if isinstance(error, Stopping):
        return ApiError(503, str(error))
    return ApiError(500, f"{type(error).__name__}: {error}")


def handle_errors(app: FastAPI) -> None:
    """Answer every error in this form."""
    for kind in (ApiError, BadPrompt, Busy, Stopping, Exception):
        app.add_exception_handler(kind, _on_error)  # if there is no closer one than Exception, uvicorn logs a traceback
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)


async def _on_error(_: Request, error: Exception) -> JSONResponse:
    return as_api_error(error).response


async def _on_invalid_request(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"The body is not JSON: {first['ctx']['error']}").response
    where = ".".join(str(part) for part in first["loc"][1:])  # the first part is "body"
    what = first["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{where}: {what}" if where else what).response


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}").response
