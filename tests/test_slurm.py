"""Sweeps on a real SLURM: whatever becomes of its jobs, every trial is scored once and nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import BASE_IMAGE
from scripted import ScriptedEndpoint, scripted_endpoint
from test_demo_run import OUTCOMES, wait_for
from test_evaluate import TASKS as BOTH
from test_evaluate import external, solve

from swe_eval.cluster import slurm
from swe_eval.cluster.scratch import PREFIX
from swe_eval.cluster.walltime import KNOWN_FOR
from swe_eval.settings import PACKAGE

pytestmark = pytest.mark.slurm

SMALL = [
    "hydra/launcher=slurm",
    *(f"hydra.launcher.{given}" for given in ("cpus_per_task=1", "mem_gb=1", "timeout_min=5")),
]
"""Two jobs fit on the node at once."""
TASKS = [folder.name for folder in sorted((PACKAGE / "benchmark/demo/tasks").iterdir())]


class Cluster:
    """A person at the login node, in a directory of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def sweep(self, *overrides: str, launcher: list[str] = SMALL) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "swe_eval", "-m", *launcher, *overrides]
        return self.start(argv)

    def start(self, argv: list[str]) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, cwd=self.folder, stdout=pipe, stderr=subprocess.STDOUT, text=True)

    @property
    def dir(self) -> Path:
        """The directory of the only sweep."""
        return next((self.folder / "multirun_outputs").glob("*"), self.folder / "none yet")

    def rows(self) -> dict[str, dict[str, object]]:
        return {row["name"]: row for row in json.loads((self.dir / "sweep.json").read_text())["jobs"]}

    def outcomes(self) -> dict[str, list[str]]:
        """By job, of every report that is there."""
        found: dict[str, list[str]] = {}
        for report in sorted(self.dir.glob("*/evaluation/*/*/report.json")):
            [entry] = json.loads(report.read_text()).values()
            found.setdefault(report.relative_to(self.dir).parts[0], []).append(entry["outcome"])
        return found


def said(*command: str) -> str:
    """What a command printed."""
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def state(job: str) -> str:
    return said("squeue", "--noheader", "--jobs", job, "--format=%T")


def processes_of(folder: Path) -> list[int]:
    """Those that work below a test's directory, or in a job's scratch."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            place = os.readlink(entry / "cwd")
        except OSError:
            continue
        if place.startswith(str(folder)) or f"/{PREFIX}" in place:
            found.append(int(entry.name))
    return found


def finish(process: subprocess.Popen[str]) -> tuple[str, int]:
    """What it printed, and its exit code."""
    return process.communicate(timeout=600)[0], process.returncode


@contextmanager
def held(endpoint: ScriptedEndpoint, but: int = 0) -> Iterator[None]:
    """No agent gets an answer until the block ends, but to the first of their requests."""
    go_on = threading.Event()

    def hold(model: str, messages: list[dict[str, object]]) -> str:
        if messages[0]["role"] == "system" and len(endpoint.turns) > but:
            go_on.wait(300)
        return solve(model, messages)

    endpoint.script = hold
    yield
    go_on.set()


def restarted(job: str) -> None:
    """Once it waits in the queue again, without the two minutes that SLURM gives it there, and with all its time."""
    wait_for(lambda: state(job) == "PENDING")
    time.sleep(2)  # within a second of its end, a node refuses to start it: "Job credential revoked"
    said("scontrol", "update", f"JobId={job}", "StartTime=now", "TimeLimit=5")


def assert_each_once(cluster: Cluster, out: str, code: int) -> None:
    """Two tasks by `bad` and by `good`."""
    assert code == 0, out
    assert cluster.outcomes() == {"0": ["empty_patch"] * 2 + ["resolved"] * 2}
    assert not list(cluster.dir.glob("*/logs/infra.jsonl"))


def write_checkpoint(cluster: Cluster, step: int) -> None:
    shutil.copytree(PACKAGE / "benchmark/demo/adapter", cluster.folder / f"grpo/checkpoint-{step}")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Nothing is left of the test's jobs, once they have ended."""
    yield Cluster(tmp_path)
    wait_for(lambda: not said("squeue", "--noheader"))
    wait_for(lambda: not processes_of(tmp_path), 30)
    assert list(Path(tempfile.gettempdir()).glob(f"{PREFIX}*")) == []


@pytest.fixture
def endpoint():
    with scripted_endpoint(solve) as endpoint:
        yield endpoint


