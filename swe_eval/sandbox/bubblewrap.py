"""``sandbox=bubblewrap``: the image's layers under an overlay, in namespaces of the user's own. No daemon, no root.

A process per sandbox, ``bubblewrap.sh``, makes a user namespace with one user in it and mounts the overlay there. Its
child is bwrap, whose process 1 keeps the sandbox's process space. A shell is entered by another bwrap, in the first
one's namespaces; neither bwrap itself is among the sandbox's processes, where ``/proc`` would show the machine's files.
"""

from __future__ import annotations

import os
import secrets
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

from swe_eval.benchmark.instances import Instance
from swe_eval.cache import cache_dir
from swe_eval.errors import SandboxError
from swe_eval.sandbox import owner
from swe_eval.sandbox.docker import CAPABILITIES
from swe_eval.sandbox.images import FromImages, Images
from swe_eval.sandbox.keeper import Keeper
from swe_eval.sandbox.node import TOOLS, overlay_that_works
from swe_eval.sandbox.removal import IN_USERNS, remove_tree
from swe_eval.sandbox.sandbox import Purpose
from swe_eval.sandbox.shell import PID_1, ShellSandbox
from swe_eval.sandbox.store import Store
from swe_eval.sandbox.store.store import Record
from swe_eval.sandbox.watchdog import Limits, Watchdog, Watched
from swe_eval.sandbox.writing import ROOM, room, writing
from swe_eval.settings import StoreSandbox as StoreSettings
from swe_eval.settings import nbytes

SCRIPT = Path(__file__).with_suffix(".sh")
ALSO_WHEN_GRADING = ("SETPCAP", "NET_BIND_SERVICE", "NET_RAW", "SYS_CHROOT", "SETFCAP", "AUDIT_WRITE")
"""What Docker gives to root in its containers beyond ``CAPABILITIES``, and a user namespace can honour."""
STARTING = 30.0
"""Seconds for what takes a tenth of one."""
ENDING = 60.0
"""Seconds for the files of a sandbox to be removed."""
PREFIX, OWNER, HOSTNAME = "swe_eval-", "owner", "sandbox"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOSTS = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
CLEAN = {"PATH": os.environ.get("PATH", PATH)}
"""The environment of our own processes around a sandbox: neither keys nor SLURM's variables come near it."""


class BubblewrapSandbox(ShellSandbox):
    """A process that keeps the namespaces, and what it is told from outside."""

    def __init__(self, folder: Path, keeper: Keeper, pid_1: int, enter: Sequence[str]) -> None:
        super().__init__(enter, self.kill_all)
        self.folder, self.pid_1 = folder, pid_1
        self._keeper, self._name = keeper, owner.name_of(pid_1)

    def end(self) -> None:
        """With everything in it, whatever it is at; its files are gone when this returns."""
        self._keeper.end(ENDING)
        _remove(self.folder)

    def kill_all(self) -> None:
        """Every process in it but its first.

        Raises:
            SandboxError: it has ended.
        """
        if not self._keeper.keeps or owner.is_gone(self._name):
            raise SandboxError("the sandbox died")
        with suppress(ProcessLookupError):
            os.kill(self.pid_1, signal.SIGUSR1)


