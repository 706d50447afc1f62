"""The seam: where commands run. One protocol, used for the agent and for grading alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from swe_eval.benchmark.instances import Instance
from swe_eval.settings import SandboxSettings, Settings

if TYPE_CHECKING:
    from swe_eval.sandbox.images import Images

Purpose = Literal["rollout", "grading"]


@dataclass(frozen=True)
class Completed:
    """A command that ran."""

    output: bytes
    """Standard output and error, interleaved; the middle is cut out of what is larger than ``capture.KEEP``, or
    of a submission that is larger than ``capture.SUBMISSION``."""
    returncode: int
    """As a shell says it: 128 and the signal's number for what was killed, be it for too much output."""
    timed_out: bool = False
    """Killed, with everything it had started, because its time was over."""

    @property
    def text(self) -> str:
        """The output for reading: bytes that are not UTF-8 are replaced."""
        return self.output.decode("utf-8", "replace")


class Sandbox(Protocol):
    """A started image with the repository in it. Every method raises SandboxError when the sandbox is gone."""

    def run(self, command: str, *, timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        """Run a bash command in the repository, in a process of its own, standard input closed."""

    def put(self, name: str, data: bytes) -> str:
        """Write a file outside the repository; returns the path that commands know it by."""


class Sandboxes(Protocol):
    """A backend: starts sandboxes from the images of instances, and knows which are its own."""

    chosen: str
    """Which it is of several, and why none before it, in words; empty if it was asked for by its name."""

    @property
    def images(self) -> Images | None:
        """What it has of them; None if it needs none."""

    def start(self, instance: Instance, purpose: Purpose) -> AbstractContextManager[Sandbox]:
        """A fresh sandbox of the instance's image, removed on exit. Raises SandboxError."""

    def plan(self, instances: Sequence[Instance]) -> str:
        """What these need that is here, and what is to come, in words; empty if they need nothing."""

    def expecting(self, instances: Sequence[Instance], say: Callable[[str], None]) -> AbstractContextManager[None]:
        """Inside the block, make ready what each of these trials' sandboxes need, in order; says what is to come."""

    def done_with(self, instance: Instance) -> None:
        """One of the trials that were expected has ended."""

    @property
    def digests(self) -> Mapping[str, str]:
        """Of the images that were used, by name."""

    def check(self) -> None:
        """Return once the backend answers, at once or after a while; raise SandboxError if it is gone for good."""

    def remove_all(self) -> None:
        """Remove every sandbox of this run, also those of a process that was killed."""


def connect(sandbox: SandboxSettings, run_id: str) -> Sandboxes:
    """The configured backend, with nothing started.

    Raises:
        UserError: the backend cannot work on this machine.
    """
    if sandbox.kind == "docker":
        from swe_eval.sandbox.docker import DockerSandboxes

        return DockerSandboxes(sandbox, run_id)
    if sandbox.kind == "podman":
        from swe_eval.sandbox.podman import PodmanSandboxes

        return PodmanSandboxes(sandbox, run_id)
    if sandbox.kind == "bubblewrap":
        from swe_eval.sandbox.bubblewrap import BubblewrapSandboxes

        return BubblewrapSandboxes(sandbox, run_id)
    if sandbox.kind == "apptainer":
        from swe_eval.sandbox.apptainer import ApptainerSandboxes

        return ApptainerSandboxes(sandbox, run_id)
    if sandbox.kind == "auto":
        from swe_eval.sandbox.auto import first_that_works

        return first_that_works(sandbox, run_id)
    from swe_eval.sandbox.local import LocalSandboxes

    return LocalSandboxes(run_id)


@contextmanager
def sandboxes(settings: Settings, run_id: str) -> Iterator[Sandboxes]:
    """The configured backend; what a killed run of the same id left behind is removed at both ends.

    Raises:
        UserError: the backend cannot work on this machine.
    """
    backend = connect(settings.sandbox, run_id)
    backend.remove_all()
    try:
        yield backend
    finally:
        backend.remove_all()
