"""Two trajectories side by side in a real browser: by keyboard, in light and dark, on a phone, at 500 instances."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from browser_fixtures import PHONE, first_paint, screenshot, troubles
from scripted import SUBMIT, bash
from test_evaluate import GOLD
from trajectory_fixtures import evaluated

from bench.synthetic_runs import instance_ids, make_run
from bench.trajectories import fill
from swe_eval.report.runs import read_run
from swe_eval.report.trajectories.data import Shown
from swe_eval.report.trajectories.server import make_server
from swe_eval.report.trajectories.write import shown_of, write_trajectories

pytestmark = pytest.mark.browser
LRU, CALC = "demo__lru-3", "demo__calc-1"


def script(model, messages):
    """Both look; `good` fixes it, and `bad` tries to get the repository's later commits and breaks a test."""
    turn = sum(message["role"] == "assistant" for message in messages)
    task = LRU if "capacity" in str(messages) else CALC
    fix = f"git apply - <<'EOF'\n{GOLD[task]}EOF\nseq 200; git diff > patch.txt"
    spoil = "git log --all --oneline; for f in *.py; do echo '# nothing' >> $f; done; git diff -- '*.py' > patch.txt"
    return [bash("ls"), bash(fix if model == "good" else spoil), SUBMIT][turn]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Two tasks under two arms; every part real but the model."""
    kept = read_run(evaluated(tmp_path_factory.mktemp("small") / "demo", script).root)
    return write_trajectories(shown_of(kept), kept.arms)


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """500 instances under two arms, 10 turns each, of the size of real ones."""
    run = make_run(tmp_path_factory.mktemp("large") / "ab", {"sft": 0.3, "rl-900": 0.36}, instance_ids(500))
    kept = read_run(run.root)
    fill(run, list(kept.trials), turns=10, characters=1_500)
    return write_trajectories(Shown(run, kept.trials, kept.comparisons), kept.arms)


def heading(page: Any) -> str:
    return page.inner_text("h1")


def arrived(page: Any, instance_id: str) -> None:
    page.wait_for_function("id => document.querySelector('h1')?.innerText === id", arg=instance_id)


def listed(page: Any) -> list[str]:
    return page.eval_on_selector_all("#list a", "all => all.map(e => e.dataset.id)")


@pytest.mark.parametrize("how", ["light", "dark-phone"])
def test_it_can_be_read_by_everyone_everywhere(small, opened, how):
    size = {"size": PHONE} if "phone" in how else {}
    page = opened(small, dark="dark" in how, query=f"#{LRU}", **size)
    arrived(page, LRU)
    assert troubles(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing sticks out to the right
    screenshot(page, f"trajectories-{how}")
    page.locator(".divergence").scroll_into_view_if_needed()
    screenshot(page, f"trajectories-{how}-turns")


def test_it_shows_what_differed(small, opened):
    page = opened(small, query=f"#{LRU}")
    arrived(page, LRU)
    a, b = (page.inner_text(f".card.{side} >> nth=0") for side in "ab")
    assert "✗ unresolved" in a
    assert "FAIL_TO_PASS: 1 of 1 failed" in a
    assert "⚑ looked for commits that HEAD does not lead to\nturn 2 git log --all --oneline (cannot have shown" in a
    assert "✓ resolved" in b
    assert "FAIL_TO_PASS: all 1 passed" in b
    assert page.locator(".turn.both").count() == 2  # they began and submitted alike
    assert page.inner_text(".divergence") == "first divergence: turn 2"
    assert page.inner_text(".card.both h3") == "B and reference, the same"
    assert page.locator(".card.both .add").count() == sum(
        line.startswith("+") and not line.startswith("+++") for line in GOLD[LRU].splitlines()
    )


def test_a_raw_file_is_a_click_away(small, opened):
    page = opened(small, query=f"#{LRU}")
    arrived(page, LRU)
    page.click(".card.b >> text=trajectory")
    page.wait_for_url("**/trajectories/good/demo__lru-3.traj.json")


def test_everything_is_reached_by_keyboard(small, opened):
    page = opened(small)
    arrived(page, CALC)
    page.keyboard.press("j")
    arrived(page, LRU)
    page.wait_for_url(f"**#{LRU}")
    page.keyboard.press("k")
    arrived(page, CALC)
    page.keyboard.press("d")
    page.wait_for_function("() => document.querySelector('.divergence').getBoundingClientRect().top < 300")
    page.keyboard.press("n")
    page.keyboard.press("n")
    assert page.inner_text(".row.here .turn.b b") == "turn 2"
    folded = page.inner_text(".turn.b .output >> nth=0")
    page.keyboard.press("e")
    assert len(page.inner_text(".turn.b .output >> nth=0")) > len(folded) + 400
    page.keyboard.press("s")
    page.wait_for_url(f"**#{CALC},good,bad")
    assert page.input_value("#a") == "good"
    page.keyboard.press("/")
    page.keyboard.type("lru")
    assert listed(page) == [LRU]
    page.keyboard.press("Enter")
    arrived(page, LRU)
    page.keyboard.press("/")
    page.keyboard.press("Escape")
    assert len(listed(page)) == 2


def test_an_address_names_the_instance_and_the_arms(small, opened):
    page = opened(small, query=f"#{LRU},good,bad")
    arrived(page, LRU)
    assert (page.input_value("#a"), page.input_value("#b")) == ("good", "bad")
    opened(small, query="#nowhere-1").wait_for_selector("main >> text=There is no instance nowhere-1")


@pytest.mark.parametrize(("missing", "said"), [("index", "There is no data beside this page"), (CALC, "is not there")])
def test_data_that_is_missing_is_said_with_the_command_that_makes_it(small, browser, tmp_path, missing, said):
    shutil.copytree(small.parent / "trajectories.data", tmp_path / "trajectories.data")
    shutil.copy(small, tmp_path)
    (tmp_path / "trajectories.data" / f"{missing}.js").unlink()
    page = browser.new_page()
    page.goto((tmp_path / small.name).as_uri())
    page.wait_for_selector("text=python -m swe_eval.report RUN --trajectories")
    assert said in page.inner_text("main")
    page.close()


def test_what_a_model_writes_is_text(opened, tmp_path):
    run = make_run(tmp_path / "run", {"a": 0.5, "b": 0.5}, ["x__x-1"])
    kept = read_run(run.root)
    fill(run, list(kept.trials), turns=1, characters=100)
    for trial in kept.trials:
        text = run.trajectory(trial).read_text()
        run.trajectory(trial).write_text(text.replace("Turn 1:", "<img src=x onerror=document.title=1></script>"))
    page = opened(write_trajectories(Shown(run, kept.trials, kept.comparisons), kept.arms))
    arrived(page, "x__x-1")
    assert "<img src=x" in page.inner_text(".thought >> nth=0")
    assert page.title() == "run: trajectories"


def test_500_instances_are_there_at_once_and_stay_fluid(large, opened):
    assert min(first_paint(opened(large)) for _ in range(3)) < 2
    page = opened(large)
    ids = listed(page)
    arrived(page, ids[0])
    assert len(ids) == 500
    took = []
    for instance_id in ids[1:21]:
        started = time.monotonic()
        page.keyboard.press("j")
        arrived(page, instance_id)
        took.append(time.monotonic() - started)
    assert median(took) < 0.5
    page.click("text=/only B resolved \\d+/")
    only_b = listed(page)
    assert 0 < len(only_b) < 250
    arrived(page, only_b[0])
    page.keyboard.press("/")
    page.keyboard.type("sympy")
    assert 0 < len(listed(page)) < len(only_b)
    assert page.inner_text("#count") == f"{len(listed(page))} of 500 instances"
    assert troubles(page) == []
    screenshot(page, "trajectories-500")


@pytest.fixture
def served(small) -> Iterator[str]:
    kept = read_run(small.parent)
    with make_server(shown_of(kept)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/trajectories.html"
        server.shutdown()


def test_the_server_shows_the_same_page(served, browser):
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(served)
    arrived(page, CALC)
    page.keyboard.press("j")
    arrived(page, LRU)
    assert said == []
    page.close()
