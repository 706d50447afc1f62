"""The log-probabilities that transformers itself computes: the adapter is merged on disk, the checkpoint scored apart.

On the CPU, because the device belongs to the server that is being proven; and in a process that ends, because the
model's memory does not come back otherwise.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from swe_eval.errors import ServingError
from swe_eval.merging import merged_checkpoint
from swe_eval.settings import ModelSettings


def reference_logprobs(
    model: ModelSettings, adapter: str | None, texts: Sequence[str]
) -> list[np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Log-probability, in nats, of every token but the first, text by text, by the base model with its adapter merged.

    Raises:
        UserError: the adapter cannot be merged.
        ServingError: the checkpoint cannot be scored here.
    """
    checkpoint, revision = model.base_model, model.revision
    if adapter is not None:
        checkpoint, revision = str(merged_checkpoint(checkpoint, Path(adapter), lambda _: None, revision)), None
    how = {"revision": revision or "main", "dtype": model.dtype, "trust_remote_code": model.trust_remote_code}
    asked = {"model": checkpoint, "how": how, "texts": list(texts)}
    child = [sys.executable, "-m", __name__]
    done = subprocess.run(child, input=json.dumps(asked), capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise ServingError(f"lora.proof=reference: {checkpoint} cannot be scored by transformers here: {last}")
    return [np.array(scores) for scores in json.loads(done.stdout)]


def _main() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    asked = json.load(sys.stdin)
    model, how = asked["model"], asked["how"]
    scorer = AutoModelForCausalLM.from_pretrained(model, **how).eval()
    tokenizer = AutoTokenizer.from_pretrained(model, **{key: how[key] for key in ("revision", "trust_remote_code")})
    found = []
    for text in asked["texts"]:
        tokens = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            logprobs = scorer(input_ids=tokens).logits[0, :-1].float().log_softmax(-1)
        found.append(logprobs.gather(1, tokens[0, 1:, None])[:, 0].tolist())
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    _main()
