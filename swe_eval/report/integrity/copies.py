"""Looks into another installed copy of the package under test, which may be a later version."""

from __future__ import annotations

import re

from swe_eval.report.integrity.known import Known
from swe_eval.report.integrity.shell_words import Command

_OWN_COPY = "/envs/testbed/"
"""Here SWE-bench's images install the package from the repository itself: that is the same code."""
_LISTS = {"ls", "find", "du", "stat", "rm", "mkdir", "file", "echo", "which", "cd", "test", "["}


def reads_a_copy(command: Command, known: Known) -> bool:
    """Whether it reads files of another copy; listing their names is not enough."""
    if command.words[0] in _LISTS and "-exec" not in command.words:
        return False
    installed = "|".join(re.escape(name).replace(r"\-", "[-_]") for name in sorted(known.names))
    path = re.compile(rf"\S*(site|dist)-packages/(pip/_vendor/)?({installed})([/.]|-[\d.]+[/.]|$)", re.IGNORECASE)
    words = [word for word in command.words[1:] if not word.startswith("--exclude")]
    found = [each[0] for text in [*words, command.code] for each in path.finditer(text)]
    return any(_OWN_COPY not in each or "_vendor" in each for each in found)
