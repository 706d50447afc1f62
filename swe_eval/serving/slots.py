"""More adapters than a server holds at once: each is loaded when it is needed, in place of one that is not in use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from swe_eval.errors import ServingError


class Slots:
    """Which adapters are loaded, and how many users each has. Thread-safe.

    A slot goes to whoever waits for it as soon as its adapter's last user lets go: trials in the order of their arms
    (``plan.plan``) load each adapter once.
    """

    def __init__(self, size: int, load: Callable[[str], None], unload: Callable[[str], None]) -> None:
        """``load`` and ``unload`` take an arm and raise ServingError."""
        self._size, self._load, self._unload = size, load, unload
        self._users: dict[str, int] = {}
        """Users of each loaded adapter, the least recently used first."""
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
        """The server was restarted and has nothing loaded."""
        with self._changed:
            self._users.clear()
            self._epoch += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Wake everyone who waits, with an error."""
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
