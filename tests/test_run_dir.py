"""The run directory: whole files, whose run it is, what is owed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from swe_eval.errors import UserError
from swe_eval.run_dir import BASE_MODEL, PART, RunDir, Trial, write_json, write_text

TRIAL = Trial("demo", "repo__name-1")


@pytest.fixture
def run(tmp_path) -> RunDir:
    return RunDir(tmp_path / "run")


def test_paths_are_those_of_the_design(run):
    relative = [path.relative_to(run.root).as_posix() for path in (run.trajectory(TRIAL), run.prediction(TRIAL))]
    assert relative == ["trajectories/demo/repo__name-1.traj.json", "predictions/demo/repo__name-1.diff"]
    assert run.report(TRIAL).relative_to(run.root).as_posix() == "evaluation/demo/repo__name-1/report.json"


def test_several_samples_are_arms_of_their_own():
    trials = [Trial("demo", "i", sample, 2) for sample in (1, 2)]
    assert [trial.arm for trial in trials] == ["demo.s1", "demo.s2"]
    assert [Trial.of_arm(trial.arm, "i", 2) for trial in trials] == trials
    assert Trial.of_arm("rl.s2", "i", 1) == Trial("rl.s2", "i")


def test_a_trial_is_done_stage_by_stage(run):
    assert (run.is_rolled_out(TRIAL), run.outcome(TRIAL)) == (False, None)
    write_text(run.prediction(TRIAL), "diff")
    write_json(run.report(TRIAL), {TRIAL.instance_id: {"outcome": "resolved"}})
    assert (run.is_rolled_out(TRIAL), run.outcome(TRIAL)) == (True, "resolved")


@pytest.mark.parametrize("patch", ["plain\n", "crlf\r\nand lone \r\n", "not utf-8: \udce9\n", ""])
def test_a_patch_survives_byte_for_byte(run, patch):
    write_text(run.prediction(TRIAL), patch)
    run.write_predictions_jsonl("demo", [TRIAL, Trial("demo", "not__done-1")])
    rows = [json.loads(line) for line in run.predictions_jsonl("demo").read_text().splitlines()]
    assert rows == [{"instance_id": TRIAL.instance_id, "model_name_or_path": "demo", "model_patch": patch}]


def test_a_file_being_written_is_not_seen(run):
    """Killed with SIGKILL between writing and renaming, it leaves the old file, and the part is cleared away later."""
    write_text(run.run_json, "old")
    code = f"""
import os, signal
from pathlib import Path
import swe_eval.run_dir as r
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
r.write_text(Path({str(run.run_json)!r}), "new")
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert (run.run_json.read_text(), len(os.listdir(run.root))) == ("old", 2)
    run.run_json.write_text('{"identity": {}}')
    os.utime(next(run.root.glob(f".*{PART}")), (0, 0))
    with run.claimed({}):
        assert sorted(os.listdir(run.root)) == [".lock", "run.json"]


def test_a_file_that_a_full_disk_does_not_take_is_named_and_takes_no_room(run):
    write_text(run.run_json, "old")
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4, 4))"
    write = f"from swe_eval.run_dir import *; write_text(Path({str(run.run_json)!r}), 'as long as it is new')"
    done = subprocess.run([sys.executable, "-c", f"{full}; {write}"], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == f"OSError: [Errno 27] File too large: '{run.run_json}'"
    assert (run.run_json.read_text(), os.listdir(run.root)) == ("old", ["run.json"])


def test_another_configuration_is_refused_by_the_keys_that_differ(run):
    with run.claimed({"agent.max_turns": 30, "seed": 0}):
        write_json(run.run_json, {"identity": {"agent.max_turns": 30, "seed": 0}})
    with pytest.raises(UserError) as error, run.claimed({"agent.max_turns": 5, "seed": 0}):
        pass
    assert str(error.value).splitlines()[1:] == ["agent.max_turns: 30 there, 5 now"]


def test_another_base_model_is_refused_where_the_run_has_noted_its_own(run):
    with run.claimed({"seed": 0}):
        write_json(run.run_json, {"identity": {"seed": 0}})
    with run.claimed({"seed": 0, BASE_MODEL: "one"}):
        write_json(run.run_json, {"identity": {"seed": 0, BASE_MODEL: "one"}})
    with pytest.raises(UserError, match=r"model\.content: 'one' there, 'another' now"):
        run.claimed({"seed": 0, BASE_MODEL: "another"}).__enter__()


@pytest.mark.parametrize(
    "damage", ["", "{", "[" * 99_999, "{}", "[]", '{"repo__name-1": 3}', '{"repo__name-1": {"outcome": 1}}']
)
def test_a_damaged_report_is_owed_again(damage, run):
    write_text(run.prediction(TRIAL), "diff")
    write_text(run.report(TRIAL), damage)
    assert (run.is_graded(TRIAL), run.read_report(TRIAL)) == (False, {})


def test_results_that_nobody_signed_are_refused(run):
    write_text(run.prediction(TRIAL), "diff")
    with pytest.raises(UserError, match=r"holds results, and no run\.json"):
        run.claimed({}).__enter__()


def test_what_cannot_be_read_just_now_is_not_taken_for_empty(run):
    assert run.recorded() == {}
    run.run_json.mkdir(parents=True)  # a file system has many ways to fail
    with pytest.raises(OSError, match="Is a directory"):
        run.recorded()


def test_files_of_others_are_left_alone(run):
    write_text(run.root / "docs" / ".thesis.pdf.part", "mine")
    with run.claimed({}):
        assert (run.root / "docs" / ".thesis.pdf.part").exists()


def test_a_file_that_a_report_is_writing_is_left_alone(run):
    write_text(run.root / f".report.html.{PART}", "half")
    with run.claimed({}):
        assert (run.root / f".report.html.{PART}").exists()


def test_a_folder_that_a_report_removes_meanwhile_is_nobodys_failure(run, monkeypatch):
    tried = run.root / "tried"
    tried.mkdir(parents=True)
    scandir = os.scandir

    def late(place):
        if Path(place) == tried:
            tried.rmdir()
        return scandir(place)

    monkeypatch.setattr(os, "scandir", late)
    with run.claimed({}):
        assert not tried.exists()


def test_two_processes_never_share_a_run_directory(run):
    with run.claimed({}), pytest.raises(UserError, match="in use by another process"), RunDir(run.root).claimed({}):
        pass


def test_a_place_that_cannot_be_written_is_one_line():
    with pytest.raises(UserError, match=r"output_dir=/proc/run: .*; write output_dir="):
        RunDir(Path("/proc/run")).claimed({}).__enter__()


def test_the_id_of_a_run_is_its_place(tmp_path):
    assert RunDir(tmp_path / "a").id == RunDir(tmp_path / "b" / ".." / "a").id != RunDir(tmp_path / "b").id


def test_a_file_system_without_locks_is_not_taken_for_another_process(run, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UserError, match=r"locks no files .Function not implemented.; write output_dir="):
        run.claimed({}).__enter__()
