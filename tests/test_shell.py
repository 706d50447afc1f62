"""The kept-open shell by itself, entered on this machine: what every backend that hands it an entrance can rely on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from test_process import eventually

from swe_eval.errors import SandboxError
from swe_eval.sandbox.capture import A_MOMENT
from swe_eval.sandbox.sandbox import Completed
from swe_eval.sandbox.shell import PIECE, Shell, command_script, put_scripts

ENTER = ("sh", "-c", 'exec 2> /dev/null; "$@"; exit $?', "sh")
"""As ``docker exec`` does, it ends with the exit code of what it ran, also of what was killed."""


@pytest.fixture
def replaced():
    """One entry for each time that the shell was replaced."""
    return []


@pytest.fixture
def shell(replaced):
    shell = Shell(ENTER, lambda: replaced.append("everything killed"))
    yield shell
    shell.close()


def run(shell: Shell, command: str, timeout: float = 30) -> Completed:
    return shell.run(command_script(command, cwd="/"), timeout=timeout)


def test_one_process_serves_every_command(shell, replaced):
    assert run(shell, "echo $PPID") == run(shell, "echo $PPID")
    assert replaced == []


def test_output_that_looks_like_an_answer_is_output(shell):
    forged = f"{'0' * 32} 0\n" * 3
    assert run(shell, f"printf '{forged}'; exit 3") == Completed(forged.encode(), 3)


def test_what_a_command_left_running_is_not_heard_in_the_next(shell, tmp_path):
    late = f"until [ -e {tmp_path}/second ]; do sleep 0.05; done; /bin/echo late; touch {tmp_path}/late"
    assert run(shell, f"({late}) & echo first") == Completed(b"first\n", 0)
    wait = f"touch {tmp_path}/second; until [ -e {tmp_path}/late ]; do sleep 0.05; done"
    assert run(shell, f"{wait}; echo second") == Completed(b"second\n", 0)


def test_who_was_told_to_end_as_a_command_was_has_heard_of_it_before_its_result(shell):
    """SLURM tells all processes of a job at once."""
    started = time.monotonic()
    assert run(shell, "kill -TERM $$") == Completed(b"", 143)
    assert time.monotonic() - started >= A_MOMENT


def test_a_command_whose_time_is_over_as_it_begins_is_ended(shell, replaced):
    assert [run(shell, "sleep 300", timeout=0) for _ in range(20)] == [Completed(b"", 137, timed_out=True)] * 20
    assert replaced == []


def test_a_shell_that_its_command_killed_is_replaced(shell, replaced):
    first = run(shell, "echo $PPID").text
    assert run(shell, "echo bye; kill -KILL $PPID") == Completed(b"bye\n", 137)
    assert run(shell, "echo $PPID").text != first
    assert replaced == ["everything killed"]


def test_a_command_that_was_not_begun_is_begun_again(shell, replaced):
    os.kill(int(run(shell, "echo $PPID").text), signal.SIGKILL)
    assert run(shell, "echo on") == Completed(b"on\n", 0)
    assert replaced == ["everything killed"]


def test_a_sandbox_that_is_gone_has_no_result():
    def gone() -> None:
        raise SandboxError("it is gone")

    with pytest.raises(SandboxError, match=r"^it is gone$"):
        run(Shell(["false"], gone), "true")


@pytest.mark.parametrize(
    ("script", "error"),
    [("exit 1", "exit code 1, without a word"), ("echo no disk >&2; exit 2", "exit code 2, no disk")],
)
def test_an_entrance_that_does_not_work_says_why(script, error):
    with pytest.raises(SandboxError, match=f"^no shell starts in the sandbox: {error}$"):
        run(Shell(["sh", "-c", script], lambda: None), "true")


def test_a_sandbox_without_bash_is_the_doing_of_what_ran_in_it():
    refused = 'exec: "bash": executable file not found in $PATH\n'
    enter = ["sh", "-c", f"echo '{refused}'; exit 127"]
    assert run(Shell(enter, lambda: None), "true") == Completed(f"{refused}\n".encode(), 127)


def test_a_command_ends_with_the_process_that_asked_for_it(nap):
    code = f"from test_shell import *; run(Shell(ENTER, print), '{nap}')"
    asking = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent)
    assert eventually(lambda: runs_here(nap), 120)
    asking.kill()
    asking.wait()
    assert eventually(lambda: not runs_here(nap), 30)


def runs_here(command: str) -> bool:
    wanted = f"{command} ".replace(" ", "\0").encode()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            if file.read_bytes() == wanted:
                return True
    return False


def test_a_file_is_written_where_no_folder_was(shell, tmp_path):
    path = tmp_path / "it's" / "a file"
    data = bytes(range(256)) * (3 * PIECE // 256) + b"\n"
    for script in put_scripts(str(path), data):
        assert len(script) < 2 * PIECE  # what takes too long to begin is taken for a sandbox that is lost
        assert shell.run(script, timeout=30) == Completed(b"", 0)
    assert path.read_bytes() == data
