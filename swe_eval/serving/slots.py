"""More adapters than a server holds at once: each is loaded when it is wanted, in the place of one that nobody uses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from swe_eval.errors import ServingError


class Slots:
    """Who holds which adapter. Thread-safe.

    A slot goes to whoever waits for it as soon as its adapter's last user lets go: trials in the order of their arms
    (``evaluate.plan``) load each adapter once.
    """

    def __init__(self, size: int, load: Callable[[str], None], unload: Callable[[str], None]) -> None:
        """``load`` and ``unload`` take an arm and raise ServingError."""
        self._size, self._load, self._unload = size, load, unload
        self._users: dict[str, int] = {}
        """Of what is loaded, the longest unused first."""
        self._changed = threading.Condition()
        self._epoch = 0
        self._closed = False

    @contextmanager
    def using(self, arm: str) -> Iterator[None]:
        """Have the arm loaded inside the block; waits for a slot while all are in use.

        Raises:
            ServingError: it cannot be loaded, or the server is being stopped.
        """
        epoch = self._take(arm)
        try:
            yield
        finally:
            self._give_back(arm, epoch)

    def forget(self) -> None:
        """The server is a new one, with nothing loaded."""
        with self._changed:
            self._users.clear()
            self._epoch += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody waits any longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _take(self, arm: str) -> int:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or arm in self._users or self._unused() or self._has_room())
            if self._closed:
                raise ServingError("the model server is being stopped")
            if arm not in self._users:
                if not self._has_room():
                    self._drop(self._unused()[0])
                self._load(arm)
            self._users[arm] = self._users.get(arm, 0) + 1
            return self._epoch

    def _give_back(self, arm: str, epoch: int) -> None:
        with self._changed:
            if epoch == self._epoch:
                self._users[arm] = self._users.pop(arm) - 1  # to the end: it was used last
                self._changed.notify_all()

    def _drop(self, arm: str) -> None:
        del self._users[arm]  # first: an adapter that cannot be unloaded is not to be used either
        self._unload(arm)

    def _has_room(self) -> bool:
        return len(self._users) < self._size

    def _unused(self) -> list[str]:
        return [arm for arm, users in self._users.items() if not users]
