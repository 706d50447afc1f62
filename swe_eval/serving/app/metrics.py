"""Counts and gauges for Prometheus."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second sample of each counter: when it was made
PREFIX = "swe_eval"

COUNTERS = {
    "requests_total": "Answers, by model and outcome: stop, length, cancelled, error, refused.",
    "prompt_tokens_total": "Tokens of prompts.",
    "cached_tokens_total": "Tokens of prompts that the prefix cache knew.",
    "completion_tokens_total": "Tokens of answers.",
    "prefix_cache_queries_total": "Tokens of prompts, looked up in the prefix cache before they are read.",
    "prefix_cache_hits_total": "Of those, tokens that it knew.",
    "preemptions_total": "Requests that began again because memory had run out.",
}
LABELS = {"requests_total": ["model", "outcome"]}
GAUGES = {
    "requests_running": "Answers being computed.",
    "requests_waiting": "Requests in the queue.",
    "weights_bytes": "Memory that the base model takes, as it is stored.",
    "gpu_memory_peak_bytes": "Most memory of the GPU that was in use at once; 0 without a GPU.",
    "host_memory_peak_bytes": "Most memory of the host that was in use at once; 0 where the system does not tell.",
    "prefix_cache_bytes": "Memory that the prefix cache takes.",
    "prefix_cache_capacity_bytes": "Memory that the prefix cache may take.",
    "prefix_cache_entries": "Sequences in the prefix cache.",
}


def host_memory_peak() -> int:
    """Bytes, of this process; 0 where there is no Linux to tell."""
    with suppress(OSError):
        if peak := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()):
            return 1024 * int(peak[1])
    return 0


class Metrics:
    """Counts by model, and gauges that are read when they are asked for."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._counters = {
            name: Counter(f"{PREFIX}_{name}", text, LABELS.get(name, ["model"]), registry=self._registry)
            for name, text in COUNTERS.items()
        }

    def count(self, counter: str, by: int = 1, **labels: str) -> None:
        """Add to one of ``COUNTERS``."""
        self._counters[counter].labels(**labels).inc(by)

    def watch(self, **gauges: Callable[[], int]) -> None:
        """Set the functions that read ``GAUGES``."""
        for name, read in gauges.items():
            Gauge(f"{PREFIX}_{name}", GAUGES[name], registry=self._registry).set_function(read)

    def exposition(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)
