"""``python -m bench.page``: how fast the report of 500 instances and two arms is shown, and filtered.

The report is made of a synthetic run, and opened in Debian's headless Chromium, each time without a cache.

- ``first_paint_ms``: from the start of the navigation to the browser's ``first-contentful-paint``; the median of nine.
- ``filter_ms``: from a letter typed into the filter to the frame after the table has changed; the median of nine.
- ``size_mb``: of the file.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.output import machine, print_result, spread
from bench.synthetic_runs import instance_ids, make_run
from swe_eval.report.comparison import find
from swe_eval.report.report import write_report
from swe_eval.report.subject import subject_of

TIMES = 9
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
TYPED = """() => new Promise(done => {
    const words = document.getElementById("words"), began = performance.now();
    words.value = "d";
    words.dispatchEvent(new Event("input"));
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)));
})"""


@dataclass(frozen=True)
class Opened:
    """The milliseconds until the first paint, and those of the filter."""

    paint: float
    filter: float


def open_page(browser: Any, page_file: Path) -> Opened:
    """Open the page in a new context, and type into the filter."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(page_file.as_uri())
    page.wait_for_function(f"{PAINTED} > 0")
    found = Opened(page.evaluate(PAINTED), page.evaluate(TYPED))
    context.close()
    return found


def report_of(folder: Path, instances: int) -> Path:
    """Make the report of two arms on so many instances; returns its page."""
    run = make_run(folder / "run", {"sft": 0.24, "rl-900": 0.31}, instance_ids(instances))
    subject = subject_of([run.root], None, None)
    write_report(subject, find(subject.arms, subject.comparisons))
    return run.root / "report.html"


def main() -> None:
    """Measure and print."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(prog="python -m bench.page")
    parser.add_argument("--quick", action="store_true", help="ten instances, once: whether it runs")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser's command")
    given = parser.parse_args()
    instances, times = (10, 1) if given.quick else (500, TIMES)
    described = f"{instances} instances x 2 arms, {machine()}"
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = report_of(Path(folder), instances)
        browser = playwright.chromium.launch(executable_path=given.chromium, args=["--no-sandbox"])
        opened = [open_page(browser, page_file) for _ in range(times)]
        described += f", Chromium {browser.version}"
        browser.close()
        size_mb = page_file.stat().st_size / 1e6
    paints, filters = [each.paint for each in opened], [each.filter for each in opened]
    print_result(
        {"first_paint_ms": median(paints), "filter_ms": median(filters), "size_mb": size_mb},
        f"first paint {spread(paints, 0)} ms, filter {spread(filters, 0)} ms, {size_mb:.2f} MB",
        described,
    )


if __name__ == "__main__":
    main()