class BubblewrapSandboxes(FromImages):
    """See ``Sandboxes``."""

    kind = "bubblewrap"
    tools: Mapping[str, str] = TOOLS
    """The commands that it runs, by the package that has them."""

    def __init__(self, settings: StoreSettings, run_id: str) -> None:
        self._settings, self._run_id = settings, run_id
        self._scratch = (settings.scratch or Path(tempfile.gettempdir())).absolute()
        self.store = Store(settings.store or cache_dir() / "store", settings.source)
        self.images = Images(self.store, start_timeout=settings.start_timeout, min_free_gb=settings.min_free_gb)
        self._overlay = overlay_that_works(self._scratch, self.kind, self.tools)
        self._watchdog = Watchdog(self._scratch)
        self._open: set[BubblewrapSandbox] = set()

    @contextmanager
    def start(self, instance: Instance, purpose: Purpose) -> Iterator[BubblewrapSandbox]:
        """See ``Sandboxes.start``. A missing image is fetched."""
        with self.images.using(instance):
            if (record := self.store.record(instance.image)) is None:
                raise SandboxError(f"image {instance.image} was removed from {self.store.root}")
            with self._started(record, purpose) as sandbox:
                yield sandbox

    def check(self) -> None:
        """There is no engine."""

    def remove_all(self) -> None:
        """See ``Sandboxes.remove_all``; what is left of other runs, too, once the process that started it is gone."""
        self.store.tidy()
        for sandbox in list(self._open):
            sandbox.end()
        for folder in filter(_is_ours, self._scratch.glob(f"{PREFIX}*")):
            with suppress(OSError, ValueError):  # it is just being made or removed
                run_id, started_by, *processes = (folder / OWNER).read_text().splitlines()
                if run_id == self._run_id or owner.is_gone(started_by):
                    for process in processes:
                        owner.kill(process)
                    _remove(folder)

    @contextmanager
    def _started(self, record: Record, purpose: Purpose) -> Iterator[BubblewrapSandbox]:
        began = time.monotonic()
        folder = self._scratch / f"{PREFIX}{self._run_id}-{secrets.token_hex(8)}"
        with ExitStack() as stack:
            stack.callback(_remove, folder)
            with writing("sandbox.scratch", self._scratch):
                _make(folder, self._claim(), self._has_network(purpose))
            keeper = Keeper(self._keep(record, folder, purpose), CLEAN)
            stack.callback(keeper.end, ENDING)
            pid_1 = keeper.wait_until_ready(record.image, STARTING)
            stack.callback(owner.kill, owner.name_of(pid_1))  # Apptainer's outlives a keeper that was killed
            with writing("sandbox.scratch", self._scratch):
                (folder / OWNER).write_text(self._claim(keeper.pid, pid_1))
            sandbox = BubblewrapSandbox(folder, keeper, pid_1, self._enter(record, folder, purpose, keeper.pid, pid_1))
            stack.callback(sandbox.close)
            stack.enter_context(self._watchdog.watching(pid_1, self._watched(sandbox)))
            self._open.add(sandbox)
            stack.callback(self._open.discard, sandbox)
            yield sandbox
            self._check_room(began)

    def _claim(self, *pids: int) -> str:
        """What the folder of a sandbox says: whose it is, and which processes keep it."""
        return "\n".join([self._run_id, owner.this_process(), *map(owner.name_of, pids)])

    def _check_room(self, began: float) -> None:
        """What came of a sandbox that met a full disk is neither the model's doing nor the tests'."""
        if room(self._scratch) < ROOM or self._watchdog.was_full > began:
            raise SandboxError(
                f"sandbox.scratch={self._scratch}: the disk is full; make room, or write another directory"
            )

    def _keep(self, record: Record, folder: Path, purpose: Purpose) -> list[str]:
        """The command that makes the sandbox and keeps it."""
        return [
            *(*IN_USERNS, "--mount", "sh", str(SCRIPT)),
            *(str(self.store.layers), self.store.lower(record), str(folder), self._overlay),
            *self._make_argv(record, folder, purpose),
        ]

    def _has_network(self, purpose: Purpose) -> bool:
        return purpose == "grading" and self._settings.grading_network == "host"

    def _make_argv(self, record: Record, folder: Path, purpose: Purpose) -> list[str]:
        """The command that puts process 1 into namespaces of its own, on the overlay."""
        spaces = ["pid", "ipc", "uts", "cgroup-try", *([] if self._has_network(purpose) else ["net"])]
        return [
            *(*self._bwrap(record, folder, purpose), *(f"--unshare-{space}" for space in spaces)),
            *("--hostname", HOSTNAME, "--as-pid-1", "--", "bash", "-p", "-c", PID_1),
        ]

    def _enter(self, record: Record, folder: Path, purpose: Purpose, keeper: int, pid_1: int) -> list[str]:
        """The command that runs in the sandbox what is appended to it."""
        spaces = ["ipc", "uts", *([] if self._has_network(purpose) else ["net"])]
        of_pid_1 = [f"--{space}=/proc/{pid_1}/ns/{space}" for space in spaces]
        return [
            *("env", "-i", *default_signals(), f"PATH={CLEAN['PATH']}"),
            *("nsenter", "--target", str(keeper), "--user", "--mount", *of_pid_1, "--preserve-credentials", "--"),
            *("sh", "-c", 'exec "$@" 9< "$0"', f"/proc/{pid_1}/ns/pid"),
            *(*self._bwrap(record, folder, purpose), "--pidns", "9", "--"),
        ]

    def _bwrap(self, record: Record, folder: Path, purpose: Purpose) -> list[str]:
        """bwrap with what is the same for process 1 and for shells."""
        capabilities = (word for name in privileges(purpose) for word in ("--cap-add", f"CAP_{name}"))
        variables = (word for key, value in environment(record).items() for word in ("--setenv", key, value))
        return [*self._limits(), "bwrap", *_files(folder), "--cap-drop", "ALL", *capabilities, "--clearenv", *variables]

    def _limits(self) -> list[str]:
        """Of every process: counted in the sandbox's user namespace, where the kernel does that (5.14)."""
        settings = self._settings
        own_count = [f"--nproc={settings.pids_limit + 8}"] if counts_per_namespace() else []
        return ["prlimit", "--core=0", f"--fsize={nbytes(settings.disk)}", *own_count, "--"]

    def _watched(self, sandbox: BubblewrapSandbox) -> Watched:
        settings = self._settings
        limits = Limits(nbytes(settings.memory), settings.pids_limit, nbytes(settings.disk))
        return Watched(limits, sandbox.kill_all, sandbox.folder / "upper")


