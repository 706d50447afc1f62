"""A run in the forms that others read: every trial in a table, a submission that the leaderboard's scripts take."""

from __future__ import annotations

import csv
import errno
import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from test_evaluate import TASKS, solve
from test_trajectories import reported
from trajectory_fixtures import evaluated

from bench.synthetic_runs import make_run
from swe_eval import command
from swe_eval.report.export.leaderboard import statements
from swe_eval.report.export.table import COLUMNS
from swe_eval.run_dir import RunDir, Trial, read_json, write_json

LRU, CALC = TASKS


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunDir:
    """`good` resolves two tasks, `bad` submits nothing; every part real but the model."""
    return evaluated(tmp_path_factory.mktemp("export") / "run", solve)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    for form in ("csv", "parquet", "leaderboard"):
        assert reported(run, "--export", form, "--to", str(folder)) == command.OK
    return folder


def test_a_row_per_trial_has_what_is_known_of_it(exported):
    with (exported / "trials.csv").open() as file:
        rows = {(row["adapter"], row["instance_id"]): row for row in csv.DictReader(file)}
    assert set(rows) == {(arm, task) for arm in ("bad", "good") for task in (LRU, CALC)}
    good, bad = rows["good", LRU], rows["bad", LRU]
    assert (good["outcome"], good["resolved"], good["fail_to_pass"], good["fail_to_pass_failed"]) == (
        *("resolved", "True"),
        *("1", "0"),
    )
    assert (bad["outcome"], bad["resolved"], bad["fail_to_pass"], bad["patch_bytes"]) == (
        "empty_patch",
        "False",
        "",
        "0",
    )
    assert (good["turns"], good["prompt_tokens"], good["completion_tokens"]) == ("2", "20", "10")


def test_parquet_has_the_same_rows_with_types_and_the_meaning_of_every_column(exported):
    table = pq.read_table(exported / "trials.parquet")
    assert [(field.name, str(field.type)) for field in table.schema] == [(each.name, each.type) for each in COLUMNS]
    assert {field.name: field.metadata[b"meaning"].decode() for field in table.schema} == {
        each.name: each.meaning for each in COLUMNS
    }
    with (exported / "trials.csv").open() as file:
        assert [row["instance_id"] for row in csv.DictReader(file)] == table["instance_id"].to_pylist()


def test_the_columns_are_documented():
    documented = re.findall(
        r"^\| `(\w+)` \| (\w+) \| (.+) \|$",
        (Path(__file__).parents[1] / "docs" / "exports.md").read_text(),
        re.MULTILINE,
    )
    assert documented == [(each.name, each.type, each.meaning) for each in COLUMNS]


def test_a_submission_has_what_the_leaderboard_asks_for(exported, run):
    [folder] = exported.glob("*_good")
    assert re.fullmatch(r"\d{8}_good", folder.name)
    predictions = [json.loads(line) for line in (folder / "all_preds.jsonl").read_text().splitlines()]
    assert [set(row) for row in predictions] == [{"instance_id", "model_name_or_path", "model_patch"}] * 2
    assert {row["instance_id"]: row["model_patch"] for row in predictions}[LRU] == run.read_patch(Trial("good", LRU))
    assert {path.name for path in (folder / "trajs").iterdir()} == {f"{task}.traj.json" for task in TASKS}
    assert {path.name for path in (folder / "logs" / LRU).iterdir()} == {"patch.diff", "test_output.txt", "report.json"}
    metadata = yaml.safe_load((folder / "metadata.yaml").read_text())
    assert (set(metadata), metadata["tags"]["system"]) == ({"info", "assets", "tags"}, {"attempts": "1"})
    assert metadata["assets"]["logs"].endswith(f"/{folder.name}/logs")
    readme = (folder / "README.md").read_text()
    assert "Resolved 2/2 = 100.0% [34.2, 100.0] of demo" in readme
    assert "no `hints_text`" in readme


@pytest.mark.parametrize(
    ("sandbox", "has"),
    [
        ({"sandbox.kind": "docker", "sandbox.network": "none"}, "no"),
        ({"sandbox.kind": "auto", "sandbox.docker.network": "bridge", "sandbox.podman.network": "none"}, "a"),
        ({"sandbox.kind": "bubblewrap", "sandbox.grading_network": "host"}, "no"),
        ({"sandbox.kind": "local"}, "a"),
    ],
)
def test_a_submission_says_whether_the_agent_had_a_network(sandbox, has):
    assert statements(sandbox)[-1] == f"- The agent's sandbox had {has} network."


