"""A LoRA adapter and its base model become one checkpoint, streamed on disk: W += scale * B @ A.

Nothing here needs torch, a GPU, or room for the model in memory: blocks of rows pass from the base's files to the new
ones, and those that the adapter changes are computed in float32 and rounded once.
"""

from swe_eval.merging.cache import applied, merged_checkpoint

__all__ = ["applied", "merged_checkpoint"]
