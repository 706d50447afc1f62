"""LoRA adapters: is what is on disk one, does it fit the base model, and who can serve it exactly.

Every popular way of serving drops part of some adapters with a warning or without one. Here that is known before
anything is started, from headers: no torch, no weights of the base.
"""

from swe_eval.adapters.adapter import CONFIG, WEIGHTS, Problem, content_hash
from swe_eval.adapters.backends import BACKENDS, LORA_RANKS, MUST_MERGE, Verdict
from swe_eval.adapters.base import model_folder, read_base
from swe_eval.adapters.examine import Examined, check, examine, refusals, to_merge

__all__ = [
    "BACKENDS",
    "CONFIG",
    "LORA_RANKS",
    "MUST_MERGE",
    "WEIGHTS",
    "Examined",
    "Problem",
    "Verdict",
    "check",
    "content_hash",
    "examine",
    "model_folder",
    "read_base",
    "refusals",
    "to_merge",
]
