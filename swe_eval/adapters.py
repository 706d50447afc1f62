"""A LoRA adapter on disk: is it one, and which one is it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from swe_eval.errors import UserError
from swe_eval.settings import AdapterSettings

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def check_all(adapters: Iterable[AdapterSettings]) -> None:
    """Refuse a directory that is no adapter.

    Raises:
        UserError: names the directory and what it lacks.
    """
    for adapter in adapters:
        for file in (CONFIG, WEIGHTS) if adapter.path else ():
            if not Path(adapter.path or "", file).is_file():
                raise UserError(f"lora: {adapter.name}: no {file} in {adapter.path}; write the path of an adapter")


def content_hash(adapter: AdapterSettings) -> str:
    """SHA-256 over the adapter's configuration and weights (``base`` for the bare base model): its identity.

    A directory that is not on this machine (``serving=external``) is known by its path alone.
    """
    if adapter.path is None:
        return "base"
    folder = Path(adapter.path)
    if not folder.is_dir():
        return f"path:{adapter.path}"
    digest = hashlib.sha256()
    for file in (CONFIG, WEIGHTS):
        digest.update((folder / file).read_bytes())
    return digest.hexdigest()
