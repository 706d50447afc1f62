"""Counts and gauges for Prometheus."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
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
        self._counts: Counter[tuple[str, str]] = Counter()
        self._gauges: dict[str, Callable[[], int]] = {}

    def count(self, counter: str, by: int = 1, **labels: str) -> None:
        """Add to one of ``COUNTERS``; from one thread per labels only."""
        self._counts[counter, _labels(labels)] += by

    def watch(self, **gauges: Callable[[], int]) -> None:
        """Set the functions that read ``GAUGES``."""
        self._gauges |= gauges

    def exposition(self) -> str:
        """Prometheus' text format."""
        lines = []
        counts = sorted(self._counts.copy().items())
        for name, text in COUNTERS.items():
            lines += _head(name, text, "counter")
            lines += [f"{PREFIX}_{name}{labels} {count}" for (counter, labels), count in counts if counter == name]
        for name, text in GAUGES.items():
            lines += [*_head(name, text, "gauge"), f"{PREFIX}_{name} {self._gauges[name]()}"]
        return "\n".join([*lines, ""])


def _head(name: str, text: str, kind: str) -> list[str]:
    return [f"# HELP {PREFIX}_{name} {text}", f"# TYPE {PREFIX}_{name} {kind}"]


def _labels(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
