"""A shell kept open in a sandbox: a command costs a line to it instead of a process that enters the sandbox.

Every command is still a ``bash -c`` of its own, in a session of its own. ``shell.sh`` is the end inside the sandbox.
What belongs to a command is told by a random token that it never sees. The shell is not the sandbox: one that a
command killed, stopped or starved is replaced, and with it ends whatever else ran in there.
"""

from __future__ import annotations

import base64
import math
import os
import re
import secrets
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from swe_eval.errors import SandboxError
from swe_eval.sandbox.capture import CAP, LONG, Kept, argument, begin, kill_group, wait_if_told
from swe_eval.sandbox.sandbox import Completed

SCRIPT = Path(__file__).with_suffix(".sh").read_bytes()
OPEN = ("bash", "-p", "-c", f'eval "$(head -c {len(SCRIPT)})"')
"""The shell itself; ``-p`` keeps it from the image's BASH_ENV. Its script follows, out of the reach of ``pkill -f``."""
OPENING = 60.0
"""Seconds for a shell to open; a container's takes a tenth of one."""
GRACE = 20.0
"""Seconds for what takes milliseconds: for a command to start in it, and to end once it is told to."""
PIECE = 1 << 20
"""Bytes of a file that are written at once, within ``GRACE`` also where many are busy."""
AGAIN = 0.1
"""Seconds after which it is told to again; it may not have begun by then."""
LOOK = 1.0
"""Seconds between two looks at whether the process on our side has ended."""
KILLED = 128 + signal.SIGKILL
WORKDIR, FILES = "/testbed", "/tmp/swe_eval"
"""Where an image has the repository, and where we put files."""
# Process 1 of a sandbox reaps, ends by itself after a day, and on USR1 ends all others; a command cannot end it. It
# never forks: it would have to end when no process is left to be had. What commands write to its output goes nowhere:
# it would fill an engine's log, and keep Podman from hearing that the container is to end.
_PID_1 = """
trap '' {1..31}
trap : CHLD ALRM
trap 'kill -KILL -1' USR1
%s
echo ready
exec > /dev/null 2>&1
while [ $SECONDS -lt 86400 ]; do read -r -t 1 -u 3; [ $? != 1 ] || exit; done
"""
PID_1 = _PID_1 % "exec 3<> <(:)"
ATTACHED_PID_1 = _PID_1 % "exec 3<&0"
"""Ends with its standard input, too."""
_BROKEN_INSIDE = re.compile(rb"no such file or directory|executable file not found", re.IGNORECASE)
"""What is said when the sandbox's own state keeps a shell from starting: the doing of what ran in it."""


def command_script(command: str, *, cwd: str, env: Mapping[str, str] | None = None) -> str:
    """A script for ``Shell.run`` that becomes ``bash -c command`` in a directory, in a session of its own."""
    exports = "".join(f"export {shlex.quote(f'{key}={value}')}; " for key, value in (env or {}).items())
    prepare = f"cd -- {shlex.quote(cwd)} || exit 126; unset OLDPWD; SHLVL=0; {exports}"
    quoted = shlex.quote(argument(command))
    if len(command) < LONG:
        return f"{prepare}exec setsid bash -c {quoted}"
    return f"""{prepare}exec setsid bash -c 'eval "exec 9<&-; $(cat <&9)"' 9< <(printf %s {quoted})"""


def put_scripts(path: str, data: bytes) -> Iterator[str]:
    """Scripts for ``Shell.run`` that write a file, one after the other."""
    folder, name = shlex.quote(os.path.dirname(path)), shlex.quote(path)
    yield f"mkdir -p -- {folder} && > {name}"
    for start in range(0, len(data), PIECE):
        text = base64.b64encode(data[start : start + PIECE]).decode()
        yield f"printf %s '{text}' | base64 -d 2>&1 >> {name}"


