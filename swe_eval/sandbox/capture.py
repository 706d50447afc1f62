"""A subprocess whose output cannot exhaust the runner's memory and whose time is up when it is up."""

from __future__ import annotations

import errno
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

from swe_eval.errors import SandboxError
from swe_eval.sandbox.sandbox import Completed

KEEP = 8 << 20
"""Bytes kept of the head of an output, and as many of its tail."""
CAP = 256 << 20
"""Bytes after which a command is killed. (``yes`` took 15 GB of the stock runner in 5 s, and then the machine.)"""


def capture(
    argv: Sequence[str],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
) -> Completed:
    """Run ``argv`` in a session of its own until it ends, its time is over or it printed ``CAP``; kill what is left.

    A background process that stays in the session is killed with it; one that made a session of its own goes on.

    Raises:
        SandboxError: it could not be started.
    """
    try:
        process = subprocess.Popen(
            argv,
            env=dict(env) if env is not None else None,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        if error.errno == errno.E2BIG:  # the command's own doing
            return Completed(f"bash: {error.strerror}\n".encode(), 126)
        raise SandboxError(f"{argv[0]}: {error.strerror}") from error
    try:
        output, timed_out = _drain(process, time.monotonic() + timeout)
    finally:
        _kill_group(process)
        assert process.stdout
        process.stdout.close()
    return Completed(output, process.returncode, timed_out)


def argument(command: str) -> str:
    """A model's command as the kernel takes it: without NUL, and with ``?`` for what UTF-8 does not have."""
    return command.replace("\0", "").encode("utf-8", "replace").decode()


def _drain(process: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, bool]:
    """Read until the process ends, the deadline passes or ``CAP`` is reached: (what is kept, whether it was late)."""
    assert process.stdout
    head, tail, total = bytearray(), bytearray(), 0
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while total < CAP:
            left = deadline - time.monotonic()
            if left <= 0:
                return _joined(head, tail, total), True
            has_ended = process.poll() is not None
            if not selector.select(0 if has_ended else min(left, 0.1)):
                if has_ended:
                    break  # a background process holds the pipe open; its output is nobody's
                continue
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            if not chunk:
                break
            total += len(chunk)
            room = KEEP - len(head)
            head += chunk[:room]
            tail += chunk[room:] if room > 0 else chunk
            del tail[:-KEEP]
    if total < CAP:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return _joined(head, tail, total), True
    return _joined(head, tail, total), False


def _joined(head: bytearray, tail: bytearray, total: int) -> bytes:
    cut = total - len(head) - len(tail)
    middle = b"\n[... %d bytes cut out ...]\n" % cut if cut else b""
    return bytes(head) + middle + bytes(tail)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):  # nothing left (macOS says it the second way)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
