"""Sweeps without a cluster: each job with GPUs of its own, what is wrong said before anything starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from adapter_fixtures import Made, modules
from scripted import scripted_endpoint
from test_command import swe_eval
from test_demo_run import wait_for
from test_evaluate import TASKS, external, solve
from test_slurm import finish, held

from swe_eval.cluster.sweep import is_through
from swe_eval.cluster.walltime import CLOSING, Walltime
from swe_eval.run_dir import RunDir, Trial, write_json, write_text
from swe_eval.settings import PACKAGE

LOCAL = "hydra/launcher=submitit_local"


def sweep(
    folder: Path, endpoint, *overrides: str, gpus: str = "4,7", began: str = "--default-signal=INT"
) -> subprocess.Popen[str]:
    """Of two shards with a task each."""
    what = [LOCAL, *external(endpoint, "good", tasks=TASKS), "benchmark.shard=1/2,2/2", *overrides]
    env = [began, f"CUDA_VISIBLE_DEVICES={gpus}", sys.executable, "-m", "swe_eval", "-m", *what]
    return subprocess.Popen(["env", *env], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def jobs(folder: Path) -> list[dict[str, str]]:
    files = list(folder.glob("multirun_outputs/*/sweep.json"))
    return json.loads(files[0].read_text())["jobs"] if files else []


def devices(pid: str) -> str:
    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return next(each.partition("=")[2] for each in variables if each.startswith("CUDA_VISIBLE_DEVICES="))


@pytest.fixture
def endpoint():
    with scripted_endpoint(solve) as endpoint:
        yield endpoint


def test_each_job_of_one_machine_has_a_gpu_of_its_own(tmp_path, endpoint):
    with held(endpoint):
        process = sweep(tmp_path, endpoint)
        wait_for(lambda: len(endpoint.turns) == 2)
        assert sorted(devices(job["job_id"]) for job in jobs(tmp_path)) == ["4", "7"]
    out, code = finish(process)
    assert code == 0, out
    again, code = finish(sweep(tmp_path, endpoint))
    assert (again, code) == ("0: through already\n1: through already\n", 0)


def test_a_job_is_not_through_where_its_adapter_was_trained_again(tmp_path, endpoint):
    adapter = Made(modules("o_proj")).write(tmp_path / "trained")
    what = (f"lora.adapters=[{{name: good, path: {adapter}}}]", "lora.proof=none")
    out, code = finish(sweep(tmp_path, endpoint, *what))
    assert code == 0, out
    Made(modules("o_proj"), seed=1).write(adapter)
    out, code = finish(sweep(tmp_path, endpoint, *what))
    assert (code, "2 of 2 jobs are not through" in out) == (1, True), out
    logs = [next(tmp_path.glob("multirun_outputs/*")) / job["log"] for job in jobs(tmp_path)]
    assert all("adapters.good: " in log.read_text() for log in logs)


def test_to_a_job_that_only_grades_weights_are_nothing(settings, tmp_path):
    adapter = Made(modules("o_proj")).write(tmp_path / "trained")
    chosen = settings("stages=[grade]", "lora=trained", f"lora.path={adapter}")
    run, trial = RunDir(chosen.output_dir), Trial("trained", TASKS[0])
    write_text(run.prediction(trial), "")
    write_json(run.report(trial), {trial.instance_id: {"outcome": "empty_patch"}})
    write_json(run.run_json, {"trials": {trial.arm: [trial.instance_id]}})
    write_json(run.config_yaml, chosen.model_dump(mode="json"))
    os.utime(run.config_yaml, (0, 0))
    assert is_through(run, chosen)


@pytest.mark.parametrize(
    ("began", "told"), [("--default-signal=INT", signal.SIGINT), ("--ignore-signal=INT", signal.SIGTERM)]
)
def test_jobs_wait_for_one_another_where_there_is_one_gpu_and_end_with_the_sweep(tmp_path, endpoint, began, told):
    """Also in the background of a script, where SIGINT is ignored."""
    with held(endpoint):
        process = sweep(tmp_path, endpoint, gpus="0", began=began)
        wait_for(lambda: endpoint.turns)
        [only] = jobs(tmp_path)
        process.send_signal(told)
        out, code = finish(process)
    assert code == 130, out
    assert not Path(f"/proc/{only['job_id']}").exists()


def test_jobs_end_with_a_sweep_that_is_killed_and_the_same_command_goes_on(tmp_path, endpoint):
    with held(endpoint):
        process = sweep(tmp_path, endpoint)
        wait_for(lambda: len(endpoint.turns) == 2)
        process.kill()
        wait_for(lambda: not any(Path(f"/proc/{job['job_id']}").exists() for job in jobs(tmp_path)))
    out, code = finish(sweep(tmp_path, endpoint))
    assert code == 0, out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("hydra/launcher=slurm", "swe_eval: hydra/launcher=slurm: launches the jobs of a sweep; write -m before the"),
        (
            f"-m {LOCAL} hydra.launcher.at_once=0 serving=external serving.base_url=http://127.0.0.1:9/v1",
            "swe_eval: hydra.launcher.at_once=0: write a number from 1 on, or leave it out",
        ),
        (f"-m {LOCAL} agent.max_turns=3,0", "swe_eval: agent.max_turns: input should be greater than 0, not 0"),
        ("-m hydra/launcher=slurm hydra.launcher.partitio=x", "swe_eval: hydra.launcher.partitio: no such field; did"),
        (f"-m {LOCAL} hydra.launcher.at_once=two", "swe_eval: command line: Error merging override hydra.launcher"),
        (f"-m {LOCAL} hydra.sweep.subdir=x seed=1,2", "swe_eval: hydra.sweep.subdir: two jobs have the directory x;"),
        (
            f"-m {LOCAL} tracking=wandb seed=1,2",
            "swe_eval: tracking=wandb: no key; run wandb login, or write",
        ),
        ("-m hydra/launcher=submitit_slurm", "swe_eval: hydra/launcher=submitit_slurm: no such option; write one of"),
    ],
)
def test_a_mistake_is_one_line_before_any_job(arguments, line, tmp_path, monkeypatch):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    done = swe_eval("swe_eval", *arguments.split(), cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith(line)
    assert jobs(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("lora=none", "swe_eval: lora: no checkpoints to watch; write experiment=checkpoints lora.run=..."),
        ("experiment=checkpoints", "swe_eval: lora.run: needs a value: write lora.run=..."),
        (
            "experiment=checkpoints lora.run=. lora.every=2",
            "swe_eval: lora.every=2: is counted from the last, which none",
        ),
        (
            "experiment=checkpoints lora.run=. lora.per_job=4",
            "swe_eval: lora.per_job=4: jobs would change as checkpoints come; leave it out",
        ),
        (
            "experiment=checkpoints lora.run=/nowhere",
            "swe_eval: lora.run=/nowhere: no such directory; write the output",
        ),
        ("experiment=checkpoints lora.run=. --every -1", "swe_eval: --every -1: write seconds, such as 60"),
        ("--config-dir=.", "swe_eval: --config-dir=.: a watch takes no option but --every; write its fields as FIELD="),
        ("--lora.run=.", "swe_eval: --lora.run=.: no such option; did you mean lora.run=...?"),
        ("lora.run=.", "swe_eval: lora.run: is a field of lora=checkpoints; write lora=checkpoints, too"),
        ("experiment=checkpoints lora.run=. workers=0", "swe_eval: workers: write auto, or how many rollouts at once"),
    ],
)
def test_what_cannot_be_watched_is_one_line(arguments, line, tmp_path):
    done = swe_eval("swe_eval.watch", *arguments.split(), cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith(line)


def test_a_checkpoint_that_is_left_out_is_no_news_to_a_watch(tmp_path):
    """The sweep itself is refused at once: nothing is rolled out."""
    (tmp_path / "grpo").mkdir()
    for step in (1, 9):
        (tmp_path / "grpo" / f"checkpoint-{step}").symlink_to(PACKAGE / "benchmark" / "demo" / "adapter")
    lora = ["experiment=checkpoints", "lora.run=grpo", "lora.last=5"]
    done = swe_eval("swe_eval.watch", *lora, "stages=[grade]", cwd=tmp_path)
    assert [line for line in done.stdout.splitlines() if line.startswith("new: ")] == ["new: grpo-1"], done.stderr
    assert done.returncode == 2


def test_without_the_extra_it_is_named(tmp_path):
    code = "import sys; sys.modules['submitit'] = None; from swe_eval.__main__ import main; main()"
    argv = [sys.executable, "-c", code, "-m", "hydra/launcher=slurm", "lora=none"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    said = "swe_eval: hydra/launcher: submitit is not installed; write pip install 'swe_eval[slurm]'\n"
    assert (done.returncode, done.stderr) == (2, said)


def test_a_trial_begins_while_what_most_took_so_far_fits_into_the_time_left(monkeypatch):
    monkeypatch.setattr("swe_eval.cluster.walltime.KNOWN_FOR", 0.0)
    left = [100.0 + CLOSING]
    walltime = Walltime(lambda: time.time() + left[0])
    assert walltime.allows_another()
    for seconds in range(100):
        walltime.took(60.0 * seconds)
    left[0] = 60.0 * 95 + CLOSING
    assert walltime.allows_another()
    left[0] = 60.0 * 93 + CLOSING
    assert not walltime.allows_another()
    left[0] = 60.0 * 1000
    assert not walltime.allows_another()
    assert walltime.is_over


def test_the_end_is_asked_for_once_a_minute_and_one_trial_alone_waits_for_the_answer(monkeypatch):
    clock, asked, answered = [0.0], [], threading.Event()
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def end() -> float:
        asked.append(clock[0])
        if clock[0] > 0:
            answered.wait(5)
        return time.time() + 3600

    walltime = Walltime(end)
    assert walltime.allows_another()
    clock[0] = 61.0
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(walltime.allows_another)
        wait_for(lambda: 61.0 in asked or waiting.done())
        assert walltime.allows_another() and not waiting.done()
        answered.set()
    assert (waiting.result(), asked) == (True, [0.0, 61.0])


def test_outside_of_a_job_there_is_always_time():
    assert Walltime(earlier=[10.0**9]).allows_another()
