"""The seam: adapters go in, an endpoint for each of them comes out, whoever serves it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from swe_eval.merging import applied
from swe_eval.serving.endpoint import Endpoint
from swe_eval.serving.external import connect_external
from swe_eval.serving.transformers import start_transformers
from swe_eval.settings import Settings

__all__ = ["Endpoint", "Server", "serve"]


class Server(Protocol):
    """What serves a run's adapters."""

    @property
    def endpoints(self) -> Mapping[str, Endpoint]:
        """By adapter name; of a server that we start, also the base model by its own id if no arm is it."""

    def check(self) -> None:
        """Raise ServingError, with what is known of the reason, if the server is no longer there."""


@contextmanager
def serve(settings: Settings, log: Path, say: Callable[[str], None]) -> Iterator[Server]:
    """Serve every adapter of ``settings``; on entry each has answered once, on exit everything is stopped.

    Args:
        log: file that takes the output of a server that we start (appended; nothing is written for an external one).
        say: takes one line of progress at a time.

    Raises:
        UserError: the settings name something that is not there.
        ServingError: the server does not start, or does not answer; says why and what to change.
    """
    with _SERVERS[settings.serving.kind](applied(settings, say), log, say) as server:
        yield server


_SERVERS: dict[str, Callable[[Settings, Path, Callable[[str], None]], AbstractContextManager[Server]]] = {
    "transformers": start_transformers,
    "external": connect_external,
}
