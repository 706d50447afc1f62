"""``sandbox=local``: a temporary directory of this machine. Clean environment, limits, and no isolation to speak of.

What a model writes can read and write whatever the user can. Its processes at least are its own, where the kernel lets
us: a model that writes ``kill -9 -1`` ends its command and not the machine.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path

from swe_eval.benchmark.instances import Instance
from swe_eval.errors import SandboxError, UserError
from swe_eval.sandbox.capture import LONG, argument, capture
from swe_eval.sandbox.sandbox import Completed, Purpose

SETUP = "setup.sh"
"""The file of a task that makes its repository; the task's Dockerfile runs the same one."""


class LocalSandbox:
    """A directory with the repository, a home and a place for files."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._repository = root / "testbed"
        for folder in ("home", "files"):
            (root / folder).mkdir()

    def run(self, command: str, *, timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        """See ``Sandbox.run``. ``BASH_ENV`` is left out: it names a file inside an image."""
        given = {key: value for key, value in (env or {}).items() if key != "BASH_ENV"}
        argv = ["env", "--default-signal", "-C", str(self._repository), "bash", "-c", self._argument(command)]
        done = capture([*own_processes(), *argv], timeout=timeout, env=self._environment() | given)
        if not self._root.is_dir():  # whatever the command says, it says it of a repository that was being removed
            raise SandboxError("local sandbox: its directory is gone")
        return done

    def put(self, name: str, data: bytes) -> str:
        """See ``Sandbox.put``."""
        path = self._root / "files" / name
        try:
            path.write_bytes(data)
        except OSError as error:
            raise SandboxError(f"local sandbox: {error}") from error
        return str(path)

    def _argument(self, command: str) -> str:
        if len(text := argument(command)) < LONG:
            return text
        return f'eval "$(cat {shlex.quote(self.put("command", text.encode()))})"'

    def make_repository(self, instance: Instance) -> None:
        """Run the task's own set-up script."""
        assert instance.context
        self._repository.mkdir()
        made = self.run(f"bash {shlex.quote(str((instance.context / SETUP).resolve()))} .", timeout=60)
        if made.returncode:
            raise SandboxError(f"{instance.instance_id}: {SETUP} failed: {made.text.strip()[-500:]}")

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"]),
            "HOME": str(self._root / "home"),
            "TMPDIR": str(self._root / "files"),
            "LC_ALL": "C.UTF-8",
            "GIT_CONFIG_NOSYSTEM": "1",
            # a module edited twice within a second keeps its .pyc: tests would see the old code
            "PYTHONDONTWRITEBYTECODE": "1",
            # the plugins beside our own Python are not the task's: they cost seconds, and some rewrite the log
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }


@cache
def own_processes() -> tuple[str, ...]:
    """What to put before a command to give it a process space of its own, which ends with it; empty if that fails.

    The command must not be its process 1, which no signal of its own can end.
    """
    as_user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    prefix = ("unshare", *as_user, "--pid", "--mount-proc", "--fork", "--kill-child", "sh", "-c", '"$@"; exit $?', "sh")
    try:
        works = subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    except OSError:
        works = False
    return prefix if works else ()


class LocalSandboxes:
    """See ``Sandboxes``."""

    images, chosen = None, ""

    def __init__(self, run_id: str) -> None:
        if importlib.util.find_spec("pytest") is None:
            raise UserError("sandbox=local: the tasks' tests need pytest here; write pip install 'swe_eval[demo]'")
        if missing := [command for command in ("bash", "git") if shutil.which(command) is None]:
            raise UserError(f"sandbox=local: no {' and no '.join(missing)} on this machine; install it")
        self._prefix = f"swe_eval-{run_id}-"

    @contextmanager
    def start(self, instance: Instance, purpose: Purpose) -> Iterator[LocalSandbox]:
        """See ``Sandboxes.start``; the instance must come from a task repo with set-up scripts."""
        if instance.context is None or not (instance.context / SETUP).is_file():
            raise SandboxError(f"{instance.instance_id}: no {SETUP}; sandbox=local runs bundled tasks only")
        with tempfile.TemporaryDirectory(prefix=self._prefix, ignore_cleanup_errors=True) as folder:
            sandbox = LocalSandbox(Path(folder))
            sandbox.make_repository(instance)
            yield sandbox

    @property
    def digests(self) -> Mapping[str, str]:
        """There are no images."""
        return {}

    def plan(self, instances: Sequence[Instance]) -> str:
        """Their tools are this machine's."""
        return ""

    def expecting(self, instances: Sequence[Instance], say: Callable[[str], None]) -> AbstractContextManager[None]:
        """There is nothing to make ready."""
        return nullcontext()

    def done_with(self, instance: Instance) -> None:
        """There is nothing to keep."""

    def check(self) -> None:
        """There is no engine."""

    def remove_all(self) -> None:
        """See ``Sandboxes.remove_all``."""
        for left in Path(tempfile.gettempdir()).glob(f"{self._prefix}*"):
            with suppress(FileNotFoundError):  # its own thread was quicker
                gone = left.rename(f"{left}.gone")  # at once, so that no command in it is believed after this
                shutil.rmtree(gone, ignore_errors=True)
