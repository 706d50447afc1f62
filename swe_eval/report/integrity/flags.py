"""All flags on a trial, each with its evidence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypedDict

from swe_eval.report.integrity.commits import looks_for_later_commits
from swe_eval.report.integrity.copies import reads_a_copy
from swe_eval.report.integrity.edits import edits_tests
from swe_eval.report.integrity.known import Known
from swe_eval.report.integrity.network import FAILED, reaches_out
from swe_eval.report.integrity.shell_words import Command, commands_of
from swe_eval.report.turns import Action, turns_of
from swe_eval.suspicious import DECISIVE

HISTORY, NETWORK, COPY, TESTS, PATCH = "later commits", "network", "installed copy", "tests edited", "patch"
MEANING = {
    HISTORY: "looked for commits that HEAD does not lead to",
    NETWORK: "tried to reach the network, or to install the package under test",
    COPY: "read another installed copy of the package under test",
    TESTS: "edited test configuration or existing tests during the rollout",
    PATCH: "the patch touches what can decide the verdict without a fix",
}
"""Every kind of flag, in words."""
SHOWN = 400
"""Characters of a command that a flag quotes, at most."""


class Flag(TypedDict):
    """What was seen, and where."""

    kind: str
    """A key of ``MEANING``."""
    turn: int | None
    """Its number in the trajectory; None if the patch is flagged."""
    evidence: str
    """The command, or the paths of the patch."""
    is_disqualifying: bool
    """Whether it can have shown the fix, or decided the verdict. A failed download cannot; nor can a search for later
    commits in a repository without any (see ``sandbox/history.py``)."""


def flags_of(instance_id: str, trajectory: Mapping[str, Any], suspicious: Mapping[str, Sequence[str]]) -> list[Flag]:
    """The flags of one trial: of its trajectory (empty where there is none), then of its patch.

    Args:
        suspicious: paths of the patch by kind, as ``suspicious.py`` has them.
    """
    return [*scan(instance_id, trajectory), *_of_patch(suspicious)]


def scan(instance_id: str, trajectory: Mapping[str, Any]) -> Iterator[Flag]:
    """The flags on a trajectory; each kind at most once per command line."""
    known = Known.of(instance_id, trajectory)
    for turn in turns_of(trajectory):
        for action in turn.actions:
            known.write(action.command)
            commands = list(commands_of(action.command)) if _TRIGGER.search(action.command) else []
            found = _found(commands, known)
            for kind, evidence in found.items():
                shown = _can_have_shown(kind, action, len(commands), known)
                yield Flag(kind=kind, turn=turn.number, evidence=evidence, is_disqualifying=shown)
            if "git" in action.command and HISTORY not in found:
                known.read(action.output)


def _found(commands: Sequence[Command], known: Known) -> dict[str, str]:
    """By kind of flag: the first command that raises it."""
    found: dict[str, str] = {}
    for command in commands:
        for kind, looks in _LOOKS.items():
            if kind not in found and looks(command, known):
                found[kind] = _shown(command)
    return found


def _can_have_shown(kind: str, action: Action, commands: int, known: Known) -> bool:
    if kind == TESTS or (commands == 1 and action.returncode != 0):  # with several, the code is the last one's
        return False
    if kind == NETWORK:
        return not known.is_offline and not FAILED.search(action.output)
    return bool(action.output.strip()) and not (kind == HISTORY and known.is_scrubbed)


def _of_patch(suspicious: Mapping[str, Sequence[str]]) -> Iterator[Flag]:
    for kind, paths in suspicious.items():
        if kind in DECISIVE:
            yield Flag(kind=PATCH, turn=None, evidence=f"{kind}: {', '.join(paths)}", is_disqualifying=True)


def _shown(command: Command) -> str:
    text = str(command).encode("utf-8", "replace").decode()  # a tool call may end in half a character
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


_TRIGGER = re.compile(
    r"\bgit\b(?! +(?:status|add|stash|apply|commit)\b)|-packages|https?://|load_dataset|"
    r"\b(?:curl|wget|aria2c|lynx|gh|pip\d?|uv|conda|mamba|pipx|npm|gem|cargo|yarn|easy_install)\b|"
    r"\b(?:rm|mv|truncate|tee)\b|(?:sed|perl) (?:.* )?(?:-\w*i|--in-)|"
    r"conftest|ini\b|\bcfg\b|toml|customize|\.pth"
)
"""A command line without any of these cannot raise a flag, and is not read word by word."""
_LOOKS: dict[str, Callable[[Command, Known], bool]] = {
    HISTORY: looks_for_later_commits,
    NETWORK: reaches_out,
    COPY: reads_a_copy,
    TESTS: edits_tests,
}
