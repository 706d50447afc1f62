"""A supervised child process: what is said when it fails, and that it never outlives us."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from swe_eval.errors import ServingError
from swe_eval.serving import supervised
from swe_eval.serving.endpoint import Endpoint, is_healthy
from swe_eval.serving.process import ServerProcess
from swe_eval.serving.supervised import Launch, SupervisedServer, free_port


def python(code: str) -> list[str]:
    """The command line of a Python program."""
    return [sys.executable, "-c", code]


def launch(argv: Callable[[int], list[str]], port: int | None = None, timeout: float = 60) -> Launch:
    """A server with one model, ``base``."""
    env = {"SWE_EVAL_API_KEY": "secret"}
    return Launch(argv, env, "secret", "127.0.0.1", port, models={"base": "base"}, startup_timeout=timeout)


def failure(tmp_path: Path, code: str, **options: float) -> str:
    """What is said of a program that does not become a server."""
    with (
        pytest.raises(ServingError) as error,
        SupervisedServer(launch(lambda _: python(code), **options), tmp_path / "log", print),
    ):
        pass
    return str(error.value)


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return bool(state.strip()) and not state.startswith("Z")


def eventually(condition: Callable[[], bool], seconds: float = 30) -> bool:
    """Whether the condition becomes true in time; what is to be killed here would last for a minute."""
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

    def test_slow_start(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A server that is not ready in time is stopped, with what it said last: time begins to pass once it has."""

        def monotonic() -> float:
            return 61.0 if "\nstep 1\n" in (tmp_path / "log").read_text() else 0.0

        monkeypatch.setattr(supervised, "time", SimpleNamespace(monotonic=monotonic, sleep=time.sleep))
        said = failure(tmp_path, "import time; print('step 1', flush=True); time.sleep(60)")
        assert said.startswith("the model server is not ready after 61 s (serving.startup_timeout)")
        assert said.endswith("  step 1")

    def test_earlier_logs_are_kept_and_not_quoted(self, tmp_path: Path) -> None:
        """A continued run appends to the log; only what this server wrote is blamed on it."""
        (tmp_path / "log").write_text("CUDA out of memory\n")
        assert "memory" not in failure(tmp_path, "raise SystemExit('other')")
        before, command, after = (tmp_path / "log").read_text().splitlines()
        assert (before, after) == ("CUDA out of memory", "other")
        assert command.startswith(f"$ {sys.executable} -c ")

    def test_lost_race_for_a_port_is_run_again(self, tmp_path: Path) -> None:
        """A port that was ours to choose, and that somebody took, is no failure; the next may be taken, too."""
        tries = []

        def argv(port: int) -> list[str]:
            tries.append(port)
            return [*python(ANSWERING if len(tries) > 1 else "raise SystemExit('Address already in use')"), str(port)]

        racing = replace(launch(argv), env={"NAMES": "base"})
        with SupervisedServer(racing, tmp_path / "log", print) as server:
            assert server.endpoints["base"].base_url == f"http://127.0.0.1:{tries[-1]}/v1"
        assert len(tries) > 1


