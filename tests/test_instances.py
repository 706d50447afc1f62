"""Datasets: every form that swebench reads, selection, and mistakes told before anything starts."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swe_eval.benchmark.instances import Benchmark, load
from swe_eval.benchmark.selection import SELECTING, select
from swe_eval.errors import UserError
from swe_eval.settings import PACKAGE, BenchmarkSettings

DEMO = PACKAGE / "benchmark" / "demo"
VERIFIED = Path(__file__).parents[2] / "shared" / "data" / "swebench_verified.parquet"
needs_verified = pytest.mark.skipif(not VERIFIED.is_file(), reason=f"no {VERIFIED.name} in ../shared/data")


def loaded(dataset: Path | str, **changed: object) -> Benchmark:
    return load(settings(dataset=str(dataset), **changed))


def settings(**changed: object) -> BenchmarkSettings:
    everything = dict.fromkeys(["revision", *SELECTING]) | {"sample_seed": 0}
    return BenchmarkSettings(
        **{"name": "x", "dataset": "d", "split": "test", "grading_timeout": 60, **everything, **changed}
    )


def ids(benchmark: Benchmark) -> list[str]:
    return [instance.instance_id for instance in benchmark.instances]


def rows() -> list[dict]:
    return [dict(instance.row) for instance in loaded(DEMO).instances]


def test_a_task_repo_gives_its_tasks_with_what_their_images_are_made_of():
    benchmark = loaded(DEMO)
    assert len(benchmark.instances) == 7
    assert all((instance.context / "Dockerfile").is_file() for instance in benchmark.instances)


@pytest.mark.parametrize(("file", "text"), [("task.yaml", "a: ["), ("task.yaml", "a: 1"), ("tests.json", "{")])
def test_a_task_repo_with_a_damaged_file_is_one_line(file, text, tmp_path):
    repo = tmp_path / "repo"
    shutil.copytree(DEMO / "tasks", repo / "tasks")
    next(repo.glob(f"tasks/*/{file}")).write_text(text)
    with pytest.raises(UserError, match=rf"^benchmark\.dataset={repo}: cannot be loaded") as error:
        loaded(repo)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.parquet", "test.parquet"])
def test_the_same_rows_are_the_same_benchmark_from_any_file(name, tmp_path):
    """`test.parquet` stands for a directory of splits."""
    path = tmp_path / name
    if name.endswith(".parquet"):
        pandas = pytest.importorskip("pandas")
        pandas.DataFrame(rows()).to_parquet(path)
    else:
        text = json.dumps(rows()) if name == "rows.json" else "".join(json.dumps(row) + "\n" for row in rows())
        path.write_text(text)
    read = loaded(tmp_path if name == "test.parquet" else path)
    assert (ids(read), read.fingerprint) == (ids(loaded(DEMO)), loaded(DEMO).fingerprint)


def test_a_file_says_that_it_has_no_splits(tmp_path, capsys):
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows()))
    assert ids(loaded(file, split="dev")) == ids(loaded(file))
    said = f"swe_eval: benchmark.split=dev: {file} is a file, which has no splits: all its rows are taken\n"
    assert capsys.readouterr().err == said


def test_other_rows_are_another_benchmark(tmp_path):
    changed = rows()
    changed[0]["problem_statement"] += " Please."
    (tmp_path / "rows.json").write_text(json.dumps(changed))
    assert loaded(tmp_path / "rows.json").fingerprint != loaded(DEMO).fingerprint


def test_selection_leaves_the_fingerprint_alone():
    everything = loaded(DEMO)
    assert ids(loaded(DEMO, max_instances=2)) == ids(everything)[:2]
    assert ids(loaded(DEMO, filter="demo__(lru|stats)")) == ["demo__lru-3", "demo__stats-7"]
    assert ids(loaded(DEMO, instance_ids=["demo__stats-7", "demo__calc-1"])) == ["demo__stats-7", "demo__calc-1"]
    assert loaded(DEMO, max_instances=1).fingerprint == everything.fingerprint


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"instance_ids": ["demo__nope-1"]}, "benchmark.instance_ids: not in .*: demo__nope-1"),
        (
            {"filter": "django", "shard": "1/2"},
            "no instance of .* is selected; look at benchmark.filter, benchmark.shard",
        ),
        ({"split": "dev"}, "benchmark: no instance of .* is selected; look at benchmark.split"),
        ({"shard": "8/8"}, "benchmark: no instance of .* is selected; look at benchmark.shard"),
        ({"revision": "main"}, "benchmark.revision=main: .*demo is no dataset of the hub; write null"),
        (
            {"dataset": "org/none"},
            r"benchmark.dataset=org/none: cannot be loaded \(.*\); without a network write bench",
        ),
        (
            {"dataset": "/nowhere.jsonl"},
            r"benchmark.dataset=/nowhere.jsonl: cannot be loaded \(.*\); write a .json, .jsonl or .parquet file, or a",
        ),
        ({"dataset": "/nowhere"}, r"benchmark.dataset=/nowhere: cannot be loaded \(.*\); write a .json, .jsonl or"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_field(change, line):
    with pytest.raises(UserError, match=line) as error:
        loaded(**({"dataset": DEMO} | change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("column", ["eval_script", "image"])
def test_a_row_of_the_old_schema_is_refused_with_what_to_do(column, tmp_path):
    old = rows()
    del old[3][column]
    (tmp_path / "old.json").write_text(json.dumps(old))
    with pytest.raises(UserError, match=f"no {column} in demo__romans-4; swebench 5 needs rows with"):
        loaded(tmp_path / "old.json")


@pytest.mark.parametrize(
    ("column", "value", "line"),
    [
        ("log_parser", "nope", "swebench has no log_parser 'nope'; swebench.harness.log_parsers lists them"),
        ("eval_type", "nope", "swebench has no eval_type 'nope'; write one of pass_and_fail, fail_only"),
        ("FAIL_TO_PASS", "tests/a.py", "FAIL_TO_PASS is no list of tests: 'tests/a.py'"),
    ],
)
def test_a_row_that_could_never_be_graded_is_refused_before_it_is_rolled_out(column, value, line, tmp_path):
    bad = rows()
    bad[3][column] = value
    (tmp_path / "bad.json").write_text(json.dumps(bad))
    with pytest.raises(UserError, match=f"demo__romans-4: {line}"):
        loaded(tmp_path / "bad.json")


def test_an_id_twice_is_refused(tmp_path):
    (tmp_path / "twice.json").write_text(json.dumps(rows() * 2))
    with pytest.raises(UserError, match="demo__calc-1 is there twice; keep one"):
        loaded(tmp_path / "twice.json")


def test_an_id_that_would_leave_its_folder_is_refused(tmp_path):
    bad = rows()
    bad[0]["instance_id"] = "../escape"
    (tmp_path / "bad.json").write_text(json.dumps(bad))
    with pytest.raises(UserError, match=r"'\.\./escape' cannot be a file name"):
        loaded(tmp_path / "bad.json")


@pytest.mark.parametrize("name", ["SWE-bench/SWE-bench_Verified", "princeton-nlp/SWE-bench_Verified"])
def test_a_hub_dataset_is_asked_for_by_its_revision_and_its_old_name_is_understood(name, monkeypatch):
    asked = {}
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **how: asked.update(how, name=args[0]) or rows())
    assert len(loaded(name, revision="c104f84").instances) == 7
    assert asked == {"name": "SWE-bench/SWE-bench_Verified", "split": "test", "revision": "c104f84"}


IDS = [f"repo__name-{number}" for number in range(40)]
BOUND = st.none() | st.integers(-50, 50)
SLICES = st.builds(lambda *ends: ":".join("" if end is None else str(end) for end in ends), BOUND, BOUND)


@given(st.integers(1, 9), SLICES, st.none() | st.integers(1, 50), st.integers(), st.none() | st.integers(1, 50))
def test_shards_are_a_partition_of_what_is_selected_without_them(count, part, size, seed, most):
    chosen = {"slice": part, "sample": size, "sample_seed": seed, "max_instances": most}

    def selected(**more: object) -> list[str]:
        try:
            return select(settings(**chosen, **more), IDS)
        except UserError:
            return []

    shards = [selected(shard=f"{number}/{count}") for number in range(1, count + 1)]
    assert sorted(itertools.chain(*shards)) == sorted(selected())
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@given(st.integers(), st.integers(1, 39), st.randoms())
def test_a_sample_is_the_seeds_and_a_larger_one_holds_it(seed, size, random):
    """And it does not depend on the order of the rows, which it keeps."""
    sampled = select(settings(sample=size, sample_seed=seed), IDS)
    assert len(sampled) == size
    assert sampled == [name for name in IDS if name in sampled]
    assert set(sampled) < set(select(settings(sample=size + 1, sample_seed=seed), IDS))
    assert set(select(settings(sample=size, sample_seed=seed), random.sample(IDS, len(IDS)))) == set(sampled)


def test_samples_of_two_seeds_are_two():
    assert select(settings(sample=10, sample_seed=1), IDS) != select(settings(sample=10, sample_seed=2), IDS)


@given(
    st.integers(1, 20), SLICES.filter(lambda text: IDS[slice(*(int(end) if end else None for end in text.split(":")))])
)
def test_every_selection_is_of_what_the_one_before_it_left(size, part):
    chosen = select(settings(slice=part), IDS)
    drawn = select(settings(sample=size), chosen)
    most = select(settings(max_instances=5), drawn)
    together = settings(slice=part, sample=size, max_instances=5, shard="1/2")
    assert select(together, IDS) == select(settings(shard="1/2"), most)


@needs_verified
def test_all_500_rows_of_verified_are_read():
    benchmark = loaded(VERIFIED)
    assert len(benchmark.instances) == 500
    assert ids(loaded(VERIFIED, filter="pallets__")) == ["pallets__flask-5014"]
