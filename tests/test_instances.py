"""Datasets: every form that swebench reads, selection, and mistakes told before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swe_eval.benchmark.instances import Benchmark, load
from swe_eval.errors import UserError
from swe_eval.settings import PACKAGE, BenchmarkSettings

DEMO = PACKAGE / "benchmark" / "demo"
VERIFIED = Path(__file__).parents[2] / "shared" / "data" / "swebench_verified.parquet"
needs_verified = pytest.mark.skipif(not VERIFIED.is_file(), reason=f"no {VERIFIED.name} in ../shared/data")


def loaded(dataset: Path | str, **changed: object) -> Benchmark:
    nothing_chosen = dict.fromkeys(["max_instances", "instance_ids", "filter"])
    chosen = {"name": "x", "dataset": str(dataset), "split": "test", "grading_timeout": 60, **nothing_chosen, **changed}
    return load(BenchmarkSettings(**chosen))


def ids(benchmark: Benchmark) -> list[str]:
    return [instance.instance_id for instance in benchmark.instances]


def rows() -> list[dict]:
    return [dict(instance.row) for instance in loaded(DEMO).instances]


def test_a_task_repo_gives_its_tasks_with_what_their_images_are_made_of():
    benchmark = loaded(DEMO)
    assert len(benchmark.instances) == 7
    assert all((instance.context / "Dockerfile").is_file() for instance in benchmark.instances)


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
        ({"filter": "("}, r"benchmark.filter=\(: not a regular expression"),
        ({"filter": "django"}, "benchmark: no instance of .* is selected"),
        ({"split": "dev"}, "benchmark: no instance of .* is selected"),
        ({"dataset": "/nowhere.jsonl"}, "benchmark.dataset=/nowhere.jsonl: cannot be loaded"),
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


@needs_verified
def test_all_500_rows_of_verified_are_read():
    benchmark = loaded(VERIFIED)
    assert len(benchmark.instances) == 500
    assert ids(loaded(VERIFIED, filter="pallets__")) == ["pallets__flask-5014"]
