"""Where a rollout looked for its answer, or its patch decides the verdict: flags with their evidence.

A flag is no verdict: the official score stays as it is, and a clean one stands beside it. Flags are made to be precise
rather than complete: commands are read as the shell would (``shell_words.py``), and what a careful engineer does every
day (``git log``, ``git show HEAD``, ``pip install -e .``, a new test) is none. What a script does after it was written
to a file is not looked into.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, TypedDict

from swe_eval.report.shell_words import Command, commands_of
from swe_eval.report.turns import Action, turns_of
from swe_eval.suspicious import DECISIVE, kind_of

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
"""Characters of a command that a flag shows."""


class Flag(TypedDict):
    """What was seen."""

    kind: str
    """A key of ``MEANING``."""
    turn: int | None
    """Where in the trajectory; None of a patch."""
    evidence: str
    """The command, or the paths of the patch."""
    is_disqualifying: bool
    """Whether it can have shown the fix, or decided the verdict. A download that failed can not; nor can a look for
    later commits in a repository that holds none (see ``history.py``)."""


def flags_of(instance_id: str, trajectory: Mapping[str, Any], suspicious: Mapping[str, Sequence[str]]) -> list[Flag]:
    """The flags of one trial: of its trajectory (empty where there is none), then of its patch.

    Args:
        suspicious: paths of the patch by kind, as ``suspicious.py`` has them.
    """
    return [*scan(instance_id, trajectory), *_of_patch(suspicious)]


def scan(instance_id: str, trajectory: Mapping[str, Any]) -> Iterator[Flag]:
    """The flags of a trajectory, a kind once per command line at most."""
    info = trajectory.get("info", {})
    is_offline = info.get("config", {}).get("environment", {}).get("network") == "none"
    known = _Known(package_names(instance_id), is_scrubbed="git_history" in info, is_offline=is_offline)
    for turn in turns_of(trajectory):
        for action in turn.actions:
            known.written |= set(_WRITTEN.findall(action.command))
            commands = list(commands_of(action.command)) if _TRIGGER.search(action.command) else []
            found = _found(commands, known)
            for kind, evidence in found.items():
                shown = _can_have_shown(kind, action, len(commands), known)
                yield Flag(kind=kind, turn=turn.number, evidence=evidence, is_disqualifying=shown)
            if HISTORY not in found:
                known.hashes |= {each[:_SHORT] for each in _SHA.findall(action.output)}


@dataclass
class _Known:
    """What a trajectory tells, up to a turn."""

    names: set[str]
    is_scrubbed: bool
    is_offline: bool
    hashes: set[str] = field(default_factory=set)
    """Of commits that an honest look at the history has named: they are ancestors."""
    written: set[str] = field(default_factory=set)
    """Files that it has made itself."""


def _found(commands: Sequence[Command], known: _Known) -> dict[str, str]:
    """The evidence of each kind."""
    found: dict[str, str] = {}
    for command in commands:
        for kind, looks in _LOOKS.items():
            if kind not in found and looks(command, known):
                found[kind] = _shown(command)
    return found


def _can_have_shown(kind: str, action: Action, commands: int, known: _Known) -> bool:
    if kind == TESTS or (commands == 1 and action.returncode != 0):  # of several, the code is that of the last
        return False
    if kind == NETWORK:
        return not known.is_offline and not _FAILED.search(action.output)
    return bool(action.output.strip()) and not (kind == HISTORY and known.is_scrubbed)


PUBLIC_SINCE = {
    "verified": "SWE-bench Verified is public since August 2024",
    "lite": "SWE-bench Lite is public since March 2024",
}
"""By the name of the benchmark's configuration."""


def contamination(record: Mapping[str, Any]) -> str:
    """What is known of whether the model has seen the answers before, in words.

    Args:
        record: ``run.json``.
    """
    since = PUBLIC_SINCE.get(record.get("identity", {}).get("benchmark.name", ""))
    public = f"{since}, its issues and their fixes for longer. " if since else ""
    return (
        f"{public}Whether training data of the base model or of an adapter held them is not known here. Arms on the "
        "same base model share what that has seen; what an adapter's own training data held, they do not."
    )


def package_names(instance_id: str) -> set[str]:
    """What the package under test may be called where it is installed: ``{"scikit-learn", "sklearn"}``."""
    name = instance_id.rpartition("-")[0].partition("__")[2].lower().replace("_", "-")
    return {name, *_ALSO.get(name, ())} - {""}


def _of_patch(suspicious: Mapping[str, Sequence[str]]) -> Iterator[Flag]:
    for kind, paths in suspicious.items():
        if kind in DECISIVE:
            yield Flag(kind=PATCH, turn=None, evidence=f"{kind}: {', '.join(paths)}", is_disqualifying=True)


