"""The page and its data as files: ``trajectories.html`` opens from disk, without a server or a network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from swe_eval.benchmark import instances
from swe_eval.errors import UserError
from swe_eval.report.results import Arm
from swe_eval.report.runs import SavedRun
from swe_eval.report.trajectories import PAGE
from swe_eval.report.trajectories.data import Shown, index_of, instance_of
from swe_eval.run_dir import write_text
from swe_eval.settings import BenchmarkSettings

DATA, INDEX = "trajectories.data", "index"
PARTS = ("common", "data", "list", "instance", "turns", "keys")
"""The files of the page's script, in the order in which they run."""
_PAGE = Path(__file__).parent / "page"


def write_trajectories(shown: Shown, arms: Sequence[Arm]) -> Path:
    """Write the page and a data file per instance; returns the path of the page."""
    verdicts = {arm.name: arm.verdicts for arm in arms}
    folder = shown.run.root / DATA
    for instance_id in shown.instance_ids:
        found = {name: each[instance_id] for name, each in verdicts.items() if instance_id in each}
        write_text(folder / f"{instance_id}.js", script("instance", instance_of(shown, instance_id, found)))
    write_text(folder / f"{INDEX}.js", script(INDEX, index_of(shown, arms)))
    write_text(shown.run.root / PAGE, page())
    return shown.run.root / PAGE


def script(kind: str, value: Any) -> str:
    """A script, in ASCII, that hands the value to the page."""
    return f"trajectories.{kind}({json.dumps(value, separators=(',', ':'))});\n"


@cache
def page() -> str:
    """The page, with its style and its code inside."""
    html = (_PAGE / "page.html").read_text()
    style = (_PAGE / "page.css").read_text()
    scripts = "\n".join((_PAGE / f"{part}.js").read_text() for part in PARTS)
    return html.replace("/*css*/", style).replace("/*js*/", scripts)


def shown_of(saved: SavedRun) -> Shown:
    """A run with the rows of its dataset, or with a note that the dataset could not be loaded."""
    try:
        settings = BenchmarkSettings.model_validate(yaml.safe_load(saved.run.config_yaml.read_text())["benchmark"])
        rows = {each.instance_id: each.row for each in instances.load(settings).instances}
    except (OSError, KeyError, TypeError, yaml.YAMLError, ValidationError, UserError) as error:
        note = f"Reference patches and issues are not shown: the dataset could not be loaded ({_first_line(error)})."
        return Shown(saved.run, saved.trials, saved.comparisons, notes=[note])
    return Shown(saved.run, saved.trials, saved.comparisons, rows)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
