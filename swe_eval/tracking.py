"""The report's figures, told to the tracker of experiments that a team keeps: Weights & Biases, MLflow.

They come from the run's files, once it has ended. A tracker that fails costs a line, never the run.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from swe_eval.adapters.checkpoints import step_of
from swe_eval.errors import UserError
from swe_eval.run_dir import RunDir, Trial, read_json
from swe_eval.settings import MlflowTracking, Settings, WandbTracking, result_settings

STEP = "checkpoint_step"
TAG = "swe_eval.run"
"""By this tag a run that is continued finds what it told MLflow before."""
MOST = {"metrics": 1000, "params": 100, "value": 500}
"""What MLflow takes at once, and characters of a setting that are told."""


@dataclass(frozen=True)
class Figures:
    """What a tracker is told."""

    flat: Mapping[str, float]
    """``<adapter>/resolved``, ``/low`` and ``/high`` (its 95% interval), ``/n``, ``/infra``; of each comparison
    ``<b>-vs-<a>/difference``, ``/low``, ``/high``, ``/p``, unless the arms may not be compared."""
    by_step: Mapping[int, Mapping[str, float]]
    """The same of an adapter under its checkpoint's step, in the order of the steps, where the step is known."""


def check(settings: Settings) -> None:
    """Make sure that the tracker can be told.

    Raises:
        UserError: its package is not installed.
    """
    kind = settings.tracking.kind
    if kind != "none" and find_spec(kind) is None:
        raise UserError(f"tracking={kind}: {kind} is not installed; pip install 'swe_eval[track]'")


def track(settings: Settings, run: RunDir) -> None:
    """Tell the tracker; say in one line if that failed."""
    tracking = settings.tracking
    try:
        if tracking.kind == "wandb":
            _to_wandb(tracking, settings, run)
        elif tracking.kind == "mlflow":
            _to_mlflow(tracking, settings, run)
    except Exception as error:
        what = (str(error).strip().splitlines() or [""])[0]
        print(f"swe_eval: tracking={tracking.kind}: not told ({type(error).__name__}: {what})", file=sys.stderr)


def figures(run: RunDir, steps: Mapping[str, int]) -> Figures:
    """What the run's ``results/`` hold.

    Args:
        steps: of the adapters' checkpoints.
    """
    found = read_json(run.comparison)
    record = read_json(run.run_json)
    of_arms = {name: dict(_of_arm(run, record, name, told)) for name, told in found.get("adapters", {}).items()}
    flat = {f"{name}/{key}": value for name, told in of_arms.items() for key, value in told.items()}
    for each in found.get("comparisons", []):
        flat |= {f"{each['b']}-vs-{each['a']}/{key}": value for key, value in _of_comparison(each)}
    in_order = sorted((step, name) for name, step in steps.items() if name in of_arms)
    return Figures(flat, {step: of_arms[name] for step, name in in_order})


def _of_arm(run: RunDir, record: Mapping[str, Any], name: str, told: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    resolved = told["resolved"]
    if resolved["n"]:
        yield "resolved", resolved["mean"]
        yield from zip(("low", "high"), resolved["interval"], strict=True)
    yield "n", resolved["n"]
    samples = record["identity"].get("agent.samples", 1)
    arms = [arm for arm in record["trials"] if Trial.of_arm(arm, "", samples).adapter == name]
    yield "infra", sum(len(read_json(run.results(arm)).get("incomplete_ids", [])) for arm in arms)


def _of_comparison(told: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    if told["n"] and not told["is_refused"]:
        yield "difference", told["difference"]
        yield from zip(("low", "high"), told["interval"], strict=True)
        yield "p", told["p_value"]


def _steps(settings: Settings) -> dict[str, int]:
    found = {adapter.name: step_of(Path(adapter.path)) for adapter in settings.adapters if adapter.path}
    return {name: step for name, step in found.items() if step is not None}


def _to_wandb(tracking: WandbTracking, settings: Settings, run: RunDir) -> None:
    os.environ.setdefault("WANDB_DISABLE_WEAVE", "true")  # it would advertise it, and trace what is no call of ours
    import wandb

    told = figures(run, _steps(settings))
    with wandb.init(
        project=tracking.project,
        entity=tracking.entity,
        name=settings.name,
        id=run.id,  # what is continued is told to the same run
        resume="allow",
        mode=tracking.mode,
        dir=run.log(""),
        config=result_settings(settings),
        settings=wandb.Settings(silent=True, console="off", init_timeout=60),
    ) as tracked:
        tracked.define_metric("*", step_metric=STEP)
        for step, values in told.by_step.items():
            tracked.log({STEP: step, **values})
        tracked.summary.update(told.flat)


def _to_mlflow(tracking: MlflowTracking, settings: Settings, run: RunDir) -> None:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its own seven take minutes
    import mlflow
    from mlflow.entities import Metric, Param

    for chatty in ("mlflow", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    client = mlflow.MlflowClient(tracking_uri=tracking.uri)
    known = client.get_experiment_by_name(tracking.experiment)
    experiment = known.experiment_id if known else client.create_experiment(tracking.experiment)
    told_before = client.search_runs([experiment], filter_string=f"tags.`{TAG}` = '{run.id}'", max_results=1)
    tracked = (
        told_before[0] if told_before else client.create_run(experiment, run_name=settings.name, tags={TAG: run.id})
    )
    told, now = figures(run, _steps(settings)), round(time.time() * 1000)
    metrics = [Metric(key, value, now, 0) for key, value in told.flat.items()]
    metrics += [Metric(k, v, now, step) for step, values in told.by_step.items() for k, v in values.items()]
    params = [Param(key, str(value)[: MOST["value"]]) for key, value in result_settings(settings).items()]
    for batch in _batches(metrics, MOST["metrics"]):
        client.log_batch(tracked.info.run_id, metrics=batch)
    for batch in _batches([] if told_before else params, MOST["params"]):
        client.log_batch(tracked.info.run_id, params=batch)
    client.set_terminated(tracked.info.run_id)


def _batches(values: Iterable[Any], most: int) -> Iterator[list[Any]]:
    rest = iter(values)
    while batch := list(islice(rest, most)):
        yield batch
