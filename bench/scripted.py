"""An OpenAI endpoint on loopback that stands in for the model: it answers by a script, and takes the time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Message = dict[str, Any]
Script = Callable[[str, int], Message]
"""From the prompt of a task and the number of the turn to the message of the answer."""


@dataclass(frozen=True)
class Turn:
    """When the request for answer ``number`` in a task arrived, and when that answer had been sent; in seconds."""

    task: str
    number: int
    arrived: float
    left: float


class ScriptedEndpoint(ThreadingHTTPServer):
    """Takes ``think`` seconds for each answer, and records every turn of an agent."""

    daemon_threads = True

    def __init__(self, script: Script, think: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.base_url = f"http://127.0.0.1:{self.server_port}/v1"
        self.script, self.think = script, think
        self.turns: list[Turn] = []


@contextmanager
def scripted_endpoint(script: Script, think: float = 0.0) -> Iterator[ScriptedEndpoint]:
    """Serve until the block ends."""
    with ScriptedEndpoint(script, think) as endpoint:
        threading.Thread(target=endpoint.serve_forever, daemon=True).start()
        try:
            yield endpoint
        finally:
            endpoint.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together: apart, the body would wait for the client's delayed ACK
    server: ScriptedEndpoint

    def parse_request(self) -> bool:
        self._arrived = time.perf_counter()
        return super().parse_request()

    def do_GET(self) -> None:
        self._send({"object": "list", "data": [{"id": "base", "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        messages = body["messages"]
        if messages[0]["role"] != "system":  # the check that the endpoint answers
            self._send(_completion(body["model"], {"content": "yes"}))
            return
        task, number = _text(messages[1]), sum(message["role"] == "assistant" for message in messages)
        time.sleep(self.server.think)
        self._send(_completion(body["model"], self.server.script(task, number)))
        self.server.turns.append(Turn(task, number, self._arrived, time.perf_counter()))

    def _send(self, value: Mapping[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _text(message: Message) -> str:
    content: str | Sequence[Message] = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _completion(model: str, message: Message) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": model, "choices": [choice], "usage": usage}
