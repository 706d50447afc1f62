"""What is known at a turn of a trajectory, by which its commands are judged."""

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
    """The sandbox, and what the agent has seen and done so far."""

    names: set[str]
    """What the package under test may be called."""
    is_scrubbed: bool
    """Whether all later commits were taken out of the repository (see ``sandbox/history.py``)."""
    is_offline: bool
    """Whether the sandbox had no network."""
    hashes: set[str] = field(default_factory=set)
    """The first ``SHORT`` digits of commits that the issue or the ordinary history has named."""
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
        """Remember the commits that a text names."""
        self.hashes |= {each[:SHORT] for each in SHA.findall(text)}

    def write(self, command: str) -> None:
        """Remember the files that a command line is redirected into."""
        self.written |= set(_WRITTEN.findall(command))


def has_no_network(sandbox: Mapping[str, Any]) -> bool:
    """Whether an agent's sandbox with these settings has no network; for ``sandbox=auto``, whichever kind it was."""
    if sandbox.get("kind") == "auto":
        return all(has_no_network(each) for each in sandbox.values() if isinstance(each, Mapping))
    return sandbox.get("kind") in ("bubblewrap", "apptainer") or sandbox.get("network") == "none"


def package_names(instance_id: str) -> set[str]:
    """What the package under test may be called where it is installed, for example ``{"scikit-learn", "sklearn"}``."""
    name = instance_id.rpartition("-")[0].partition("__")[2].lower().replace("_", "-")
    plain = name.removeprefix("python-").removesuffix("-python")
    return {name, plain, *_ALSO.get(name, ())} - {""}
