"""``python -m bench.page``: how long the report of 500 instances and two arms takes to be there, and to be filtered.

A run of made results is concluded as a real one is, and its ``report.html`` opened in Debian's Chromium, without its
window, each time in a context of its own: no cache, no state.

- ``first_paint_ms``: from the beginning of the navigation to the first content on the screen, as the browser tells it
  (``first-contentful-paint``); the median of nine.
- ``filter_ms``: from a letter typed into the filter to the frame after the table has changed; the median of nine.
- ``size_mb``: of the file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from bench.made import instance_ids, make_run
from swe_eval.report.comparison import find
from swe_eval.report.report import write_report
from swe_eval.report.runs import subject_of

TIMES = 9
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
TYPED = """() => new Promise(done => {
    const words = document.getElementById("words"), began = performance.now();
    words.value = "d";
    words.dispatchEvent(new Event("input"));
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)));
})"""


def measure(browser: Any, page_file: Path) -> tuple[float, float]:
    """Milliseconds to the first paint, and of the filter."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(page_file.as_uri())
    page.wait_for_function(f"{PAINTED} > 0")
    found = page.evaluate(PAINTED), page.evaluate(TYPED)
    context.close()
    return found


def main() -> None:
    """Measure and print."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(prog="python -m bench.page")
    parser.add_argument("--quick", action="store_true", help="ten instances, once: whether it runs")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser's command")
    given = parser.parse_args()
    instances, times = (10, 1) if given.quick else (500, TIMES)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        run = make_run(Path(folder) / "run", {"sft": 0.24, "rl-900": 0.31}, instance_ids(instances))
        subject = subject_of([run.root], None, None)
        write_report(subject, find(subject.arms, subject.comparisons))
        page_file = run.root / "report.html"
        browser = playwright.chromium.launch(executable_path=given.chromium, args=["--no-sandbox"])
        paints, filters = zip(*(measure(browser, page_file) for _ in range(times)), strict=True)
        version = browser.version
        browser.close()
        size = page_file.stat().st_size / 1e6
    Console().print(
        f"first paint {median(paints):.0f} ms [{min(paints):.0f}, {max(paints):.0f}], filter {median(filters):.0f} ms "
        f"[{min(filters):.0f}, {max(filters):.0f}], {size:.2f} MB",
        f"{instances} instances x 2 arms, Chromium {version}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        sep="\n",
        highlight=False,
    )
    figures = {"first_paint_ms": median(paints), "filter_ms": median(filters), "size_mb": size}
    print(json.dumps({name: float(f"{figure:.4g}") for name, figure in figures.items()}))


if __name__ == "__main__":
    main()
