"""What the report of a sweep is about: which arms are one, in which order, against which; and its tables are true."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from shutil import rmtree

import pytest
from test_demo_run import wait_for

from bench.synthetic_runs import instance_ids, make_run
from swe_eval.errors import UserError
from swe_eval.report.comparison import find
from swe_eval.report.curve import curves, reference_of
from swe_eval.report.page.page import content_of
from swe_eval.report.report import conclude, write_report
from swe_eval.report.results import Arm, Call, Verdict, collect
from swe_eval.report.runs import read_run
from swe_eval.report.subject import Subject, subject_of
from swe_eval.report.throughput import throughput
from swe_eval.report.trials import read_trials
from swe_eval.run_dir import BASE_MODEL, Trial, read_json, write_json

IDS = instance_ids(12)


def sweep_of(folder: Path, **options: object) -> Subject:
    return subject_of([folder], None, None, **options)  # type: ignore[arg-type]


def concluded(folder: Path) -> None:
    kept = read_run(folder)
    conclude(kept.run, kept.trials, kept.comparisons)


def other_settings(folder: Path, settings: dict[str, object]) -> None:
    """Have a run say that it was made with these."""
    record = read_json(folder / "run.json")
    write_json(folder / "run.json", record | {"identity": record["identity"] | settings})


def names(subject: Subject) -> list[str]:
    return [arm.name for arm in subject.arms]


def test_checkpoints_are_in_the_order_of_their_steps_after_the_base_model(tmp_path):
    for arm in ("grpo-1000", "grpo-200", "base"):
        make_run(tmp_path / arm, {arm: 0.3}, IDS)
    subject = sweep_of(tmp_path)
    assert names(subject) == ["base", "grpo-200", "grpo-1000"]
    assert subject.comparisons == [("base", "grpo-200"), ("base", "grpo-1000")]


def test_any_arm_can_be_what_the_others_are_compared_with(tmp_path):
    make_run(tmp_path / "run", {"base": 0.2, "sft": 0.3, "rl": 0.4}, IDS)
    assert subject_of([tmp_path], "sft", None).comparisons == [("sft", "base"), ("sft", "rl")]
    with pytest.raises(UserError, match="--reference rl-2: no such arm; write one of base, rl, sft"):
        subject_of([tmp_path], "rl-2", None)


def test_shards_of_a_checkpoint_are_one_arm(tmp_path):
    make_run(tmp_path / "part-1", {"rl-1": 0.4}, IDS[:5])
    make_run(tmp_path / "part-2", {"rl-1": 0.4}, IDS[5:])
    [arm] = sweep_of(tmp_path).arms
    assert sorted(arm.verdicts) == IDS


def test_shards_alone_are_the_whole_run_and_their_report_is_none_of_a_parts(tmp_path):
    parts = [tmp_path / "part-1", tmp_path / "part-2"]
    for part, ids in zip(parts, (IDS[:5], IDS[5:]), strict=True):
        make_run(part, {"rl-1": 0.4}, ids)
    subject = subject_of(parts, None, None)
    assert [(arm.name, sorted(arm.verdicts)) for arm in subject.arms] == [("rl-1", IDS)]
    assert subject.folder == tmp_path / "part-1-to-part-2"


def test_shards_that_overlap_are_said_to_be_none(tmp_path):
    runs = [tmp_path / name for name in ("part-1", "part-2", "again")]
    for run, ids in zip(runs, (IDS[:8], IDS[5:], IDS[5:]), strict=True):
        make_run(run, {"rl-1": 0.4}, ids)
    said = "part-1 and part-2 are no shards of one run: 3 trials are in both, so they are compared as two"
    assert subject_of(runs[:2], None, None).notes == [said]
    assert subject_of(runs[1:], None, None).notes == []


def test_the_report_of_several_runs_lies_beside_them(tmp_path):
    runs = [tmp_path / f"rl-{step}" for step in range(4)]
    for run in runs:
        make_run(run, {run.name: 0.4}, IDS[:3])
    assert subject_of(runs[:2], None, None).folder == tmp_path / "rl-0-vs-rl-1"
    assert subject_of(runs, None, None).folder == tmp_path / "rl-0-vs-3-others"
    assert subject_of(runs, None, tmp_path / "here").folder == tmp_path / "here"


def test_of_a_reference_that_every_job_has_the_first_verdicts_count(tmp_path):
    for seed, step in enumerate((1, 2)):
        make_run(tmp_path / f"job-{step}", {"base": 0.3, f"rl-{step}": 0.4}, IDS, seed=seed)
    subject = sweep_of(tmp_path)
    first = read_run(tmp_path / "job-1").arms[0]
    scored = first.resolved
    assert names(subject) == ["base", "rl-1", "rl-2"]
    assert scored.items() <= subject.arms[0].resolved.items()
    assert subject.notes[0].startswith("base was evaluated in 2 runs: ")


@pytest.mark.parametrize("weights", ["adapters.rl-9", BASE_MODEL])
def test_namesakes_with_other_weights_stay_apart(weights, tmp_path):
    for run in ("one", "two"):
        make_run(tmp_path / run, {"rl-9": 0.4}, IDS)
        other_settings(tmp_path / run, {weights: run})
    assert names(sweep_of(tmp_path)) == ["one/rl-9", "two/rl-9"]


def test_a_run_that_has_not_noted_its_base_model_s_content_is_one_with_those_that_have(tmp_path):
    runs = [tmp_path / name for name in ("one", "two")]
    for run, ids in zip(runs, (IDS[:5], IDS[5:]), strict=True):
        make_run(run, {"rl-9": 0.4}, ids)
    other_settings(runs[1], {BASE_MODEL: "noted"})
    assert names(sweep_of(tmp_path)) == names(subject_of(runs, None, None)) == ["rl-9"]


def test_namesakes_in_directories_of_one_name_are_no_samples_of_one_arm(tmp_path):
    for sweep in ("a", "b"):
        make_run(tmp_path / sweep / "0", {"rl-9": 0.4}, IDS)
    other_settings(tmp_path / "b/0", {"adapters.rl-9": "other"})
    assert names(sweep_of(tmp_path)) == [f"{tmp_path}/a/0/rl-9", f"{tmp_path}/b/0/rl-9"]


def test_jobs_of_other_limits_make_no_curve(tmp_path):
    for turns in (50, 100):
        make_run(tmp_path / f"t{turns}", {f"rl-{turns}": 0.4}, IDS)
    other_settings(tmp_path / "t50", {"agent.max_turns": 50})
    with pytest.raises(UserError, match=r"agent\.max_turns: 50 in t50, 100 in t100: .* run both with one of them"):
        sweep_of(tmp_path)


def test_what_has_not_begun_is_said(tmp_path):
    write_json(tmp_path / "sweep.json", {"jobs": [{"name": "rl-1"}]})
    with pytest.raises(UserError, match="none of its runs has begun; try again later"):
        sweep_of(tmp_path)
    make_run(tmp_path / "rl-1", {"rl-1": 0.4}, IDS)
    write_json(tmp_path / "sweep.json", {"jobs": [{"name": f"rl-{step}"} for step in (1, 2, 3)]})
    subject = sweep_of(tmp_path)
    assert (subject.notes, subject.is_whole) == (["2 of 3 runs have not begun"], False)
    assert subject.owed == 0 and "Nothing is missing" not in str(content_of(subject, find(subject.arms, ()))["caveats"])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[:99], "its run.json is damaged; put it back from a copy, or run again with another name="),
        (lambda text: text.replace('"identity"', '"x"'), "its run.json is damaged"),
        (
            lambda text: text.replace('"comparisons": []', '"comparisons": [["base", "gone"]]'),
            "its run.json is damaged",
        ),
        (lambda text: '{"identity": {}, "trials": {}, "comparisons": []}', "its run.json is damaged"),
        (lambda text: text.replace('"trials"', '"x"'), "its run.json does not list its trials"),
        (
            lambda text: text.replace(IDS[0], f"../{IDS[0]}"),
            f"its run.json names '../{IDS[0]}', which cannot be a file",
        ),
    ],
)
def test_a_run_that_cannot_be_read_is_said_and_never_passes_for_one_that_waits(damage, says, tmp_path):
    for step in (1, 2):
        make_run(tmp_path / f"rl-{step}", {f"rl-{step}": 0.4}, IDS)
    file = tmp_path / "rl-2/run.json"
    file.write_text(damage(file.read_text()))
    write_json(tmp_path / "sweep.json", {"jobs": [{"name": f"rl-{step}"} for step in (1, 2, 3)]})
    left_out, waiting = sweep_of(tmp_path).notes
    assert waiting == "1 of 3 runs have not begun"
    assert left_out.startswith(f"left out: {tmp_path / 'rl-2'}: {says}")
    with pytest.raises(UserError, match=f"rl-2: {says}"):
        subject_of([tmp_path / "rl-2"], None, None)


@pytest.mark.parametrize("damage", ['{"info": {"exit', "[]", '{"info": null}', '{"messages": [null]}'])
def test_a_trajectory_that_cannot_be_read_is_counted_as_such(damage, tmp_path):
    run = make_run(tmp_path, {"rl": 1.0}, IDS[:2])
    file = run.trajectory(Trial("rl", IDS[0]))
    file.write_text(damage)
    [arm] = read_run(tmp_path).arms
    assert [verdict.exit_status == "damaged trajectory" for verdict in arm.verdicts.values()] == [True, False]
    assert arm.verdicts[IDS[0]].is_scored


def test_a_link_to_a_run_of_the_sweep_is_no_run_of_its_own(tmp_path):
    make_run(tmp_path / "rl-1", {"rl-1": 0.4}, IDS)
    (tmp_path / "latest").symlink_to("rl-1")
    assert [kept.run.root.name for kept in sweep_of(tmp_path).runs] == ["rl-1"]


def test_the_table_of_trials_says_what_the_files_say(tmp_path):
    make_run(tmp_path / "ab", {"base": 0.3, "rl": 0.4}, IDS)
    concluded(tmp_path / "ab")
    kept = read_run(tmp_path / "ab")
    told, read = (read_trials(kept.run, kept.record, kept.trials), collect(kept.run, kept.trials))
    assert told and find(told, kept.comparisons).as_json() == find(read, kept.comparisons).as_json()
    assert [v.turns for v in told[0].verdicts.values()] == [v.turns for v in read[0].verdicts.values()]


def test_a_run_that_went_on_is_read_from_its_files(tmp_path):
    """Its table tells of an earlier call."""
    make_run(tmp_path / "ab", {"base": 0.3}, IDS)
    concluded(tmp_path / "ab")
    record = read_json(tmp_path / "ab/run.json")
    write_json(tmp_path / "ab/run.json", record | {"invocations": record["invocations"] * 2})
    changed = next((tmp_path / "ab/evaluation/base").glob("*/report.json"))
    write_json(changed, {changed.parent.name: {"outcome": "infra"}})
    [arm] = read_run(tmp_path / "ab").arms
    assert arm.verdicts[changed.parent.name].outcome == "infra"


def test_a_damaged_table_is_no_table(tmp_path):
    make_run(tmp_path / "ab", {"base": 0.3}, IDS)
    concluded(tmp_path / "ab")
    kept = read_run(tmp_path / "ab")
    kept.run.trials_jsonl.write_text('{"arm": "base"')
    assert [arm.name for arm in kept.arms] == ["base"]


def test_what_was_read_of_a_run_at_work_is_not_read_again(tmp_path):
    run = make_run(tmp_path / "ab", {"base": 0.3}, IDS[:2])
    kept, seen = read_run(tmp_path / "ab"), {}
    collect(run, kept.trials, seen)
    before = {path: verdict for path, (_, verdict) in seen.items()}
    write_json(run.report(kept.trials[0]), {kept.trials[0].instance_id: {"outcome": "infra"}})
    [arm] = collect(run, kept.trials, seen)
    first, second = (arm.verdicts[trial.instance_id] for trial in kept.trials)
    assert (first.outcome, second is before[run.report(kept.trials[1])]) == ("infra", True)


def test_a_sweep_leaves_its_page_and_its_curve(tmp_path):
    for step in (100, 200, 300):
        make_run(tmp_path / f"rl-{step}", {f"rl-{step}": 0.4}, IDS)
    make_run(tmp_path / "base", {"base": 0.2}, IDS)
    subject = sweep_of(tmp_path)
    findings = find(subject.arms, subject.comparisons)
    write_report(subject, findings)
    files = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert files == {"comparison.json", "report.html", "report.md", "curve.svg", "curve.png"}
    [curve] = curves(findings)
    assert (curve.name, [step for step, _ in curve.points]) == ("rl", [100, 200, 300])
    assert reference_of(findings).name == "base"
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arms", "samples", "says"),
    [
        ({"base": 0.5}, 1, "of 12 tasks"),
        ({"base": 0.2, "rl": 0.8}, 3, "Over 12 tasks that both were scored on, rl resolved"),
        ({"base": 0.2, "rl": 0.8}, 2, "pass^2"),
        ({"base": 0.2, "sft": 0.3, "rl": 0.8}, 1, "2 comparisons are made at once"),
        ({f"rl-{step}": 0.5 for step in range(9)}, 1, "8 comparisons are made at once"),
    ],
)
def test_a_page_is_made_of_whatever_a_run_holds(arms, samples, says, tmp_path):
    make_run(tmp_path / "run", arms, IDS, samples=samples)
    concluded(tmp_path / "run")
    pages = [(tmp_path / "run" / name).read_text() for name in ("report.html", "report.md")]
    assert [says in page for page in pages] == [True, True]


def test_a_page_is_made_of_a_run_that_has_only_begun(tmp_path):
    make_run(tmp_path / "run", {"base": 0.2, "rl": 0.8}, IDS)
    rmtree(tmp_path / "run/evaluation")
    record = read_json(tmp_path / "run/run.json")
    difficulties = dict.fromkeys(IDS, "a difficulty of another dataset")
    write_json(tmp_path / "run/run.json", record | {"difficulties": difficulties, "invocations": []})
    concluded(tmp_path / "run")
    said = (tmp_path / "run/report.html").read_text()
    assert "rl and base have no task in common that both are scored on yet." in said
    assert "24 of 24 trials have no verdict yet" in said
    assert '<div class="forest"' not in said


def test_a_checkpoint_that_owes_trials_is_hollow_in_the_curve(tmp_path):
    """The first verdicts are no sample of all: the longest instances are begun first."""
    for step in (100, 200):
        make_run(tmp_path / f"rl-{step}", {f"rl-{step}": 1.0}, IDS)
    for report in sorted(tmp_path.glob("rl-200/evaluation/*/*/report.json"))[:6]:
        report.unlink()
    subject = sweep_of(tmp_path)
    write_report(subject, find(subject.arms, subject.comparisons))
    page = (tmp_path / "report.html").read_text()
    assert page.count('<circle class="dot c0 hollow"') == 1
    assert "A hollow dot still owes trials" in page


def test_a_sweep_is_followed_until_nothing_is_owed(tmp_path):
    """Its page loads itself again meanwhile."""
    run = make_run(tmp_path / "rl-1", {"rl-1": 1.0}, IDS[:2])
    reports = sorted(tmp_path.glob("rl-1/evaluation/rl-1/*/report.json"))
    kept = reports[0].read_text()
    reports[0].unlink()
    argv = [sys.executable, "-m", "swe_eval.report", str(tmp_path), "--follow", "0.2"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as following:
        page = tmp_path / "report.html"
        try:
            wait_for(lambda: page.is_file() and "1 of 2 trials have no verdict" in page.read_text())
            assert '<meta http-equiv="refresh" content="0.2">' in page.read_text()
            run.report(Trial("rl-1", reports[0].parent.name)).write_text(kept)
            assert following.wait(60) == 0
        finally:
            following.kill()
    assert "have no verdict" not in page.read_text() and "http-equiv" not in page.read_text()


def test_a_sweep_is_followed_from_before_its_first_run_has_begun(tmp_path):
    sweep = tmp_path / "sweep"
    write_json(sweep / "sweep.json", {"jobs": [{"name": "rl-1"}]})
    argv = [sys.executable, "-m", "swe_eval.report", str(sweep), "--follow", "0.2"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as following:
        try:
            assert following.stdout.readline() == f"{sweep}: none of its runs has begun; try again later\n"
            make_run(tmp_path / "rl-1", {"rl-1": 1.0}, IDS[:2]).root.rename(sweep / "rl-1")
            following.communicate(timeout=60)
        finally:
            following.kill()
    assert following.returncode == 0


def test_throughput_counts_the_seconds_in_which_an_answer_was_awaited():
    """Two answers at once, a pause, a third one: 300 tokens in 20 of 30 seconds."""
    calls = [Call(10.0, 10.0, 100), Call(10.0, 10.0, 100), Call(30.0, 10.0, 100)]
    found = throughput([Arm("rl", "rl", {"task": Verdict("resolved", calls=calls)})])
    assert (found["mean"], found["seconds"], found["best"]) == pytest.approx((15.0, 20.0, 20.0))
    assert found["course"][0] == [0.0, 20.0]
    assert throughput([Arm("rl", "rl", {"task": Verdict("resolved")})]) == {}


def test_a_pause_of_a_day_makes_no_stretch_slower():
    """Ten minutes at an even pace, and ten more when the run was continued."""
    calls = [Call(minute * 60.0, 60.0, 6000) for day in (1440, 2880) for minute in range(day + 1, day + 11)]
    found = throughput([Arm("rl", "rl", {"task": Verdict("resolved", calls=calls)})])
    assert (found["mean"], found["seconds"], found["best"]) == pytest.approx((100.0, 1200.0, 100.0))


def test_of_runs_with_several_base_models_all_are_named(tmp_path):
    runs = [tmp_path / name for name in ("one", "two")]
    for run in runs:
        make_run(run, {"rl": 0.4}, IDS)
    other_settings(runs[1], {"model.base_model": "other/base-20B"})
    subject = subject_of(runs, None, None)
    page = content_of(subject, find(subject.arms, subject.comparisons))
    assert ("Base models", "base-10B, base-20B") in page["facts"]
    assert ("model.base_model", "made/base-10B, other/base-20B") in page["settings"]


def test_namesakes_of_two_sweeps_have_curves_of_their_own(tmp_path):
    for sweep in ("a", "b"):
        for step in (100, 200):
            make_run(tmp_path / sweep / f"rl-{step}", {f"rl-{step}": 0.4}, IDS)
            other_settings(tmp_path / sweep / f"rl-{step}", {f"adapters.rl-{step}": f"{sweep}{step}"})
    subject = subject_of([tmp_path / "a", tmp_path / "b"], None, None)
    drawn = curves(find(subject.arms, subject.comparisons))
    told = [(curve.name, [step for step, _ in curve.points]) for curve in drawn]
    assert told == [(f"{tmp_path}/a/rl", [100, 200]), (f"{tmp_path}/b/rl", [100, 200])]


def test_no_curve_has_a_step_twice(tmp_path):
    runs = [tmp_path / name for name in ("once", "again")]
    for run in runs:
        make_run(run, {"rl-100": 0.4}, IDS)
    subject = subject_of(runs, None, None)
    assert curves(find(subject.arms, subject.comparisons)) == []


def test_one_of_several_base_models_is_what_the_others_are_compared_with(tmp_path):
    for run, (arm, content) in {"z1": ("base", "x"), "z2": ("base", "y"), "a": ("a-1", "x")}.items():
        make_run(tmp_path / run, {arm: 0.3}, IDS)
        other_settings(tmp_path / run, {BASE_MODEL: content})
    assert names(sweep_of(tmp_path)) == ["z1/base", "z2/base", "a-1"]


def test_a_report_that_is_written_elsewhere_names_the_run_whose_trajectories_can_be_shown(tmp_path):
    make_run(tmp_path / "run", {"rl": 0.4}, IDS)
    subject = subject_of([tmp_path / "run"], None, tmp_path / "out")
    write_report(subject, find(subject.arms, subject.comparisons))
    assert f"python -m swe_eval.report {tmp_path / 'run'} --serve" in (tmp_path / "out/report.html").read_text()


def test_nothing_is_claimed_of_how_predictions_from_elsewhere_were_made(tmp_path):
    graded(tmp_path)
    concluded(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "took turns" not in page and "What differs between the arms" not in page


def graded(folder: Path) -> None:
    """A run of ``swe_eval.grade``, by two models."""
    make_run(folder, {"one": 0.4, "two": 0.4}, IDS)
    record = read_json(folder / "run.json")
    graded_by = {key: value for key, value in record["identity"].items() if key.startswith(("benchmark.", "sandbox."))}
    write_json(folder / "run.json", record | {"identity": graded_by | {"predictions": "f" * 64}, "comparisons": []})


@pytest.mark.parametrize("samples", [1, 3])
def test_a_single_task_is_one(samples, tmp_path):
    make_run(tmp_path, {"base": 0.0, "rl": 1.0}, IDS[:1], samples=samples)
    concluded(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "1 task in common" in page and "1 tasks" not in page


def test_the_name_of_a_sweep_is_no_formula(tmp_path):
    for step in (100, 200):
        make_run(tmp_path / "$x^$" / f"rl-{step}", {f"rl-{step}": 0.4}, IDS)
    subject = sweep_of(tmp_path / "$x^$")
    write_report(subject, find(subject.arms, subject.comparisons))
    assert (tmp_path / "$x^$/curve.svg").is_file()


@pytest.mark.parametrize(("ids", "is_told"), [(IDS[3:], True), (IDS, False)])
def test_arms_that_were_given_different_tasks_are_said_to_have_been(ids, is_told, tmp_path):
    make_run(tmp_path / "a", {"base": 0.3}, IDS)
    make_run(tmp_path / "b", {"rl": 0.3}, ids)
    subject = subject_of([tmp_path / "a", tmp_path / "b"], None, None)
    told = "Not every arm was given every task: a rate is of an arm's own tasks, a difference of those in common."
    assert (told in content_of(subject, find(subject.arms, subject.comparisons))["caveats"]) == is_told


def test_of_a_task_that_is_tried_several_times_no_arm_is_said_to_resolve_it_alone(tmp_path):
    make_run(tmp_path, {"base": 0.3, "rl": 0.6}, IDS, samples=3)
    concluded(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "only rl resolved it" not in page
    assert "rl resolved it more often" in page and "Resolved is a task that at least one of its tries resolved." in page
