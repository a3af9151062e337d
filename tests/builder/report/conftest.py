"""A browser, where there is one, and small runs to look at."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from synthetic_run import synthetic_run

# Names the browser, and says that it must be there: without it, tests with a browser are skipped where there is none.
VARIABLE = "CYCLEPREF_BROWSER"
# Nothing takes so long, even where much else runs: whoever waits this long waits for what never comes.
TIMEOUT_MS = 90_000
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run"),
]


@pytest.fixture(scope="session")
def chromium() -> Iterator:
    """Debian's Chromium, or another, driven by playwright."""
    named = os.environ.get(VARIABLE)
    path = named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip(f"there is no Chromium: apt-get install chromium, or name one in {VARIABLE}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def open_page(chromium) -> Iterator:
    """Open an address in a window of its own and collect what goes wrong there."""
    contexts = []

    def opened(address: str, width: int = 1200, offline: bool = True):
        context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme="light")
        context.set_default_timeout(TIMEOUT_MS)
        contexts.append(context)
        context.set_offline(offline)
        page = context.new_page()
        page.troubles = []
        page.on("console", lambda said: said.type in ("error", "warning") and page.troubles.append(said.text))
        page.on("pageerror", lambda error: page.troubles.append(str(error)))
        page.on("dialog", lambda dialog: (page.troubles.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda asked: asked.url.startswith(("file:", "data:", "blob:", "http://127.0.0.1"))
                or page.troubles.append(f"asked for {asked.url}"))  # fmt: skip
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def made_runs(tmp_path_factory) -> dict[str, Path]:
    """A run of each cycle, and one whose texts and names mean harm; only to be read."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {cycle: synthetic_run(folder / cycle, cycle, 30) for cycle in ("i2t2i", "t2i2t")}
    return runs | {"hostile": synthetic_run(folder / "hostile", "i2t2i", 30, hostile=True)}
