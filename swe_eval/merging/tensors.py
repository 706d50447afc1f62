"""The values of safetensors files without a framework: any slice as float32 and back, rounded once."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from swe_eval.adapters.tensors import Damaged, Tensor, TensorFile, read_header
from swe_eval.errors import UserError

Array = np.ndarray[Any, np.dtype[Any]]

STORED_AS: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
"""The types that can be merged into; numpy has no bfloat16, so that its bits are handled as integers."""

LARGEST = {"F32": 3.4028234663852886e38, "F16": 65504.0, "BF16": 3.3895313892515355e38}


def open_file(path: Path) -> TensorFile:
    """Read what a file holds, not the values.

    Raises:
        UserError: it is no safetensors file, or not all of it is there.
    """
    try:
        return read_header(path)
    except Damaged as error:
        raise UserError(f"{path}: cut short, or damaged ({error}); get it again") from None


def raw(tensor: Tensor, first: int, count: int) -> Array:
    """``count`` bytes of a tensor from byte ``first`` on."""
    return np.fromfile(tensor.file, np.uint8, count, offset=tensor.start + first)


def floats(tensor: Tensor, first: int = 0, count: int | None = None) -> Array:
    """``count`` values (None is all) from value ``first`` on, flat, as float32."""
    stored = STORED_AS[tensor.dtype]
    wanted = math.prod(tensor.shape) if count is None else count
    return widen(np.fromfile(tensor.file, stored, wanted, offset=tensor.start + first * stored.itemsize), tensor.dtype)


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
