"""A supervised child process: what is said when it fails, and that it never outlives us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from swe_eval.benchmark.demo.model import tiny_model
from swe_eval.errors import ServingError
from swe_eval.serving.process import Launch, ServerProcess, free_port, supervise


def python(code: str) -> list[str]:
    """The command line of a Python program."""
    return [sys.executable, "-c", code]


def launch(argv: Callable[[int], list[str]], port: int | None = None, timeout: float = 60) -> Launch:
    """A server with one model, ``base``."""
    env = {"SWE_EVAL_API_KEY": "secret"}
    return Launch(argv, env, "secret", "127.0.0.1", port, models=("base",), startup_timeout=timeout)


def failure(tmp_path: Path, code: str, **options: float) -> str:
    """What is said of a program that does not become a server."""
    with (
        pytest.raises(ServingError) as error,
        supervise(launch(lambda _: python(code), **options), tmp_path / "log", print),
    ):
        pass
    return str(error.value)


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return bool(state.strip()) and not state.startswith("Z")


def eventually(condition: Callable[[], bool], seconds: float = 10) -> bool:
    """Whether the condition becomes true in time."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


class TestFailures:
    def test_early_death_shows_the_end_of_the_log(self, tmp_path: Path) -> None:
        """The last 15 lines, the exit code and the log's place: enough to know what happened."""
        said = failure(tmp_path, "for i in range(40): print('line', i)\nraise SystemExit(3)")
        head, *lines = said.splitlines()
        assert head == f"the model server ended with exit code 3; {tmp_path / 'log'} ends with"
        assert lines == [f"  line {i}" for i in range(25, 40)]

    @pytest.mark.parametrize(
        ("logged", "hint"),
        [
            ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB", "quantization=4bit"),
            ("error: 0.0.0.0:80: [Errno 98] Address already in use", "serving.port"),
            ("ModuleNotFoundError: No module named 'fastapi'", "pip install 'swe_eval[serve]'"),
            ("error: adapter x: 3 weights are not in this model", "lora.path"),
            ("error: model nobody/nothing: gated", "model.base_model"),
            ("OSError: nobody/nothing does not appear to have a file named config.json", "model.base_model"),
        ],
    )
    def test_known_trouble_has_a_hint(self, tmp_path: Path, logged: str, hint: str) -> None:
        """The last line says which setting to change."""
        assert hint in failure(tmp_path, f"raise SystemExit({logged!r})", port=free_port("127.0.0.1")).splitlines()[-1]

    def test_death_by_sigkill_has_a_hint(self, tmp_path: Path) -> None:
        """A server that was SIGKILLed said nothing; most often the host was out of memory."""
        assert "ran out of memory" in failure(tmp_path, "import os; os.kill(os.getpid(), 9)")

    def test_slow_start(self, tmp_path: Path) -> None:
        """A server that is not ready in time is stopped, with what it said last."""
        said = failure(tmp_path, "import time; print('step 1', flush=True); time.sleep(60)", timeout=1)
        assert said.startswith("the model server is not ready after 1 s (serving.startup_timeout)")
        assert said.endswith("  step 1")

    def test_earlier_logs_are_kept_and_not_quoted(self, tmp_path: Path) -> None:
        """A continued run appends to the log; only what this server wrote is blamed on it."""
        (tmp_path / "log").write_text("CUDA out of memory\n")
        assert "memory" not in failure(tmp_path, "raise SystemExit('other')")
        assert (tmp_path / "log").read_text() == "CUDA out of memory\nother\n"

    def test_lost_race_for_a_port_is_run_again(self, tmp_path: Path) -> None:
        """A port that was ours to choose, and that somebody took, is no failure."""
        app = [
            sys.executable,
            "-m",
            "swe_eval.serving.app",
            f"--model={tiny_model()}",
            "--base-name=base",
            "--device=cpu",
        ]
        tries = []

        def argv(port: int) -> list[str]:
            tries.append(port)
            return python("raise SystemExit('Address already in use')") if len(tries) == 1 else [*app, f"--port={port}"]

        with supervise(launch(argv), tmp_path / "log", print) as server:
            assert server.endpoints["base"].base_url == f"http://127.0.0.1:{tries[-1]}/v1"
        assert len(tries) == 2


class TestEnd:
    def test_whole_group_is_stopped(self, tmp_path: Path) -> None:
        """What the server started is stopped with it, even if it does not listen to SIGTERM."""
        script = "(trap '' TERM; echo deaf; exec sleep 60) & echo $!; wait"
        server = ServerProcess(["sh", "-c", script], {}, tmp_path / "log")
        assert eventually(lambda: len(server.log_tail()) == 2)
        grandchild = next(int(line) for line in server.log_tail() if line != "deaf")
        server.stop()
        assert eventually(lambda: not is_running(server.pid) and not is_running(grandchild))
        server.stop()

    def test_an_exception_stops_the_server(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ctrl-C while the server loads leaves nothing behind."""
        monkeypatch.setattr("swe_eval.serving.process.PROGRESS", 0.2)

        def interrupt(line: str) -> None:
            raise KeyboardInterrupt

        def argv(port: int) -> list[str]:
            return python("import os, time; print(os.getpid(), flush=True); time.sleep(60)")

        with pytest.raises(KeyboardInterrupt), supervise(launch(argv), tmp_path / "log", interrupt):
            pass
        assert not is_running(int((tmp_path / "log").read_text()))

    @pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
    def test_server_dies_with_a_killed_parent(self, tmp_path: Path) -> None:
        """A parent that is SIGKILLed cleans nothing up; the kernel does, and the GPU is free again."""
        log = tmp_path / "log"
        code = f"""
import time
from pathlib import Path
from swe_eval.serving.process import ServerProcess
print(ServerProcess(["sleep", "60"], {{}}, Path({str(log)!r})).pid, flush=True)
time.sleep(60)
"""
        with subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout
            server = int(parent.stdout.readline())
            assert is_running(server)
            parent.kill()
        assert eventually(lambda: not is_running(server))

    def test_slurm_warning_is_survived(self, tmp_path: Path) -> None:
        """SLURM may send SIGUSR2 to every process of the step; the server lives on."""
        server = ServerProcess(["sleep", "60"], {}, tmp_path / "log")
        os.kill(server.pid, signal.SIGUSR2)
        time.sleep(0.2)
        server.check()
        server.stop()
