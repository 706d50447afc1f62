"""Limits where no cgroup may be made: one thread looks after all sandboxes of a process, and kills what takes too much.

A limit of the kernel's own (rlimit) holds per process, and a user's processes are many; so what a sandbox's processes
have together is added up. Between two looks a process can take more than it should: the job's own cgroup is what it
then meets, where everything in a sandbox is the first to be killed (``oom_score_adj``).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path

from swe_eval.errors import SandboxError
from swe_eval.sandbox.writing import ROOM, room

LOOK = 0.25
"""Seconds between two looks at memory and processes."""
DISK_LOOKS = 20
"""So many of those between two at the disk."""
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Limits:
    """Of one sandbox, all of its processes and files together."""

    memory: int
    pids: int
    disk: float


@dataclass(frozen=True)
class Watched:
    """A sandbox."""

    limits: Limits
    kill_all: Callable[[], None]
    written: Path | None = None
    """Folder of the files that it has written, if that is ours to see."""


class Watchdog:
    """Its thread runs while there is something to watch."""

    def __init__(self, disk: Path | None = None) -> None:
        """``disk``: a folder on the one that all sandboxes write to, if that is ours to see."""
        self._disk, self.was_full = disk, -inf
        """When that disk was last seen full, by ``time.monotonic``."""
        self._watched: dict[int, Watched] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self, pid: int, watched: Watched) -> Iterator[None]:
        """Inside the block; ``pid``: any process of the sandbox, which has a process space of its own."""
        try:
            space = _space(str(pid))
        except OSError as error:
            raise SandboxError("the sandbox died") from error
        with self._changed:
            self._watched[space] = watched
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")
                self._thread.start()
        try:
            yield
        finally:
            with self._changed:
                if self._watched.get(space) is watched:  # the space of one that died is soon another's
                    del self._watched[space]
                self._changed.notify()

    def _watch(self) -> None:
        looks = 0
        while True:
            with self._changed:
                self._changed.wait(LOOK)
                if not self._watched:
                    self._thread = None
                    return
                watched = dict(self._watched)
            looks += 1
            with suppress(OSError):
                if self._disk and room(self._disk) < ROOM:
                    self.was_full = time.monotonic()
            of_space: dict[int, list[int]] = {}
            with suppress(OSError):  # we have too many files open: at the next look
                of_space = _processes({*watched})
            for space, each in watched.items():
                with suppress(Exception):  # it ended meanwhile
                    _enforce(each, of_space[space], with_disk=looks % DISK_LOOKS == 0)


def _enforce(watched: Watched, pids: list[int], *, with_disk: bool) -> None:
    limits = watched.limits
    sizes = {pid: _resident(pid) for pid in pids}
    if len(pids) > limits.pids:
        watched.kill_all()
    elif sum(sizes.values()) > limits.memory and sum(map(_proportional, pids)) > limits.memory:
        os.kill(max(pids, key=sizes.__getitem__), signal.SIGKILL)
    elif with_disk and watched.written and _nbytes(watched.written, limits.disk) > limits.disk:
        watched.kill_all()


def _processes(spaces: set[int]) -> dict[int, list[int]]:
    """Of every process space."""
    found: dict[int, list[int]] = defaultdict(list)
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):
            if (space := _space(pid)) in spaces:
                found[space].append(int(pid))
    return found


def _space(pid: str) -> int:
    return os.stat(f"/proc/{pid}/ns/pid").st_ino


def _resident(pid: int) -> int:
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/statm").read_text().split()
        return int(fields[1]) * PAGE
    return 0


def _proportional(pid: int) -> int:
    """What is shared, shared out; asked only when it matters, because the kernel walks through every page."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return _resident(pid)


def _nbytes(folder: Path, enough: float) -> int:
    """Bytes on disk below it, or a little more than enough of them."""
    total, folders = 0, [str(folder)]
    while folders and total <= enough:
        with suppress(OSError), os.scandir(folders.pop()) as listed:
            for entry in listed:
                with suppress(OSError):
                    total += 512 * entry.stat(follow_symlinks=False).st_blocks
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
    return total
