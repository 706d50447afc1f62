"""LoRA adapters: whether a directory holds one, whether it fits the base model, and which servers apply it exactly.

Every popular way of serving drops part of some adapters, often without a warning. Here that is found out before
anything is started, from the files' headers: no torch, no weights of the base.
"""

from swe_eval.adapters.adapter import CONFIG, WEIGHTS, content_hash, refuse_changed
from swe_eval.adapters.backends import BACKENDS, LORA_RANKS, MUST_MERGE
from swe_eval.adapters.base import base_hash, model_folder, read_base
from swe_eval.adapters.examine import Examined, check, examine, refusals, to_merge

__all__ = [
    "BACKENDS",
    "CONFIG",
    "LORA_RANKS",
    "MUST_MERGE",
    "WEIGHTS",
    "Examined",
    "base_hash",
    "check",
    "content_hash",
    "examine",
    "model_folder",
    "read_base",
    "refusals",
    "refuse_changed",
    "to_merge",
]
