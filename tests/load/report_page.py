"""How soon a small file that is uploaded in a browser has a report, as who waits for it sees it."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser.conftest import launch
from tests.load.bench import Row
from tests.load.million_rows import write_chats
from tests.services import REAL, Site, wait_until

_ROWS = 50
_TIMES = 7


def fifty_rows() -> Iterator[Row]:
    """From choosing it until the page of its report shows it: the first time that its worker does so, and the middle of
    the others, each in a dataset of its own. Lengths are counted in the demo model's tokens."""
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"  # Playwright's loop runs in this thread
    site = Site()
    try:
        site.start(inference=0, model=REAL)
        site.create_owner()
        site.start_data()
        wait_until(site.answers, "the web process to answer")
        wait_until(lambda: "ready." in site.data.log(), "the worker of datasets")
        first, *later = _seconds(site)
        yield Row.at_most("data.fifty.page", statistics.median(later), 2, "s")
        yield Row.at_most("data.fifty.page.first", first, 2, "s")
    finally:
        site.stop()


def _seconds(site: Site) -> list[float]:
    http, found = site.log_in(), []
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        chats = Path(folder, "chats.jsonl")
        write_chats(chats, _ROWS)
        browser = launch(playwright)
        context = browser.new_context(base_url=site.base_url)
        context.add_cookies([{"name": k, "value": v, "url": site.base_url} for k, v in http.cookies.items()])
        page = context.new_page()
        for number in range(_TIMES):
            page.goto(str(site.submit(http, "/data/", name=f"Chats {number}").url))
            started = time.monotonic()
            page.locator("#chooser").set_input_files(chats)
            page.get_by_role("link", name="See the report").click()
            page.get_by_role("heading", name="In short").wait_for()
            found.append(time.monotonic() - started)
        browser.close()
    return found
