"""A subprocess whose output cannot exhaust the runner's memory and whose time is up when it is up."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from swe_eval.errors import SandboxError
from swe_eval.sandbox.sandbox import Completed

KEEP = 8 << 20
"""Bytes kept of the head of an output, and as many of its tail."""
SUBMIT = b"COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
"""The first line of an output that is a submission, in mini-swe-agent's prompts."""
SUBMISSION = 64 << 20
"""Bytes kept of the tail of a submission: a patch without its middle does not apply."""
CAP = 256 << 20
"""Bytes after which a command is killed. (``yes`` took 15 GB of the stock runner in 5 s, and then the machine.)"""
TOLD = {128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
"""Exit codes of a command that a signal ended which SLURM, or a terminal, may have sent to this process, too."""
A_MOMENT = 0.5
"""Seconds by which it has noticed: until then nobody believes such a command (see ``Stages``)."""
LONG = 32_000
"""Characters of a command that may be too many for an argument (the kernel takes 131,071 bytes)."""


def begin(
    argv: Sequence[str],
    *,
    stdin: int = subprocess.PIPE,
    stdout: int = subprocess.PIPE,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own: an interrupt at the terminal is ours to hear. All it says is in stdout.

    Raises:
        SandboxError: there is no such command.
    """
    err = subprocess.STDOUT
    try:
        return subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=err, env=env, start_new_session=True)
    except OSError as error:
        raise SandboxError(f"{argv[0]}: {error.strerror}") from error


def capture(argv: Sequence[str], *, timeout: float, env: Mapping[str, str] | None = None) -> Completed:
    """Run ``argv`` in a session of its own until it ends, its time is over or it printed ``CAP``; kill what is left.

    A background process that stays in the session is killed with it; one that made a session of its own goes on.

    Raises:
        SandboxError: it could not be started.
    """
    process, kept = begin(argv, stdin=subprocess.DEVNULL, env=env), Kept()
    try:
        is_late = _drain(process, kept, time.monotonic() + timeout)
    finally:
        kill_group(process)
        assert process.stdout
        process.stdout.close()
    code = process.returncode if process.returncode >= 0 else 128 - process.returncode  # as a shell says it
    wait_if_told(code)
    return Completed(kept.joined, code, is_late)


def wait_if_told(code: int) -> None:
    """Where a command ended with that code; see ``TOLD``."""
    if code in TOLD:
        time.sleep(A_MOMENT)


def argument(command: str) -> str:
    """A model's command as the kernel takes it: without NUL, and with ``?`` for what UTF-8 does not have."""
    return command.replace("\0", "").encode("utf-8", "replace").decode()


class Kept:
    """Output as it comes in: the first ``KEEP`` bytes, the last ones, and how many there were."""

    def __init__(self) -> None:
        self._head, self._tail, self.total = bytearray(), bytearray(), 0

    def add(self, chunk: bytes) -> None:
        """The next piece of it."""
        self.total += len(chunk)
        room = max(0, KEEP - len(self._head))
        self._head += chunk[:room]
        self._tail += chunk[room:]
        is_submission = self._head[:99].lstrip().startswith(SUBMIT)
        del self._tail[: -(SUBMISSION if is_submission else KEEP)]

    @property
    def joined(self) -> bytes:
        """What is kept, with the number of bytes that are not."""
        cut = self.total - len(self._head) - len(self._tail)
        middle = b"\n[... %d bytes cut out ...]\n" % cut if cut else b""
        return bytes(self._head) + middle + bytes(self._tail)


def _drain(process: subprocess.Popen[bytes], kept: Kept, deadline: float) -> bool:
    """Read until the process ends, the deadline passes or ``CAP`` is reached; returns whether it was late."""
    assert process.stdout
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while kept.total < CAP:
            left = deadline - time.monotonic()
            if left <= 0:
                return True
            has_ended = process.poll() is not None
            if not selector.select(0 if has_ended else min(left, 0.1)):
                if has_ended:
                    break  # a background process holds the pipe open; its output is nobody's
                continue
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            if not chunk:
                break
            kept.add(chunk)
    if kept.total < CAP:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return True
    return False


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a session, and what is still in its process group."""
    with suppress(ProcessLookupError, PermissionError):  # nothing left (macOS says it the second way)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
