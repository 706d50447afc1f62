"""Proof that every arm is what it is called: fixed texts are scored under each of them before anything is rolled out.

A server that drops an adapter answers just as happily, in the base model's words; its log-probabilities give it away.
Every text is scored by each arm alone, twice: two arms must be further apart than an arm is from itself. Then all arms
are asked at once, as the rollouts will ask, and none may be clearly nearer to another than to itself: servers have
mixed up the rows of a batch (vllm-project/vllm pull request 48421: base rows beside LoRA rows).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import combinations, product
from typing import Any

import httpx
import numpy as np

from swe_eval.errors import ServingError
from swe_eval.run_dir import RunDir, model_in_words, now, write_json
from swe_eval.serving.endpoint import prompt_logprobs, reason
from swe_eval.serving.reference import reference_logprobs
from swe_eval.serving.server import Server
from swe_eval.settings import Settings

TEXTS = (
    "def median(values):\n    ordered = sorted(values)\n    middle = len(ordered) // 2\n    if len(ordered) % 2:\n"
    "        return ordered[middle]\n    return (ordered[middle - 1] + ordered[middle]) / 2\n",
    "The test fails because the cache is keyed by the path alone. Let me look at the file first.\n\n"
    "```mswea_bash_command\ngrep -rn 'cache' src/ | head -20\n```\n",
    "diff --git a/setup.py b/setup.py\n--- a/setup.py\n+++ b/setup.py\n@@ -3,2 +3,2 @@\n-    version='1.0',\n"
    "+    version='1.1',\n     packages=find_packages(),\n",
)
TIMEOUT = 600.0
"""Seconds per text: the first pass of a new shape may compile."""
FLOOR = 1e-6
"""Nats per token; two models that differ by less are the same, whatever the noise."""
TOLERANCE = {"float32": 0.02}
"""Nats per token that a server may be off transformers' own scores, by ``model.dtype``."""
TOLERANCE_16_BIT = 0.05
"""A right server in bfloat16 was 0.01 to 0.03 off (vLLM 0.32)."""

Scores = np.ndarray[Any, np.dtype[np.float64]]
"""Log-probability, in nats, of every token but the first of each text, text after text."""


class Unproven(ServingError):
    """What is served is not what was trained, or the server does not show its log-probabilities."""


@dataclass(frozen=True)
class Distance:
    """How far two arms are apart on the texts, in nats per token (mean of the absolute differences)."""

    a: str
    b: str
    nats: float
    noise: float
    """The larger of what either arm differs by from itself when it is asked again."""

    @property
    def is_real(self) -> bool:
        return self.nats > max(2 * self.noise, FLOOR)


@dataclass(frozen=True)
class Proof:
    """What the scores showed."""

    tokens: int
    """Scored, per arm."""
    distances: tuple[Distance, ...]
    """Of every two arms that should differ; the base model's among them where the server has it."""
    off_reference: Mapping[str, float] | None = None
    """Nats per token that an arm is off transformers with the adapter merged; None if that was not asked for."""

    def as_json(self) -> dict[str, Any]:
        return {"made": now(), **asdict(self)}


