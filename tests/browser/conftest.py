"""A headless browser: Playwright with the system's Chromium. Tests are skipped where either is missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Without a GPU, WebGL is drawn in software.
FLAGS = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
WINDOW = {"width": 800, "height": 560}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser per module: a `playwright.sync_api.Browser`."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens an address in a new context, as another user; `problems` of the page are its script errors so far.

    A test fails if a page asked for anything outside of this machine.
    """
    contexts, outside = [], []

    def opened(address: str, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": WINDOW, "accept_downloads": True, **options})
        contexts.append(context)
        context.set_default_timeout(30_000)
        page = context.new_page()
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("request", lambda request: None if is_local(request.url) else outside.append(request.url))
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not outside


def is_local(address: str) -> bool:
    return address.startswith(("http://127.0.0.1", "http://localhost", "blob:", "data:", "about:"))
