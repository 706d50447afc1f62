"""The README is true: every command that it shows makes a valid configuration, in both languages."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from conftest import compose_tree

from swe_eval.images import parser as images_parser
from swe_eval.merging.__main__ import parser
from swe_eval.report.__main__ import parser as report_parser
from swe_eval.settings import PACKAGE, settings_from
from swe_eval.watch import parser as watch_parser

ROOT = Path(__file__).parents[1]
COMMAND = re.compile(r"^ {4}(python -m swe_eval.*)$", re.MULTILINE)
TABLE = re.compile(r"^\| `(?P<there>.*?)` \| `(?P<here>.*?)` \|$", re.MULTILINE)
FLAGS = re.compile(r"--\S+|run_comparison\.sh|vllm_lora_server\.py.*|swe-bench-evaluate")


def text(name: str) -> str:
    return (ROOT / name).read_text()


def migrations(name: str) -> list[str]:
    """The right column of 'coming from the shell scripts', its placeholders filled in."""
    rows = [row["here"] for row in TABLE.finditer(text(name)) if FLAGS.match(row["there"])]
    return [re.sub(r"=N\b", "=5", re.sub(r"=F\b", "=0.5", row)) for row in rows]


def check(command: str, run: Path | None = None) -> None:
    """``run`` stands for the directory of a training run, which is looked into."""
    door, *arguments = shlex.split(command.removeprefix("python -m "))
    if door == "swe_eval.merging":
        parser().parse_args(arguments)
        return
    if door == "swe_eval.report":
        report_parser().parse_args(arguments)
        return
    if door == "swe_eval.watch":
        _, arguments = watch_parser().parse_known_args(arguments)
    if door == "swe_eval.images":
        _, arguments = images_parser().parse_known_args(arguments)
        door = "swe_eval"
    assert door in ("swe_eval", "swe_eval.serve", "swe_eval.grade", "swe_eval.doctor", "swe_eval.watch")
    if "--predictions" in arguments:
        at = arguments.index("--predictions")
        del arguments[at : at + 2]
    arguments = [f"lora.run={run}" if a.startswith("lora.run=") else a for a in arguments if a not in ("--help", "-m")]
    settings_from(compose_tree(*[re.sub(r"(shard=[^,]*),.*", r"\1", a) for a in arguments]))


@pytest.mark.parametrize("command", COMMAND.findall(text("README.md") + text("docs/sandboxes.md")))
def test_every_command_composes(command, tmp_path):
    (tmp_path / "checkpoint-1").symlink_to(PACKAGE / "benchmark" / "demo" / "adapter")
    check(command, tmp_path)


@pytest.mark.parametrize("row", migrations("README.md"))
def test_every_flag_of_the_shell_scripts_has_its_field(row):
    check(row if row.startswith("python -m") else f"python -m swe_eval {row}")


def test_both_languages_show_the_same_commands():
    here, there = text("README.md"), text("docs/README.ru.md")
    assert COMMAND.findall(here) == COMMAND.findall(there)
    assert migrations("README.md") == migrations("docs/README.ru.md")


def test_the_layout_that_it_shows_is_the_one_that_is_there():
    listing = text("README.md").partition("    swe_eval/\n")[2].partition("\n\n")[0]
    for name in re.findall(r"\w+\.py|\w+/", listing):
        assert (ROOT / "swe_eval" / name).exists(), name
