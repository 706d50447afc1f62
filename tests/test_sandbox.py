"""Where commands run: one suite for every backend. What only a container can promise is at the end."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from signal import SIGKILL
from unittest.mock import Mock

import pytest
from conftest import BASE_IMAGE
from minisweagent.exceptions import Submitted
from sandbox_fixtures import CONTAINERS, ENGINES, OVERRIDES, STORES, hold, is_running, what_is_left
from test_process import eventually
from test_shell import runs_here

from swe_eval.benchmark.instances import Instance
from swe_eval.errors import SandboxError, UserError
from swe_eval.grading import grade
from swe_eval.mini import SandboxEnvironment
from swe_eval.run_dir import RunDir, Trial, write_text
from swe_eval.sandbox import docker, owner, podman, shell, watchdog
from swe_eval.sandbox.bubblewrap import BubblewrapSandbox, BubblewrapSandboxes
from swe_eval.sandbox.capture import CAP, KEEP
from swe_eval.sandbox.docker import DockerSandbox
from swe_eval.sandbox.local import LocalSandbox, own_processes
from swe_eval.sandbox.sandbox import Completed, Sandbox, Sandboxes, connect, sandboxes
from swe_eval.sandbox.shell import ShellSandbox
from swe_eval.settings import Settings

SOON = 10
"""Seconds that are far from those after which a shell is given up (``GRACE``), and enough for a slow machine."""


@pytest.fixture
def typing() -> Iterator[None]:
    """The runner's own standard input is one that never ends."""
    kept, (reader, writer) = os.dup(0), os.pipe()
    os.dup2(reader, 0)
    yield
    os.dup2(kept, 0)
    for descriptor in (kept, reader, writer):
        os.close(descriptor)


