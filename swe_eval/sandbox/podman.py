"""``sandbox=podman``: Docker's sandboxes in rootless Podman, which takes Docker's commands and has no daemon.

What no daemon looks after ends with us: ``podman run`` stays attached, and process 1 reads from it. Without cgroups of
the user's own (cgroups v1, or a node that delegates none) Podman ignores limits; our watchdog sees to them there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from math import inf
from pathlib import Path

from swe_eval.errors import SandboxError, UserError
from swe_eval.sandbox.docker import DockerSandbox, DockerSandboxes
from swe_eval.sandbox.engine import last_line
from swe_eval.sandbox.keeper import Keeper
from swe_eval.sandbox.node import SHARED, file_system, sub_ids
from swe_eval.sandbox.sandbox import Purpose
from swe_eval.sandbox.shell import ATTACHED_PID_1
from swe_eval.sandbox.watchdog import Limits, Watchdog, Watched
from swe_eval.settings import EngineSandbox, nbytes

NO_PROXY = "--http-proxy=false"
"""Podman hands on those of our environment, as docker those of its configuration."""
ENDING = 60.0
"""Seconds for a container to be removed."""


class PodmanSandboxes(DockerSandboxes):
    """See ``Sandboxes``."""

    kind = "podman"
    image_root = ".Store.GraphRoot"
    label_format = '{{index .Labels "%s"}}'

    def __init__(self, settings: EngineSandbox, run_id: str) -> None:
        super().__init__(settings, run_id)
        told = self._docker("info", "--format", "{{.Store.GraphDriverName}} {{.Store.GraphRoot}}", timeout=60)
        driver, _, root = last_line(told).partition(" ")
        if told.returncode or not root:
            raise UserError(f"sandbox=podman: does not say where images are ({last_line(told)}); write sandbox=...")
        if os.geteuid() and (why_not := _why_not_rootless(driver, root)):
            raise UserError(f"sandbox=podman: {why_not}")
        self._watchdog = Watchdog()

    @contextmanager
    def _running(self, sandbox: DockerSandbox, image: str, purpose: Purpose) -> Iterator[None]:
        arguments = [*self._arguments(sandbox.container, purpose), image, "-p", "-c", ATTACHED_PID_1]
        keeper = Keeper([self._settings.executable, "run", "--interactive", NO_PROXY, *arguments])
        try:
            keeper.wait_until_ready(image, self._settings.start_timeout)
            with self._watched(sandbox):
                yield
        finally:
            keeper.end(ENDING)

    def _watched(self, sandbox: DockerSandbox) -> AbstractContextManager[None]:
        if self._has_cgroups:
            return nullcontext()
        told = self._docker("inspect", "--format", "{{.State.Pid}}", sandbox.container, timeout=60)
        if told.returncode:
            raise SandboxError(f"the container died: {last_line(told)}")
        limits = Limits(nbytes(self._settings.memory), self._settings.pids_limit, inf)
        return self._watchdog.watching(int(told.text.split()[-1]), Watched(limits, sandbox.kill_all))

    @cached_property
    def _has_cgroups(self) -> bool:
        told = self._docker("info", "--format", "{{.Host.CgroupControllers}}", timeout=60)
        return "memory" in told.text and "pids" in told.text


def _why_not_rootless(driver: str, root: str) -> str:
    if not sub_ids():
        return "this user has no ids to give away in /etc/subuid; ask for some, or write sandbox=bubblewrap"
    if (kind := file_system(Path(root))) in SHARED:
        return f"its images would be on {kind}, which cannot hold them; set graphroot in storage.conf to a local disk"
    if driver == "vfs":
        advice = 'set driver = "overlay" in storage.conf, and run podman system reset'
        return f"its storage driver is vfs, which copies a whole image for every sandbox; {advice}"
    return ""
