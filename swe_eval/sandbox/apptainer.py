"""``sandbox=apptainer``: as bubblewrap's sandboxes, with Apptainer in bwrap's place, where a cluster has that instead.

Apptainer runs inside the user namespace that ``bubblewrap.sh`` makes, on the overlay that is mounted there, so images
are those of the store and a setuid Apptainer needs none of its rights. It cannot go into a sandbox that it has made
other than as an instance, whose process 1 a command can end; ``enter.py`` goes in instead.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from swe_eval.sandbox import enter
from swe_eval.sandbox.bubblewrap import CLEAN, HOSTNAME, BubblewrapSandboxes, default_signals, environment, privileges
from swe_eval.sandbox.node import TOOLS
from swe_eval.sandbox.sandbox import Purpose
from swe_eval.sandbox.shell import PID_1
from swe_eval.sandbox.store.store import Record


class ApptainerSandboxes(BubblewrapSandboxes):
    """See ``Sandboxes``."""

    kind = "apptainer"
    tools: Mapping[str, str] = MappingProxyType(
        {tool: package for tool, package in TOOLS.items() if tool != "bwrap"} | {"apptainer": "apptainer"}
    )

    def _make_argv(self, record: Record, folder: Path, purpose: Purpose) -> list[str]:
        contain = ["--writable", "--containall", "--no-mount", "tmp,home,hostfs,bind-paths", "--no-init", "--no-umask"]
        network = [] if self._has_network(purpose) else ["--net", "--network", "none"]
        capabilities = ",".join(f"CAP_{name}" for name in privileges(purpose))
        return [
            *(*self._limits(), "env", "-i", f"PATH={CLEAN['PATH']}", "HOME=/root", "apptainer", "--silent", "exec"),
            *(*contain, *network, "--no-privs", "--add-caps", capabilities, "--hostname", HOSTNAME, "--pwd", "/"),
            *(str(folder / "root"), "bash", "-p", "-c", PID_1),
        ]

    def _enter(self, record: Record, folder: Path, purpose: Purpose, keeper: int, pid_1: int) -> list[str]:
        variables = [f"{key}={value}" for key, value in environment(record).items()]
        return [
            *("env", "-i", *default_signals(), f"PATH={CLEAN['PATH']}"),
            *("nsenter", "--target", str(keeper), "--user", "--mount", "--preserve-credentials", "--", *self._limits()),
            *(sys.executable, "-I", "-S", enter.__file__, str(pid_1), ",".join(privileges(purpose))),
            *("/usr/bin/env", "-i", *variables),
        ]
