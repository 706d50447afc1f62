"""The seam: adapters go in, an endpoint for each of them comes out, whatever serves it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from swe_eval.serving.endpoint import Endpoint

__all__ = ["Endpoint", "Server"]


class Server(Protocol):
    """What serves a run's adapters."""

    endpoints: Mapping[str, Endpoint]
    """By adapter name; of a server that we start, also the base model by its own id if no arm is it."""

    def using(self, arm: str) -> AbstractContextManager[Endpoint]:
        """The endpoint of an arm, which answers for as long as the context is open."""
        return nullcontext(self.endpoints[arm])

    def check(self) -> None:
        """Raise ServingError, with what is known of the reason, if the server is no longer there."""

    def recovered(self, arm: str, failed: Endpoint) -> bool:
        """Whether the server died under this endpoint of an arm and serves again, so that it is worth asking again.

        Raises:
            ServingError: it is gone for good.
        """
        self.check()
        return False
