"""safetensors files without a framework: headers, and any slice of a tensor as float32 and back, rounded once."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swe_eval.errors import UserError

Array = np.ndarray[Any, np.dtype[Any]]

STORED_AS: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
"""The types that can be merged into; numpy has no bfloat16, so that its bits are handled as integers."""

LARGEST = {"F32": 3.4028234663852886e38, "F16": 65504.0, "BF16": 3.3895313892515355e38}


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies, and what it is."""

    file: Path
    name: str
    dtype: str
    """As safetensors writes it: ``BF16``, ``F32``, ..."""
    shape: tuple[int, ...]
    start: int
    """Offset of its first byte in the file."""
    nbytes: int

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def raw(self, first: int, count: int) -> Array:
        """``count`` bytes from byte ``first`` on."""
        return np.fromfile(self.file, np.uint8, count, offset=self.start + first)

    def floats(self, first: int = 0, count: int | None = None) -> Array:
        """``count`` values (None is all) from value ``first`` on, flat, as float32."""
        stored = STORED_AS[self.dtype]
        wanted = self.size if count is None else count
        return widen(np.fromfile(self.file, stored, wanted, offset=self.start + first * stored.itemsize), self.dtype)


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file's header."""

    path: Path
    metadata: dict[str, str]
    tensors: tuple[Tensor, ...]
    """In the order of their bytes."""


def read_header(path: Path) -> TensorFile:
    """Read what a file holds, not the values.

    Raises:
        UserError: it is no safetensors file, or not all of it is there.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(length) if length < path.stat().st_size else b"cut short")
        tensors = [_tensor(path, name, 8 + length, entry) for name, entry in header.items() if name != "__metadata__"]
        is_whole = max((t.start + t.nbytes for t in tensors), default=8 + length) == path.stat().st_size
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: no safetensors file: {error or type(error).__name__}") from None
    if not is_whole:
        raise UserError(f"{path}: cut short, or damaged: its length is not what its header says; get it again")
    return TensorFile(path, header.get("__metadata__", {}), tuple(sorted(tensors, key=lambda tensor: tensor.start)))


def header_bytes(tensors: list[Tensor], metadata: dict[str, str]) -> bytes:
    """The start of a file that holds ``tensors`` in this order."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.nbytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the values begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text


def widen(stored: Array, dtype: str) -> Array:
    """Stored values as float32, exactly."""
    if dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


def narrow(values: Array, dtype: str) -> Array:
    """float32 values as they are stored, rounded to nearest, ties to even.

    Raises:
        OverflowError: a value is not finite, or too large for the type.
    """
    if not (values.max(initial=0) <= LARGEST[dtype] and values.min(initial=0) >= -LARGEST[dtype]):  # false for NaN
        raise OverflowError(f"values that are not finite, or too large for {dtype}")
    if dtype == "BF16":
        bits = np.ascontiguousarray(values).view(np.uint32)
        return ((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16).astype(np.uint16)
    return values.astype(STORED_AS[dtype])


def _tensor(path: Path, name: str, data: int, entry: dict[str, Any]) -> Tensor:
    start, end = entry["data_offsets"]
    return Tensor(path, name, entry["dtype"], tuple(entry["shape"]), data + start, end - start)
