"""Contamination: whether the model may have seen the answers in training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PUBLIC_SINCE = {
    "verified": "SWE-bench Verified is public since August 2024",
    "lite": "SWE-bench Lite is public since March 2024",
}
"""By the name of the benchmark's configuration."""


def contamination(record: Mapping[str, Any]) -> str:
    """What is known about it, in words.

    Args:
        record: the content of ``run.json``.
    """
    since = PUBLIC_SINCE.get(record.get("identity", {}).get("benchmark.name", ""))
    public = f"{since}, its issues and their fixes for longer. " if since else ""
    return (
        f"{public}Whether training data of the base model or of an adapter held them is not known here. Arms on the "
        "same base model share what that has seen; what an adapter's own training data held, they do not."
    )
