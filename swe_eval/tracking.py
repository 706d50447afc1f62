"""Sends the report's figures to an experiment tracker, Weights & Biases or MLflow, when a run has ended.

They are read from the run's files. A tracker that fails costs a line of output, never the run.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from swe_eval.adapters.checkpoints import step_of
from swe_eval.errors import UserError
from swe_eval.run_dir import RunDir, Trial, read_json
from swe_eval.settings import MlflowTracking, Settings, WandbTracking, result_settings

STEP = "checkpoint_step"
TAG = "swe_eval.run"
"""MLflow's tag by which a continued run finds the one that it was before."""
METRICS_AT_ONCE, PARAMS_AT_ONCE, PARAM_LENGTH = 1000, 100, 500
"""MLflow's limits: of a batch, and of the characters of a value."""


@dataclass(frozen=True)
class Figures:
    """What is sent to a tracker."""

    flat: Mapping[str, float]
    """``<adapter>/resolved``, ``/low`` and ``/high`` (its 95% interval), ``/n``, ``/infra``; for each comparison with a
    verdict ``<b>-vs-<a>/difference``, ``/low``, ``/high``, ``/p``."""
    by_step: Mapping[int, Mapping[str, float]]
    """The figures of each adapter whose training step is known, by that step, in ascending order; empty where two
    have the same: they are no curve."""


def check(settings: Settings) -> str:
    """A line about a tracker that could not be told now, and may be when the run has ended; empty if it could.

    Raises:
        UserError: its package is not installed, or there is no key.
    """
    tracking = settings.tracking
    if tracking.kind != "none" and find_spec(tracking.kind) is None:
        raise UserError(f"tracking={tracking.kind}: {tracking.kind} is not installed; pip install 'swe_eval[track]'")
    try:
        if tracking.kind == "wandb" and tracking.mode == "online":
            os.environ["WANDB_MODE"] = tracking.mode  # where it says offline, login() knows no key
            if not _wandb().login(prompt=False, verify=False):
                raise UserError("tracking=wandb: no key; run wandb login, or write tracking.mode=offline")
        if tracking.kind == "mlflow":
            _ask_mlflow(tracking)
    except UserError:
        raise
    except Exception as error:
        return f"tracking={tracking.kind}: cannot be told now ({_line(error)}); at the end it is tried again"
    return ""


def track(settings: Settings, run: RunDir) -> None:
    """Send the figures to the tracker; if that fails, say so in one line."""
    tracking = settings.tracking
    try:
        if tracking.kind == "wandb":
            _to_wandb(tracking, settings, run)
        elif tracking.kind == "mlflow":
            _to_mlflow(tracking, settings, run)
    except Exception as error:
        print(f"swe_eval: tracking={tracking.kind}: not told ({_line(error)})", file=sys.stderr)


def figures(run: RunDir, steps: Mapping[str, int]) -> Figures:
    """The figures in the run's ``results/``.

    Args:
        run: whose results are read.
        steps: the training step of each adapter that has one.
    """
    found = read_json(run.comparison)
    record = read_json(run.run_json)
    of_arms = {name: dict(_of_arm(run, record, name, told)) for name, told in found.get("adapters", {}).items()}
    flat = {f"{name}/{key}": value for name, told in of_arms.items() for key, value in told.items()}
    for each in found.get("comparisons", []):
        flat |= {f"{each['b']}-vs-{each['a']}/{key}": value for key, value in _of_comparison(each)}
    in_order = sorted((step, name) for name, step in steps.items() if name in of_arms)
    is_curve = len(dict(in_order)) == len(in_order)
    return Figures(flat, {step: of_arms[name] for step, name in in_order} if is_curve else {})


def _of_arm(run: RunDir, record: Mapping[str, Any], name: str, told: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    resolved = told["resolved"]
    if resolved["n"]:
        yield from _estimate("resolved", resolved["mean"], resolved["interval"])
    yield "n", resolved["n"]
    samples = record["identity"].get("agent.samples", 1)
    arms = [arm for arm in record["trials"] if Trial.of_arm(arm, "", samples).adapter == name]
    yield "infra", sum(len(read_json(run.results(arm)).get("incomplete_ids", [])) for arm in arms)


def _of_comparison(told: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    if told["n"] and not told["is_refused"]:
        yield from _estimate("difference", told["difference"], told["interval"])
        yield "p", told["p_value"]


def _estimate(name: str, value: float, interval: Sequence[float]) -> Iterator[tuple[str, float]]:
    low, high = interval
    yield from ((name, value), ("low", low), ("high", high))


def _steps(settings: Settings) -> dict[str, int]:
    found = {adapter.name: step_of(Path(adapter.path)) for adapter in settings.adapters if adapter.path}
    return {name: step for name, step in found.items() if step is not None}


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _wandb() -> Any:
    os.environ.setdefault("WANDB_DISABLE_WEAVE", "true")  # or it advertises Weave, and traces calls that are not ours
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    return wandb


def _to_wandb(tracking: WandbTracking, settings: Settings, run: RunDir) -> None:
    wandb = _wandb()
    told = figures(run, _steps(settings))
    with wandb.init(
        project=tracking.project,
        entity=tracking.entity,
        name=settings.name,
        id=run.id,  # a continued run stays the same run
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


def _mlflow() -> Any:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its own seven take minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")  # seconds; with its own 120 a silent one takes minutes
    import mlflow

    for chatty in ("mlflow", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return mlflow


def _ask_mlflow(tracking: MlflowTracking) -> None:
    """Raise what MLflow raises where it does not answer; a file is not asked for, which would make it."""
    mlflow = _mlflow()
    uri = tracking.uri or mlflow.get_tracking_uri()
    if urlsplit(uri).scheme not in ("", "file", "sqlite"):
        mlflow.MlflowClient(tracking_uri=uri).search_experiments(max_results=1)


def _to_mlflow(tracking: MlflowTracking, settings: Settings, run: RunDir) -> None:
    from mlflow.entities import Metric

    client = _mlflow().MlflowClient(tracking_uri=tracking.uri)
    run_id = _mlflow_run(client, tracking.experiment, settings, run)
    told, now = figures(run, _steps(settings)), round(time.time() * 1000)
    metrics = [Metric(key, value, now, 0) for key, value in told.flat.items()]
    metrics += [Metric(k, v, now, step) for step, values in told.by_step.items() for k, v in values.items()]
    for batch in _batches(metrics, METRICS_AT_ONCE):
        client.log_batch(run_id, metrics=batch)
    client.set_terminated(run_id)


def _mlflow_run(client: Any, experiment_name: str, settings: Settings, run: RunDir) -> str:
    """The id of the run's MLflow run; a new one gets the settings as its params."""
    from mlflow.entities import Param

    known = client.get_experiment_by_name(experiment_name)
    experiment = known.experiment_id if known else client.create_experiment(experiment_name)
    if before := client.search_runs([experiment], filter_string=f"tags.`{TAG}` = '{run.id}'", max_results=1):
        return str(before[0].info.run_id)
    run_id = str(client.create_run(experiment, run_name=settings.name, tags={TAG: run.id}).info.run_id)
    params = [Param(key, str(value)[:PARAM_LENGTH]) for key, value in result_settings(settings).items()]
    for batch in _batches(params, PARAMS_AT_ONCE):
        client.log_batch(run_id, params=batch)
    return run_id


def _batches(values: Iterable[Any], most: int) -> Iterator[list[Any]]:
    rest = iter(values)
    while batch := list(islice(rest, most)):
        yield batch
