"""The instances of a SWE-bench style dataset, in swebench 5's schema, loaded by swebench itself."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swe_eval.benchmark.selection import select
from swe_eval.errors import UserError
from swe_eval.run_dir import can_be_file_name
from swe_eval.settings import BenchmarkSettings

REQUIRED = (
    *("instance_id", "repo", "version", "base_commit", "problem_statement", "FAIL_TO_PASS", "PASS_TO_PASS"),
    *("image", "eval_script", "log_parser", "eval_type"),
)
NO_NETWORK = "without a network write benchmark.dataset=/path/to/rows.parquet"


@dataclass(frozen=True)
class Instance:
    """One row of the dataset."""

    row: Mapping[str, Any]
    """The row as swebench reads it."""
    context: Path | None = None
    """In a task repo: the task's directory, from which its image can be built."""

    @property
    def instance_id(self) -> str:
        return str(self.row["instance_id"])

    @property
    def image(self) -> str:
        return str(self.row["image"])

    @property
    def dockerfile(self) -> Path | None:
        """What its image is built with; None if it is to be had from a registry."""
        found = self.context and self.context / "Dockerfile"
        return found if found and found.is_file() else None

    @property
    def problem_statement(self) -> str:
        return str(self.row["problem_statement"])


@dataclass(frozen=True)
class Benchmark:
    """What was selected, and the fingerprint of what it was selected from."""

    instances: tuple[Instance, ...]
    fingerprint: str

    @property
    def difficulties(self) -> dict[str, str]:
        """By instance_id, where the dataset has the column: see ``order.DIFFICULTIES``."""
        rated = ((instance.instance_id, instance.row.get("difficulty")) for instance in self.instances)
        return {instance_id: str(difficulty) for instance_id, difficulty in rated if difficulty}


def load(settings: BenchmarkSettings) -> Benchmark:
    """Load and select.

    Raises:
        UserError: the dataset cannot be read, has an older schema, or the selection does not fit it (see ``select``).
    """
    everything = _load_all(settings)
    _check_schema(settings.dataset, everything)
    by_id = {instance.instance_id: instance for instance in everything}
    return Benchmark(tuple(by_id[name] for name in select(settings, list(by_id))), _fingerprint(everything))


def _load_all(settings: BenchmarkSettings) -> list[Instance]:
    dataset = settings.dataset
    is_local = Path(dataset).exists() or Path(dataset).suffix in (".json", ".jsonl", ".parquet")
    if is_local and settings.revision:
        raise UserError(f"benchmark.revision={settings.revision}: {dataset} is no dataset of the hub; write null")
    if Path(dataset).is_file() and settings.split != "test":  # which every option says
        line = f"benchmark.split={settings.split}: {dataset} is a file, which has no splits: all its rows are taken"
        print(f"swe_eval: {line}", file=sys.stderr)
    try:
        if (Path(dataset) / "tasks").is_dir():
            return _load_task_repo(Path(dataset), settings.split)
        rows = _load_local(dataset, settings.split) if is_local else _load_hub(settings)
    except Exception as error:  # datasets and the hub raise dozens of types
        why, *_ = [*str(error).splitlines(), "it does not say why"]
        is_path = is_local or dataset.startswith(("/", ".", "~"))  # as no hub id does
        remedy = "write a .json, .jsonl or .parquet file, or a task repo" if is_path else NO_NETWORK
        line = f"benchmark.dataset={dataset}: cannot be loaded ({type(error).__name__}: {why}); {remedy}"
        raise UserError(line) from error
    return [Instance(dict(row)) for row in rows]


def _load_local(dataset: str, split: str) -> Iterable[Mapping[str, Any]]:
    from swebench.harness.utils import load_swebench_dataset

    rows: Iterable[Mapping[str, Any]] = load_swebench_dataset(dataset, split)
    return rows


def _load_hub(settings: BenchmarkSettings) -> Iterable[Mapping[str, Any]]:
    from datasets import load_dataset

    name = re.sub("^princeton-nlp/", "SWE-bench/", settings.dataset)  # where it moved
    rows: Iterable[Mapping[str, Any]] = load_dataset(name, split=settings.split, revision=settings.revision)
    return rows


def _load_task_repo(repo: Path, split: str) -> list[Instance]:
    from swebench.task.repo import load_task_repo, task_paths

    folders = task_paths(repo)
    rows = [row for row in load_task_repo(repo) if row["split"] == split]
    return [Instance(row, folders[row["instance_id"]]) for row in rows]


def _check_schema(dataset: str, instances: Sequence[Instance]) -> None:
    seen: set[str] = set()
    for instance in instances:
        if missing := [column for column in REQUIRED if instance.row.get(column) is None]:
            raise UserError(
                f"benchmark.dataset={dataset}: no {', '.join(missing)} in {instance.row.get('instance_id', 'a row')}; "
                "swebench 5 needs rows with image and eval_script: load a revision from after August 2026"
            )
        if wrong := _wrong_value(instance.row):
            raise UserError(f"benchmark.dataset={dataset}: {instance.instance_id}: {wrong}")
        if not can_be_file_name(instance.instance_id):
            raise UserError(f"benchmark.dataset={dataset}: instance_id {instance.instance_id!r} cannot be a file name")
        if instance.instance_id in seen:
            raise UserError(f"benchmark.dataset={dataset}: {instance.instance_id} is there twice; keep one")
        seen.add(instance.instance_id)


def _wrong_value(row: Mapping[str, Any]) -> str:
    """What swebench would stumble over when it grades, on our side; empty if nothing."""
    from swebench.harness.constants import EvalType
    from swebench.harness.log_parsers import PARSER_REGISTRY

    for column in ("FAIL_TO_PASS", "PASS_TO_PASS"):
        if not isinstance(_parsed(row[column]), list | tuple):
            return f"{column} is no list of tests: {str(row[column])[:60]!r}"
    if row["log_parser"] not in PARSER_REGISTRY:
        return f"swebench has no log_parser {row['log_parser']!r}; swebench.harness.log_parsers lists them"
    if row["eval_type"] not in (known := [each.value for each in EvalType]):
        return f"swebench has no eval_type {row['eval_type']!r}; write one of {', '.join(known)}"
    return ""


def _parsed(value: Any) -> Any:
    """Lists are JSON where the file has text."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _fingerprint(instances: Sequence[Instance]) -> str:
    """SHA-256 of the rows in the order of their ids: the same from the hub, a parquet file or a task repo."""
    digest = hashlib.sha256()
    for instance in sorted(instances, key=lambda instance: instance.instance_id):
        digest.update(json.dumps(dict(instance.row), sort_keys=True, default=str).encode())
    return digest.hexdigest()
