"""``sandbox=docker``: a container per rollout and a fresh one per grading, through the docker command."""

from __future__ import annotations

import secrets
import shlex
import signal
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO

from swe_eval.benchmark.instances import Instance
from swe_eval.errors import SandboxError, UserError
from swe_eval.sandbox.capture import argument, capture
from swe_eval.sandbox.sandbox import Completed, Purpose
from swe_eval.settings import DockerSandbox as DockerSettings

WORKDIR = "/testbed"
LABEL = "swe_eval.run"
# PID 1: reaps, ends by itself after a day, and traps nothing: the kernel keeps from it what a command inside kills
PID_1 = "end=$((SECONDS+86400)); while [ $SECONDS -lt $end ]; do sleep 60 & wait $!; done"
# A pipe of its own for each stream would shuffle the two, and the outer shell's "Killed" is not the command's. The last
# line is the proof that it ran to its end in there: a client that loses the engine ends with half an output, any code
# and words of its own.
JOINED = """exec bash -c "$0" 2>&1"""
RUN = f"""exec 2> /dev/null; timeout --signal=KILL "$0" sh -c '{JOINED}' "$1"; printf '\\n%s %d\\n' "$2" "$?\""""
KILLED = 137
BROKEN_INSIDE = (b"no such file or directory", b"executable file not found", b"Argument list too long")
"""What a command that its sandbox's own state keeps from starting is told."""


class DockerSandbox:
    """A running container."""

    def __init__(self, executable: str, container: str) -> None:
        self._executable, self._container = executable, container

    def run(self, command: str, *, timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        """See ``Sandbox.run``. The time limit acts inside: killing the docker client leaves the command alive."""
        options = [option for key, value in (env or {}).items() for option in ("-e", f"{key}={value}")]
        token = secrets.token_hex(8)
        inside = ["sh", "-c", RUN, f"{timeout:.3f}", argument(command), token]
        started = time.monotonic()
        done = self._exec([*options, "-w", WORKDIR, self._container, *inside], timeout=timeout + 10)
        if done.returncode < 0 and not done.timed_out:  # the client was killed for its output: that ends nothing inside
            self._exec([self._container, "bash", "-c", "kill -KILL -1"], timeout=60)
            return done
        output, returncode = self._ended(done, token.encode())
        late = returncode == KILLED and time.monotonic() - started >= timeout
        return Completed(output, returncode, late)

    def put(self, name: str, data: bytes) -> str:
        """See ``Sandbox.put``."""
        path = f"/tmp/swe_eval/{name}"
        write = f"mkdir -p /tmp/swe_eval && cat > {shlex.quote(path)}"
        with tempfile.TemporaryFile() as file:  # a pipe would have to be filled for as long as nobody reads it
            file.write(data)
            file.seek(0)
            written = self._exec(["-i", self._container, "sh", "-c", write], timeout=60, stdin=file)
        if written.returncode:
            raise SandboxError(f"cannot write {path} in the container: {written.text.strip()[-500:]}")
        return path

    def _exec(self, arguments: list[str], *, timeout: float, stdin: IO[bytes] | int = subprocess.DEVNULL) -> Completed:
        return capture([self._executable, "exec", *arguments], timeout=timeout, stdin=stdin)

    def _ended(self, done: Completed, token: bytes) -> tuple[bytes, int]:
        """(output, exit code) as they were inside; SandboxError if it is the sandbox or its engine that ended."""
        output, mark, code = done.output.rpartition(b"\n%s " % token)
        if mark:
            return output, int(code.split()[0])
        own_doing = done.returncode in (126, 127) and any(words in done.output for words in BROKEN_INSIDE)
        by_signal = 128 < done.returncode <= 128 + signal.SIGRTMAX
        if own_doing or (by_signal and self._is_alive()):  # it ended the shell around it, too
            return done.output, done.returncode
        raise SandboxError(f"the container died, or its engine: exit code {done.returncode}, {_last_line(done)}")

    def _is_alive(self) -> bool:
        return self._exec([self._container, "true"], timeout=60).returncode == 0


class DockerSandboxes:
    """See ``Sandboxes``."""

    def __init__(self, settings: DockerSettings, run_id: str) -> None:
        self._settings, self._run_id = settings, run_id
        self._image_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        try:
            answer = self._docker("info", timeout=60)
        except SandboxError as error:
            raise UserError(f"sandbox.executable={error}; write the name of the docker command") from None
        if answer.returncode:
            raise UserError(f"sandbox=docker: no engine answers ({_last_line(answer)}); start it, or write sandbox=...")

    @contextmanager
    def start(self, instance: Instance, purpose: Purpose) -> Iterator[DockerSandbox]:
        """See ``Sandboxes.start``. A missing image is built if the instance has a build context, else pulled."""
        with self._image_locks[instance.image]:
            self._ensure_image(instance)
        container = self._start_container(instance.image, purpose)
        try:
            yield DockerSandbox(self._settings.executable, container)
        finally:
            self._docker("rm", "--force", "--volumes", container, timeout=120)

    def remove_all(self) -> None:
        """See ``Sandboxes.remove_all``."""
        found = self._docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}={self._run_id}", timeout=60)
        if containers := found.text.split():
            self._docker("rm", "--force", "--volumes", *containers, timeout=300)

    def _ensure_image(self, instance: Instance) -> None:
        if self._docker("image", "inspect", instance.image, timeout=60).returncode == 0:
            return
        if instance.context is not None and (instance.context / "Dockerfile").is_file():
            arguments = [f"--build-arg={key}={value}" for key, value in self._settings.build_args.items()]
            command = ["build", "--force-rm", "--tag", instance.image, *arguments, str(instance.context)]
        else:
            command = ["pull", instance.image]
        done = self._docker(*command, timeout=self._settings.start_timeout)
        if done.returncode or done.timed_out:
            raise SandboxError(f"image {instance.image} is missing; docker {command[0]}: {_last_line(done)}")

    def _start_container(self, image: str, purpose: Purpose) -> str:
        limits = self._settings
        network = limits.network if purpose == "rollout" else limits.grading_network
        done = self._docker(
            *("run", "--detach", "--rm", "--label", f"{LABEL}={self._run_id}", "--label", f"{LABEL}.purpose={purpose}"),
            *("--network", network, "--memory", limits.memory, "--pids-limit", str(limits.pids_limit)),
            *("--workdir", WORKDIR, "--entrypoint", "bash", image, "-c", PID_1),
            timeout=limits.start_timeout,
        )
        if done.returncode:
            raise SandboxError(f"cannot start {image}: {_last_line(done)}")
        return done.text.split()[-1]

    def _docker(self, *arguments: str, timeout: float) -> Completed:
        return capture([self._settings.executable, *arguments], timeout=timeout)


def _last_line(done: Completed) -> str:
    return (done.text.strip().splitlines() or ["no answer in time"])[-1]
