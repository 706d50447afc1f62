"""Whatever is killed, and whenever: the same command ends with every trial scored once, as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import BASE_IMAGE
from test_demo_run import OUTCOMES, server_of, wait_for

pytestmark = pytest.mark.docker

SAMPLES = 8
VICTIMS = ["runner", "server", "engine", "container"]
ROUNDS = 4
"""Each victim once per round."""
PER_DEED = SAMPLES * len(OUTCOMES) // (ROUNDS * len(VICTIMS))
"""Trials that a fast machine ends between two of them, at most."""
COMMAND = [
    *("sandbox=docker", f"+sandbox.build_args.BASE={BASE_IMAGE}", "sandbox.memory=1g", "sandbox.grading_network=none"),
    *("lora.with_base=false", f"agent.samples={SAMPLES}", "agent.model_retries=1", "workers=4"),
]


@dataclass
class Engine:
    """A Docker engine of the test's own, which may be killed; in a network of its own, or it takes others' bridges."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"DOCKER_HOST": f"unix://{self.folder}/docker.sock"}

    def start(self) -> None:
        """Sometimes its own containerd, killed with it, keeps it from coming up the first time."""
        while not self._comes_up():
            self.kill()

    def _comes_up(self) -> bool:
        (self.folder / "docker.pid").unlink(missing_ok=True)
        places = [f"--{what}={self.folder / what}" for what in ("data-root", "exec-root")]
        alone = ["--bridge=none", "--iptables=false", f"--pidfile={self.folder}/docker.pid"]
        command = ["unshare", "--net", "dockerd", f"--host=unix://{self.folder}/docker.sock", *places, *alone]
        with (self.folder / "dockerd.log").open("ab") as log:
            self.process = process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(lambda: process.poll() is not None or "Server Version" in self.docker("info"))
        return process.poll() is None

    def docker(self, *arguments: str, **how: object) -> str:
        done = subprocess.run(["docker", *arguments], env=self.environment, capture_output=True, text=True, **how)
        return done.stdout

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        assert self.process
        self.process.terminate()
        self.process.wait()
        subprocess.run(["umount", self.folder / "data-root"], capture_output=True)  # a killed engine leaves its mount


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """With the image that the tasks' images are built on."""
    engine = Engine(tmp_path_factory.mktemp("engine"))
    engine.start()
    with subprocess.Popen(["docker", "save", BASE_IMAGE], stdout=subprocess.PIPE) as saved:
        engine.docker("load", stdin=saved.stdout)
    yield engine
    engine.stop()


class Run:
    """The same command, as often as it takes."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.folder, self._engine = folder, engine
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with (self.folder / "output").open("ab") as output:
            argv = [sys.executable, "-m", "swe_eval", *COMMAND]
            return subprocess.Popen(argv, cwd=self.folder, env=self._engine.environment, stdout=output, stderr=output)

    def keep_going(self) -> bool:
        """Start it again if it has ended with something owed; False once it is through."""
        if (code := self.process.poll()) is None:
            return True
        if code:
            self.process = self._start()
        return bool(code)


def do_harm(what: str, run: Run, engine: Engine, chance: random.Random) -> None:
    if what == "runner":
        run.process.kill()
        run.process.wait()
    elif what == "server" and (server := server_of(run.process.pid)):
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(server, signal.SIGKILL)
    elif what == "engine":
        engine.kill()
        time.sleep(chance.uniform(0, 2))
        engine.start()
    elif what == "container" and (running := engine.docker("ps", "--quiet").split()):
        engine.docker("kill", chance.choice(running))


def test_every_trial_is_scored_once_whatever_is_killed(engine, tmp_path):
    chance = random.Random(8)
    run = Run(tmp_path, engine)
    deeds = [victim for _ in range(ROUNDS) for victim in chance.sample(VICTIMS, len(VICTIMS))]
    results = tmp_path / "outputs" / "demo-tiny-demo"
    deadline = time.monotonic() + 1800

    def graded() -> int:
        return len(list(results.glob("evaluation/*/*/report.json")))

    while run.keep_going():
        assert time.monotonic() < deadline, (tmp_path / "output").read_text()[-5000:]
        moment, most = time.monotonic() + chance.uniform(1, 6), graded() + PER_DEED
        while run.keep_going() and time.monotonic() < moment and graded() < most:
            time.sleep(0.1)
        if deeds:
            do_harm(deeds.pop(), run, engine, chance)
    assert len(deeds) <= len(VICTIMS), "the run was through before every victim had its turn thrice"
    for sample in range(1, SAMPLES + 1):
        reports = sorted(results.glob(f"evaluation/demo.s{sample}/*/report.json"))
        entries = [entry for report in reports for entry in json.loads(report.read_text()).values()]
        assert [entry["outcome"] for entry in entries] == OUTCOMES
    ours = ["--filter", "label=swe_eval.run"]  # an engine that is killed leaves what its builds were at
    assert engine.docker("ps", "--all", "--quiet", *ours) == ""
