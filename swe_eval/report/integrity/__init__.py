"""Flags, with their evidence: signs that an agent looked for the answer, or that its patch decides the verdict.

A flag is no verdict: the official score stays, and a clean one stands beside it. Flags are meant to be precise rather
than complete. Commands are read as the shell would read them (``shell_words.py``), and everyday work is not flagged
(``git log``, ``git show HEAD``, ``pip install -e .``, a new test). Scripts that are first written to a file are not
examined.
"""

from swe_eval.report.integrity.contamination import contamination
from swe_eval.report.integrity.flags import COPY, HISTORY, MEANING, NETWORK, PATCH, TESTS, Flag, flags_of, scan

__all__ = ["COPY", "HISTORY", "MEANING", "NETWORK", "PATCH", "TESTS", "Flag", "contamination", "flags_of", "scan"]
