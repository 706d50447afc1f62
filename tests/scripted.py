"""A real OpenAI endpoint on loopback that answers by a script instead of by a model."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Script = Callable[[str, list[dict[str, Any]]], "str | dict[str, Any]"]
"""(model, messages) -> the answer's content, or its whole message, or an ``{"error": ...}`` (status 400)."""


def bash(command: str) -> str:
    """An answer with one command."""
    return f"Next.\n```mswea_bash_command\n{command}\n```"


def bash_call(command: str) -> dict[str, Any]:
    """The same as a tool call."""
    function = {"name": "bash", "arguments": json.dumps({"command": command})}
    return {"content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": function}]}


SUBMIT = bash("echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && cat patch.txt")


@dataclass
class ScriptedEndpoint:
    """What it was asked, and how it answers from now on."""

    script: Script
    delay: float = 0.0
    """Seconds before each answer."""
    status: int = 200
    usage: dict[str, Any] = field(default_factory=dict)
    """On top of 10 tokens that were read and 5 that were written."""
    metrics: Callable[[], str] | None = None
    """The text of ``/metrics``; without it there is none."""
    models: Sequence[str] = ()
    """Those that it lists."""
    key: str = ""
    """Without it nobody is told the models."""
    most_at_once: int = 0
    """Answers."""
    at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    base_url: str = ""

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """(HTTP status, JSON) for a chat completion."""
        with self._lock:
            self.requests.append(body)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            time.sleep(self.delay)
            if self.status != 200:
                return self.status, {"error": {"message": "scripted failure", "code": "scripted"}}
            answer = self.script(body["model"], body["messages"])
        finally:
            with self._lock:
                self.at_once -= 1
        if "error" in answer and isinstance(answer, dict):
            return 400, answer
        message = {"role": "assistant"} | (answer if isinstance(answer, dict) else {"content": answer})
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15} | self.usage
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        completion = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
        return 200, {**completion, "choices": [choice], "usage": usage}

    @property
    def turns(self) -> list[dict[str, Any]]:
        """The requests of agents, without the one-token checks at the start."""
        return [body for body in self.requests if body["messages"][0]["role"] == "system"]


@contextmanager
def scripted_endpoint(script: Script, **how: Any) -> Iterator[ScriptedEndpoint]:
    """Serve ``script`` until the block ends."""
    endpoint = ScriptedEndpoint(script, **how)
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(endpoint))
    endpoint.base_url = f"http://127.0.0.1:{http.server_port}/v1"
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield endpoint
    finally:
        http.shutdown()
        http.server_close()


def _handler(endpoint: ScriptedEndpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/metrics" and endpoint.metrics:
                self._send_data(200, endpoint.metrics().encode(), "text/plain")
            elif self.path == "/metrics":
                self._send(404, {"error": {"message": "not found"}})
            elif endpoint.key and self.headers.get("Authorization") != f"Bearer {endpoint.key}":
                self._send(401, {"error": {"message": "wrong key"}})
            else:
                self._send(200, {"object": "list", "data": [{"id": name} for name in endpoint.models]})

        def do_POST(self) -> None:
            endpoint.keys.add(self.headers.get("Authorization"))
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(*endpoint.answer(body))

        def _send(self, status: int, value: dict[str, Any]) -> None:
            self._send_data(status, json.dumps(value).encode(), "application/json")

        def _send_data(self, status: int, data: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
