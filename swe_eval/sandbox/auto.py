"""``sandbox=auto``: the first backend that works on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from swe_eval.benchmark.instances import Instance
from swe_eval.errors import UserError
from swe_eval.sandbox.sandbox import Purpose, Sandbox, connect_to
from swe_eval.settings import AutoSandbox


class AutoSandboxes:
    """See ``Sandboxes``: the chosen one, which says which it is, and why not those before it."""

    def __init__(self, settings: AutoSandbox, run_id: str) -> None:
        """Raises UserError if none works: each with what it lacks, on a line of its own."""
        self.why_not: list[str] = []
        for option in (settings.docker, settings.podman, settings.bubblewrap, settings.apptainer):
            try:
                self.chosen = connect_to(option, run_id)
            except UserError as error:
                self.why_not.append(str(error))
            else:
                self.kind, self.images = option.kind, self.chosen.images
                return
        raise UserError("\n".join(["sandbox=auto: no sandbox works on this machine:", *self.why_not]))

    def __str__(self) -> str:
        reasons = "".join(f"; not {line}" for line in self.why_not)
        return f"sandbox=auto: {self.kind}{reasons}"

    def start(self, instance: Instance, purpose: Purpose) -> AbstractContextManager[Sandbox]:
        """See ``Sandboxes.start``."""
        return self.chosen.start(instance, purpose)

    def plan(self, instances: Sequence[Instance]) -> str:
        """See ``Sandboxes.plan``."""
        return self.chosen.plan(instances)

    @contextmanager
    def expecting(self, instances: Sequence[Instance], say: Callable[[str], None]) -> Iterator[None]:
        """See ``Sandboxes.expecting``."""
        say(str(self))
        with self.chosen.expecting(instances, say):
            yield

    @property
    def digests(self) -> Mapping[str, str]:
        """See ``Sandboxes.digests``."""
        return self.chosen.digests

    def check(self) -> None:
        """See ``Sandboxes.check``."""
        self.chosen.check()

    def remove_all(self) -> None:
        """See ``Sandboxes.remove_all``."""
        self.chosen.remove_all()
