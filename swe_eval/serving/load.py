"""The load that a model server reports at ``/metrics`` in Prometheus' text format: vLLM's names, or our server's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import fmean

import httpx
from prometheus_client.parser import text_string_to_metric_families

from swe_eval.serving.endpoint import Endpoint, open_client


@dataclass(frozen=True)
class Load:
    """Of all engines of all servers together; counters run since the servers started."""

    running: int
    """Requests being computed."""
    waiting: int
    """Requests in the queue."""
    kv_use: float | None
    """Fraction of the KV cache in use, the mean over the engines; None if it is not reported."""
    preemptions: int
    """Requests that were started again because memory had run out."""
    prefix_hits: int
    """Tokens of prompts that the prefix cache knew."""
    prefix_queries: int
    """Tokens of prompts that were looked up in the prefix cache."""


NAMES = (
    {
        "running": "vllm:num_requests_running",
        "waiting": "vllm:num_requests_waiting",
        "kv_use": "vllm:kv_cache_usage_perc",
        "preemptions": "vllm:num_preemptions_total",
        "prefix_hits": "vllm:prefix_cache_hits_total",
        "prefix_queries": "vllm:prefix_cache_queries_total",
    },
    {
        "running": "swe_eval_requests_running",
        "waiting": "swe_eval_requests_waiting",
        "preemptions": "swe_eval_preemptions_total",
        "prefix_hits": "swe_eval_prefix_cache_hits_total",
        "prefix_queries": "swe_eval_prefix_cache_queries_total",
    },
)
"""The samples of vLLM 0.32, and of ours."""


class LoadReader:
    """Asks each server behind the endpoints once, however many endpoints it has, over connections that stay open."""

    def __init__(self, endpoints: Callable[[], Iterable[Endpoint]], timeout: float = 5.0) -> None:
        """``endpoints`` is called at every reading: a restarted server has another port. ``timeout`` is in seconds."""
        self._endpoints, self._timeout = endpoints, timeout
        self._clients: dict[str, httpx.Client] = {}

    def read(self) -> Load | None:
        """The load as of now; None if a server does not report it, or not in time."""
        keys = {at.base_url.removesuffix("/v1"): at.api_key for at in self._endpoints()}
        try:
            return load_of([self._text(root, key) for root, key in keys.items()])
        except httpx.HTTPError:
            return None

    def close(self) -> None:
        """Close the connections."""
        for each in self._clients.values():
            each.close()

    def _text(self, root: str, key: str) -> str:
        if root not in self._clients:
            self._clients[root] = open_client(root, key, self._timeout)
        return self._clients[root].get("/metrics").raise_for_status().text


def load_of(texts: Iterable[str]) -> Load | None:
    """The load that the servers' texts add up to; None if they do not report it."""
    found: dict[str, list[float]] = {}
    for text in texts:
        for name, value in _samples(text):
            found.setdefault(name, []).append(value)
    for names in NAMES:
        told = {field: found[name] for field, name in names.items() if name in found}
        if {"running", "waiting"} <= told.keys():
            counts = {field: int(sum(told.get(field, []))) for field in names if field != "kv_use"}
            return Load(**counts, kv_use=fmean(told["kv_use"]) if "kv_use" in told else None)
    return None


def _samples(text: str) -> Iterator[tuple[str, float]]:
    wanted = tuple(name for names in NAMES for name in names.values())
    lines = [line for line in text.splitlines() if line.startswith(wanted)]  # vLLM's histograms are thousands more
    try:
        for family in text_string_to_metric_families("\n".join([*lines, ""])):
            yield from ((sample.name, sample.value) for sample in family.samples if math.isfinite(sample.value))
    except ValueError:
        return  # some other text
