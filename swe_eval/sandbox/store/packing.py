"""What a layer is packed with, undone as it comes: gzip, zstd or nothing. Its first bytes say which."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, cast

import zstandard

from swe_eval.errors import SandboxError

PIECE = 1 << 18
"""Bytes that are in memory at once, however little they were packed into."""


def unpacked(packed: Iterable[bytes]) -> Iterator[bytes]:
    """A layer's archive, in pieces; of several gzip members or zstd frames, all.

    Raises:
        SandboxError: it is damaged.
    """
    file = _opened(io.BufferedReader(_Pieces(packed), PIECE))
    try:
        while piece := file.read(PIECE):
            yield piece
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise SandboxError(f"a layer is damaged: EOF ({error})") from error


def _opened(packed: io.BufferedReader) -> BinaryIO:
    first = packed.peek(4)
    if first.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.open(packed))
    if first.startswith(b"\x28\xb5\x2f\xfd"):
        return zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
    return packed


class _Pieces(io.RawIOBase):
    """Pieces as a file."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces, self._rest = filter(None, pieces), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._rest = self._rest or memoryview(next(self._pieces, b""))
        given = self._rest[: len(buffer)]
        buffer[: len(given)] = given
        self._rest = self._rest[len(given) :]
        return len(given)
