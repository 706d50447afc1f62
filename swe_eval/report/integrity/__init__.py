"""Where a rollout looked for its answer, or its patch decides the verdict: flags with their evidence.

A flag is no verdict: the official score stays as it is, and a clean one stands beside it. Flags are made to be precise
rather than complete: commands are read as the shell would (``shell_words.py``), and what a careful engineer does every
day (``git log``, ``git show HEAD``, ``pip install -e .``, a new test) is none. What a script does after it was written
to a file is not looked into.
"""

from swe_eval.report.integrity.contamination import contamination
from swe_eval.report.integrity.flags import COPY, HISTORY, MEANING, NETWORK, PATCH, TESTS, Flag, flags_of, scan

__all__ = ["COPY", "HISTORY", "MEANING", "NETWORK", "PATCH", "TESTS", "Flag", "contamination", "flags_of", "scan"]
