"""``sandbox=docker``: a container per rollout and a fresh one per grading, through the docker command."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from swe_eval.benchmark.instances import Instance
from swe_eval.errors import SandboxError, UserError
from swe_eval.sandbox import owner
from swe_eval.sandbox.capture import capture
from swe_eval.sandbox.engine import EngineLibrary, last_line
from swe_eval.sandbox.images import FromImages, Images
from swe_eval.sandbox.sandbox import Completed, Purpose
from swe_eval.sandbox.shell import PID_1, WORKDIR, ShellSandbox
from swe_eval.settings import EngineSandbox as EngineSettings

LABEL = "swe_eval.run"
OWNER = "swe_eval.owner"
PATIENCE = 60.0
"""Seconds that an engine may be away."""
ROOM = 64 << 20
"""Bytes that are free on an engine's disk where nothing in a sandbox was short of them."""
CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID")
"""What root of an image needs for files and processes of its other users: ``chown``, ``su``, package managers."""
MODES = ("none", "host", "bridge", "default", "private", "slirp4netns", "pasta")
"""Networks that every engine has, or makes."""
PROXIES = [
    name for kind in ("http", "https", "ftp", "no", "all") for name in (f"{kind}_proxy", f"{kind}_proxy".upper())
]
"""What the docker command puts into a container when its configuration names them, passwords included. Containers of
the official harness have none, and tests of requests fail where there are any."""


class DockerSandbox(ShellSandbox):
    """A running container."""

    def __init__(self, executable: str, container: str) -> None:
        super().__init__(self._enter(executable, container), self.kill_all)
        self._executable, self.container = executable, container

    @staticmethod
    def _enter(executable: str, container: str) -> list[str]:
        """With one thread for the one stream that the docker command hands on: more only get in each other's way."""
        return ["env", "GOMAXPROCS=1", executable, "exec", "-i", "-w", "/", container]

    def kill_all(self) -> None:
        """Every process in it but its first.

        Raises:
            SandboxError: it has ended, or the engine has.
        """
        done = capture([self._executable, "kill", "--signal", "USR1", self.container], timeout=60)
        if done.returncode:
            raise SandboxError(f"the container died, or its engine: {last_line(done)}")


