"""A checkpoint in Hugging Face format: its weight files, every tensor in them, and all that lies beside them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from swe_eval.adapters.base import INDEX, SINGLE, read_json, weight_files
from swe_eval.adapters.tensors import Tensor, TensorFile
from swe_eval.errors import UserError
from swe_eval.merging.tensors import open_file

CONFIG = "config.json"

WEIGHTS = frozenset([".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".ot", ".ckpt"])
"""Kinds of files that may hold the weights once more, unmerged: they are left behind."""


@dataclass(frozen=True)
class Checkpoint:
    """A directory with ``config.json`` and safetensors."""

    directory: Path
    shards: tuple[TensorFile, ...]

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.json``."""
        return read_json(self.directory / CONFIG)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """By the checkpoint's own names."""
        return {name: tensor for shard in self.shards for name, tensor in shard.tensors.items()}

    @property
    def others(self) -> list[Path]:
        """Files that are no weights, relative to the directory: configuration, tokenizer, template, code."""
        files = (path.relative_to(self.directory) for path in sorted(self.directory.rglob("*")) if path.is_file())
        return [file for file in files if not _is_weight(file) and not file.parts[0].startswith(".")]

    def identity(self) -> str:
        """SHA-256 that another content changes: of the whole of every small file, of name, header and stamp of weights.

        Reading all the weights of a large model would take longer than merging them. A stamp is the name of the blob
        in the hub's cache (which is its hash), and elsewhere size and time of the last change.
        """
        digest = hashlib.sha256()
        for file in self.others:
            digest.update(f"{file}\0".encode() + hashlib.sha256((self.directory / file).read_bytes()).digest())
        for shard in self.shards:
            header = [(t.name, t.dtype, t.shape, t.start) for t in shard.tensors.values()]
            digest.update(repr((shard.path.name, header, _stamp(shard.path))).encode())
        return digest.hexdigest()


def open_checkpoint(directory: Path) -> Checkpoint:
    """Read the headers of a checkpoint.

    Raises:
        UserError: it is none, or not all of it is there.
    """
    if not (directory / CONFIG).is_file():
        raise UserError(f"{directory}: no {CONFIG}; write the directory or the hub id of the base model")
    if not (files := weight_files(directory)):
        raise UserError(f"{directory}: neither {SINGLE} nor {INDEX}; save the model as safetensors")
    return Checkpoint(directory, tuple(map(open_file, files)))


def find_checkpoint(base: str, revision: str | None) -> Path:
    """The directory that ``base`` names, or the snapshot of that hub id, fetched if it is not there yet.

    Raises:
        UserError: it is neither.
    """
    if Path(base).is_dir():
        return Path(base)
    from huggingface_hub import snapshot_download

    unwanted = [f"*{suffix}" for suffix in WEIGHTS - {".safetensors"}] + ["original/*", "consolidated*"]
    try:
        return Path(snapshot_download(base, revision=revision, ignore_patterns=unwanted))
    except (OSError, ValueError) as error:  # of the hub's own errors, each is one of them
        raise UserError(f"model.base_model={base}: no directory, nor to be had from the hub: {_first(error)}") from None


def _is_weight(file: Path) -> bool:
    return file.suffix in WEIGHTS or file.name.endswith(".index.json")


def _stamp(path: Path) -> str:
    real = path.resolve()
    stat = real.stat()
    return real.name if real.parent.name == "blobs" else f"{stat.st_size} {stat.st_mtime_ns}"


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
