"""A simulated model server: an OpenAI endpoint without a model, with the timing and the KV cache of paged attention.

Prompts are read at a fixed speed; answers are written faster together than one by one. The KV cache holds a fixed
number of tokens. Idle conversations stay in it until their room is needed; then the least recently used one loses
tokens first, from its end, and has to be read again at its next turn. If the answers under way need more than the
cache, the newest is preempted and starts again later. So the cache's hit rate collapses once the active conversations
outgrow the cache, as published for a real engine (InferenceX, issue 2268: 97% with 8 agents, 39% with 16, 5% with 32).

The text of a message is only the number of tokens that it stands for; the last message of a request stands for the
answer.
"""

from __future__ import annotations

import json
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any

READ = 8000.0
"""Prompt tokens per second."""
STEP, ROW = 0.02, 0.0005
"""Seconds in which every answer under way gets one token: ``STEP``, and ``ROW`` for each answer."""
TICK = 0.25
"""Seconds that are simulated at a time."""


@dataclass(eq=False)
class Answer:
    """A request, and how far it has come, in tokens."""

    conversation: str
    prompt: int
    length: int
    held: int = 0
    """What was read or written, and is therefore in the KV cache."""
    written: int = 0
    known: int = 0
    """The part of the prompt that was in the cache when the request began."""
    is_done: Event = field(default_factory=Event)

    @property
    def to_read(self) -> int:
        return max(0, self.prompt + self.written - self.held)


class Engine:
    """The state of the server; ``advance`` is its clock."""

    def __init__(self, kv_tokens: int) -> None:
        self.kv_tokens = kv_tokens
        self.preemptions = self.hits = self.queries = 0
        self.waiting: deque[Answer] = deque()
        self.running: list[Answer] = []
        self._idle: OrderedDict[str, int] = OrderedDict()
        """Tokens of idle conversations, the least recently used first."""
        self._owed = 0.0

    @property
    def used(self) -> int:
        """Tokens in the KV cache that belong to answers under way, or are reserved for them."""
        return sum(max(answer.held, answer.prompt + answer.written) for answer in self.running)

    def advance(self, seconds: float) -> list[Answer]:
        """Compute for so many seconds; returns the answers that were finished."""
        self._begin()
        self._write(self._read(seconds))
        finished = [answer for answer in self.running if answer.written >= answer.length]
        for answer in finished:
            self._leave(answer)
        return finished

    def _begin(self) -> None:
        while self.waiting and self.used + self.waiting[0].prompt + self.waiting[0].written <= self.kv_tokens:
            answer = self.waiting.popleft()
            known = min(self._idle.pop(answer.conversation, 0), answer.prompt + answer.written - 1)
            if not answer.written:
                answer.known = known
                self.queries += answer.prompt
                self.hits += known
            answer.held = known
            self.running.append(answer)
            self._forget()

    def _read(self, seconds: float) -> float:
        """Read prompts, which come first; returns the seconds that are left."""
        for answer in self.running:
            read = min(answer.to_read, int(seconds * READ))
            answer.held += read
            seconds -= read / READ
        return seconds

    def _write(self, seconds: float) -> None:
        writing = [answer for answer in self.running if not answer.to_read]
        if not writing:
            return
        self._owed += seconds / (STEP + ROW * len(writing))
        tokens, self._owed = int(self._owed), self._owed % 1
        for answer in writing:
            written = min(tokens, answer.length - answer.written)
            answer.written += written
            answer.held += written
        while self.used > self.kv_tokens:
            self._preempt()
        self._forget()

    def _preempt(self) -> None:
        newest = self.running[-1]
        self._leave(newest)
        self.waiting.appendleft(newest)
        self.preemptions += 1

    def _leave(self, answer: Answer) -> None:
        self.running.remove(answer)
        self._idle[answer.conversation] = answer.held
        self._forget()

    def _forget(self) -> None:
        over = self.used + sum(self._idle.values()) - self.kv_tokens
        while over > 0 and self._idle:
            oldest, tokens = next(iter(self._idle.items()))
            if tokens > over:
                self._idle[oldest] = tokens - over
                return
            del self._idle[oldest]
            over -= tokens


class KVServer(ThreadingHTTPServer):
    """The engine behind HTTP, with a clock ``speed`` times as fast as ours."""

    request_queue_size = 256
    daemon_threads = True

    def __init__(self, kv_tokens: int, speed: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._engine, self._speed = Engine(kv_tokens), speed
        self._lock = Lock()

    def compute(self) -> None:
        """Run the engine for ever."""
        then = time.perf_counter()
        while True:
            time.sleep(TICK / self._speed)
            seconds = (time.perf_counter() - then) * self._speed
            then += seconds / self._speed
            with self._lock:
                while seconds > 0:
                    self._finish(self._engine.advance(min(TICK, seconds)))
                    seconds -= TICK

    def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A chat completion."""
        *read, length = (int(message["content"]) for message in body["messages"])
        answer = Answer(body["user"], sum(read), length)
        with self._lock:
            self._engine.waiting.append(answer)
        answer.is_done.wait()
        usage = {"prompt_tokens": answer.prompt, "completion_tokens": length, "total_tokens": answer.prompt + length}
        message = {"role": "assistant", "content": str(length)}
        return {"object": "chat.completion", "choices": [{"index": 0, "message": message}], "usage": usage}

    def metrics(self) -> str:
        """The engine's state, under vLLM's names."""
        with self._lock:
            engine = self._engine
            told = {
                "num_requests_running": len(engine.running),
                "num_requests_waiting": len(engine.waiting),
                "kv_cache_usage_perc": engine.used / engine.kv_tokens,
                "num_preemptions_total": engine.preemptions,
                "prefix_cache_queries_total": engine.queries,
                "prefix_cache_hits_total": engine.hits,
            }
        return "".join(f'vllm:{name}{{engine="0"}} {value}\n' for name, value in told.items())

    @staticmethod
    def _finish(answers: Iterable[Answer]) -> None:
        for answer in answers:
            answer.is_done.set()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together
    server: KVServer

    def do_GET(self) -> None:
        self._send(self.server.metrics().encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._send(json.dumps(self.server.answer(body)).encode())

    def _send(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def main() -> None:
    """Serve until killed; the first line of the output is the port."""
    kv_tokens, speed = int(sys.argv[1]), float(sys.argv[2])
    server = KVServer(kv_tokens, speed)
    Thread(target=server.compute, daemon=True).start()
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
