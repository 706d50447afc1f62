"""Searches for commits that are not ancestors of HEAD: the fix may be in one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from swe_eval.report.integrity.known import SHA, SHORT, Known
from swe_eval.report.integrity.shell_words import Command, git

_ELSEWHERE = re.compile(
    r"(refs/)?(remotes/)?(origin|upstream)/\S+|FETCH_HEAD|ORIG_HEAD|HEAD@\{.+\}|\S*@\{u(pstream)?\}"
)
_AHEAD = re.compile(r"HEAD\.\.\.?(?!HEAD)\S+")
_ALL = re.compile(r"--(all|remotes|branches)(=.*)?|-g|--walk-reflogs|--reflog")
_SHOWS = re.compile(
    r"log|show|diff|checkout|cherry-pick|restore|merge|rebase|grep|ls-tree|cat-file|archive|worktree|reset|switch|"
    r"format-patch|whatchanged|range-diff|rev-list"
)


def looks_for_later_commits(command: Command, known: Known) -> bool:
    """Whether it shows commits that may not be ancestors of HEAD."""
    subcommand, words = git(command)
    if subcommand == "reflog":
        return True
    if subcommand == "fsck":
        return any(re.fullmatch("--(lost-found|unreachable|dangling)", word) for word in words)
    if subcommand == "cat-file" and any(word.startswith("--batch-all") for word in words):
        return True
    if subcommand in ("log", "rev-list", "whatchanged", "shortlog") and any(map(_ALL.fullmatch, words)):
        return True
    revisions = [word.removeprefix("--source=").partition(":")[0] for word in words[: _index("--", words)]]
    return bool(_SHOWS.fullmatch(subcommand)) and any(_is_later(word, known.hashes) for word in revisions)


def _is_later(revision: str, seen: set[str]) -> bool:
    """Whether it names a commit that may not be an ancestor of HEAD: a remote's, or a hash that was not seen before."""
    if _ELSEWHERE.fullmatch(revision) or _AHEAD.fullmatch(revision):
        return True
    hashes = [each for each in re.split(r"\.{2,3}|[~^]", revision) if SHA.fullmatch(each)]
    return any(each[:SHORT] not in seen for each in hashes)


def _index(word: str, words: Sequence[str]) -> int:
    return list(words).index(word) if word in words else len(words)
