"""The checkpoints of a training run as arms: the whole ones, by step."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from adapter_fixtures import Made, modules
from test_command import swe_eval

from swe_eval.adapters import CONFIG, WEIGHTS
from swe_eval.adapters.checkpoints import Checkpoint, choose, find_checkpoints
from swe_eval.command import settings_of, tree_of
from swe_eval.resolvers import checkpoint_jobs, span
from swe_eval.run_dir import can_be_file_name

STEPS = (100, 200, 1000)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A training run: three checkpoints, and what else trainers leave."""
    folder = tmp_path / "grpo"
    for step in STEPS:
        Made(modules("o_proj")).write(folder / f"checkpoint-{step}")
    (folder / "runs").mkdir()
    (folder / "trainer_state.json").write_text("{}")
    return folder


def steps(found: list[Checkpoint]) -> list[int]:
    return [each.step for each in found]


def test_they_are_in_the_order_of_their_steps(run):
    found, skipped = find_checkpoints(run)
    assert (steps(found), skipped) == ([100, 200, 1000], [])


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda folder: (folder / CONFIG).unlink(), "no adapter_config.json in it"),
        (lambda folder: (folder / WEIGHTS).unlink(), "no adapter_model.safetensors in it"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"\0" * 9), "adapter_model.safetensors is not whole"),
    ],
)
def test_one_that_training_has_not_finished_is_left_out_with_a_line(spoil, why, run):
    spoil(run / "checkpoint-1000")
    found, [line] = find_checkpoints(run)
    assert steps(found) == [100, 200]
    assert line.startswith(f"lora.run: checkpoint-1000 is left out: {why}")


def test_every_nth_is_counted_from_the_last():
    """What a team wants to know most is how the end of training does."""
    five = [Checkpoint(step, Path()) for step in (1, 2, 3, 4, 5)]
    assert steps(choose(five, every=2)) == [1, 3, 5]
    assert steps(choose(five, every=2, last=4)) == [2, 4]
    assert steps(choose(five, first=2, last=3)) == [2, 3]


def test_on_the_command_line_they_are_arms_beside_the_base(run):
    lora = tree_of("lora=checkpoints", f"lora.run={run}", "lora.first=200")["lora"]
    assert [(arm["name"], arm["path"]) for arm in lora["adapters"]] == [
        ("base", None),
        ("grpo-200", str(run / "checkpoint-200")),
        ("grpo-1000", str(run / "checkpoint-1000")),
    ]


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["lora.first=2000"], "swe_eval: lora.run={}: none of its 3 checkpoints was asked for; look at"),
        (["lora.run=TMP"], "swe_eval: lora.run=TMP: no whole checkpoint-<step> in it; write the output directory of a"),
        (["lora.every=0"], "swe_eval: lora.every: should be a number from 1 on, not 0"),
        (["lora.run=/nowhere"], "swe_eval: lora.run=/nowhere: no such directory; write the output directory of a"),
    ],
)
def test_what_names_no_arm_is_one_line(more, line, run, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    more = [each.replace("TMP", str(empty)) for each in more]
    done = swe_eval("swe_eval", "lora=checkpoints", f"lora.run={run}", *more, cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith(line.format(run).replace("TMP", str(empty)))


def test_several_training_runs_are_a_list_or_a_glob(run):
    other = shutil.copytree(run, run.parent / "sft")
    for given in (f"[{run},{other}]", f"{run.parent}/*"):
        lora = tree_of("lora=checkpoints", f"lora.run={given}", "lora.last=100", "lora.with_base=false")["lora"]
        assert [arm["name"] for arm in lora["adapters"]] == ["grpo-100", "sft-100"]


@pytest.mark.parametrize(
    ("per_job", "jobs"),
    [(1, "[base],[grpo-100],[grpo-200],[grpo-1000]"), (3, "[base,grpo-100,grpo-200],[grpo-1000]")],
)
def test_a_sweep_gives_each_job_as_many_arms_as_it_is_told(per_job, jobs, run):
    assert checkpoint_jobs(tree_of("lora=checkpoints", f"lora.run={run}", f"lora.per_job={per_job}")["lora"]) == jobs


def test_a_training_run_may_be_named_in_any_script(run):
    lora = ["lora=checkpoints", f'lora.run="{run.rename(run.parent / "опыт")}"', "lora.last=100"]
    tree = tree_of(*lora)
    assert (tree["name"], checkpoint_jobs(tree["lora"])) == ("demo-tiny-опыт", '[base],["опыт-100"]')
    [arm] = settings_of(*lora, 'lora.only=["опыт-100"]').adapters
    assert arm.name == "опыт-100" and can_be_file_name(arm.name)


def test_a_job_of_a_sweep_has_its_own_arms_whatever_training_has_written_since(run):
    """`every` counts from the last: one that came meanwhile would leave out those that the job was made for."""
    job = ["experiment=checkpoints", f"lora.run={run}", "lora.every=2", "lora.only=[base,grpo-200]"]
    assert [arm["name"] for arm in tree_of(*job)["lora"]["adapters"]] == ["base", "grpo-200"]


def test_a_job_whose_checkpoint_is_gone_is_one_line(run, tmp_path):
    done = swe_eval("swe_eval", "lora=checkpoints", f"lora.run={run}", "lora.only=[grpo-300]", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "swe_eval: lora.only: not among the checkpoints of lora.run: grpo-300\n",
    )


@pytest.mark.parametrize(
    ("names", "called"), [(None, "all"), (["base"], "base"), (["a-1", "a-2", "a-3"], "a-1-to-a-3")]
)
def test_a_job_is_called_after_its_arms(names, called):
    assert span(names) == called
