"""Directories of the user's choice that cannot be written, or are full: told by the setting that names them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from swe_eval.errors import SandboxError

ROOM = 1 << 20
"""Bytes that are free on a disk that is not full."""
FILES = 64
"""Files that can be made there."""


def room(place: Path | str) -> float:
    """Bytes that can be written on its disk: none where no files can be made. Raises OSError if it is not there."""
    disk = os.statvfs(place)
    has_files = not disk.f_files or disk.f_favail >= FILES  # some file systems do not count them
    return float(disk.f_bavail * disk.f_frsize) if has_files else 0.0


@contextmanager
def writing(field: str, place: Path) -> Iterator[None]:
    """Inside the block, files below ``place`` are written.

    Raises:
        SandboxError: they cannot be; one line that begins with the field.
    """
    try:
        yield
    except OSError as error:
        raise SandboxError(f"{field}={place}: {error.strerror or error}") from error
