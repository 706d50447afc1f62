"""A process that keeps a sandbox: when its standard input ends, also because we have died, so does the sandbox."""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections.abc import Mapping, Sequence

from swe_eval.errors import SandboxError
from swe_eval.sandbox.capture import begin, kill_group

READY = b"ready\n"
"""What the sandbox's process 1 says once it is at work."""
_CREDENTIALS = struct.Struct("3i")
"""``struct ucred`` of unix(7): the sender's pid, as it is called here, its user and its group."""


class Keeper:
    """The process, and that it is done with in the end. For any thread."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start it; see ``begin``."""
        self._said, output = socket.socketpair()
        self._said.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with output:
            self._process, self._is_told_to_end = begin(argv, stdout=output.fileno(), env=env), False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def keeps(self) -> bool:
        """Until it is told to end, or does."""
        return not self._is_told_to_end and self._process.poll() is None

    def wait_until_ready(self, image: str, timeout: float) -> int:
        """The process that says it is, by its pid out here; an engine speaks for the sandbox's.

        Raises:
            SandboxError: none ever does; with the image, and the last line of what is said.
        """
        said, deadline = b"", time.monotonic() + timeout
        while not said.endswith(READY):
            self._said.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data, ancillary, *_ = self._said.recvmsg(1 << 16, socket.CMSG_SPACE(_CREDENTIALS.size))
            except TimeoutError:
                data = b""
            if not data:
                lines = said.decode("utf-8", "replace").strip().splitlines() or ["no answer in time"]
                raise SandboxError(f"cannot start {image}: {lines[-1]}")
            said += data
        pid, *_ = _CREDENTIALS.unpack(ancillary[0][-1])
        return int(pid)

    def end(self, patience: float) -> bool:
        """Have it end the sandbox; returns whether it did, and was not killed because that took longer."""
        assert self._process.stdin
        self._is_told_to_end = True
        self._process.stdin.close()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            kill_group(self._process)
            return False
        finally:
            self._said.close()
        return True
