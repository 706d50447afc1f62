"""The README and the pages of ``docs/`` are true: commands are valid, fields exist, links lead somewhere."""

from __future__ import annotations

import re
import shlex
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from swe_eval.command import settings_of
from swe_eval.images import parser as images_parser
from swe_eval.merging.__main__ import parser as merging_parser
from swe_eval.report import outputs
from swe_eval.report.__main__ import parser as report_parser
from swe_eval.settings import PACKAGE, conf_dir
from swe_eval.watch import parser as watch_parser

ROOT = Path(__file__).parents[1]
RUSSIAN = ROOT / "docs" / "README.ru.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"^ {4}(python -m (?:swe_eval|bench\.[a-z])(?:.*\\\n)*.*)$", re.MULTILINE)
INLINE = re.compile(r"`(python -m (?:swe_eval|bench\.[a-z])[^`]*)`")
TABLE = re.compile(r"^\| `(?P<there>.*?)` \| `(?P<here>.*?)` \|$", re.MULTILINE)
FLAGS = re.compile(r"--\S+|run_comparison\.sh|vllm_lora_server\.py.*|swe-bench-evaluate")
LINK = re.compile(r"\]\((?!https?:)([^)]+)\)|(?:src|srcset)=\"([^\"]+)\"")
GROUPS = "model|lora|serving|quantization|benchmark|agent|sandbox|tracking"
FIELD = re.compile(rf"(?<![\w.])\+?((?:{GROUPS})\.[a-z_]+)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def each(pattern: re.Pattern[str]) -> list[str]:
    """What the pages in English say, once each."""
    texts = [page.read_text() for page in PAGES if page != RUSSIAN]
    return list(dict.fromkeys(found for text in texts for found in pattern.findall(text)))


def migrations(page: Path) -> list[str]:
    """The right column of 'coming from the shell scripts', its placeholders filled in."""
    rows = [row["here"] for row in TABLE.finditer(page.read_text()) if FLAGS.match(row["there"])]
    return [re.sub(r"=N\b", "=5", re.sub(r"=F\b", "=0.5", row)) for row in rows]


def check(command: str, run: Path | None = None) -> None:
    """``run`` stands for the directory of a training run, which is looked into."""
    door, *arguments = shlex.split(command.removeprefix("python -m ").replace("\\\n", " "))
    if door.startswith("bench.") or not arguments:
        assert find_spec(door), door
        return
    if door == "swe_eval.merging":
        merging_parser().parse_args(arguments)
        return
    if door == "swe_eval.report":
        outputs.check(report_parser().parse_args(arguments))
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
    settings_of(*[re.sub(r"(shard=[^,]*),.*", r"\1", a) for a in arguments])


@pytest.mark.parametrize("command", [*each(COMMAND), *each(INLINE)])
def test_every_command_is_valid(command, tmp_path, monkeypatch):
    (tmp_path / "checkpoint-1").symlink_to(PACKAGE / "benchmark" / "demo" / "adapter")
    monkeypatch.chdir(tmp_path)  # an export's directory may be a path from here
    check(command, tmp_path)


@pytest.mark.parametrize("row", migrations(ROOT / "README.md"))
def test_every_flag_of_the_shell_scripts_has_its_field(row):
    check(row if row.startswith("python -m") else f"python -m swe_eval {row}")


@cache
def fields() -> set[str]:
    """Every ``group.field`` of every option in ``conf/``."""
    files = [file for group in GROUPS.split("|") for file in (conf_dir() / group).glob("*.yaml")]
    return {f"{file.parent.name}.{key}" for file in files for key in OmegaConf.load(file)}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_field_that_a_page_names_is_there(page):
    code = re.findall(r"`([^`\n]+)`", page.read_text())
    named = {field for span in code for field in FIELD.findall(span)}
    assert named <= fields()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page):
    for found in LINK.findall(page.read_text()):
        target, _, anchor = "".join(found).partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_leads_to_every_page():
    linked = {"".join(found).partition("#")[0] for found in LINK.findall((ROOT / "README.md").read_text())}
    assert {name_of(page) for page in PAGES[1:]} <= linked


def test_the_messages_that_troubleshooting_explains_are_there():
    code = "".join(file.read_text() for file in PACKAGE.rglob("*.py")).lower()
    rows = re.findall(r"^\| (.*\*.+?) \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    messages = [message for row in rows for message in re.findall(r"\*(.+?)\*", row)]
    said = [message.removeprefix("this Python ").partition(" http")[0].lower() for message in messages]
    assert said
    assert [message for message in said if message not in code] == []


@pytest.mark.parametrize(
    ("ours", "others", "measured"),
    [
        ("28 s", "93 s", ["wall time, s 27.8 92.9"]),
        ("3.7 ms", "75 ms", ["docker bash alone mini-swe-agent in docker", "2.8 3.7 1.2 to 1.8 74.7"]),
        ("1705", "433", ["16 clients, tokens/s: our server 1705.3", "transformers serve 432.9"]),
        ("5.5 s", "57.8 s", ["conversation, s: our server 5.5", "transformers serve 57.8"]),
    ],
)
def test_the_figures_are_those_of_the_benchmarks(ours, others, measured):
    benchmarks = " ".join((ROOT / "docs" / "benchmarks.md").read_text().split())
    assert f"| {ours} | {others}: " in (ROOT / "README.md").read_text()
    assert [row for row in measured if row not in benchmarks] == []


def test_both_languages_show_the_same_commands():
    here, there = (ROOT / "README.md").read_text(), RUSSIAN.read_text()
    assert COMMAND.findall(here) == COMMAND.findall(there)
    assert migrations(ROOT / "README.md") == migrations(RUSSIAN)


def test_the_layout_that_is_shown_is_the_one_that_is_there():
    text = (ROOT / "docs" / "development.md").read_text()
    listing = text.partition("    swe_eval/\n")[2].partition("\n\n")[0]
    assert listing
    for name in re.findall(r"\w+\.py|\w+/", listing):
        assert (ROOT / "swe_eval" / name).exists(), name
