"""Safetensors files without torch: names, types and shapes from the header, and whether values are sound."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError, safe_open

# Per floating type: the integer of its size, all bits but the sign, the bits of infinity; what is larger is NaN.
_FLOATS: dict[str, tuple[np.dtype[Any], int, int]] = {
    "F64": (np.dtype(np.uint64), 0x7FFFFFFFFFFFFFFF, 0x7FF0000000000000),
    "F32": (np.dtype(np.uint32), 0x7FFFFFFF, 0x7F800000),
    "F16": (np.dtype(np.uint16), 0x7FFF, 0x7C00),
    "BF16": (np.dtype(np.uint16), 0x7FFF, 0x7F80),
}

Content = Literal["finite", "zero", "not finite"]


class Damaged(Exception):
    """A file that is not what its header says; the text is the reason, without the file's name."""


@dataclass(frozen=True)
class Tensor:
    """What a header says of one tensor."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    """Bytes from the beginning of the file."""
    end: int

    @property
    def is_float(self) -> bool:
        return self.dtype in _FLOATS

    @property
    def nbytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class TensorFile:
    """What a file's header says of it."""

    path: Path
    metadata: dict[str, str]
    tensors: dict[str, Tensor]
    """By name, in the order of their bytes."""


def read_header(file: Path) -> TensorFile:
    """What a file holds, without the values.

    Raises:
        Damaged: it is no safetensors file, or shorter than its header says.
    """
    try:
        with safe_open(file, framework="numpy"):  # checks that offsets, shapes, types and the file's size agree
            pass
    except (SafetensorError, OSError) as error:
        raise Damaged(str(error).splitlines()[0]) from None
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    metadata = header.pop("__metadata__", {})
    tensors = [_tensor(file, 8 + length, name, entry) for name, entry in header.items()]
    return TensorFile(file, metadata, {each.name: each for each in sorted(tensors, key=lambda each: each.start)})


def _tensor(file: Path, data: int, name: str, entry: dict[str, list[int]]) -> Tensor:
    start, end = entry["data_offsets"]
    return Tensor(file, name, str(entry["dtype"]), tuple(entry["shape"]), data + start, data + end)


def read_contents(file: Path, tensors: Iterable[Tensor]) -> dict[Tensor, Content]:
    """Whether the values of these tensors of a file are finite, and any of them not zero: each is read once."""
    data = np.asarray(np.memmap(file, np.uint8, mode="r"))
    return {tensor: _content(data[tensor.start : tensor.end], tensor.dtype) for tensor in tensors}


def _content(data: np.ndarray, dtype: str) -> Content:
    integer, unsigned, infinity = _FLOATS[dtype]
    largest = int((data.view(integer) & integer.type(unsigned)).max(initial=0))  # numpy has no bfloat16, but integers
    return "zero" if largest == 0 else "finite" if largest < infinity else "not finite"
