"""A directory of this job's own on this node: for temporary files, and for caches that two jobs must not share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from swe_eval.sandbox import owner
from swe_eval.sandbox.removal import remove_tree

PREFIX = "swe_eval-job-"
OWNER = ".owner"
CACHES = ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
"""Variables that name the caches of what a server compiles; those that are set already are left alone."""


@contextmanager
def scratch() -> Iterator[Path]:
    """Have ``TMPDIR`` and the caches in a fresh directory, which is removed at the end.

    Raises:
        OSError: there is no room, or no right to make it.
    """
    place = Path(os.environ.get("SLURM_TMPDIR") or tempfile.gettempdir())
    _remove_left_behind(place)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    (folder / OWNER).write_text(owner.this_process())
    os.environ["TMPDIR"], tempfile.tempdir = str(folder), None
    for variable in CACHES:
        os.environ.setdefault(variable, str(folder / variable.lower()))
    try:
        yield folder
    finally:
        remove_tree(folder)


def _remove_left_behind(place: Path) -> None:
    """By jobs of this user's that were killed on this node."""
    for mark in place.glob(f"{PREFIX}*/{OWNER}"):
        with suppress(FileNotFoundError):  # another job has just removed it
            if owner.is_gone(mark.read_text()):
                remove_tree(mark.parent)
