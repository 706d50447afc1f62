"""A process that keeps a sandbox: when its standard input ends, also because we have died, so does the sandbox."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Mapping, Sequence

from swe_eval.errors import SandboxError
from swe_eval.sandbox.capture import begin, kill_group

READY = b"ready\n"
"""What it says once the sandbox's process 1 is at work."""


class Keeper:
    """The process, and that it is done with in the end. For any thread."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start it; see ``begin``."""
        self._process, self._is_told_to_end = begin(argv, env=env), False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def keeps(self) -> bool:
        """Until it is told to end, or does."""
        return not self._is_told_to_end and self._process.poll() is None

    def wait_until_ready(self, timeout: float) -> bytes:
        """What it says before that.

        Raises:
            SandboxError: it never says so; with the last line of what it says.
        """
        assert self._process.stdout
        said, deadline, source = b"", time.monotonic() + timeout, self._process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(source, selectors.EVENT_READ)
            while not said.endswith(READY):
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left) or not (data := os.read(source, 1 << 16)):
                    lines = said.decode("utf-8", "replace").strip().splitlines() or ["no answer in time"]
                    raise SandboxError(lines[-1])
                said += data
        return said.removesuffix(READY)

    def end(self, patience: float) -> None:
        """Have it end the sandbox; killed if that takes longer."""
        assert self._process.stdin and self._process.stdout
        self._is_told_to_end = True
        self._process.stdin.close()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            kill_group(self._process)
        self._process.stdout.close()
