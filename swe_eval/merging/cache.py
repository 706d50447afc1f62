"""Merged checkpoints in the user's cache, one directory per content of base and adapter."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from swe_eval import adapters
from swe_eval.cache import cache_dir
from swe_eval.errors import UserError
from swe_eval.merging.checkpoint import Checkpoint, find_checkpoint, open_checkpoint
from swe_eval.merging.making import RECORD, Say, merge, remove, remove_halves
from swe_eval.settings import AdapterSettings, ManyLora, Settings

VERSION = 1
"""Of what merging computes: with another one, every checkpoint is made anew."""


@dataclass(frozen=True)
class Merged:
    """A checkpoint in the cache."""

    directory: Path
    base: str
    adapter: str
    nbytes: int
    """Of all files; those that are links to the base's take no room of their own."""
    days: float
    """Since it was last used."""


def applied(settings: Settings, say: Say) -> Settings:
    """If the only arm is to be merged: settings that serve the checkpoint as a base model of the adapter's name."""
    adapter = settings.adapters[0]
    if adapter.path is None or adapters.to_merge(settings) != {arm.name for arm in settings.adapters}:
        return settings
    merged = merged_checkpoint(settings.model.base_model, Path(adapter.path), say, settings.model.revision)
    arm = AdapterSettings(name=adapter.name, path=None)
    return settings.model_copy(
        update={
            "model": settings.model.model_copy(update={"base_model": str(merged), "revision": None}),
            "lora": ManyLora(kind="list", apply="runtime", proof="none", adapters=(arm,)),
        }
    )


def merged_checkpoint(base: str, adapter: Path, say: Say, revision: str | None = None) -> Path:
    """The directory of base and adapter as one checkpoint, made in the cache if their content is not there yet.

    Args:
        base: hub id, or a directory in Hugging Face format.
        say: takes one line of progress at a time.

    Raises:
        UserError: they cannot be merged exactly, there is no room, or one was changed meanwhile; one line.
    """
    checkpoint = open_checkpoint(find_checkpoint(base, revision))
    target = merged_dir() / content_key(checkpoint, adapter)

    def refuse_changed() -> None:
        if content_key(open_checkpoint(checkpoint.directory), adapter) != target.name:
            raise UserError(f"{adapter}: it, or {base}, was changed while they were merged; give the command again")

    if target.is_dir():
        with suppress(OSError):  # another user's
            os.utime(target)  # its age is the time since its last use
        say(f"merged before: {target}")
    else:
        remove_halves(merged_dir())
        merge(checkpoint, adapter, target, say, refuse_changed)
    return target


def merged_dir() -> Path:
    """Where the merged checkpoints are."""
    return cache_dir() / "merged"


def content_key(checkpoint: Checkpoint, adapter: Path) -> str:
    """A hash of all that the result depends on."""
    of_adapter = adapters.content_hash(AdapterSettings(name="adapter", path=str(adapter)))
    return hashlib.sha256(f"{VERSION} {checkpoint.identity()} {of_adapter}".encode()).hexdigest()[:16]


def entries() -> Iterator[Merged]:
    """What is in the cache, the last used first."""
    for record in sorted(merged_dir().glob(f"[!.]*/{RECORD}"), key=lambda path: -path.parent.stat().st_mtime):
        directory, made_of = record.parent, json.loads(record.read_text())
        size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
        days = (time.time() - directory.stat().st_mtime) / 86400
        yield Merged(directory, made_of["base"], made_of["adapter"], size, days)


def clean(days: float) -> list[Path]:
    """Remove what was not used for so many days, and what killed processes left; returns what is gone."""
    old = [entry.directory for entry in entries() if entry.days >= days]
    for directory in old:
        remove(directory)
    remove_halves(merged_dir())
    return [directory for directory in old if not directory.exists()]
