"""The load of the model server during a run, from ``logs/load.jsonl``; see ``scheduling/admission.py``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

POINTS = 60
"""Of the number of agents over time, at most, in ``run.json``."""
GAUGES = ("running", "waiting", "kv_use", "agents", "held")
ALWAYS = {"time", "agents", "running", "waiting"}
"""What every line has; a server may not tell the rest, and older runs did not write it."""


def summary(path: Path) -> dict[str, Any]:
    """Mean and peak of every gauge while agents were at work, sums of the counters, the number of agents over time.

    Empty without a log, and where the run was too short for a look at an agent at work.
    """
    lines = read_load(path)
    busy = [line for line in lines if line["agents"]]
    if not busy:
        return {}
    sums = {name: sum(line.get(name, 0) for line in lines) for name in ("preemptions", "prefix_hits", "prefix_queries")}
    hits, queries = sums["prefix_hits"], sums["prefix_queries"]
    return {
        **{name: _gauge([line.get(name) for line in busy]) for name in GAUGES},
        "preemptions": sums["preemptions"],
        "prefix_hit_rate": hits / queries if queries else None,
        "course": [[line["time"], line["agents"], line.get("budget")] for line in lines[:: -(-len(lines) // POINTS)]],
    }


def load_line(load: Mapping[str, Any]) -> str:
    """A summary in words."""
    kv, hits = load["kv_use"], load["prefix_hit_rate"]
    preempted = f", {load['preemptions']} preempted" if load["preemptions"] else ""
    parts = [
        f"{load['agents']['peak']} rollouts at once at most, {load['agents']['mean']:.1f} on average",
        f"the server computed {load['running']['mean']:.1f} requests, {load['waiting']['mean']:.1f} waited{preempted}",
        kv and f"KV cache {kv['mean']:.0%} used, {kv['peak']:.0%} at most",
        hits is not None and f"{hits:.0%} of the prompts' tokens cached",
    ]
    return "; ".join(part for part in parts if part)


def _gauge(values: Sequence[float | None]) -> dict[str, float] | None:
    told = [value for value in values if value is not None]
    return {"mean": fmean(told), "peak": max(told)} if told else None


def read_load(path: Path) -> list[dict[str, Any]]:
    """The lines of the file that tell enough; none if it is missing or damaged."""
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    except (OSError, ValueError):
        return []
    return [line for line in lines if line.keys() >= ALWAYS]
