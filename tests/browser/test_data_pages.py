"""From files with faults to a frozen version, by the pages alone, on real worker processes in a real Chromium."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.services import Site
from training.models import SourceFile

pytestmark = pytest.mark.browser
expect.set_options(timeout=20_000)


@pytest.fixture(scope="module", autouse=True)
def _rows_beside_playwrights_loop() -> Iterator[None]:
    """Playwright's own event loop runs in this thread, and Django would refuse to use a database beside one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        yield


@pytest.fixture
def page(browser: Browser, live_site: Site) -> Iterator[Page]:
    """Alice at her data; whatever her browser complains about fails the test."""
    live_site.start_data()
    client = live_site.log_in()
    context = browser.new_context(base_url=live_site.base_url, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(20_000)
    context.add_cookies(
        [{"name": name, "value": value, "url": live_site.base_url} for name, value in client.cookies.items()]
    )
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    yield page
    context.close()
    assert [said for said in complaints if "net::ERR_FAILED" not in said] == []


def new_dataset(page: Page, name: str) -> None:
    page.goto("/")
    page.get_by_role("link", name="Data", exact=True).click()
    page.get_by_role("textbox", name="Name").fill(name)
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("heading", name="Add files")).to_be_visible()


def test_an_upload_goes_on_where_it_was_after_the_connection_was_lost(
    page: Page, live_site: Site, tmp_path: Path
) -> None:
    line = json.dumps({"text": "x" * 90, "label": "greeting"}) + "\n"
    large = tmp_path / "large.jsonl"
    large.write_text(line * (5_000_000 // len(line)))
    sent: list[str] = []

    def lose(route: Route) -> None:
        """The second part never arrives the first time."""
        sent.append(route.request.url)
        route.abort() if len(sent) == 2 else route.continue_()

    new_dataset(page, "Large")
    page.route(re.compile("/content\\?offset="), lose)
    page.locator("#chooser").set_input_files(large)
    expect(page.locator("#files bdi")).to_have_text("large.jsonl")
    expect(page.locator(".upload")).to_have_count(0)
    offsets = [int(url.split("=")[1]) for url in sent]
    assert offsets == [0, 2 * 2**20, 2 * 2**20, 4 * 2**20]
    with live_site.rows():
        file = SourceFile.objects.get(name="large.jsonl")
    path = live_site.home / "datasets" / str(file.dataset_id) / "sources" / str(file.pk)
    assert path.read_bytes() == large.read_bytes()