class TestEnd:
    def test_whole_group_is_stopped(self, tmp_path: Path) -> None:
        """What the server started is stopped with it, even if it does not listen to SIGTERM."""
        script = "(trap '' TERM; echo deaf; exec sleep 60) & echo $!; wait"
        server = ServerProcess(["sh", "-c", script], {}, tmp_path / "log", {})
        assert eventually(lambda: len(server.log_tail()) == 2)
        grandchild = next(int(line) for line in server.log_tail() if line != "deaf")
        server.stop()
        assert eventually(lambda: not is_running(server.pid) and not is_running(grandchild))
        server.stop()

    def test_an_exception_stops_the_server(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ctrl-C while the server loads leaves nothing behind."""
        monkeypatch.setattr(supervised, "PROGRESS", 0.0)

        def interrupt(line: str) -> None:
            if len((tmp_path / "log").read_text().splitlines()) == 2:  # the command, and what it printed
                raise KeyboardInterrupt

        def argv(port: int) -> list[str]:
            return python("import os, time; print(os.getpid(), flush=True); time.sleep(60)")

        with pytest.raises(KeyboardInterrupt), SupervisedServer(launch(argv), tmp_path / "log", interrupt):
            pass
        assert not is_running(int((tmp_path / "log").read_text().splitlines()[-1]))

    @pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
    def test_server_dies_with_a_killed_parent(self, tmp_path: Path) -> None:
        """A parent that is SIGKILLed cleans nothing up; the kernel and the guard do, and the GPU is free again.

        vLLM's engine outlives its API server otherwise.
        """
        log = tmp_path / "log"
        code = f"""
import time
from pathlib import Path
from swe_eval.serving.process import ServerProcess
print(ServerProcess(["sh", "-c", "setsid sleep 60 & echo $!; wait"], {{}}, Path({str(log)!r}), {{}}).pid, flush=True)
time.sleep(60)
"""
        with subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout
            guard = int(parent.stdout.readline())
            assert eventually(lambda: len(log.read_text().splitlines()) == 2)
            engine = int(log.read_text().splitlines()[1])
            assert is_running(guard) and is_running(engine)
            parent.kill()
        assert eventually(lambda: not is_running(guard) and not is_running(engine))

    def test_a_server_that_ends_takes_its_own_processes_along(self, tmp_path: Path) -> None:
        server = ServerProcess(["sh", "-c", "setsid sleep 60 & echo $!; exit 3"], {}, tmp_path / "log", {})
        assert eventually(lambda: not server.is_running())
        assert not is_running(int((tmp_path / "log").read_text().splitlines()[1]))
        assert server.end == "the model server ended with exit code 3"

    def test_slurm_warning_is_survived(self, tmp_path: Path) -> None:
        """SLURM may send SIGUSR2 to every process of the step; the server lives on."""
        server = ServerProcess(["sleep", "60"], {}, tmp_path / "log", {})
        os.kill(server.pid, signal.SIGUSR2)
        time.sleep(0.2)
        server.check()
        server.stop()


ANSWERING = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send({"data": [{"id": name} for name in os.environ["NAMES"].split()]})

    def do_POST(self):
        self.send({"choices": [{"message": {"content": str(os.getpid())}}]})

    def send(self, value):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class TestRestart:
    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[SupervisedServer]:
        """One that answers, and the lines said of it."""
        self.said: list[str] = []
        small = replace(launch(lambda port: [*python(ANSWERING), str(port)]), env={"NAMES": "base"})
        with SupervisedServer(small, tmp_path / "log", self.said.append) as server:
            yield server

    def kill(self, server: SupervisedServer) -> Endpoint:
        """Kill what answers; returns the endpoint that has just failed."""
        endpoint = server.endpoints["base"]
        asked = httpx.post(f"{endpoint.base_url}/chat/completions", timeout=60)
        os.kill(int(asked.json()["choices"][0]["message"]["content"]), signal.SIGKILL)
        return endpoint

    def test_a_server_that_dies_is_started_again_once_for_all_whom_it_failed(self, server: SupervisedServer) -> None:
        failed = self.kill(server)
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda _: server.recovered("base", failed), range(8))) == [True] * 8
        assert not server.recovered("base", server.endpoints["base"])
        assert [line.split(":")[0] for line in self.said if "ended" in line] == [
            "the model server ended with exit code -9"
        ]

    def test_leaving_the_context_ends_it_and_frees_its_port(self, tmp_path: Path) -> None:
        port = free_port("127.0.0.1")
        fixed = replace(launch(lambda _: [*python(ANSWERING), str(port)], port), env={"NAMES": "base"})
        with SupervisedServer(fixed, tmp_path / "log", print) as server:
            server.check()
        with pytest.raises(ServingError):
            server.check()
        socket.create_server(("127.0.0.1", port)).close()

    def test_the_same_end_three_times_is_the_end(self, server: SupervisedServer) -> None:
        for _ in range(2):
            assert server.recovered("base", self.kill(server))
        with pytest.raises(ServingError, match=r"^the model server ended with exit code -9, for the 3\. time"):
            server.recovered("base", self.kill(server))

    def test_a_failure_that_is_not_the_servers_is_left_to_the_caller(self, server: SupervisedServer) -> None:
        assert not server.recovered("base", server.endpoints["base"])

    def test_a_neighbour_that_took_the_port_is_not_taken_for_ours(self, tmp_path: Path) -> None:
        """One without a key answers everybody: what it lists tells it apart."""
        port = free_port("127.0.0.1")
        neighbour = ServerProcess([*python(ANSWERING), str(port)], {"NAMES": "base"}, tmp_path / "theirs", {})
        assert eventually(lambda: is_healthy(Endpoint(f"http://127.0.0.1:{port}/v1", "any", "base", None)))
        ours = replace(launch(lambda _: python("import time; time.sleep(60)"), port, timeout=1), name="ours-1f")
        with pytest.raises(ServingError, match="not ready after"), SupervisedServer(ours, tmp_path / "log", print):
            pass
        neighbour.stop()
