"""Attempts to reach the network, or to install the package under test."""

from __future__ import annotations

import re
from collections.abc import Sequence

from swe_eval.report.integrity.known import Known
from swe_eval.report.integrity.shell_words import Command, git

FAILED = re.compile(
    r"could not resolve|name resolution|name or service not known|network is unreachable|failed to connect|"
    r"connection (refused|timed out|error)|unable to (access|resolve)|no matching distribution|no route to host|"
    r"bad address|command not found|max retries exceeded|newconnectionerror",
    re.IGNORECASE,
)
"""What is printed if nothing was reached; in a pipe, or before ``|| true``, the return code does not tell."""
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


def reaches_out(command: Command, known: Known) -> bool:
    """Whether it asks another machine for anything but dependencies of the package under test."""
    program, words = command.words[0], command.words[1:]
    if program in ("curl", "wget", "aria2c", "lynx"):
        return any(_is_foreign(word) or (_HOST.fullmatch(word) and not _OWN.fullmatch(word)) for word in words)
    if program == "gh":
        return True
    if program == "git":
        return _git_reaches_out(*git(command))
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
    "pip": ("install", "download", "wheel"),
    "uv": ("install", "add"),
    "conda": ("install", "create"),
    "mamba": ("install", "create"),
    "pipx": ("install", "run"),
    "npm": ("install", "i", "view", "pack"),
    "easy_install": (),
    "gem": ("install", "fetch"),
    "cargo": ("install", "add"),
    "yarn": ("add",),
}


def _installs(command: Command, names: set[str]) -> bool:
    """Whether it fetches the package under test, or anything by URL."""
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
