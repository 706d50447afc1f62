"""``python -m swe_eval.grade --predictions p.jsonl``: any predictions file, graded in any sandbox.

The file is swebench's: ``instance_id``, ``model_name_or_path``, ``model_patch`` per row (.json or .jsonl); ``gold``
stands for the reference patches. The run directory is that of an evaluation: the same command again continues.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swe_eval import command
from swe_eval.cluster.walltime import Walltime
from swe_eval.errors import UserError
from swe_eval.settings import GRADE, NAME, Settings, result_settings

if TYPE_CHECKING:
    from swe_eval.benchmark.instances import Benchmark

PREDICTIONS = "--predictions"
GOLD = "gold"
GRADED_BY = ("benchmark.", "sandbox.")


def main() -> None:
    """Console entry point."""
    parser = command.Arguments(prog="python -m swe_eval.grade", add_help=False, allow_abbrev=False)
    parser.add_argument(PREDICTIONS, default=None)
    given, overrides = parser.parse_known_args()
    if given.predictions and not any(override.startswith(("name=", "output_dir=")) for override in overrides):
        named = re.sub(r"[^\w.-]+", "-", Path(given.predictions).stem)
        overrides.append(f'name="grade-{named}"')
    typed, sys.argv[1:] = sys.argv[1:], overrides

    def task(settings: Settings) -> int:
        sys.argv[1:] = typed  # which the run tells of
        return _grade(settings, given.predictions)

    command.run(task, own=[PREDICTIONS])


def _grade(settings: Settings, predictions: str | None) -> int:
    if predictions is None:
        raise UserError("--predictions: needs a value: write --predictions p.jsonl, or --predictions gold")
    if GRADE not in settings.stages:
        raise UserError("stages=[rollout]: there are predictions already; write stages=[grade], or leave it out")
    from swe_eval.benchmark import instances

    given = None if predictions == GOLD else read_predictions(Path(predictions))
    benchmark = instances.load(settings.benchmark)
    by_id = {instance.instance_id: instance for instance in benchmark.instances}
    rows = _gold(by_id) if given is None else given
    if unknown := sorted({row["instance_id"] for row in rows} - by_id.keys()):
        raise UserError(f"{predictions}: not in the benchmark: {', '.join(unknown[:5])}; write benchmark=... to fit")
    return _graded(settings, benchmark, rows)


def _graded(settings: Settings, benchmark: Benchmark, rows: Sequence[Mapping[str, str]]) -> int:
    from swe_eval.evaluate import record, roll_out_and_grade
    from swe_eval.report.report import conclude
    from swe_eval.run_dir import RunDir, Trial, write_text
    from swe_eval.sandbox.sandbox import connect

    run = RunDir(settings.output_dir)
    identity = {
        **{key: value for key, value in result_settings(settings).items() if key.startswith(GRADED_BY)},
        "benchmark.fingerprint": benchmark.fingerprint,
        "predictions": _hash(rows),
    }
    trials = [Trial(row["model_name_or_path"], row["instance_id"]) for row in rows]
    if not all(map(run.is_graded, trials)):
        connect(settings.sandbox, run.id)  # what is not here is said before there is a run directory
    with run.claimed(identity):
        record(run, settings, identity, trials, difficulties=benchmark.difficulties)
        for trial, row in zip(trials, rows, strict=True):
            write_text(run.prediction(trial), row["model_patch"])
        try:
            roll_out_and_grade(settings, benchmark, run, trials, Walltime())
        finally:
            owed = conclude(run, trials, [])
    return 1 if owed else 0


def read_predictions(path: Path) -> list[dict[str, str]]:
    """Rows of a .json (list, or mini-swe-agent's mapping by id) or .jsonl file, names made fit for folders.

    Raises:
        UserError: the file, the row and what it lacks; an id twice for one model.
    """
    rows = [_row(path, number, row) for number, row in enumerate(_parse(path), 1)]
    if not rows:
        raise UserError(f"{path}: no predictions in it")
    for (name, instance_id), times in Counter((row["model_name_or_path"], row["instance_id"]) for row in rows).items():
        if times > 1:
            raise UserError(f"{path}: {name} has {times} predictions for {instance_id}; keep one")
    return rows


def _parse(path: Path) -> Sequence[Any]:
    if path.suffix not in (".json", ".jsonl"):
        raise UserError(f"--predictions {path}: write a .json or .jsonl file, or gold")
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"--predictions {path}: cannot be read ({why}); write another file, or gold") from None
    if path.suffix == ".jsonl":
        lines = enumerate(text.split("\n"), 1)
        return [_json(path, line, f", line {number}") for number, line in lines if line.strip()]
    data = _json(path, text)
    if not isinstance(data, dict | list):
        raise UserError(f"--predictions {path}: neither a list of predictions nor an object of them")
    return list(data.values()) if isinstance(data, dict) else data


def _json(path: Path, text: str, where: str = "") -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"--predictions {path}{where}: is no JSON ({error}); mend it, or take it out") from None


def _row(path: Path, number: int, row: Any) -> dict[str, str]:
    for key in ("instance_id", "model_name_or_path"):
        if not isinstance(row, dict) or not isinstance(row.get(key), str):
            raise UserError(f"{path}: row {number} has no {key}; swebench wants it beside model_patch")
    name, patch = row["model_name_or_path"].replace("/", "__"), row.get("model_patch")
    if not re.fullmatch(NAME, name):
        raise UserError(f"{path}: row {number}: model_name_or_path {name!r} cannot be a file name; write another")
    if not isinstance(patch, str | None):
        raise UserError(f"{path}: row {number}: model_patch is no text; write a diff, or null")
    try:
        (patch or "").encode("utf-8", "surrogateescape")  # as it is written; half of a UTF-16 pair has no bytes
    except UnicodeEncodeError as error:
        what = f"model_patch has {error.object[error.start]!r}, half a character, at {error.start}"
        raise UserError(f"{path}: row {number}: {what}; write the whole, or leave it out") from None
    return {"instance_id": row["instance_id"], "model_name_or_path": name, "model_patch": patch or ""}


def _gold(instances: Mapping[str, Any]) -> list[dict[str, str]]:
    if without := [key for key, instance in instances.items() if instance.row.get("patch") is None]:
        raise UserError(f"--predictions gold: no patch in the row of {without[0]}; write a file of predictions")
    return [
        {"instance_id": key, "model_name_or_path": GOLD, "model_patch": instance.row["patch"]}
        for key, instance in instances.items()
    ]


def _hash(rows: Sequence[Mapping[str, str]]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


if __name__ == "__main__":
    main()