class DockerSandboxes(FromImages):
    """See ``Sandboxes``."""

    kind = "docker"
    sandbox: ClassVar[type[DockerSandbox]] = DockerSandbox
    image_root = ".DockerRootDir"
    """What its ``info`` calls the directory of the images."""
    label_format = '{{.Label "%s"}}'
    """A label in what its ``ps`` prints."""

    def __init__(self, settings: EngineSettings, run_id: str) -> None:
        self._settings, self._run_id = settings, run_id
        library = EngineLibrary(self._docker, self.kind, self.image_root, settings.build_args)
        self.images: Images = Images(library, start_timeout=settings.start_timeout, min_free_gb=settings.min_free_gb)
        try:
            answer = self._docker("info", timeout=60)
        except SandboxError as error:
            raise UserError(f"sandbox.executable={error}; write the name of the {self.kind} command") from None
        if answer.returncode:
            raise UserError(
                f"sandbox={self.kind}: no engine answers ({last_line(answer)}); start it, or write sandbox=..."
            )
        self._check_networks()
        self._check_cpus()

    @contextmanager
    def start(self, instance: Instance, purpose: Purpose) -> Iterator[DockerSandbox]:
        """See ``Sandboxes.start``. A missing image is built if the instance has a build context, else pulled."""
        container = f"swe_eval-{secrets.token_hex(8)}"
        sandbox = self.sandbox(self._settings.executable, container)
        with self.images.using(instance), self._running(sandbox, instance.image, purpose):
            try:
                yield sandbox
            finally:
                sandbox.close()
            self._check_room()

    def check(self) -> None:
        """See ``Sandboxes.check``: an engine that is restarted is waited for, or each trial that is owed would fail."""
        deadline = time.monotonic() + PATIENCE
        while (answer := self._docker("info", timeout=60)).returncode:
            if time.monotonic() > deadline:
                raise SandboxError(
                    f"no Docker engine answers any more ({last_line(answer)}); start it, and the same command continues"
                )
            time.sleep(1)

    def remove_all(self) -> None:
        """See ``Sandboxes.remove_all``; containers of other runs, too, once the process that started them is gone."""
        columns = " ".join(["{{.ID}}", self.label_format % LABEL, self.label_format % OWNER])
        listed = self._docker("ps", "--all", "--filter", f"label={LABEL}", "--format", columns, timeout=60)
        rows = [row for line in listed.text.splitlines() if len(row := line.split(" ")) == 3]
        if left := [row[0] for row in rows if row[1] == self._run_id or owner.is_gone(row[2])]:
            self._docker("rm", "--force", "--volumes", *left, timeout=300)

    @contextmanager
    def _running(self, sandbox: DockerSandbox, image: str, purpose: Purpose) -> Iterator[None]:
        without = [f"--env={name}" for name in PROXIES]  # a name that has no value here has none there
        arguments = [*without, *self._arguments(sandbox.container, purpose), image, "-p", "-c", PID_1]
        command = [self._settings.executable, "run", "--detach", *arguments]
        ours = {key: value for key, value in os.environ.items() if key not in PROXIES}
        try:
            done = capture(command, timeout=self._settings.start_timeout, env=ours)
            if done.returncode:
                raise SandboxError(f"cannot start {image}: {last_line(done)}")
            yield
        finally:
            self._docker("rm", "--force", "--volumes", sandbox.container, timeout=120)

    def _arguments(self, name: str, purpose: Purpose) -> list[str]:
        labels = (f"{LABEL}={self._run_id}", f"{OWNER}={owner.this_process()}", f"{LABEL}.purpose={purpose}")
        told = [f"--label={label}" for label in labels]
        return ["--rm", "--name", name, *told, *self._limits(purpose), "--workdir", WORKDIR, "--entrypoint", "bash"]

    def _limits(self, purpose: Purpose) -> Iterator[str]:
        settings = self._settings
        yield from ("--memory", settings.memory, "--memory-swap", settings.memory)
        yield from ("--pids-limit", str(settings.pids_limit), "--ulimit", "core=0", "--stop-signal", "KILL")
        if settings.cpus is not None:
            yield from ("--cpus", str(settings.cpus))
        if purpose == "grading":  # whatever else the official harness gives the tests
            yield from ("--network", settings.grading_network)
            return
        yield from ("--network", settings.network, "--security-opt", "no-new-privileges", "--cap-drop", "ALL")
        yield from (f"--cap-add={capability}" for capability in CAPABILITIES)

    def _check_room(self) -> None:
        """What came of a sandbox that met a full disk is neither the model's doing nor the tests'."""
        library = self.images.library
        if library.free() < ROOM:
            raise SandboxError(
                f"the disk is full where {library.place}; make room ({self._settings.executable} system df tells what "
                "takes it), and the same command continues"
            )

    def _check_networks(self) -> None:
        for field in ("network", "grading_network"):
            name = getattr(self._settings, field)
            is_one = re.fullmatch(r"[\w.-]+", name) and name not in MODES
            if is_one and self._docker("network", "inspect", name, timeout=60).returncode:
                remedy = f"{self._settings.executable} network ls lists them"
                raise UserError(f"sandbox.{field}={name}: the engine has no such network; {remedy}")

    def _check_cpus(self) -> None:
        """Podman takes any number, and does not know this name of them."""
        if (asked := self._settings.cpus) is not None:
            has = self._docker("info", "--format", "{{.NCPU}}", timeout=60).text.strip()
            if has.isdecimal() and asked > int(has):
                raise UserError(f"sandbox.cpus={asked:g}: the engine has {has}; write fewer, or null for all")

    def _docker(self, *arguments: str, timeout: float) -> Completed:
        return capture([self._settings.executable, *arguments], timeout=timeout)