class Prover:
    """Proves one server after another, and compares the arms of a later one with those of the earlier ones."""

    def __init__(self, settings: Settings) -> None:
        """``settings`` are the whole run's; ``lora.proof`` says how much is asked."""
        self._settings = settings
        self._arms = {adapter.name for adapter in settings.adapters}
        self._adapted = {adapter.name for adapter in settings.adapters if adapter.path is not None}
        self._alone: dict[str, Scores] = {}
        self._noise: dict[str, float] = {}

    def prove(self, server: Server) -> Proof | None:
        """Score the texts under every arm, and under the base model if the server has it; None if there is no proof.

        Raises:
            Unproven: two arms that should differ do not, an arm is not what transformers makes of it, or the endpoint
                tells no log-probabilities; one line each.
        """
        lora, arms = self._settings.lora, list(server.endpoints)
        if lora.kind == "none" or lora.proof == "none" or not self._adapted:
            return None
        beside = self._to_differ(combinations(arms, 2))
        before = self._to_differ(product(self._alone, arms))
        if lora.proof == "effect" and not beside and not before and self._arms <= {*arms}:
            return Proof(0, ())
        self._alone |= (alone := _scores(server, at_once=1))
        again = _scores(server, at_once=1)
        self._noise |= {arm: _apart(alone[arm], again[arm]) for arm in arms}
        distances = tuple(self._distance(a, b) for a, b in [*beside, *before])
        _refuse(_told_apart(distances))
        together = _scores(server, at_once=len(arms) * len(TEXTS))
        _refuse(_mixed_up(beside, alone, together))
        off = _off_reference(alone, self._settings) if lora.proof == "reference" else None
        return Proof(len(alone[arms[0]]), distances, off)

    def _to_differ(self, pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        return [pair for pair in pairs if self._adapted & {*pair}]

    def _distance(self, a: str, b: str) -> Distance:
        return Distance(a, b, _apart(self._alone[a], self._alone[b]), max(self._noise[a], self._noise[b]))


def keep_proof(run: RunDir, proof: Proof) -> None:
    """Write it to ``run.json``, together with that of earlier servers."""
    kept, made = run.recorded(), proof.as_json()
    before = kept.get("proof") or {}
    pairs = {(each["a"], each["b"]): each for each in [*before.get("distances", ()), *made["distances"]]}
    off = {**(before.get("off_reference") or {}), **(made["off_reference"] or {})}
    made |= {"tokens": made["tokens"] or before.get("tokens", 0), "distances": [*pairs.values()]}
    write_json(run.run_json, kept | {"proof": made | {"off_reference": off or None}})


def _scores(server: Server, at_once: int) -> dict[str, Scores]:
    with ThreadPoolExecutor(at_once) as pool:
        jobs = {arm: [pool.submit(_score, server, arm, text) for text in TEXTS] for arm in server.endpoints}
        return {arm: np.concatenate([job.result() for job in own]) for arm, own in jobs.items()}


def _score(server: Server, arm: str, text: str) -> list[float]:
    endpoint = server.endpoints[arm]
    try:
        with server.using(arm):
            return prompt_logprobs(endpoint, text, TIMEOUT)
    except (httpx.HTTPError, ServingError) as error:
        if server.recovered(arm, endpoint):
            return _score(server, arm, text)
        said = reason(error) if isinstance(error, httpx.HTTPError) else str(error)
        raise Unproven(
            f"lora.proof: {endpoint.model} at {endpoint.base_url} does not score a text (POST /completions with echo "
            f"and logprobs: {said}); write lora.proof=none to run without proof"
        ) from None


def _apart(a: Scores, b: Scores) -> float:
    if a.shape != b.shape:
        raise Unproven(f"lora.proof: the same texts have {len(a)} tokens for one arm and {len(b)} for another")
    return float(np.abs(a - b).mean())


def _told_apart(distances: Sequence[Distance]) -> Iterator[str]:
    for found in distances:
        if found.is_real:
            continue
        figures = f"{found.nats:.2g} nats per token apart, {found.noise:.2g} of them noise"
        yield (
            f"lora.proof: {model_in_words(found.b)} cannot be told from {model_in_words(found.a)} ({figures}): "
            "the server does not apply an adapter, or they are the same weights; "
            "see its log, or write lora.proof=none if that is meant"
        )


def _mixed_up(
    pairs: Sequence[tuple[str, str]], alone: Mapping[str, Scores], together: Mapping[str, Scores]
) -> Iterator[str]:
    for one, other in [*pairs, *((b, a) for a, b in pairs)]:
        own, others = _apart(together[one], alone[one]), _apart(together[one], alone[other])
        # twice as near: in company 16 bits round otherwise than alone, by more than neighbouring checkpoints may differ
        if own > 2 * others:
            yield (
                f"lora.proof: asked together with other arms, {model_in_words(one)} is scored as "
                f"{model_in_words(other)} is ({others:.2g} nats per token from it, {own:.2g} from itself): "
                "the server mixes up its adapters; serve one at a time"
            )


def _off_reference(scores: Mapping[str, Scores], settings: Settings) -> dict[str, float]:
    """How far each arm is off the reference; the base model's is the checkpoint as it is."""
    paths = {adapter.name: adapter.path for adapter in settings.adapters}
    off = {
        name: _apart(found, np.concatenate(reference_logprobs(settings.model, paths.get(name), TEXTS)))
        for name, found in scores.items()
    }
    tolerance = TOLERANCE.get(settings.model.dtype, TOLERANCE_16_BIT)
    _refuse(
        f"lora.proof=reference: {model_in_words(name)} is {nats:.2g} nats per token off transformers "
        f"with the adapter merged (at most {tolerance:g}): the server does not compute what was trained; see its log"
        for name, nats in off.items()
        if not nats <= tolerance
    )
    return off


def _refuse(lines: Iterable[str]) -> None:
    if said := "\n".join(lines):
        raise Unproven(said)
