"""Making a merged checkpoint: one process at a time, only if the disk has room, visible only when it is complete."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from swe_eval.errors import UserError
from swe_eval.merging.checkpoint import Checkpoint
from swe_eval.merging.plan import make_plan
from swe_eval.merging.write import Advance, bytes_to_write, write_checkpoint
from swe_eval.run_dir import now, write_json

RECORD = "merged.json"
"""In every merged checkpoint: what it was made of, and when."""

EVERY = 10.0
"""Seconds between two lines of progress, where there is no terminal."""

Say = Callable[[str], None]


def merge(
    checkpoint: Checkpoint, adapter: Path, target: Path, say: Say, check: Callable[[], None] = lambda: None
) -> None:
    """Make ``target``; if another process does so already, wait for it. What ``check`` raises keeps it from being.

    Raises:
        UserError: they cannot be merged exactly, or there is no room; one line.
    """
    plan = make_plan(checkpoint, adapter)

    def wait() -> None:
        say(f"{target}: another process is merging it; waiting")

    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target, on_busy=wait):
        if target.is_dir():
            return
        with _aside(target) as part:
            started = time.monotonic()
            needed = bytes_to_write(checkpoint, plan, part)
            with _room(needed, part), _progress(f"merging {adapter.name}", needed, say) as advance:
                write_checkpoint(checkpoint, plan, part, advance)
                write_json(part / RECORD, {"base": str(checkpoint.directory), "adapter": str(adapter), "made": now()})
                _settle(part)
            check()
            part.rename(target)
            say(f"merged in {time.monotonic() - started:.0f} s: {target}")


def remove(target: Path) -> None:
    """Remove a merged checkpoint, unless a process is at work on it."""
    with suppress(_Busy), _locked(target, on_busy=_give_up), _aside(target) as part:
        if target.is_dir():
            target.rename(part / "removed")  # at once: nobody may see half of it


def remove_halves(folder: Path) -> None:
    """Remove what processes that were killed left half-made in ``folder``."""
    for part in folder.glob(".*.part"):
        target = part.with_name(part.name[1 : -len(".part")])
        with suppress(_Busy), _locked(target, on_busy=_give_up), _aside(target):
            pass


class _Busy(Exception):
    """Another process is at work."""


def _give_up() -> None:
    raise _Busy


@contextmanager
def _locked(target: Path, on_busy: Callable[[], None]) -> Iterator[None]:
    """Be the only process at work on ``target``; ``on_busy`` is called before waiting for another one."""
    path = target.with_name(f".{target.name}.lock")
    while True:
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_busy()
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                raise UserError(f"{path.parent}: this disk has no locks ({error}); set SWE_EVAL_CACHE") from None
            if not os.fstat(lock.fileno()).st_nlink:
                continue  # its last owner took it away while we waited
            try:
                yield
            finally:
                path.unlink()
            return


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """An empty directory beside ``target``, which must be locked; removed afterwards, unless it was renamed."""
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # whoever made it was killed: the lock was free
    part.mkdir()
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _room(needed: int, folder: Path) -> Iterator[None]:
    """Refuse to begin without ``needed`` free bytes; a disk (or quota) that is full later is reported alike."""
    if shutil.disk_usage(folder).free < needed:
        raise _no_room(needed, folder)
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _no_room(needed, folder) from None


def _no_room(needed: int, folder: Path) -> UserError:
    free = decimal(shutil.disk_usage(folder).free)
    advice = "run python -m swe_eval.merging clean, or set SWE_EVAL_CACHE to a directory on another disk"
    return UserError(f"{folder.parent}: merging needs {decimal(needed)}, there are {free}; {advice}")


def _settle(folder: Path) -> None:
    """Have every file on the disk before the directory gets its name: a power cut must not leave a torn one."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


@contextmanager
def _progress(what: str, total: int, say: Say) -> Iterator[Advance]:
    """A bar on a terminal, elsewhere a line now and then."""
    console = Console()
    if not console.is_terminal:
        say(f"{what}: {decimal(total)}")
        yield _in_lines(what, total, say)
        return
    columns = [TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda written: bar.advance(task, written)


def _in_lines(what: str, total: int, say: Say) -> Advance:
    so_far, said = 0, time.monotonic()

    def advance(written: int) -> None:
        nonlocal so_far, said
        so_far += written
        if time.monotonic() - said >= EVERY:
            said = time.monotonic()
            say(f"{what}: {decimal(so_far)} of {decimal(total)}")

    return advance