_TRIGGER = re.compile(
    r"\bgit\b(?! +(?:status|add|stash|apply|commit)\b)|-packages|https?://|load_dataset|(?:sed|perl) +-|"
    r"\b(?:curl|wget|aria2c|lynx|gh|pip\d?|uv|conda|mamba|pipx|npm|gem|cargo|yarn|easy_install)\b|"
    r"\b(?:rm|mv|truncate|tee)\b|conftest|ini\b|\bcfg\b|toml|customize|\.pth"
)
"""What a command line that is worth reading word by word has in it."""
_WRITTEN = re.compile(r">\s*([^\s;&|<>]+)")
_SHORT = 7
_SHA = re.compile(r"\b[0-9a-f]{7,40}\b")
_ALSO = {"scikit-learn": {"sklearn"}}
_FAILED = re.compile(
    r"could not resolve|name resolution|name or service not known|network is unreachable|failed to connect|"
    r"connection (refused|timed out|error)|unable to (access|resolve)|no matching distribution|no route to host|"
    r"bad address|command not found|max retries exceeded|newconnectionerror",
    re.IGNORECASE,
)


def _shown(command: Command) -> str:
    text = str(command)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


# ---- later commits

_ELSEWHERE = re.compile(
    r"(refs/)?(remotes/)?(origin|upstream)/\S+|FETCH_HEAD|ORIG_HEAD|HEAD@\{.+\}|\S*@\{u(pstream)?\}"
)
_AHEAD = re.compile(r"HEAD\.\.\.?(?!HEAD)\S+")
_ALL = re.compile(r"--(all|remotes|branches)(=.*)?|-g|--walk-reflogs|--reflog")
_SHOWS = {
    *("log", "show", "diff", "checkout", "cherry-pick", "restore", "merge", "rebase", "grep", "ls-tree", "cat-file"),
    *("archive", "worktree", "reset", "switch", "format-patch", "whatchanged", "range-diff", "rev-list"),
}


def _looks_for_later_commits(command: Command, known: _Known) -> bool:
    subcommand, words = _git(command)
    if subcommand == "reflog":
        return True
    if subcommand == "fsck":
        return any(re.fullmatch("--(lost-found|unreachable|dangling)", word) for word in words)
    if subcommand == "cat-file" and any(word.startswith("--batch-all") for word in words):
        return True
    if subcommand in ("log", "rev-list", "whatchanged", "shortlog") and any(map(_ALL.fullmatch, words)):
        return True
    revisions = [word.removeprefix("--source=").partition(":")[0] for word in words[: _index("--", words)]]
    return subcommand in _SHOWS and any(_is_later(word, known.hashes) for word in revisions)


def _is_later(revision: str, seen: set[str]) -> bool:
    """Whether it names what HEAD need not lead to; a hash does, unless it was seen before."""
    if _ELSEWHERE.fullmatch(revision) or _AHEAD.fullmatch(revision):
        return True
    hashes = [each for each in re.split(r"\.{2,3}|[~^]", revision) if _SHA.fullmatch(each)]
    return any(each[:_SHORT] not in seen for each in hashes)


def _git(command: Command) -> tuple[str, list[str]]:
    """(subcommand, its arguments), without git's own options."""
    words = list(command.words)
    if words[0] != "git":
        return "", []
    words = words[1:]
    while words and words[0].startswith("-"):
        words = words[2:] if words[0] in ("-C", "-c", "--git-dir", "--work-tree") else words[1:]
    return (words[0], words[1:]) if words else ("", [])


def _index(word: str, words: Sequence[str]) -> int:
    return list(words).index(word) if word in words else len(words)


# ---- the network

_URL = re.compile(r"(?:https?|ftp|git|ssh|git\+\w+)://(?:[^/\s@]*@)?(?P<host>[^/\s:'\"]+)|git@(?P<scp>[^:\s]+):")
_HOST = re.compile(r"(?:[\w-]+\.)+(?:com|org|io|net|dev|co)(?:/.*)?")
_OWN = re.compile(
    r"localhost|127\.[\d.]+|0\.0\.0\.0|\[::1?\]|(.*\.)?(example(\.\w+)?|test|invalid|local|localhost)|\$.*"
)
_FORGES = re.compile(
    r"https?://[\w.-]*(github|githubusercontent|gitlab|bitbucket|pypi|pythonhosted|huggingface|djangoproject|"
    r"readthedocs|sourceforge|anaconda)\.(com|org|co|io|net)"
)
_CALLS = re.compile(r"urlopen|urlretrieve|requests\.|httpx\.|aiohttp|http\.client|socket\.|clone_from")
_DATASET = re.compile(r"load_dataset\([^)]*swe-?_?bench", re.IGNORECASE)