class TestCommands:
    def test_output_and_exit_code(self, sandbox: Sandbox) -> None:
        """A command's result is its output and its exit code."""
        assert sandbox.run("echo hello; exit 3", timeout=60) == Completed(b"hello\n", 3)

    def test_both_streams_in_order(self, sandbox: Sandbox) -> None:
        """Standard output and standard error come as they were written."""
        done = sandbox.run("for i in {1..200}; do echo out; echo err >&2; done", timeout=60)
        assert done == Completed(b"out\nerr\n" * 200, 0)

    def test_every_command_starts_in_the_repository(self, sandbox: Sandbox, calc: Instance) -> None:
        """The base commit is checked out and clean, and ``cd`` is forgotten with its command."""
        where = "git rev-parse HEAD && git rev-parse --show-prefix && git status --porcelain"
        head = f"{calc.row['base_commit']}\n".encode()
        assert sandbox.run(f"cd tests && {where}", timeout=60) == Completed(head + b"tests/\n", 0)
        assert sandbox.run(where, timeout=60) == Completed(head + b"\n", 0)

    def test_files_stay_and_variables_go(self, sandbox: Sandbox) -> None:
        """Commands share the files and nothing else."""
        sandbox.run("x=1; export y=2; echo three > z.txt", timeout=60)
        assert sandbox.run('echo "$x$y"; cat z.txt', timeout=60) == Completed(b"\nthree\n", 0)

    def test_environment_is_given(self, sandbox: Sandbox) -> None:
        """A command sees the variables that it was given, byte for byte; the next one does not."""
        env = {"GREETING": " two\nlines=€ '\"$"}
        assert sandbox.run('printf %s "$GREETING"', timeout=60, env=env).text == env["GREETING"]
        assert sandbox.run('printf %s "$GREETING"', timeout=60) == Completed(b"", 0)

    def test_secrets_of_the_runner_are_not(
        self, backend: Sandboxes, calc: Instance, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is in the runner's environment does not reach a command, proxies included."""
        for name in ("SWE_EVAL_API_KEY", "HTTPS_PROXY", "http_proxy"):
            monkeypatch.setenv(name, "http://me:hush@127.0.0.1:1")
        monkeypatch.setenv("no_proxy", "hush")
        with backend.start(calc, "rollout") as sandbox:
            done = sandbox.run("env; cat /proc/1/environ; echo $SWE_EVAL_API_KEY", timeout=60)
        assert b"PATH=" in done.output
        assert b"hush" not in done.output

    @pytest.mark.usefixtures("typing")
    def test_standard_input_is_closed(self, sandbox: Sandbox) -> None:
        """A command that reads gets end of file at once."""
        for command in ("cat", "read line", "python3 -c 'input()'"):
            assert sandbox.run(f"{command} 2> /dev/null; echo $?", timeout=60).text in ("0\n", "1\n")

    def test_background_process_does_not_hold_the_command(self, sandbox: Sandbox, nap: str) -> None:
        """A command is over when its shell is, though something it started keeps the output open."""
        assert sandbox.run(f"{nap} & echo started", timeout=60) == Completed(b"started\n", 0)

    def test_neither_does_a_talkative_one(self, sandbox: Sandbox) -> None:
        """Nor if it keeps writing."""
        done = sandbox.run("while :; do echo noise; sleep 0.05; done & echo started", timeout=60)
        assert b"started\n" in done.output
        assert (done.returncode, done.timed_out) == (0, False)
        assert sandbox.run("sleep 0.2; echo on", timeout=60) == Completed(b"on\n", 0)

    def test_whatever_it_does_to_its_shell_it_does_to_its_own(self, sandbox: Sandbox) -> None:
        """A command's shell is bash's ``-c``, and the next command has another one."""
        for command, done in (
            ("echo a; exit 3; echo b", Completed(b"a\n", 3)),
            ("set -e; echo a; false; echo b", Completed(b"a\n", 1)),
            ("exec echo a", Completed(b"a\n", 0)),
            ("trap 'echo a' EXIT; exit 4", Completed(b"a\n", 4)),
            ("trap '' TERM; kill $$; echo a", Completed(b"a\n", 0)),
            ("exec 1>&- 2>&-; echo a; exit 5", Completed(b"", 5)),
            ('for fd in {0..99}; do eval "exec $fd>&-"; done; exit 6', Completed(b"", 6)),
            ("ulimit -n 3; ulimit -f 0; umask 777; echo a", Completed(b"a\n", 0)),
            ("function exit() { echo a; }; alias true=false; set -f -u; exit", Completed(b"a\n", 0)),
            ("echo a; kill -TERM $PPID; exit 7", Completed(b"a\n", 7)),
            ("echo 'a\n(", Completed(b"bash: -c: line 1: unexpected EOF while looking for matching `''\n", 2)),
            ("no-such-command", Completed(b"bash: line 1: no-such-command: command not found\n", 127)),
        ):
            assert sandbox.run(command, timeout=60) == done
            assert sandbox.run("echo on; umask", timeout=60) == Completed(b"on\n0022\n", 0)

    def test_signals_have_their_default_meaning(self, sandbox: Sandbox) -> None:
        """A command inherits no ignored signal: Python raises KeyboardInterrupt, a closed pipe ends a writer."""
        done = sandbox.run("grep -E '^Sig(Blk|Ign)' /proc/self/status; yes | head -n 1", timeout=60)
        _, blocked, _, ignored, yes = done.text.split()
        glibcs = 0b11 << 31  # 32 and 33 are nobody else's to set; make ignores them
        assert (int(blocked, 16), int(ignored, 16) & ~glibcs, yes) == (0, 0, "y")

    def test_it_has_three_open_files(self, sandbox: Sandbox) -> None:
        """Nothing of ours is open in a command; ``ls`` adds its own."""
        assert sandbox.run("ls /proc/self/fd", timeout=60) == Completed(b"0\n1\n2\n3\n", 0)

    def test_command_can_destroy_the_repository(self, sandbox: Sandbox) -> None:
        """That is the model's doing: later commands fail, and the sandbox is not to blame."""
        assert sandbox.run('rm -rf "$PWD"', timeout=60).returncode == 0
        assert sandbox.run("true", timeout=60).returncode != 0


class TestBytes:
    EVERY_BYTE = bytes(range(256)) + b"CRLF\r\nCR\rno UTF-8 \xff\xfe\n"

    def test_output_is_bytes(self, sandbox: Sandbox) -> None:
        """Output that is no text arrives as it is; ``text`` replaces what cannot be read."""
        done = sandbox.run(r"printf 'a\377\000\r\n'", timeout=60)
        assert done == Completed(b"a\xff\x00\r\n", 0)
        assert done.text == "a\ufffd\x00\r\n"

    def test_file_is_put_as_it_is(self, sandbox: Sandbox) -> None:
        """A file that was put holds exactly these bytes, replaces an older one, and is not in the repository."""
        for data in (self.EVERY_BYTE * 4000, self.EVERY_BYTE, b""):
            path = sandbox.put("file.bin", data)
            same = sandbox.run(f"cat '{path}'", timeout=60) == Completed(data, 0)
            assert same
        assert sandbox.run("git status --porcelain", timeout=60) == Completed(b"", 0)

    def test_command_of_any_size(self, sandbox: Sandbox) -> None:
        """Longer than the kernel takes as an argument, in characters of any length, it is what it would be if short."""
        for size in (31_000, 300_000, 3_000_000):
            done = sandbox.run(f"echo $0 $# '{'€' * (size // 3)}'; (exit 3)\n", timeout=60)
            same = done == Completed(b"bash 0 " + "€".encode() * (size // 3) + b"\n", 3)
            assert same

    def test_command_that_is_no_text(self, sandbox: Sandbox) -> None:
        """NUL is left out, a lone surrogate is a question mark, and the rest is UTF-8."""
        assert sandbox.run("echo a\0b\ud800€", timeout=60) == Completed("ab?€\n".encode(), 0)


class TestLimits:
    def test_late_command_is_killed_with_all_it_started(self, sandbox: Sandbox, nap: str) -> None:
        """Past its time limit nothing of a command goes on."""
        for command in (
            nap,
            f"{nap} & {nap}",
            f"trap '' TERM INT HUP; {nap}; {nap}",
            f"(trap '' TERM; {nap}; {nap}) & wait",
            f"exec >&- 2>&-; {nap}",
        ):
            started = time.monotonic()
            assert sandbox.run(command, timeout=1).timed_out
            assert 1 <= time.monotonic() - started < 1 + SOON
            assert eventually(lambda: not is_running(sandbox, nap))

    def test_late_command_is_reported_with_what_it_wrote(self, sandbox: Sandbox) -> None:
        """And with its having been killed."""
        assert sandbox.run("echo before; sleep 300", timeout=4) == Completed(b"before\n", 137, timed_out=True)

    def test_process_in_a_session_of_its_own(self, sandbox: Sandbox, nap: str) -> None:
        """``setsid`` outlives its command, and not where a command has a process space of its own."""
        assert sandbox.run(f"setsid {nap} > /dev/null & wait", timeout=4).timed_out
        assert is_running(sandbox, nap) == (isinstance(sandbox, ShellSandbox) or not own_processes())

    def test_kill_everything(self, sandbox: Sandbox) -> None:
        """``kill -9 -1`` ends what the sandbox runs, not the sandbox, and never the machine."""
        if isinstance(sandbox, LocalSandbox) and not own_processes():
            pytest.skip("this machine gives no process spaces")
        assert sandbox.run("sleep 300 & kill -9 -1", timeout=60).returncode != 126
        assert sandbox.run("echo here", timeout=60) == Completed(b"here\n", 0)

    @pytest.mark.parametrize("command", ["yes", "head -c 1000000000 /dev/zero"])
    def test_output_without_end(self, sandbox: Sandbox, command: str) -> None:
        """A command that floods is stopped for good, and the runner's memory stays flat."""
        tracemalloc.start()
        done = sandbox.run(command, timeout=120)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 10 * KEEP < CAP
        assert 2 * KEEP < len(done.output) < 2 * KEEP + 100
        assert (done.timed_out, done.returncode) == (False, 137)
        assert eventually(lambda: not is_running(sandbox, command))

    def test_middle_of_long_output_is_cut_out(self, sandbox: Sandbox) -> None:
        """Head and tail are kept, with the number of bytes between them."""
        done = sandbox.run("echo first; head -c 50000000 /dev/zero | tr '\\0' x; echo last", timeout=120)
        whole = b"first\n" + b"x" * 50_000_000 + b"last\n"
        head, count, tail = re.split(rb"\n\[\.\.\. (\d+) bytes cut out \.\.\.]\n", done.output)
        is_as_promised = head == whole[:KEEP] and whole.endswith(tail) and len(tail) > KEEP - 100
        assert is_as_promised
        assert (int(count), done.returncode) == (len(whole) - len(head) - len(tail), 0)


class TestEnd:
    def test_nothing_is_left(self, kind: str, backend: Sandboxes, calc: Instance, run_id: str) -> None:
        """A sandbox is gone when its block ends, also by an exception."""
        with pytest.raises(ZeroDivisionError), backend.start(calc, "rollout") as sandbox:
            sandbox.run("mkdir -p a/b; touch a/b/c; chmod 0 a/b a", timeout=60)
            assert len(what_is_left(kind, run_id)) == 1
            raise ZeroDivisionError
        assert what_is_left(kind, run_id) == []

    def test_removed_sandbox_says_so(self, backend: Sandboxes, calc: Instance) -> None:
        """Once it is removed every method raises: there is no result to be believed."""
        with backend.start(calc, "rollout") as sandbox:
            backend.remove_all()
            with pytest.raises(SandboxError):
                sandbox.run("echo hello", timeout=60)
            with pytest.raises(SandboxError):
                sandbox.put("file", b"data")

    def test_removal_during_a_command(self, backend: Sandboxes, calc: Instance) -> None:
        """A command whose sandbox is removed under it has no result either, whatever it said."""
        with backend.start(calc, "grading") as sandbox, ThreadPoolExecutor() as pool:
            until_removed = "while [ -e calc.py ]; do sleep 0.1; done; echo tests failed"
            result = pool.submit(sandbox.run, until_removed, timeout=60)
            time.sleep(1)
            backend.remove_all()
            with pytest.raises(SandboxError):
                result.result()


class TestLocal:
    @pytest.fixture
    def kind(self) -> str:
        return "local"

    def test_next_run_removes_what_a_killed_one_left(
        self, kind: str, settings: Callable[..., Settings], calc: Instance, run_id: str
    ) -> None:
        """The same run id cleans up after a process that was killed, and leaves other runs alone."""
        spawn, other = multiprocessing.get_context("spawn"), run_id[::-1]
        chosen, is_ready = settings(*OVERRIDES[kind]), spawn.Event()
        with sandboxes(chosen, other) as backend, backend.start(calc, "rollout") as sandbox:
            killed = spawn.Process(target=hold, args=(chosen, run_id, calc, is_ready))
            killed.start()
            assert is_ready.wait(120)
            killed.kill()
            killed.join()
            assert len(what_is_left(kind, run_id)) == 1
            sandboxes(chosen, run_id).__enter__()
            assert what_is_left(kind, run_id) == []
            assert sandbox.run("echo on", timeout=60) == Completed(b"on\n", 0)

    def test_pytest_is_bare(self, sandbox: Sandbox) -> None:
        """The tasks' tests run without the plugins that happen to be installed beside us."""
        done = sandbox.run("python -m pytest -p no:cacheprovider tests", timeout=60)
        assert done.returncode == 0
        assert b"plugins:" not in done.output

    def test_only_tasks_that_can_be_set_up(self, backend: Sandboxes, calc: Instance, tmp_path: Path) -> None:
        """A task without a set-up script is refused by name."""
        for context in (None, tmp_path):
            with pytest.raises(SandboxError, match=r"demo__calc-1: no setup\.sh"):
                backend.start(replace(calc, context=context), "rollout").__enter__()

    def test_set_up_that_fails(self, backend: Sandboxes, calc: Instance, tmp_path: Path) -> None:
        """The error holds what the script said."""
        (tmp_path / "setup.sh").write_text("echo no disk; exit 1")
        with pytest.raises(SandboxError, match=r"demo__calc-1: setup\.sh failed: no disk"):
            backend.start(replace(calc, context=tmp_path), "rollout").__enter__()

    def test_awkward_paths(
        self, backend: Sandboxes, calc: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Tasks and temporary files may lie in folders with any name, also relative to where the runner is."""
        assert calc.context
        folder = tmp_path / "it's a folder"
        shutil.copytree(calc.context, folder / "task")
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        monkeypatch.chdir(folder)
        with backend.start(replace(calc, context=Path("task")), "rollout") as sandbox:
            assert sandbox.run("git rev-parse HEAD", timeout=60).text.strip() == calc.row["base_commit"]


class TestContainer:
    """What every backend but ``local`` promises."""

    @pytest.fixture(params=CONTAINERS)
    def kind(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    def test_process_group_of_its_own_is_no_escape(self, sandbox: Sandbox, nap: str) -> None:
        """What a late command started is killed in whichever process group it is."""
        for command in (f"timeout 300 {nap}", f"set -m; {nap} & wait", f"({nap}; echo) | cat"):
            assert sandbox.run(command, timeout=1) == Completed(b"", 137, timed_out=True)
            assert eventually(lambda: not is_running(sandbox, nap))

    def test_background_process_goes_on(self, sandbox: Sandbox) -> None:
        """A server that one command starts is there for the next."""
        sandbox.run("python3 -m http.server --bind 127.0.0.1 8000 &> server.log &", timeout=60)
        ask = "until python3 -c 'import urllib.request as u; u.urlopen(\"http://127.0.0.1:8000\")'; do sleep 0.1; done"
        assert sandbox.run(f"({ask}) 2> /dev/null; grep -c GET server.log", timeout=60) == Completed(b"1\n", 0)

    @pytest.mark.parametrize("wait", ["", "; sleep 300"], ids=["left behind", "waited for"])
    def test_fork_bomb(
        self, kind: str, settings: Callable[..., Settings], calc: Instance, run_id: str, wait: str
    ) -> None:
        """It fills its container with processes and fails nothing of ours; what ends it gives the next command room."""
        chosen = settings(*OVERRIDES[kind], "sandbox.memory=1g", "sandbox.pids_limit=128")
        with sandboxes(chosen, run_id) as backend, backend.start(calc, "rollout") as sandbox:
            bomb = "bomb() { bomb | bomb & sleep 100; }; bomb &> /dev/null"
            sandbox.run(f"{bomb} &{wait}", timeout=3)
            if not wait:
                sandbox.run("kill -KILL -1", timeout=60)
            assert sandbox.run("/bin/echo on", timeout=60) == Completed(b"on\n", 0)

    @pytest.mark.parametrize(("signal", "is_late"), [("KILL", False), ("STOP", True)])
    def test_shell_that_is_lost_is_replaced(
        self, kind: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, signal: str, is_late: bool
    ) -> None:
        """A command can end or stop the shell around it: it ends with it, and the next one has another."""
        if is_late:
            monkeypatch.setattr(shell, "GRACE", 3)
        done = sandbox.run(f"touch kept; echo before; kill -{signal} $PPID", timeout=3 if is_late else 60)
        assert (done.returncode, done.timed_out) == (137, is_late)
        assert done.output == b"before\n"
        assert sandbox.run("ls kept", timeout=60) == Completed(b"kept\n", 0)

    def test_shell_that_is_lost_is_not_waited_for(self, sandbox: Sandbox) -> None:
        """Also where what a command left behind would write to it: that is ended."""
        started = time.monotonic()
        assert sandbox.run("sleep 300 & kill -KILL $PPID", timeout=60) == Completed(b"", 137)
        assert time.monotonic() - started < SOON
        assert sandbox.run("echo on", timeout=60) == Completed(b"on\n", 0)

    @pytest.mark.parametrize("command", ["rm $(which bash)", "rm -rf /bin/* /usr/bin/*", "rm -r /tmp /dev/shm/*"])
    @pytest.mark.parametrize("end", ["", "; kill -KILL $PPID"], ids=["", "and its shell"])
    def test_image_that_is_broken_inside(self, sandbox: Sandbox, command: str, end: str) -> None:
        """A model that takes its own tools away sees its commands fail; nothing of ours has failed."""
        sandbox.run(f"{command}{end}", timeout=60)
        for _ in range(2):
            assert isinstance(sandbox.run("/bin/ls -d /etc", timeout=60), Completed)

    def test_zombies_are_reaped(self, sandbox: Sandbox) -> None:
        """Orphans that end leave no entry behind."""
        sandbox.run("for i in {1..50}; do (sleep 0.1 &); done", timeout=60)
        look = "grep --quiet --no-messages '^Name:.sleep$' /proc/[0-9]*/status"
        assert eventually(lambda: sandbox.run(look, timeout=60).returncode != 0)

    def test_container_is_gone_at_once(self, backend: Sandboxes, calc: Instance) -> None:
        """Whatever runs in it; an engine waits ten seconds for what does not listen to SIGTERM."""
        with backend.start(calc, "rollout") as sandbox:
            sandbox.run("trap '' TERM; sleep 300 & timeout 2 yes > /proc/1/fd/1", timeout=60)
            started = time.monotonic()
        assert time.monotonic() - started < 9

    def test_next_run_of_any_name_removes_what_a_killed_one_left(
        self, kind: str, settings: Callable[..., Settings], calc: Instance, run_id: str
    ) -> None:
        """A container goes once the process that started it is gone; that of a run that lives stays."""
        spawn, others = multiprocessing.get_context("spawn"), [f"{run_id}-killed", f"{run_id}-alive"]
        chosen, ready = settings(*OVERRIDES[kind]), [spawn.Event(), spawn.Event()]
        runs = [
            spawn.Process(target=hold, args=(chosen, name, calc, is_ready))
            for name, is_ready in zip(others, ready, strict=True)
        ]
        try:
            for process in runs:
                process.start()
            assert all(is_ready.wait(120) for is_ready in ready)
            runs[0].kill()
            runs[0].join()
            with sandboxes(chosen, run_id):
                assert eventually(lambda: [len(what_is_left(kind, name)) for name in others] == [0, 1], 60)
        finally:
            for process in runs:
                process.kill()
                process.join()
            with sandboxes(chosen, run_id):
                assert eventually(lambda: [len(what_is_left(kind, name)) for name in others] == [0, 0], 60)

    def test_commands_cannot_end_the_container(self, sandbox: Sandbox) -> None:
        """Process 1 is beyond the reach of what a command kills."""
        assert isinstance(sandbox, ShellSandbox)  # anywhere else this would end every process of the user
        sandbox.run("for signal in {1..64}; do kill -$signal 1; done", timeout=60)
        for signal in ("TERM", "HUP", "INT", "USR1", "KILL"):
            sandbox.run(f"kill -{signal} -1", timeout=60)
        assert sandbox.run("echo on", timeout=60) == Completed(b"on\n", 0)

    def test_command_that_is_killed_is_a_result(self, sandbox: Sandbox) -> None:
        """Exit code 137 alone is no death of the container."""
        assert sandbox.run("echo bye; kill -KILL $$", timeout=60) == Completed(b"bye\n", 137)
        assert sandbox.run("echo on", timeout=60) == Completed(b"on\n", 0)

    def test_memory_is_limited(self, kind: str, settings: Callable[..., Settings], calc: Instance, run_id: str) -> None:
        """What takes more is killed, alone."""
        chosen = settings(*OVERRIDES[kind], "sandbox.memory=64m")
        with sandboxes(chosen, run_id) as backend, backend.start(calc, "rollout") as sandbox:
            greedy = "import time; x = b'x' * (1 << 30); time.sleep(60)"
            assert sandbox.run(f'python3 -c "{greedy}"', timeout=60) == Completed(b"", 137)
            assert sandbox.run("echo on", timeout=60) == Completed(b"on\n", 0)

    def test_container_that_is_killed_is_no_result(self, kind: str, sandbox: Sandbox) -> None:
        """Killed from outside, during a command or before it: an error of ours."""
        if isinstance(sandbox, BubblewrapSandbox):
            kill = ["kill", "-KILL", str(sandbox.pid_1)]
        else:
            kill = [kind, "kill", sandbox.run("cat /etc/hostname", timeout=60).text.strip()]
        threading.Timer(1, subprocess.run, [kill], {"capture_output": True}).start()
        for command in ("sleep 30", "true"):
            with pytest.raises(SandboxError, match=r"the (container|sandbox) died"):
                sandbox.run(command, timeout=60)

    def test_network(self, backend: Sandboxes, calc: Instance) -> None:
        """The agent has none, so it cannot look the fix up; the tests have one, as in the official harness."""
        look = "tail -n +3 /proc/net/dev | cut -d : -f 1 | tr -d ' '"
        with backend.start(calc, "rollout") as sandbox:
            assert sandbox.run(look, timeout=60) == Completed(b"lo\n", 0)
        with backend.start(calc, "grading") as sandbox:
            assert len(sandbox.run(look, timeout=60).text.split()) > 1

    def test_machine_is_out_of_sight(self, backend: Sandboxes, calc: Instance, tmp_path: Path) -> None:
        """Neither files nor processes of it: not below any process's root, and not by mounting anything."""
        secret = tmp_path / "secret"
        secret.write_text("of the machine")
        look = f"cat {secret} /proc/*/root{secret} /proc/*/cwd{secret}; ls /proc | grep -c '^[0-9]'"
        enter = "unshare --user --map-root-user true || unshare --mount true || mount -t tmpfs tmpfs /mnt || echo none"
        with backend.start(calc, "rollout") as sandbox:
            done = sandbox.run(f"({look}) 2> /dev/null; ({enter}) 2> /dev/null", timeout=60)
            processes, entered = done.text.split()
            assert (int(processes) < 15, entered) == (True, "none")


class TestEngine:
    """What images are in an engine for."""

    @pytest.fixture(params=ENGINES)
    def kind(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def own_image(self, kind: str, calc: Instance, run_id: str, tmp_path: Path) -> Iterator[Instance]:
        """The task in a folder and under an image name of the test's own; there is no such image yet."""
        assert calc.context
        context = shutil.copytree(calc.context, tmp_path / "task")
        image = f"swe_eval-test:{run_id}"
        yield replace(calc, row={**calc.row, "image": image}, context=context)
        subprocess.run([kind, "image", "rm", "--force", image], capture_output=True)

    def test_environment_is_that_of_exec(self, kind: str, sandbox: DockerSandbox) -> None:
        """A command's variables, directory and shell are those that mini-swe-agent's own environment gives it."""
        look = 'env | sort; echo "$0 $# $SHLVL $- $OLDPWD"; pwd; umask; ulimit -a; trap; alias; shopt; set -o; tty; id'
        enter = [kind, "exec", "-w", "/testbed", "-e", "A=b c", sandbox.container, "bash", "-c", look]
        expected = subprocess.run(enter, capture_output=True)
        assert sandbox.run(look, timeout=60, env={"A": "b c"}) == Completed(expected.stdout, expected.returncode)

    def test_agent_has_few_privileges(self, backend: Sandboxes, calc: Instance) -> None:
        """What root needs for files and users, and no more; the grader has what the official harness's root has."""
        status = "grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status | cut -f 2; ulimit -c"
        with backend.start(calc, "rollout") as sandbox:
            assert sandbox.run(status, timeout=60).text.split() == ["00000000000000fb", "00000000000000fb", "1", "0"]
            as_user = "chown nobody calc.py && su nobody -s /bin/bash -c 'id -un; stat -c %U calc.py'"
            assert sandbox.run(as_user, timeout=60) == Completed(b"nobody\nnobody\n", 0)
        with backend.start(calc, "grading") as sandbox:
            assert sandbox.run(status, timeout=60).text.split()[2:] == ["0", "0"]

    def test_a_sandbox_that_meets_a_full_disk_has_no_result(
        self, backend: Sandboxes, calc: Instance, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Every engine's disk has less room than that."""
        monkeypatch.setattr(docker, "ROOM", 1e18)
        full = "^the disk is full where the engine keeps images; make room"
        with pytest.raises(SandboxError, match=full), backend.start(calc, "grading"):
            pass

    def test_crlf_survives_from_submission_to_verdict(
        self, kind: str, backend: Sandboxes, own_image: Instance, settings: Callable[..., Settings], tmp_path: Path
    ) -> None:
        """The patch of a file with CRLF is submitted, recorded, applied and graded byte for byte."""
        assert own_image.context
        source = own_image.context / "repo/calc.py"
        source.write_bytes(source.read_bytes().replace(b"\n", b"\r\n"))
        fix = "sed -i 's/left, right = stack/right, left = stack/' calc.py && git diff > patch.txt"
        with backend.start(own_image, "rollout") as sandbox, pytest.raises(Submitted) as submitted:
            agent = SandboxEnvironment(sandbox, settings(*OVERRIDES[kind]), {})
            agent.execute({"command": f"{fix}; echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; cat patch.txt"})
        run, trial = RunDir(tmp_path), Trial("arm", own_image.instance_id)
        write_text(run.prediction(trial), submitted.value.messages[0]["extra"]["submission"])
        assert run.read_patch(trial).count("\r\n") == 8
        assert grade(own_image, "arm", run.read_patch(trial), backend, tmp_path / "graded", 60)["outcome"] == "resolved"

    @pytest.mark.parametrize("meanwhile", ["", 'timeout --foreground 2 {kind} "$@"'], ids=["before it", "during it"])
    def test_engine_that_is_lost_is_no_result(
        self, kind: str, sandbox: DockerSandbox, tmp_path: Path, meanwhile: str
    ) -> None:
        """A client that loses its engine ends with a code of its own: half an output is never taken for a whole one."""
        cut, lost = tmp_path / kind, meanwhile.format(kind=kind)
        cut.write_text(f'#!/bin/sh\n[ "$1" = exec ] || exec {kind} "$@"\n{lost}\necho unexpected EOF; exit 1\n')
        cut.chmod(0o755)
        with pytest.raises(SandboxError, match="exit code 1, unexpected EOF"):
            DockerSandbox(str(cut), sandbox.container).run("echo half; sleep 9; echo whole", timeout=60)

    def test_image_that_cannot_be_had(self, backend: Sandboxes, calc: Instance) -> None:
        """It is named, with what the engine said."""
        instance = replace(calc, row={**calc.row, "image": "swe-eval.invalid/none:latest"}, context=None)
        with pytest.raises(SandboxError, match=r"^image swe-eval\.invalid/none:latest is missing; \w+ pull: .+$"):
            backend.start(instance, "rollout").__enter__()

    def test_image_that_cannot_be_built(self, kind: str, backend: Sandboxes, own_image: Instance, run_id: str) -> None:
        """It is named too, and nothing is left of the attempt."""
        assert own_image.context
        (own_image.context / "Dockerfile").write_text(f"FROM {BASE_IMAGE}\nRUN : {run_id}; exit 7\n")
        with pytest.raises(SandboxError, match=rf"^image {own_image.image} is missing; {kind} build: .*7"):
            backend.start(own_image, "rollout").__enter__()
        listed = subprocess.run([kind, "ps", "--all", "--no-trunc"], capture_output=True, text=True, check=True)
        assert run_id not in listed.stdout

    def test_image_is_built_once(
        self, kind: str, settings: Callable[..., Settings], own_image: Instance, run_id: str, tmp_path: Path
    ) -> None:
        """Trials that want an image at the same time wait for one build of the task's Dockerfile."""
        command, calls = tmp_path / kind, tmp_path / "calls"
        command.write_text(f'#!/bin/sh\necho "$1" >> "{calls}"\nexec {kind} "$@"\n')
        command.chmod(command.stat().st_mode | stat.S_IXUSR)

        def head(backend: Sandboxes) -> str:
            with backend.start(own_image, "rollout") as sandbox:
                return sandbox.run("git rev-parse HEAD", timeout=60).text.strip()

        with (
            sandboxes(settings(*OVERRIDES[kind], f"sandbox.executable={command}"), run_id) as backend,
            ThreadPoolExecutor(3) as pool,
        ):
            assert list(pool.map(head, [backend] * 3)) == [own_image.row["base_commit"]] * 3
        assert calls.read_text().split().count("build") == 1


@pytest.mark.parametrize("kind", STORES)
def test_keeper_that_is_killed_takes_the_sandbox_along(backend: BubblewrapSandboxes, calc: Instance, nap: str) -> None:
    """At once or, in Apptainer, at the end of its block: memory that runs out may have it killed alone."""
    with backend.start(calc, "grading") as sandbox:
        sandbox.run(f"setsid {nap} > /dev/null &", timeout=60)
        assert eventually(lambda: runs_here(nap))
        os.kill(sandbox._keeper.pid, SIGKILL)
    assert eventually(lambda: not runs_here(nap))


@pytest.mark.docker
def test_proxies_of_dockers_configuration_are_not_for_sandboxes(
    settings: Callable[..., Settings], calc: Instance, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are for pulls and builds; the official harness's containers have none."""
    (tmp_path / "config.json").write_text('{"proxies": {"default": {"httpsProxy": "hush", "noProxy": "hush"}}}')
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("no_proxy", "hush")
    with sandboxes(settings(*OVERRIDES["docker"]), run_id) as backend, backend.start(calc, "grading") as sandbox:
        assert b"hush" not in sandbox.run("env", timeout=60).output


@pytest.mark.docker
def test_no_engine(settings: Callable[..., Settings], run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says what does not answer, and what to write instead."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    with pytest.raises(UserError, match=r"^sandbox=docker: no engine answers \(.*127\.0\.0\.1:1.*\); .*sandbox=.*$"):
        sandboxes(settings("sandbox=docker"), run_id).__enter__()


@pytest.mark.docker
@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("sandbox.network=nope", "sandbox.network=nope: the engine has no such network; docker network ls lists them"),
        ("sandbox.grading_network=nope", "sandbox.grading_network=nope: the engine has no such network; docker"),
        ("sandbox.cpus=9999", "sandbox.cpus=9999: the engine has "),
    ],
)
def test_what_no_container_could_have_is_told_at_once(
    settings: Callable[..., Settings], override: str, line: str
) -> None:
    """Told at once, not by each container that does not start."""
    with pytest.raises(UserError, match=f"^{re.escape(line)}"):
        connect(settings("sandbox=docker", override).sandbox, "tests")


def test_no_docker_command(settings: Callable[..., Settings], run_id: str) -> None:
    """Without the command, its setting is named in one line."""
    with pytest.raises(UserError, match=r"^sandbox\.executable=/nonexistent: No such file or directory; write .*$"):
        sandboxes(settings("sandbox=docker", "sandbox.executable=/nonexistent"), run_id).__enter__()


@pytest.mark.parametrize(("told", "code"), [("cannot lock the database", 125), ("overlay", 0)])
def test_podman_that_does_not_say_where_images_are(
    settings: Callable[..., Settings], run_id: str, tmp_path: Path, told: str, code: int
) -> None:
    """What it says instead is told in one line."""
    podman = tmp_path / "podman"
    podman.write_text(f'#!/bin/sh\n[ "$*" = info ] || {{ echo {told}; exit {code}; }}\n')
    podman.chmod(0o755)
    with pytest.raises(UserError, match=rf"^sandbox=podman: does not say where images are \({told}\); write sandbox="):
        connect(settings("sandbox=podman", f"sandbox.executable={podman}").sandbox, run_id)


@pytest.mark.podman
def test_a_container_goes_also_if_its_first_process_does_not_hear_that_it_is_to(
    settings: Callable[..., Settings], calc: Instance, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command holds open what that one reads from."""
    monkeypatch.setattr(podman, "ENDING", 3)
    backend = connect(settings(*OVERRIDES["podman"]).sandbox, run_id)
    with backend.start(calc, "rollout") as sandbox:
        sandbox.run("setsid sleep 300 > /proc/1/fd/0 &", timeout=60)
    assert what_is_left("podman", run_id) == []


@pytest.mark.podman
def test_podman_where_selinux_is_enforced(
    settings: Callable[..., Settings], calc: Instance, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shell is entered as Docker's there, whose pipes are the engine's."""
    (tmp_path / "enforce").write_text("1")
    monkeypatch.setattr(podman, "ENFORCING", tmp_path / "enforce")
    monkeypatch.setattr(DockerSandbox, "_enter", enter := Mock(wraps=DockerSandbox._enter))
    with sandboxes(settings(*OVERRIDES["podman"]), run_id) as backend, backend.start(calc, "rollout") as sandbox:
        assert sandbox.run("echo on", timeout=60) == Completed(b"on\n", 0)
    enter.assert_called_once()


@pytest.mark.podman
def test_podman_elsewhere(
    settings: Callable[..., Settings], run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that asks another's service is refused: its containers would not end with us."""
    door = tmp_path / "podman.sock"
    with subprocess.Popen(["podman", "system", "service", "--time", "0", f"unix://{door}"]) as service:
        eventually(door.exists)
        monkeypatch.setenv("CONTAINER_HOST", f"unix://{door}")
        with pytest.raises(UserError, match=r"^sandbox=podman: asks a Podman elsewhere; unset CONTAINER_HOST, or"):
            connect(settings("sandbox=podman").sandbox, run_id)
        service.terminate()


@pytest.mark.podman
def test_podman_without_what_makes_networks(
    settings: Callable[..., Settings], run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first grading would fail, after a rollout that was paid for; it is told before."""
    for name in ("podman", "newuidmap", "newgidmap"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"^sandbox\.grading_network=bridge: Podman finds neither slirp4netns nor"):
        connect(settings("sandbox=podman").sandbox, run_id)
    assert connect(settings("sandbox=podman", "sandbox.grading_network=none").sandbox, run_id)


def test_owner_is_gone_once_it_has_ended() -> None:
    """A process's name tells whether it still runs, on this machine and for this user; anything else may still run."""
    here = owner.this_process()
    sleeper = subprocess.Popen(["sleep", "60"])
    theirs = here.replace(f"/{os.getpid()}/", f"/{sleeper.pid}/")
    ended = f"{theirs.rpartition('/')[0]}/{owner._started(sleeper.pid)}"
    assert owner.is_gone(theirs)
    assert not any(owner.is_gone(name) for name in (here, ended, f"other{theirs}", ""))
    sleeper.kill()
    assert sleeper.wait() and owner.is_gone(ended)


def test_a_process_that_cannot_be_asked_just_now_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when this process has too many files open."""
    ended = f"{owner._place()}/{os.getpid()}/0"
    assert owner.is_gone(ended)
    place = owner._place()
    monkeypatch.setattr(owner, "_place", lambda: place)
    monkeypatch.setattr(Path, "read_text", Mock(side_effect=OSError(errno.EMFILE, "Too many open files")))
    assert not owner.is_gone(ended)


def test_what_shares_memory_is_held_to_its_disk_too(tmp_path: Path) -> None:
    """Four processes that have a block of memory together, and seem to have four."""
    (tmp_path / "file").write_bytes(bytes(1_000_000))
    say = "os.write(1, b'%d\\n' % os.getpid())"  # whole, whoever else writes
    code = f"import os, time; x = b'x' * 2**26; os.fork(); os.fork(); {say}; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as first:
        assert first.stdout
        pids, said = [int(first.stdout.readline()) for _ in range(4)], []
        watched = watchdog.Watched(watchdog.Limits(2**27, 9, 500_000), lambda: said.append("killed"), tmp_path)
        watchdog._enforce(watched, pids, with_disk=True)
        os.killpg(first.pid, SIGKILL)
    assert said == ["killed"]


def test_a_look_that_fails_does_not_end_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when this process has too many files open."""
    look, failures, ended = watchdog._processes, iter([OSError("Too many open files")]), threading.Event()

    def look_later(spaces: set[int]) -> dict[int, list[int]]:
        for failure in failures:
            raise failure
        return look(spaces)

    monkeypatch.setattr(watchdog, "_processes", look_later)
    with watchdog.Watchdog().watching(os.getpid(), watchdog.Watched(watchdog.Limits(1, 0, 1), ended.set)):
        assert ended.wait(60)


def test_a_sandbox_stays_watched_when_another_one_ends_whose_number_it_has() -> None:
    """The kernel gives the number of a process space again, once the first process of a sandbox has died."""
    dog, killed = watchdog.Watchdog(), threading.Event()
    died = dog.watching(os.getpid(), watchdog.Watched(watchdog.Limits(1, 99_999, 1), lambda: None))
    died.__enter__()
    with dog.watching(os.getpid(), watchdog.Watched(watchdog.Limits(1, 0, 1), killed.set)):
        died.__exit__(None, None, None)
        assert killed.wait(60)
