"""A model server as a child process: how it ended, in words, and nothing of it left behind."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from swe_eval.errors import ServingError
from swe_eval.serving import guard

TAIL_LINES = 15
TAIL_BYTES = 65_536
"""Of the log's end, searched for hints: after the reason, servers print pages about their own shutdown."""

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


class ServerProcess:
    """A server under a guard (``guard.py``), which kills all its processes when the thread that started it ends."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], log: Path, hints: Mapping[str, str]) -> None:
        """``hints`` go before ``HINTS``: what to do, by a pattern of the log."""
        self._log, self._hints = log, {**hints, **HINTS}
        with log.open("ab") as output:
            output.write(f"$ {shlex.join(argv)}\n".encode())
            output.flush()
            self._log_start = output.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-E", "-S", guard.__file__, str(os.getpid()), *argv],
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=output,  # a file: an orphan that holds a SLURM step's own output keeps the job running
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=tell_when_parent_dies,
            )

    @property
    def pid(self) -> int:
        """Of the guard, and of the process group."""
        return self._process.pid

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def check(self) -> None:
        """Raise ServingError, with the end of the log and a hint, if it has ended."""
        if self.is_running():
            return
        taken = re.search(TAKEN, "\n".join(self.log_tail()), re.IGNORECASE)
        raise (PortTaken if taken else ServingError)(self.report(self.end))

    @property
    def end(self) -> str:
        """How it ended, in a few words that are the same whenever the reason is."""
        code = self._process.poll()
        return f"the model server ended with exit code {code if code is None or code <= 128 else 128 - code}"

    def report(self, what: str) -> str:
        """``what``, the end of the log, and a hint if the log shows a known trouble."""
        tail = "\n".join(f"  {line}" for line in self.log_tail())
        return "\n".join(filter(None, [f"{what}; {self._log} ends with", tail, self.hint()]))

    def hint(self) -> str:
        """What to do; empty if the log shows no known trouble."""
        log = self._read_log()
        for pattern, hint in self._hints.items():
            if re.search(pattern, log, re.IGNORECASE):
                return hint
        return KILLED if self._process.poll() in (-signal.SIGKILL, 128 + signal.SIGKILL) else ""

    def log_tail(self) -> list[str]:
        """The last lines that this server wrote, empty ones left out."""
        return [line.rstrip() for line in self._read_log().splitlines() if line.strip()][-TAIL_LINES:]

    def stop(self) -> None:
        """End all of it: SIGTERM, ``guard.GRACE`` seconds, SIGKILL. Does nothing the second time."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(2 * guard.GRACE + 1)
        with suppress(ProcessLookupError):  # the guard itself was killed
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def _read_log(self) -> str:
        with self._log.open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            return log.read().decode(errors="replace")


def tell_when_parent_dies() -> None:
    """Have the kernel send this process SIGTERM when the thread that started it ends; runs between fork and exec."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # SLURM's warning to the whole step is not for the server
    guard.prctl(guard.PR_SET_PDEATHSIG, signal.SIGTERM)