def test_a_sweep_of_four_checkpoints_ends_with_their_curve(cluster):
    """The demo's adapter, more of it from step to step; two checkpoints share a server, a fifth is not written yet."""
    adapter = PACKAGE / "benchmark" / "demo" / "adapter"
    for step in (1, 2, 3, 4):
        checkpoint = shutil.copytree(adapter, cluster.folder / f"grpo/checkpoint-{step}")
        config = json.loads((adapter / "adapter_config.json").read_text())
        more = config | {"lora_alpha": config["lora_alpha"] * step / 4}
        (checkpoint / "adapter_config.json").write_text(json.dumps(more))
    (cluster.folder / "grpo/checkpoint-5").mkdir()
    what = ["experiment=checkpoints", "lora.run=grpo", "lora.with_base=false", "lora.per_job=2"]
    out, code = finish(cluster.sweep(*what, f"benchmark.instance_ids=[{TASKS[0]}]"))
    assert code == 0, out
    assert "lora.run: checkpoint-5 is left out: no adapter_config.json in it" in out
    assert list(cluster.rows()) == ["grpo-1-to-grpo-2", "grpo-3-to-grpo-4"]
    runs = sorted(path.relative_to(cluster.dir).parts[:3:2] for path in cluster.dir.glob("*/evaluation/*"))
    assert runs == [
        (job, f"grpo-{step}") for job, steps in zip(cluster.rows(), ("12", "34"), strict=True) for step in steps
    ]
    assert cluster.outcomes()["grpo-3-to-grpo-4"][-1] == "resolved"
    report, code = finish(cluster.start([sys.executable, "-m", "swe_eval.report", str(cluster.dir)]))
    assert code == 0, report
    assert (cluster.dir / "curve.svg").is_file()


def test_a_job_that_fails_is_failed_in_slurm_and_the_others_are_told_of_and_left_alone(cluster, endpoint):
    refused = {"error": {"message": "not loaded", "code": "late"}}
    endpoint.script = lambda model, messages: refused if model == "late" else solve(model, messages)
    arms = "lora.adapters=[{name:good,path:null}],[{name:late,path:null}]"
    command = [*external(endpoint, tasks=TASKS[:1]), arms]
    out, code = finish(cluster.sweep(*command))
    assert code == 1, out
    assert "0: COMPLETED, exit code 0; of 1 trials 1 are rolled out, 1 graded" in out
    assert "1: FAILED, exit code 1; of 1 trials 0 are rolled out, 0 graded" in out
    assert "1 of 2 jobs are not through; the same command runs what is missing" in out
    assert "not loaded" in (cluster.dir / cluster.rows()["1"]["log"]).read_text()

    endpoint.script = solve
    out, code = finish(cluster.sweep(*command))
    assert code == 0, out
    assert "0: through already" in out
    assert cluster.outcomes() == {"0": ["resolved"], "1": ["empty_patch"]}


def test_a_benchmark_in_shards_is_merged(cluster, endpoint):
    """Four jobs are more than an array may have here (MaxArraySize=3); two of them are at work at once."""
    command = external(endpoint, "good", tasks=TASKS[:4])
    with held(endpoint):
        sweep = cluster.sweep(*command, "benchmark.shard=1/4,2/4,3/4,4/4")
        wait_for(lambda: len(endpoint.turns) >= 2)
    out, code = finish(sweep)
    assert code == 0, out
    arrays = {row["job_id"].split("_")[0] for row in cluster.rows().values()}
    assert len(arrays) == 2
    report, code = finish(cluster.start([sys.executable, "-m", "swe_eval.report", str(cluster.dir)]))
    assert code == 0, report
    assert "good  50.0%" in report


@pytest.mark.docker
def test_scancel_ends_a_job_and_its_containers_in_seconds_and_the_same_command_continues(cluster, endpoint):
    docker = ["sandbox=docker", f"+sandbox.build_args.BASE={BASE_IMAGE}", "sandbox.memory=1g"]
    command = [*external(endpoint, "good", "bad", tasks=BOTH), *docker]
    containers = ("docker", "ps", "--all", "--quiet", "--filter", "label=swe_eval.run")
    with held(endpoint):
        sweep = cluster.sweep(*command)
        wait_for(lambda: endpoint.turns)
        mine = set(said(*containers).split())
        assert mine
        began = time.monotonic()
        said("scancel", cluster.rows()["0"]["job_id"])
        out, code = finish(sweep)
    assert time.monotonic() - began < 100  # then SLURM itself kills what is left (KillWait in .ci/slurm)
    assert code == 1, out
    assert "0: CANCELLED" in out
    assert not mine & set(said(*containers).split())
    assert_each_once(cluster, *finish(cluster.sweep(*command)))


def test_the_jobs_of_a_killed_driver_go_on_and_are_waited_for_by_the_next(cluster, endpoint):
    command = external(endpoint, "good", "bad", tasks=BOTH)
    with held(endpoint):
        sweep = cluster.sweep(*command)
        wait_for(lambda: endpoint.turns)
        sweep.kill()
        again = cluster.sweep(*command)
        wait_for(lambda: "in the queue already" in again.stdout.readline())
    assert_each_once(cluster, *finish(again))
    assert len(endpoint.turns) == 8  # two for each trial, none of them again