@cache
def default_signals() -> tuple[str, ...]:
    """What makes ``env`` undo a ``nohup`` around us; that of Red Hat 8 does not know it."""
    option = "--default-signal"
    return (option,) if subprocess.run(["env", option, "true"], capture_output=True).returncode == 0 else ()


def _make(folder: Path, by: str, has_network: bool) -> None:
    """The sandbox's folder, private to the user, with the files that an engine would write into a container."""
    folder.mkdir(mode=0o700)
    (folder / OWNER).write_text(by)
    for name in ("upper", "upper/etc", "work", "root", "shm"):
        (folder / name).mkdir()
        (folder / name).chmod(0o755)  # whatever the user's umask is
    resolv = Path("/etc/resolv.conf")
    for name, text in {
        "hosts": f"{HOSTS}127.0.1.1\t{HOSTNAME}\n",
        "hostname": f"{HOSTNAME}\n",
        "resolv.conf": resolv.read_text() if has_network and resolv.is_file() else "",
    }.items():
        (folder / "upper/etc" / name).write_text(text)
        (folder / "upper/etc" / name).chmod(0o644)


def _files(folder: Path) -> list[str]:
    mounts = ["--bind", str(folder / "root"), "/", "--dev", "/dev", "--bind", str(folder / "shm"), "/dev/shm"]
    return [*mounts, "--proc", "/proc", "--die-with-parent", "--chdir", "/"]


def privileges(purpose: Purpose) -> tuple[str, ...]:
    """The capabilities of a sandbox's root, in its user namespace."""
    return CAPABILITIES + (ALSO_WHEN_GRADING if purpose == "grading" else ())


def environment(record: Record) -> dict[str, str]:
    """The image's, as an engine gives it."""
    variables = {"PATH": PATH, "HOSTNAME": HOSTNAME, "HOME": "/root"}
    return variables | dict(each.split("=", 1) for each in record.env if "=" in each)


def _is_ours(folder: Path) -> bool:
    """Made by this user: where all may write, as in /tmp, another's could name processes and files of ours."""
    with suppress(OSError):
        found = folder.lstat()
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return False


def _remove(folder: Path) -> None:
    """What is left of it; last of all what says whose it is: if this is killed, it is still known."""
    if folder.exists():
        remove_tree(folder / "upper", folder / "work", folder)


def counts_per_namespace() -> bool:
    """Whether RLIMIT_NPROC is of a user namespace alone; before Linux 5.14 it counted all that the user runs."""
    major, minor = (int(part) for part in os.uname().release.split(".")[:2])
    return (major, minor) >= (5, 14)
