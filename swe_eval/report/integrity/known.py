"""What a trajectory tells of its sandbox and of itself, up to a turn."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SHORT = 7
SHA = re.compile(r"\b[0-9a-f]{7,40}\b")
_WRITTEN = re.compile(r">\s*([^\s;&|<>]+)")
_ALSO = {"scikit-learn": {"sklearn"}, "pytest": {"_pytest"}}


@dataclass
class Known:
    """What a command is judged by."""

    names: set[str]
    """Of the package under test."""
    is_scrubbed: bool
    """No later commit was there to be found (see ``sandbox/history.py``)."""
    is_offline: bool
    """The sandbox had no network."""
    hashes: set[str] = field(default_factory=set)
    """The beginnings of those that the issue or an honest look at the history has named: of ancestors."""
    written: set[str] = field(default_factory=set)
    """Files that the agent has made itself."""

    @classmethod
    def of(cls, instance_id: str, trajectory: Mapping[str, Any]) -> Known:
        """What is known before the first turn."""
        info = trajectory.get("info", {})
        sandbox = info.get("config", {}).get("environment", {})
        known = cls(package_names(instance_id), "git_history" in info, has_no_network(sandbox))
        for message in trajectory.get("messages", [])[:2]:
            known.read(str(message.get("content")))
        return known

    def read(self, text: str) -> None:
        """Take note of the commits that are named."""
        self.hashes |= {each[:SHORT] for each in SHA.findall(text)}

    def write(self, command: str) -> None:
        """Take note of the files that a command line is redirected into."""
        self.written |= set(_WRITTEN.findall(command))


def has_no_network(sandbox: Mapping[str, Any]) -> bool:
    """Whether an agent's sandbox of these settings reaches nothing; of ``sandbox=auto``, whichever it took."""
    if sandbox.get("kind") == "auto":
        return all(has_no_network(each) for each in sandbox.values() if isinstance(each, Mapping))
    return sandbox.get("kind") == "bubblewrap" or sandbox.get("network") == "none"


def package_names(instance_id: str) -> set[str]:
    """What the package under test may be called where it is installed: ``{"scikit-learn", "sklearn"}``."""
    name = instance_id.rpartition("-")[0].partition("__")[2].lower().replace("_", "-")
    plain = name.removeprefix("python-").removesuffix("-python")
    return {name, plain, *_ALSO.get(name, ())} - {""}
