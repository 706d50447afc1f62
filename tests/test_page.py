"""The page in a real browser: what a person meets who opens it, in light and dark, at a desk and on a phone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from browser_fixtures import DESK, PHONE, SCREENSHOTS, first_paint, screenshot, troubles
from scripted import scripted_endpoint
from test_evaluate import TASKS, external, solve

from bench.synthetic_runs import instance_ids, make_run
from swe_eval.evaluate import evaluate
from swe_eval.report.comparison import find
from swe_eval.report.report import conclude, write_report
from swe_eval.report.runs import read_run
from swe_eval.report.subject import subject_of
from swe_eval.run_dir import Trial, read_json, write_json

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A comparison of 500 instances, and a sweep of six checkpoints."""
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "ab", {"sft": 0.24, "rl-900": 0.31}, instance_ids(500))
    for number in range(6):
        make_run(folder / f"sweep/grpo-{number}00", {f"grpo-{number}00": 0.2 + 0.03 * number}, instance_ids(60))
    make_run(folder / "sweep/base", {"base": 0.2}, instance_ids(60))
    kept = read_run(folder / "ab")
    conclude(kept.run, kept.trials, kept.comparisons)
    subject = subject_of([folder / "sweep"], None, None)
    write_report(subject, find(subject.arms, subject.comparisons))
    return {name: folder / name / "report.html" for name in ("ab", "sweep")}


def visible(page: Any) -> list[str]:
    return page.eval_on_selector_all("#instances-table tbody tr:not([hidden]) th", "all => all.map(e => e.innerText)")


@pytest.mark.parametrize("name", ["ab", "sweep"])
@pytest.mark.parametrize(("dark", "size"), [(False, DESK), (True, PHONE)], ids=["light-desk", "dark-phone"])
def test_everybody_can_read_it(name, dark, size, pages, opened, request):
    """No serious issue of accessibility, and no scrolling from side to side."""
    page = opened(pages[name], dark, size)
    screenshot(page, request.node.callspec.id)
    assert troubles(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]


def test_the_report_of_a_real_run_says_what_differs(settings, tmp_path, opened):
    with scripted_endpoint(solve) as endpoint:
        evaluate(settings(*external(endpoint, "bad", "good")))
    page = opened(tmp_path / "run/report.html")
    assert page.inner_text("h1") == "This run shows no difference between good and bad."
    assert "Of 2 tasks that both were scored on, good resolved 2 and bad resolved 0" in page.inner_text("header")
    assert sorted(visible(page)) == sorted(TASKS)


def test_the_tasks_are_filtered_and_sorted_with_the_keyboard(pages, opened):
    page = opened(pages["ab"])
    assert len(visible(page)) == 500
    page.focus("#kind")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#kind option:checked") == "only rl-900 resolved it"
    page.keyboard.press("Tab")
    page.keyboard.type("django")
    kept = visible(page)
    assert page.inner_text("#shown") == f"{len(kept)} of 500 shown"
    assert 10 < len(kept) < 100 and all(name.startswith("django__") for name in kept)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert visible(page) == sorted(kept)
    page.keyboard.press("Enter")
    assert visible(page) == sorted(kept, reverse=True)


def test_seconds_are_sorted_as_numbers(tmp_path, opened):
    ids = instance_ids(3)
    run = make_run(tmp_path, {"rl": 0.5}, ids)
    for key, seconds in zip(ids, (3.5, 12.0, 3.25), strict=True):
        file = run.trajectory(Trial("rl", key))
        write_json(file, read_json(file) | {"info": {"seconds": seconds}})
    kept = read_run(tmp_path)
    conclude(kept.run, kept.trials, kept.comparisons)
    page = opened(tmp_path / "report.html")
    page.get_by_role("button", name="Seconds").click()
    assert visible(page) == [ids[2], ids[0], ids[1]]


def test_a_filter_is_kept_in_the_address(pages, opened):
    page = opened(pages["ab"], query="?show=lost&words=sympy")
    kept = visible(page)
    assert kept and all(name.startswith("sympy__") for name in kept)
    assert page.locator("#instances-table tbody tr:not([hidden]):not([data-kind~=lost])").count() == 0


def test_it_is_there_at_once(pages, opened):
    assert min(first_paint(opened(pages["ab"])) for _ in range(3)) < 2


def test_it_prints(pages, opened):
    page = opened(pages["ab"], query="?show=lost&words=sympy")
    pdf = page.pdf(format="A4", print_background=True)
    (SCREENSHOTS / "ab.pdf").write_bytes(pdf)
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 8