def test_a_job_that_runs_out_of_time_begins_no_trial_and_goes_on_after_a_restart(cluster, endpoint):
    no_warning = "hydra.launcher.signal_delay_s=0"
    with held(endpoint, but=3):
        sweep = cluster.sweep(*external(endpoint, "good", "bad", tasks=BOTH), "workers=1", no_warning)
        wait_for(lambda: cluster.outcomes() and len(endpoint.turns) == 4)
        job = cluster.rows()["0"]["job_id"]
        said("scontrol", "update", f"JobId={job}", f"EndTime=now+{KNOWN_FOR + 20:.0f}")
        time.sleep(KNOWN_FOR)
    restarted(job)
    assert_each_once(cluster, *finish(sweep))
    log = (cluster.dir / cluster.rows()["0"]["log"]).read_text()
    assert "trials are owed; the same command continues" in log
    assert len(endpoint.turns) == 8  # no trial was cut short


def test_a_job_that_is_warned_goes_on_after_a_restart(cluster, endpoint):
    with held(endpoint):
        sweep = cluster.sweep(*external(endpoint, "good", "bad", tasks=BOTH))
        wait_for(lambda: endpoint.turns)
        job = cluster.rows()["0"]["job_id"]
        said("scancel", "--signal=USR2", job)
        restarted(job)
    assert_each_once(cluster, *finish(sweep))
    calls = json.loads((cluster.dir / "0" / "run.json").read_text())["invocations"]
    assert [call["slurm_job"] for call in calls] == [job, job]


def test_a_job_that_is_preempted_goes_on_and_what_its_end_broke_is_nobodys_failure(cluster):
    """SLURM signals every process of the job: the model's server, the tests that run, and then us."""
    whole_node = [*SMALL, "hydra.launcher.cpus_per_task=2", "hydra.launcher.partition=scavenge"]
    sweep = cluster.sweep("lora.with_base=false", "workers=4", launcher=whole_node)
    wait_for(lambda: list(cluster.dir.glob("0/predictions/demo/*.diff")))
    job = cluster.rows()["0"]["job_id"]
    said("srun", "--partition=urgent", "--cpus-per-task=2", "true")
    restarted(job)
    out, code = finish(sweep)
    assert code == 0, out
    assert cluster.outcomes() == {"0": OUTCOMES}


def test_watching_catches_a_checkpoint_that_comes_late(cluster, endpoint):
    write_checkpoint(cluster, 1)
    lora = ["experiment=checkpoints", "lora.run=grpo", "lora.with_base=false"]
    what = [f"serving.base_url={endpoint.base_url}", "serving=external", f"benchmark.instance_ids=[{TASKS[0]}]"]
    argv = [sys.executable, "-m", "swe_eval.watch", "--every", "1", *SMALL, *lora, *what]
    watch = cluster.start(argv)
    wait_for(lambda: cluster.outcomes())
    write_checkpoint(cluster, 2)
    wait_for(lambda: len(cluster.outcomes()) == 2)
    (cluster.dir / "stop").touch()
    out, code = finish(watch)
    assert code == 0, out
    assert cluster.outcomes() == {"grpo-1": ["empty_patch"], "grpo-2": ["empty_patch"]}


def test_generation_and_grading_are_jobs_of_their_own(cluster, endpoint):
    """As the README has it: the second waits for the first, each task for its own, and has no GPU."""
    shards = [*external(endpoint, "good", tasks=BOTH), "benchmark.shard=1/2,2/2", "hydra.launcher.wait=false"]
    out, code = finish(cluster.sweep(*shards, "stages=[rollout]"))
    assert code == 0, out
    array = cluster.rows()["0"]["job_id"].partition("_")[0]
    after = f'+hydra.launcher.additional_parameters.dependency="aftercorr:{array}"'
    out, code = finish(cluster.sweep(*shards, "stages=[grade]", "hydra.launcher.gres=null", after))
    assert code == 0, out
    wait_for(lambda: cluster.outcomes() == {"0": ["resolved"], "1": ["resolved"]})


def test_a_job_that_no_node_could_run_is_said_to_wait_for_ever():
    """A cluster may take it nevertheless, and then tells no more than a word."""
    submitted = ["sbatch", "--parsable", "--output=/dev/null", "--cpus-per-task=999", "--wrap=true"]
    job = subprocess.run(submitted, capture_output=True, text=True, check=True).stdout.strip()
    try:
        wait_for(lambda: (slurm.queue() or {}).get(job, slurm.State("", "")).reason in slurm.TOO_LARGE)
        assert "no node of the partition is so large; look at hydra.launcher.cpus_per_task" in str(slurm.queue()[job])
    finally:
        subprocess.run(["scancel", job], check=True)
