"""A model server as a child of ours: started, waited for, watched, and never left behind."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from swe_eval.errors import ServingError
from swe_eval.serving.endpoint import Endpoint, ask_one_token, listed_models, reason

RETRIES = 2
GRACE = 10.0  # seconds between SIGTERM and SIGKILL; SLURM's own KillWait is 30
PROGRESS = 5.0
TAIL_LINES = 15

TAKEN = r"address already in use"
HINTS = {
    r"out of memory|OutOfMemoryError|can't allocate memory|bad_alloc": (
        "it does not fit: quantization=4bit, a smaller model.max_model_len, or another serving.gpu_memory_utilization"
    ),
    TAKEN: "serving.port is taken: write another, or null for a free one",
    r"No module named": "pip install 'swe_eval[serve]'",
    r"error: adapter": "lora.path must hold a LoRA adapter that was trained on this model.base_model",
    r"error: model|config\.json|not a valid model identifier|gated repo|huggingface\.co|Repository Not Found": (
        "model.base_model must be a directory in Hugging Face format, or a hub id that this machine can download"
    ),
}
KILLED = "something killed it: most often the host or the job ran out of memory"


class PortTaken(ServingError):
    """Somebody else took the port between our choosing it and the server's binding it."""


@dataclass(frozen=True)
class Launch:
    """What to start, and when to believe that it serves."""

    argv: Callable[[int], list[str]]
    """Command line for a port."""
    env: Mapping[str, str] = field(repr=False)
    """On top of our own environment."""
    api_key: str = field(repr=False)
    host: str
    port: int | None
    """None takes a free one."""
    models: tuple[str, ...]
    """Served model ids: each must answer before the server counts as started."""
    startup_timeout: float
    """Seconds."""


class ServerProcess:
    """A server in a process group of its own that ends, at the latest, with the thread that started it."""

    def __init__(self, argv: list[str], env: Mapping[str, str], log: Path) -> None:
        self.endpoints: dict[str, Endpoint] = {}
        self._log = log
        self._log_start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                argv,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=output,  # a file: an orphan that holds a SLURM step's own output keeps the job running
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    @property
    def pid(self) -> int:
        """Of the server and of its process group."""
        return self._process.pid

    def check(self) -> None:
        """Raise ServingError, with the end of the log and a hint, if the process has ended."""
        if (code := self._process.poll()) is not None:
            taken = re.search(TAKEN, "\n".join(self.log_tail()), re.IGNORECASE)
            raise (PortTaken if taken else ServingError)(self.report(f"the model server ended with exit code {code}"))

    def report(self, what: str) -> str:
        """``what``, the end of the log, and a hint if the log shows a known trouble."""
        tail = self.log_tail()
        hints = [hint for pattern, hint in HINTS.items() if re.search(pattern, "\n".join(tail), re.IGNORECASE)]
        if not hints and self._process.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL):
            hints = [KILLED]
        return "\n".join([f"{what}; {self._log} ends with", *(f"  {line}" for line in tail), *hints[:1]])

    def log_tail(self) -> list[str]:
        """The last lines that this server wrote, empty ones left out."""
        with self._log.open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - 16_384))
            lines = log.read().decode(errors="replace").splitlines()
        return [line.rstrip() for line in lines if line.strip()][-TAIL_LINES:]

    def stop(self) -> None:
        """End the whole process group: SIGTERM, ``GRACE`` seconds, SIGKILL. Does nothing the second time."""
        self._signal_group(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)
        self._signal_group(signal.SIGKILL)  # children of the server that outlived it, too
        self._process.wait()

    def _signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


@contextmanager
def supervise(launch: Launch, log: Path, say: Callable[[str], None]) -> Iterator[ServerProcess]:
    """A started server, whose every model has answered, for as long as the context is open.

    Enter it from a thread that lives as long as the server, best the main one: on Linux the kernel kills the server
    when the thread that started it ends (PR_SET_PDEATHSIG), which is what saves the GPU when we are SIGKILLed.

    Raises:
        ServingError: the server ended, was too slow, or does not answer; with the end of ``log`` and a hint.
    """
    server = _started(launch, log, say)
    try:
        yield server
    finally:
        server.stop()


def free_port(host: str) -> int:
    """A TCP port that nobody listens on, as of now."""
    with socket.create_server((host, 0)) as listener:
        return int(listener.getsockname()[1])


def _started(launch: Launch, log: Path, say: Callable[[str], None]) -> ServerProcess:
    for _ in range(0 if launch.port else RETRIES):
        with suppress(PortTaken):
            return _started_once(launch, log, say)
    return _started_once(launch, log, say)


def _started_once(launch: Launch, log: Path, say: Callable[[str], None]) -> ServerProcess:
    port = launch.port or free_port(launch.host)
    server = ServerProcess(launch.argv(port), launch.env, log)
    try:
        server.endpoints = _await_answers(server, launch, port, say)
    except BaseException:
        server.stop()
        raise
    return server


def _await_answers(server: ServerProcess, launch: Launch, port: int, say: Callable[[str], None]) -> dict[str, Endpoint]:
    began = time.monotonic()
    base_url = f"http://{'127.0.0.1' if launch.host == '0.0.0.0' else launch.host}:{port}/v1"
    listed = _await_list(server, launch, base_url, say)
    endpoints = {model: Endpoint(base_url, launch.api_key, model, listed.get(model)) for model in launch.models}
    for endpoint in endpoints.values():
        try:
            ask_one_token(endpoint, launch.startup_timeout)
        except httpx.HTTPError as error:
            server.check()
            raise ServingError(server.report(f"{endpoint.model} does not answer ({reason(error)})")) from None
    say(f"serving {', '.join(endpoints)} at {base_url} after {time.monotonic() - began:.0f} s")
    return endpoints


def _await_list(
    server: ServerProcess, launch: Launch, base_url: str, say: Callable[[str], None]
) -> dict[str, int | None]:
    """The served models, once they can be asked for; only our own server knows the key, so no neighbour's is taken."""
    began = said = time.monotonic()
    while True:
        server.check()
        with suppress(httpx.HTTPError, ServingError):
            return listed_models(base_url, launch.api_key, timeout=1.0)
        now = time.monotonic()
        if now - began > launch.startup_timeout:
            raise ServingError(
                server.report(f"the model server is not ready after {now - began:.0f} s (serving.startup_timeout)")
            )
        if now - said > PROGRESS:
            said = now
            say(f"loading the model ... {now - began:.0f} s  {''.join(server.log_tail()[-1:]):.100}")
        time.sleep(0.1)


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Runs between fork and exec."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # SLURM's warning to the whole step is not for the server
    if _LIBC:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
