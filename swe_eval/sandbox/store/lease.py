"""A lock for file systems that many machines share.

``flock`` and ``fcntl`` are each machine's own on some of them (Lustre without ``-o flock``, NFS with ``local_lock``),
and an error on others. What all of them promise is that of many who make one file, one succeeds (``O_EXCL``). So a
lease is a file: whoever made it touches it every few seconds, and one that nobody touches any more is anybody's. Ages
are told by the file system's own clock. What leases guard here appears by a rename, so one that is held twice, because
its holder slept, costs work and never a wrong result.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from swe_eval.errors import SandboxError
from swe_eval.sandbox import owner

BEAT = 5.0
"""Seconds between two touches."""
DEAD = 60.0
"""Seconds without a touch after which its holder is taken for gone."""
POLL = 0.2


@contextmanager
def lease(file: Path, patience: float) -> Iterator[None]:
    """Hold ``file`` inside the block, alone among the processes and threads of all machines.

    Raises:
        SandboxError: another held it for ``patience`` seconds.
    """
    deadline = time.monotonic() + patience
    while not _make(file):
        _remove_if_abandoned(file)
        if time.monotonic() > deadline:
            raise SandboxError(f"{file} was held by another process ({_holder(file)}) all the time")
        time.sleep(POLL)
    is_over = threading.Event()
    beating = threading.Thread(target=_beat, args=(file, is_over), daemon=True)
    beating.start()
    try:
        yield
    finally:
        is_over.set()
        beating.join()
        file.unlink(missing_ok=True)


def _make(file: Path) -> bool:
    try:
        made = file.open("x")
    except FileExistsError:
        return False
    try:
        with made:
            made.write(owner.this_process())
    except OSError:  # the disk is full: nobody holds what nobody touches
        file.unlink(missing_ok=True)
        raise
    return True


def _beat(file: Path, is_over: threading.Event) -> None:
    while not is_over.wait(BEAT):
        with suppress(OSError):
            os.utime(file)


def _remove_if_abandoned(file: Path) -> None:
    """Under another name first: of many that find it abandoned, only one takes it away."""
    with suppress(FileNotFoundError):
        if owner.is_gone(_holder(file)) or age(file) > DEAD:
            taken = file.with_name(f".{file.name}-{secrets.token_hex(4)}")
            file.rename(taken)
            taken.unlink()


def age(file: Path) -> float:
    """Seconds since it was touched, by the clock of its file system.

    Raises:
        FileNotFoundError: it is not there.
    """
    touched = file.stat().st_mtime
    probe = file.with_name(f".{secrets.token_hex(8)}")
    probe.touch()
    try:
        return probe.stat().st_mtime - touched
    finally:
        probe.unlink(missing_ok=True)


def _holder(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
