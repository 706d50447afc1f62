"""Directories of the user's choice that cannot be written, or are full: told by the setting that names them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from swe_eval.errors import SandboxError


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