def test_of_predictions_from_elsewhere_a_submission_claims_nothing(tmp_path):
    make_run(tmp_path / "run", {"one": 0.4}, TASKS)
    record = read_json(tmp_path / "run/run.json")
    write_json(tmp_path / "run/run.json", record | {"identity": {"benchmark.name": "demo", "predictions": "f" * 64}})
    assert reported(RunDir(tmp_path / "run"), "--export", "leaderboard", "--to", str(tmp_path)) == command.OK
    [folder] = tmp_path.glob("*_one")
    readme, metadata = (folder / "README.md").read_text(), yaml.safe_load((folder / "metadata.yaml").read_text())
    assert not re.search("None|attempt|network|hints_text", readme)
    assert "- How the predictions were made is not known here: they were only graded." in readme
    assert metadata["tags"]["system"] == {"attempts": None}


def test_a_submissions_reports_have_the_official_keys_alone(exported):
    [folder] = exported.glob("*_good")
    report = read_json(folder / "logs" / LRU / "report.json")[LRU]
    assert (report["resolved"], set(report) & {"outcome", "error", "suspicious", "seconds"}) == (True, set())


def test_an_empty_patch_has_no_logs_as_in_the_official_harness(exported):
    [folder] = exported.glob("*_bad")
    assert not (folder / "logs").exists()


def test_an_export_without_a_place_is_one_line(run, capsys):
    assert reported(run, "--export", "csv") == command.BAD_INPUT
    assert capsys.readouterr().err == "swe_eval: --export csv: nowhere to write to; write --to DIR\n"


def test_no_submission_takes_the_place_of_another_runs(run, tmp_path, capsys):
    (tmp_path / "again").symlink_to(run.root)
    given = [str(tmp_path / "again"), "--export", "leaderboard", "--to", str(tmp_path / "out")]
    assert reported(run, *given) == command.BAD_INPUT
    said = "is in several of the runs; export each --to a DIR of its own"
    assert capsys.readouterr().err == f"swe_eval: --export leaderboard: bad {said}\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--to", "x"], "--to x: is where an export goes; write --export csv|parquet|leaderboard too"),
        (["--port", "8080"], "--port 8080: is of --serve; write --serve too"),
        (
            ["--serve", "--port", "99999"],
            "--port 99999: no port; write one up to 65535, or leave it out for a free one",
        ),
        (
            ["--serve", "--follow", "9"],
            "--follow: is of the report, which --serve does not make; leave one of them out",
        ),
        (["--follow", "nan"], "--follow nan: write seconds, such as 60"),
        (["--follow", "0"], "--follow 0: write seconds, such as 60"),
        (["--out", f"{__file__}/x"], f"{__file__}/x: {__file__} is a file; write another --out DIR"),
        (["--export", "csv", "--to", __file__], f"{__file__}: {__file__} is a file; write another --to DIR"),
    ],
)
def test_options_that_cannot_work_are_one_line(options, line, run, capsys):
    assert reported(run, *options) == command.BAD_INPUT
    assert capsys.readouterr().err == f"swe_eval: {line}\n"


@pytest.mark.parametrize(
    ("option", "instead"),
    [([], "write --out DIR"), (["--trajectories"], "--serve shows the same without files")],
)
def test_a_run_that_may_only_be_read_says_where_to_write_instead(option, instead, run, monkeypatch, capsys):
    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("os.mkdir", refused)  # root may write anywhere
    assert reported(run, *option) == command.BAD_INPUT
    why = f"{run.root} cannot be written to (Permission denied)"
    assert capsys.readouterr().err == f"swe_eval: {run.root}: {why}; {instead}\n"


@pytest.mark.parametrize(("folder", "there"), [("/proc/x/y", "/proc"), (f"/tmp/{'x' * 300}", "/tmp")])
@pytest.mark.parametrize("option", [["--out"], ["--export", "csv", "--to"]])
def test_where_nothing_can_be_made_nothing_is_begun(option, folder, there, run, capsys):
    assert reported(run, *option, folder) == command.BAD_INPUT
    assert capsys.readouterr().err.startswith(f"swe_eval: {folder}: {there} cannot be written to (")


def test_a_sweep_is_one_table_with_the_job_of_every_row(tmp_path):
    jobs = {f"rl-{step}": make_run(tmp_path / f"rl-{step}", {"base": 0.3, "rl": 0.4}, TASKS) for step in (1, 2)}
    assert reported(RunDir(tmp_path), "--export", "csv", "--to", str(tmp_path)) == command.OK
    with (tmp_path / "trials.csv").open() as file:
        rows = [(row["run"], row["adapter"], row["instance_id"]) for row in csv.DictReader(file)]
    assert sorted(rows) == sorted((job, arm, task) for job in jobs for arm in ("base", "rl") for task in TASKS)


def test_several_runs_are_one_table(run, tmp_path):
    (tmp_path / "again").symlink_to(run.root)
    assert reported(run, str(tmp_path / "again"), "--export", "csv", "--to", str(tmp_path)) == command.OK
    assert len((tmp_path / "trials.csv").read_text().splitlines()) == 1 + 2 * 4
