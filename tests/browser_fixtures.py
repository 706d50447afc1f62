"""Pages in Debian's Chromium. ``pytest_plugins`` in conftest.py has these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import CHROMIUM

SCREENSHOTS = Path(__file__).parents[1] / "outputs" / "screenshots"
PHONE, DESK = {"width": 375, "height": 812}, {"width": 1280, "height": 900}
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")  # while it is open no other test can use asyncio
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """``opened(path, dark=True, size=PHONE)``: the page, which may neither say anything on the console nor fetch."""
    contexts, said = [], []

    def open_page(path: Path, dark: bool = False, size: dict[str, int] = DESK, query: str = "") -> Any:
        context = browser.new_context(viewport=size, color_scheme="dark" if dark else "light", offline=True)
        context.set_default_timeout(120_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or said.append(request.url))
        page.goto(path.as_uri() + query)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


def screenshot(page: Any, name: str) -> None:
    """Keep what was seen, for people."""
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def first_paint(page: Any) -> float:
    """Seconds until something was to be seen."""
    entries = "performance.getEntriesByName('first-contentful-paint')"
    page.wait_for_function(f"{entries}.length")
    return float(page.evaluate(f"{entries}[0].startTime")) / 1000


def troubles(page: Any) -> list[str]:
    """What axe-core finds serious."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found if each["impact"] in SERIOUS]
