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
ENFORCING = Path("/sys/fs/selinux/enforce")
_AS_OURS = 'exec "$@" <&3 >&4 2>&1 3<&- 4>&-'
ENDING = 60.0
"""Seconds for a container to be removed."""


class PodmanSandbox(DockerSandbox):
    """Its shell reads and writes our pipes: Podman's two processes in between take no part in a command.

    Not where SELinux is enforced, whose rules may not let it.
    """

    @staticmethod
    def _enter(executable: str, container: str) -> list[str]:
        if ENFORCING.is_file() and ENFORCING.read_text() == "1":
            return DockerSandbox._enter(executable, container)
        podman = [executable, "exec", "--preserve-fds=2", "-w", "/", container]
        return ["sh", "-c", 'exec "$@" 3<&0 4>&1 < /dev/null', "sh", *podman, "bash", "-p", "-c", _AS_OURS, "bash"]


class PodmanSandboxes(DockerSandboxes):
    """See ``Sandboxes``."""

    kind = "podman"
    sandbox = PodmanSandbox
    image_root = ".Store.GraphRoot"
    label_format = '{{index .Labels "%s"}}'

    def __init__(self, settings: EngineSandbox, run_id: str) -> None:
        super().__init__(settings, run_id)
        asked = "{{.Host.ServiceIsRemote}} {{.Store.GraphDriverName}} {{.Store.GraphRoot}}"
        told = self._docker("info", "--format", asked, timeout=60)
        is_remote, driver, root = [*last_line(told).split(" ", 2), "", ""][:3]
        if told.returncode or not root:
            raise UserError(f"sandbox=podman: does not say where images are ({last_line(told)}); write sandbox=...")
        if is_remote == "true":  # its containers would outlive us, and cannot have our pipes
            raise UserError("sandbox=podman: asks a Podman elsewhere; unset CONTAINER_HOST, or write sandbox=...")
        if os.geteuid() and (why_not := _why_not_rootless(driver, root)):
            raise UserError(f"sandbox=podman: {why_not}")
        self._watchdog = Watchdog()

    def _check_networks(self) -> None:
        """Also that there is what makes them for users who are not root."""
        super()._check_networks()
        if os.geteuid() and self._settings.grading_network == "bridge" and not self._makes_networks:
            what = "sandbox.grading_network=bridge: Podman finds neither slirp4netns nor pasta, which make it"
            raise UserError(f"{what}; install one, or write sandbox.grading_network=none")

    @property
    def _makes_networks(self) -> bool:
        paths = ("{{.Host.Slirp4NetNS.Executable}}", "{{.Host.Pasta.Executable}}")
        return any(last_line(self._docker("info", "--format", path, timeout=60)).startswith("/") for path in paths)

    @contextmanager
    def _running(self, sandbox: DockerSandbox, image: str, purpose: Purpose) -> Iterator[None]:
        arguments = [*self._arguments(sandbox.container, purpose), image, "-p", "-c", ATTACHED_PID_1]
        keeper = Keeper([self._settings.executable, "run", "--interactive", NO_PROXY, *arguments])
        try:
            keeper.wait_until_ready(image, self._settings.start_timeout)
            with self._watched(sandbox):
                yield
        finally:
            if not keeper.end(ENDING):  # a command can keep process 1 from hearing of it, by /proc/1/fd/0
                self._docker("rm", "--force", "--volumes", sandbox.container, timeout=120)

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
