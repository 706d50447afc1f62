"""Where made things are kept from one run to the next."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_dir


def cache_dir() -> Path:
    """``SWE_EVAL_CACHE``, or the user's cache directory; not necessarily there yet."""
    return Path(os.environ.get("SWE_EVAL_CACHE") or user_cache_dir("swe_eval"))
