"""Whose a container is: a name for a process that no other one on any machine ever has, and whether it still runs."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")


def this_process() -> str:
    """The name of this process; empty where the system does not tell (it has no /proc)."""
    return name_of(os.getpid())


def name_of(pid: int) -> str:
    """The name of a process of this user on this machine; empty if there is none."""
    started = _started(pid)
    return f"{_place()}/{pid}/{started}" if started else ""


def is_gone(name: str) -> bool:
    """Whether that process has ended: known of this user's on this machine alone, any other may still run."""
    place, *process = name.rsplit("/", 2)
    if len(process) != 2 or place != _place():
        return False
    pid, started = process
    try:
        return _started(int(pid)) != started
    except OSError:  # we have too many files open to see
        return False


def kill(name: str) -> None:
    """End that process, if it runs, is this user's and on this machine."""
    place, *process = name.rsplit("/", 2)
    if place and place == _place() and not is_gone(name):
        with suppress(ProcessLookupError):
            os.kill(int(process[0]), signal.SIGKILL)


def _place() -> str:
    """This boot of this machine, its space of process ids as containers have their own, and the user."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat(PROC / 'self/ns/pid').st_ino}/{os.getuid()}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """Clock ticks from the boot to the start of a process; None if there is none."""
    try:
        after_name = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return after_name[19] if after_name[0] not in "ZX" else None