class Shell:
    """The shell of one sandbox, opened when it is needed; for one thread at a time."""

    def __init__(self, enter: Sequence[str], kill_all: Callable[[], None]) -> None:
        """Nothing is opened yet.

        Args:
            enter: the command that runs in the sandbox what is appended to it, with standard input and output.
            kill_all: ends every process in the sandbox but the one that keeps it; raises SandboxError if it is gone.
        """
        self._argv, self._kill_all = [*enter, *OPEN], kill_all
        self._client: _Client | None = None

    def run(self, script: str, *, timeout: float) -> Completed:
        """Run a script in a subshell: output, exit code, and whether it was killed, with its session, for being late.

        Past ``CAP`` bytes of output it is killed, too. A script that took the shell with it has exit code 137.

        Raises:
            SandboxError: the sandbox is gone, or its engine.
        """
        token, data = secrets.token_hex(16).encode(), script.encode("utf-8", "replace")
        for _ in range(2):  # what it never began can be begun again
            deadline = time.monotonic() + (GRACE if self._client else OPENING)
            self._client = self._client or _Client(self._argv)
            said = Kept()
            self._client.send(b"%s %d\n%s" % (token, len(data), data))
            try:
                self._client.read_to(token, said, deadline)
            except (EOFError, TimeoutError):
                said.add(self._client.unread)
                code = self._discard()
            else:
                return self._finish(self._client, token, timeout)
        if _BROKEN_INSIDE.search(said.joined):
            return Completed(said.joined, code)
        raise SandboxError(f"no shell starts in the sandbox: exit code {code}, {_last_line(said)}")

    def close(self) -> None:
        """End the shell and the command that runs in it."""
        if self._client:
            self._client.kill()
            self._client = None

    def _finish(self, client: _Client, token: bytes, timeout: float) -> Completed:
        kept, deadline, is_late = Kept(), time.monotonic() + timeout, False
        try:
            try:
                code = int(client.read_to(token, kept, deadline, CAP))
            except TimeoutError:
                is_late = kept.total < CAP
                code = int(client.end(token, kept))
        except (TimeoutError, EOFError) as error:  # it has stopped the shell or killed it
            kept.add(client.unread)
            code = self._discard()
            wait_if_told(code)
            if isinstance(error, EOFError) and not 128 < code <= 128 + signal.SIGRTMAX:
                raise SandboxError(f"lost the sandbox, or its engine: exit code {code}, {_last_line(kept)}") from None
            self.run(":", timeout=GRACE)  # an engine can be slow to notice that it was the sandbox that died
            return Completed(kept.joined, KILLED, is_late)
        wait_if_told(code)
        return Completed(kept.joined, code, is_late and code == KILLED)

    def _discard(self) -> int:
        """Be done with this shell and whatever else runs in the sandbox; returns the client's exit code.

        Raises:
            SandboxError: there is no sandbox any more.
        """
        assert self._client
        code = self._client.kill()
        self._client = None
        self._kill_all()
        return code


class ShellSandbox:
    """A sandbox whose commands go through a kept-open shell; see ``Sandbox``."""

    def __init__(self, enter: Sequence[str], kill_all: Callable[[], None]) -> None:
        """See ``Shell``."""
        self._shell = Shell(enter, kill_all)

    def run(self, command: str, *, timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        """See ``Sandbox.run``."""
        return self._shell.run(command_script(command, cwd=WORKDIR, env=env), timeout=timeout)

    def put(self, name: str, data: bytes) -> str:
        """See ``Sandbox.put``."""
        path = f"{FILES}/{name}"
        for script in put_scripts(path, data):
            written = self._shell.run(script, timeout=60)
            if written.returncode:
                raise SandboxError(f"cannot write {path} in the sandbox: {written.text.strip()[-500:]}")
        return path

    def close(self) -> None:
        """Leave the sandbox."""
        self._shell.close()


class _Client:
    """The process on our side of the shell."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._process = begin(argv)
        assert self._process.stdin and self._process.stdout
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdin.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)
        self._to_send = bytearray()
        self.unread = b""
        self.send(SCRIPT)

    def send(self, data: bytes) -> None:
        """Send it while reading, as fast as the other side takes it."""
        if not self._to_send:
            self._selector.register(self._stdin, selectors.EVENT_WRITE)
        self._to_send += data

    def read_to(self, token: bytes, kept: Kept, deadline: float, cap: float = math.inf) -> bytes:
        """Keep what comes before the token, and return what follows it in its line.

        Raises:
            TimeoutError: it did not come before ``deadline``, nor within ``cap`` bytes; what did is kept.
            EOFError: it will not come any more.
        """
        while True:
            before, found, after = self.unread.partition(token)
            line, ended, rest = after.partition(b"\n")
            sure = len(before) if found else max(0, len(before) - len(token))
            kept.add(before[:sure])
            if ended:
                self.unread = rest
                return line
            self.unread = self.unread[sure:]
            if kept.total >= cap:
                raise TimeoutError
            self.unread += self._read(deadline)

    def end(self, token: bytes, kept: Kept) -> bytes:
        """As ``read_to``, having told it to end what it runs."""
        deadline = time.monotonic() + GRACE
        while True:
            self.send(b"end\n")
            try:
                return self.read_to(token, kept, min(deadline, time.monotonic() + AGAIN))
            except TimeoutError:
                if time.monotonic() >= deadline:
                    raise

    def kill(self) -> int:
        """End it, if it has not ended; returns its exit code."""
        self._selector.close()
        with self._stdin, self._stdout:
            kill_group(self._process)
        return self._process.returncode

    def _read(self, deadline: float) -> bytes:
        while (left := deadline - time.monotonic()) > 0:
            has_ended = self._process.poll() is not None  # what a command left behind may hold the pipe open
            ready = self._selector.select(0 if has_ended else min(left, LOOK))
            for key, _ in ready:
                if key.fileobj is self._stdin:
                    self._write()
                elif data := os.read(self._stdout.fileno(), 1 << 16):
                    return data
                else:
                    with suppress(subprocess.TimeoutExpired):
                        self._process.wait(GRACE)  # for its exit code
                    raise EOFError
            if has_ended and not ready:
                raise EOFError
        raise TimeoutError

    def _write(self) -> None:
        try:
            written = os.write(self._stdin.fileno(), self._to_send[: 1 << 16])
        except BrokenPipeError:  # what it said last is still to be read
            written = len(self._to_send)
        del self._to_send[:written]
        if not self._to_send:
            self._selector.unregister(self._stdin)


def _last_line(kept: Kept) -> str:
    lines = kept.joined.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "without a word"
