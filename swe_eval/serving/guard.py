"""Runs a server so that nothing of it stays behind: ``python guard.py PARENT PROGRAM ARGUMENT...``.

vLLM's engine and workers live on when their API server is killed (seen with 0.32), and keep the GPU. This process
adopts whatever the server starts, and ends all of it when the server ends, when it is told to (SIGTERM), and when
PARENT is gone: then the kernel tells it (PR_SET_PDEATHSIG, see ``process.py``). Started as a file, it imports nothing.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL; SLURM's own KillWait is 30."""
PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Told(Exception):
    """We have received SIGTERM."""


def main() -> int:
    """Exit code of the program, as a shell has it."""
    parent, *argv = sys.argv[1:]
    signal.signal(signal.SIGTERM, _told)
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != int(parent):  # it was killed before the kernel knew whom to tell
        return 128 + signal.SIGTERM
    server: subprocess.Popen[bytes] | None = None
    try:
        server = subprocess.Popen(argv, preexec_fn=_end_with_guard)
        code = server.wait()
    except OSError as error:
        print(error, file=sys.stderr)
        return 127
    except Told:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        code = _stop(server) if server else -signal.SIGTERM
    _kill_what_is_left()
    return code if code >= 0 else 128 - code


def _stop(server: subprocess.Popen[bytes]) -> int:
    server.terminate()
    try:
        return server.wait(GRACE)
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL


def _told(*_: object) -> None:
    raise Told


def _kill_what_is_left() -> None:
    """Until there are none: the children of a killed process become ours."""
    deadline = time.monotonic() + GRACE
    while (children := list(_children())) and time.monotonic() < deadline:
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _children() -> Iterator[int]:
    """Of this process, among them what the server left behind; zombies are reaped first."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    for pid in filter(str.isdecimal, os.listdir("/proc") if _LIBC else ()):
        with suppress(OSError), open(f"/proc/{pid}/stat", "rb") as stat:
            if int(stat.read().rpartition(b")")[2].split()[1]) == os.getpid():
                yield int(pid)


def _end_with_guard() -> None:
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def prctl(option: int, value: int) -> None:
    """The system call, of this process; nothing where there is no Linux."""
    if _LIBC:
        _LIBC.prctl(option, value)


if __name__ == "__main__":
    sys.exit(main())
