"""The merged checkpoint, written block by block: never more than a few megabytes of the model in memory."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from swe_eval.adapters.base import INDEX, SINGLE
from swe_eval.adapters.tensors import Tensor, TensorFile
from swe_eval.errors import UserError
from swe_eval.merging.checkpoint import CONFIG, Checkpoint
from swe_eval.merging.plan import Change, Plan
from swe_eval.merging.tensors import Array, floats, header_bytes, narrow, raw
from swe_eval.run_dir import write_json

BLOCK = 1 << 20
"""Values (bytes, of what only passes) in memory at once: few enough for the processor's cache."""

Advance = Callable[[int], None]
"""Takes the number of bytes that were written since the last call."""


def write_checkpoint(base: Checkpoint, plan: Plan, target: Path, advance: Advance) -> None:
    """Write into ``target``, an empty directory on any disk.

    Raises:
        UserError: the merged values are not finite.
    """
    for file in base.others:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(base.directory / file, target / file)
    for shard in base.shards:
        if _changes_in(shard, plan) or not _linked(shard.path, target / shard.path.name):
            _write_shard(shard, plan, target / shard.path.name, advance)
    if plan.unties:
        write_json(target / CONFIG, base.config | {"tie_word_embeddings": False})
    if base.shards[0].path.name != SINGLE:
        _write_index(base, plan, target)


def bytes_to_write(base: Checkpoint, plan: Plan, target: Path) -> int:
    """How much room ``write_checkpoint`` takes: shards that stay as they are are linked where that is possible."""
    small = sum((base.directory / file).stat().st_size for file in base.others)
    return small + sum(
        tensor.nbytes
        for shard in base.shards
        if _changes_in(shard, plan) or shard.path.resolve().stat().st_dev != target.stat().st_dev
        for tensor, _ in _contents(shard, plan)
    )


def _changes_in(shard: TensorFile, plan: Plan) -> bool:
    return any(tensor.name in plan.changes for tensor, _ in _contents(shard, plan))


def _contents(shard: TensorFile, plan: Plan) -> Iterator[tuple[Tensor, Tensor]]:
    """Every tensor of the new file, and the one of the base, of the same shape and type, that it is made of."""
    for tensor in shard.tensors.values():
        yield tensor, tensor
        for name in (name for name, source in plan.added.items() if source == tensor.name):
            yield replace(tensor, name=name), tensor


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk, another's file, a file system without links
        return False
    return True


def _write_shard(shard: TensorFile, plan: Plan, target: Path, advance: Advance) -> None:
    contents = list(_contents(shard, plan))
    with target.open("wb") as file:
        file.write(header_bytes([tensor for tensor, _ in contents], shard.metadata))
        for tensor, source in contents:
            change = plan.changes.get(tensor.name)
            for block in _merged(source, change) if change else _blocks(source):
                file.write(block.data)
                advance(block.nbytes)


def _blocks(tensor: Tensor) -> Iterator[Array]:
    for first in range(0, tensor.nbytes, BLOCK):
        yield raw(tensor, first, min(BLOCK, tensor.nbytes - first))


def _merged(tensor: Tensor, change: Change) -> Iterator[Array]:
    source = change.values or tensor
    *stack, rows, columns = (1, 1, *tensor.shape)[-max(2, len(tensor.shape)) :]
    step = max(1, BLOCK // columns)
    for index in range(math.prod(stack)):
        factors = change.factors(index) if change.factors else None
        for first in range(0, rows, step):
            count = min(step, rows - first)
            block = floats(source, (index * rows + first) * columns, count * columns).reshape(count, columns)
            if factors:
                block += factors.left[first : first + count] @ factors.right
            if change.magnitude:
                block *= (floats(change.magnitude, first, count) / np.linalg.norm(block, axis=1))[:, None]
            yield _narrowed(block, tensor)


def _narrowed(block: Array, tensor: Tensor) -> Array:
    try:
        return narrow(block, tensor.dtype)
    except OverflowError as error:
        raise UserError(f"{tensor.name}: merging makes {error}; is the adapter damaged?") from None


def _write_index(base: Checkpoint, plan: Plan, target: Path) -> None:
    index = json.loads((base.directory / INDEX).read_text())
    for name, source in plan.added.items():
        index["weight_map"][name] = index["weight_map"][source]
        index.setdefault("metadata", {})["total_size"] = sum(tensor.nbytes for tensor in base.tensors.values())
    write_json(target / INDEX, index)
