"""The longest instances are run first, as far as it is known which those are."""

from __future__ import annotations

import json
from pathlib import Path

from swe_eval.benchmark.instances import Instance
from swe_eval.run_dir import RunDir
from swe_eval.scheduling.order import earlier_seconds, longest_first

HOUR, QUARTER, DAY = "15 min - 1 hour", "<15 min fix", ">4 hours"


def order(rows: dict[str, str | None], seconds: dict[str, float] | None = None) -> list[str]:
    instances = [Instance({"instance_id": name, "difficulty": difficulty}) for name, difficulty in rows.items()]
    return [each.instance_id for each in longest_first(instances, seconds or {})]


def test_the_more_difficult_come_first_and_the_others_stay_in_their_order():
    assert order({"a": QUARTER, "b": HOUR, "c": DAY, "d": HOUR}) == ["c", "b", "d", "a"]


def test_what_it_took_before_says_more_than_the_difficulty():
    assert order({"a": QUARTER, "b": HOUR}, {"a": 900.0, "b": 30.0}) == ["a", "b"]


def test_of_an_unknown_one_those_of_its_difficulty_tell():
    assert order({"a": QUARTER, "b": HOUR, "c": HOUR}, {"a": 60.0, "b": 300.0}) == ["b", "c", "a"]


def test_rows_without_a_difficulty_stay_in_their_order():
    assert order({"b": None, "a": None}) == ["b", "a"]


def test_runs_beside_this_one_tell_if_they_ran_the_same_dataset(tmp_path: Path):
    for name, fingerprint, took in (("one", "same", 10.0), ("two", "same", 20.0), ("three", "other", 99.0)):
        record = {"identity": {"benchmark.fingerprint": fingerprint}, "seconds": {"a": took}}
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(record))
    assert earlier_seconds(RunDir(tmp_path / "new"), "same") == {"a": 15.0}
