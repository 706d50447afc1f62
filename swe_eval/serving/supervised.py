"""A server that we start: waited for, started again when it dies, stopped with us."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from swe_eval.errors import ServingError, UserError
from swe_eval.run_dir import model_in_words
from swe_eval.serving.endpoint import Endpoint, ask_one_token, is_healthy, listed_models, reason
from swe_eval.serving.process import PortTaken, ServerProcess
from swe_eval.serving.server import Server

RETRIES = 2
PROGRESS = 5.0
SAME_CRASHES, CRASHES = 3, 10
"""After so many the server is given up: of the same kind, or in all."""
DYING = 20.0
"""Seconds that a server has to exit by itself once /health reports an error; then it is killed."""


@dataclass(frozen=True)
class Launch:
    """What to start, and when to believe that it serves."""

    argv: Callable[[int], list[str]]
    """Command line for a port; asked for again at every start."""
    env: Mapping[str, str] = field(repr=False)
    """On top of our own environment."""
    api_key: str = field(repr=False)
    host: str
    port: int | None
    """None takes a free one."""
    models: Mapping[str, str]
    """Served model id by arm: each must answer before the server counts as started."""
    startup_timeout: float
    """Seconds."""
    later: Mapping[str, str] = field(default_factory=dict)
    """Served model id by arm, of adapters that are loaded after the start."""
    name: str | None = None
    """A model id that no other server lists: it tells ours from a neighbour's that took the port."""
    phases: Mapping[str, str] = field(default_factory=dict)
    """What the server is doing, by a pattern of its log; the last line that matches any of them decides."""
    hints: Mapping[str, str] = field(default_factory=dict)
    """What to do about a failure, by a pattern of its log."""


class SupervisedServer(Server):
    """See ``Server``. It runs, and every model has answered, for as long as its context is open. Thread-safe."""

    def __init__(self, launch: Launch, log: Path, say: Callable[[str], None]) -> None:
        self.endpoints: Mapping[str, Endpoint] = {}
        self._launch, self._log, self._say = launch, log, say
        self._process: ServerProcess | None = None
        self._crashes: Counter[str] = Counter()
        self._lock = threading.RLock()
        self._stopped = False
        # The kernel ends a server when the thread that started it ends (PR_SET_PDEATHSIG): one that lives long enough.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="server")

    def __enter__(self) -> SupervisedServer:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Of the server's process group."""
        assert self._process, "not started"
        return self._process.pid

    def start(self) -> None:
        """Have every model answer.

        Raises:
            ServingError: the server ended, was too slow, or does not answer; with the end of the log and a hint.
        """
        for _ in range(0 if self._launch.port else RETRIES):
            with suppress(PortTaken):
                return self._start_once()
        return self._start_once()

    def check(self) -> None:
        assert self._process, "not started"
        self._process.check()

    def recovered(self, arm: str, failed: Endpoint) -> bool:
        with self._lock:
            if self.endpoints[arm] is not failed:
                return True  # another thread has restarted it already
            if not self._has_died():
                return False
            self._record_crash()
            self.start()
            return True

    def stop(self) -> None:
        """End it, even while another thread is starting it."""
        self._stopped = True
        if self._process:
            self._process.stop()
        self._starter.shutdown()

    def _start_once(self) -> None:
        port = self._launch.port or free_port(self._launch.host)
        process = self._starter.submit(self._spawn, port).result()
        try:
            self.endpoints = self._await_answers(process, port)
        except BaseException:
            process.stop()
            raise

    def _spawn(self, port: int) -> ServerProcess:
        if self._stopped:
            raise ServingError("the run is being stopped")
        launch = self._launch
        self._process = ServerProcess(launch.argv(port), launch.env, self._log, launch.hints)
        return self._process

    def _has_died(self) -> bool:
        """Whether the process has ended; a server whose engine died says so first (503 on /health) and then exits."""
        assert self._process
        endpoint, deadline = next(iter(self.endpoints.values())), time.monotonic() + DYING
        while self._process.is_running():
            if is_healthy(endpoint):
                return False
            if time.monotonic() > deadline:
                self._process.stop()
            time.sleep(0.2)
        return True

    def _record_crash(self) -> None:
        assert self._process
        self._process.stop()  # and what is left of its children
        end = f"{self._process.end}: {hint}" if (hint := self._process.hint()) else self._process.end
        self._crashes[end] += 1
        if self._stopped or self._crashes[end] >= SAME_CRASHES or self._crashes.total() >= CRASHES:
            raise ServingError(self._process.report(f"{self._process.end}, for the {self._crashes[end]}. time"))
        self._say(f"{end}; starting it again, and what it was asked last")

    def _await_answers(self, process: ServerProcess, port: int) -> dict[str, Endpoint]:
        launch, began = self._launch, time.monotonic()
        base_url = f"http://{'127.0.0.1' if launch.host == '0.0.0.0' else launch.host}:{port}/v1"
        listed = self._await_list(process, base_url)
        endpoints = {
            arm: Endpoint(base_url, launch.api_key, model, _context(listed, model))
            for arm, model in {**launch.models, **launch.later}.items()
        }
        for endpoint in map(endpoints.__getitem__, launch.models):
            try:
                ask_one_token(endpoint, launch.startup_timeout)
            except httpx.HTTPError as error:
                process.check()
                raise ServingError(process.report(f"{endpoint.model} does not answer ({reason(error)})")) from None
        self._say(
            f"serving {', '.join(map(model_in_words, endpoints))} at {base_url} after {time.monotonic() - began:.0f} s"
        )
        return endpoints

    def _await_list(self, process: ServerProcess, base_url: str) -> dict[str, int | None]:
        """The served models, once all are listed; our key and our name tell this server from another on the port."""
        began = said = time.monotonic()
        ours = {*self._launch.models.values(), *filter(None, [self._launch.name])}
        while True:
            process.check()
            with suppress(httpx.HTTPError, ServingError):
                listed = listed_models(base_url, self._launch.api_key, timeout=1.0)
                if ours <= listed.keys():
                    return listed
            now = time.monotonic()
            if now - began > self._launch.startup_timeout:
                late = f"the model server is not ready after {now - began:.0f} s (serving.startup_timeout)"
                raise ServingError(process.report(late))
            if now - said > PROGRESS:
                said = now
                self._say(f"{self._phase(process)} ... {now - began:.0f} s")
            time.sleep(0.1)

    def _phase(self, process: ServerProcess) -> str:
        for line in reversed(process.log_tail()):
            for pattern, phase in self._launch.phases.items():
                if found := re.search(pattern, line):
                    return found.expand(phase)
        return "loading the model"


def _context(listed: Mapping[str, int | None], model: str) -> int | None:
    """A model's context; vLLM lists only the base model's, which its adapters share."""
    return listed.get(model) or max(filter(None, listed.values()), default=None)


def free_port(host: str) -> int:
    """A TCP port that nobody listens on, as of now.

    Raises:
        UserError: nobody can listen at the host.
    """
    try:
        with socket.create_server((host, 0)) as listener:
            return int(listener.getsockname()[1])
    except OSError as error:
        line = f"serving.host={host}: {error.strerror}; write an IPv4 address of this machine"
        raise UserError(line) from None
