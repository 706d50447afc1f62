"""Edits of what decides the verdict: test configuration, start-up files, tests that were there before."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from swe_eval.report.integrity.known import Known
from swe_eval.report.integrity.shell_words import Command
from swe_eval.suspicious import DECISIVE, kind_of


def edits_tests(command: Command, known: Known) -> bool:
    """Whether it writes test configuration or start-up files, or changes an existing test; a new test is fine."""
    program, words = command.words[0], [word for word in command.words[1:] if not word.startswith("-")]
    written = [*command.writes, *(words if program == "tee" else [])]
    changed = [path for path in _changed(command, words) if path not in known.written]
    return any(map(_is_decisive, [*written, *changed])) or any(map(_is_test, changed))


def _changed(command: Command, words: Sequence[str]) -> Sequence[str]:
    """Files that it edits in place, moves, removes or truncates."""
    if command.words[0] in ("sed", "perl"):  # the first word is the script
        return words[1:] if any(re.fullmatch(r"-\w*i\S*|--in-place\S*", word) for word in command.words) else []
    return words if command.words[0] in ("rm", "mv", "truncate") else []


def _is_test(path: str) -> bool:
    """Narrower than for a patch: ``django/test/`` and ``sympy/testing/`` are part of what is tested."""
    return bool(re.fullmatch(r"(?!/tmp/|/var/|~)(.*/)?(tests/.*\.\w+|test_[^/]*\.py|[^/]*_test\.py|tests\.py)", path))


def _is_decisive(path: str) -> bool:
    """Files outside the repository decide nothing."""
    return not path.startswith(("/tmp/", "/var/", "~")) and kind_of(PurePosixPath(path).name) in DECISIVE
