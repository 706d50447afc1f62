"""Which instances of a dataset are run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from swe_eval.errors import UserError
from swe_eval.settings import BenchmarkSettings


def select(settings: BenchmarkSettings, ids: Sequence[str]) -> list[str]:
    """Apply, one after the other: ``instance_ids``, ``filter``, ``slice``, ``sample``, ``max_instances``, ``shard``.

    All but ``instance_ids``, which has an order of its own, keep the dataset's. The shards come last: together they are
    what the same command selects without ``shard``.

    Raises:
        UserError: ``instance_ids`` has others, or nothing is left.
    """
    named = _named(settings, ids)
    chosen = [name for name in named if re.match(settings.filter or "", name)][_slice(settings.slice)]
    chosen = _sample(chosen, settings.sample, settings.sample_seed)[: settings.max_instances]
    chosen = _shard(chosen, settings.shard)
    if not chosen:
        given = [name for name in SELECTING if getattr(settings, name) is not None]
        raise UserError(
            f"benchmark: no instance of {settings.dataset} is selected; look at {_fields(given or ['split'])}"
        )
    return chosen


SELECTING = ("instance_ids", "filter", "slice", "sample", "max_instances", "shard")


def _fields(names: Sequence[str]) -> str:
    return ", ".join(f"benchmark.{name}" for name in names)


def _named(settings: BenchmarkSettings, ids: Sequence[str]) -> list[str]:
    if not settings.instance_ids:
        return list(ids)
    if unknown := sorted(set(settings.instance_ids) - set(ids)):
        raise UserError(f"benchmark.instance_ids: not in {settings.dataset}: {', '.join(unknown)}")
    return list(dict.fromkeys(settings.instance_ids))


def _slice(text: str | None) -> slice:
    return slice(*(int(part) if part else None for part in (text or ":").split(":")))


def _sample(ids: Sequence[str], size: int | None, seed: int) -> list[str]:
    """The ``size`` ids with the smallest hashes: a larger sample holds the smaller, whatever the order of the rows."""
    drawn = set(sorted(ids, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())[:size])
    return [name for name in ids if name in drawn]


def _shard(ids: Sequence[str], text: str | None) -> list[str]:
    """Every n-th id from the i-th on, so that each shard has its part of every repository."""
    number, count = (int(part) for part in (text or "1/1").split("/"))
    return list(ids[number - 1 :: count])