def _reaches_out(command: Command, known: _Known) -> bool:
    program, words = command.words[0], command.words[1:]
    if program in ("curl", "wget", "aria2c", "lynx"):
        return any(_is_foreign(word) or (_HOST.fullmatch(word) and not _OWN.fullmatch(word)) for word in words)
    if program == "gh":
        return True
    if program == "git":
        return _git_reaches_out(*_git(command))
    if command.code:
        asks = bool(_FORGES.search(command.code) and _CALLS.search(command.code))
        return _installs(command, known.names) or asks or bool(_DATASET.search(command.code))
    return _installs(command, known.names)


def _git_reaches_out(subcommand: str, words: Sequence[str]) -> bool:
    if subcommand in ("fetch", "pull", "ls-remote"):
        return not any(word.startswith((".", "/")) for word in words)
    return subcommand in ("clone", "submodule") and any(map(_is_foreign, words))


def _is_foreign(word: str) -> bool:
    found = _URL.search(word)
    return found is not None and not _OWN.fullmatch(found["host"] or found["scp"])


_INSTALLERS = {
    **{"pip": ("install", "download", "wheel"), "uv": ("install", "add"), "conda": ("install", "create")},
    **{"mamba": ("install", "create"), "pipx": ("install", "run"), "npm": ("install", "i", "view", "pack")},
    **{"easy_install": (), "gem": ("install", "fetch"), "cargo": ("install", "add"), "yarn": ("add",)},
}


def _installs(command: Command, names: set[str]) -> bool:
    """Whether it fetches the package under test, or anything by its address; not what it merely depends on."""
    words = list(command.words)
    if re.fullmatch(r"python[\d.]*", words[0]) and words[1:3] == ["-m", "pip"]:
        words = words[2:]
    program = re.sub(r"[\d.]+$", "", words[0])
    if program not in _INSTALLERS:
        return False
    verbs = _INSTALLERS[program]
    if verbs and not set(verbs) & set(words[1:4]):
        return False
    return any(_is_foreign(word) or _package(word) in names for word in words[1:])


def _package(word: str) -> str:
    """A requirement's name as indexes write it: ``Flask[async]==3.0`` is ``flask``."""
    return re.split(r"[\[=<>!~;@]", word, maxsplit=1)[0].lower().replace("_", "-")


# ---- another copy of the package

_LISTS = {"ls", "find", "du", "stat", "rm", "mkdir", "file", "echo", "which", "cd", "test", "["}


def _reads_a_copy(command: Command, known: _Known) -> bool:
    if command.words[0] in _LISTS and "-exec" not in command.words:
        return False
    installed = "|".join(re.escape(name).replace(r"\-", "[-_]") for name in sorted(known.names))
    path = re.compile(rf"(site|dist)-packages/(pip/_vendor/)?({installed})([/.]|-[\d.]+[/.]|$)", re.IGNORECASE)
    words = [word for word in command.words[1:] if not word.startswith("--exclude")]
    return any(path.search(text) for text in [*words, command.code])


# ---- tests


def _edits_tests(command: Command, known: _Known) -> bool:
    """A new test is none; what configures tests or runs at the start is one, and so is a test that was there before."""
    program, words = command.words[0], [word for word in command.words[1:] if not word.startswith("-")]
    written = [*command.writes, *(words if program == "tee" else [])]
    changed = [path for path in _changed(command, words) if path not in known.written]
    return any(map(_is_decisive, [*written, *changed])) or any(map(_is_test, changed))


def _changed(command: Command, words: Sequence[str]) -> Sequence[str]:
    """Files that it edits in place, takes away or cuts off."""
    if command.words[0] in ("sed", "perl"):  # the first word is the script
        return words[1:] if any(re.fullmatch(r"-\w*i\S*|--in-place\S*", word) for word in command.words) else []
    return words if command.words[0] in ("rm", "mv", "truncate") else []


def _is_test(path: str) -> bool:
    """Narrower than in a patch: ``django/test/`` and ``sympy/testing/`` hold what is tested."""
    return bool(re.fullmatch(r"(?!/tmp/|/var/|~)(.*/)?(tests/.*\.\w+|test_[^/]*\.py|[^/]*_test\.py|tests\.py)", path))


def _is_decisive(path: str) -> bool:
    """What lies outside the repository decides nothing."""
    return not path.startswith(("/tmp/", "/var/", "~")) and kind_of(PurePosixPath(path).name) in DECISIVE


_LOOKS: dict[str, Callable[[Command, _Known], bool]] = {
    HISTORY: _looks_for_later_commits,
    NETWORK: _reaches_out,
    COPY: _reads_a_copy,
    TESTS: _edits_tests,
}
