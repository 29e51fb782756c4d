"""What programmers read, in a real Chromium: an example is copied, and the interactive document works under our CSP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import complaints_of
from webapp.accounts.models import Workspace

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def page(live_server: Any, browser: Browser, workspace: Workspace) -> Iterator[Page]:
    """Of somebody who is not logged in; whatever the browser complains about fails the test."""
    context = browser.new_context(base_url=live_server.url, permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    complaints = complaints_of(page)
    yield page
    context.close()
    assert complaints == []


def test_an_example_is_copied_and_every_address_is_there_to_try(page: Page) -> None:
    page.goto("/docs/first-call/")
    page.get_by_role("button", name="Copy code").first.click()
    expect(page.locator(".copy").first).to_have_attribute("data-copied", "")
    copied = str(page.evaluate("navigator.clipboard.readText()"))
    assert copied.startswith("curl -sS http://localhost:8000/v1/models")
    page.get_by_role("link", name="Every address, to try").click()
    # A large script draws it.
    page.get_by_text("Create a chat completion", exact=True).click()
    expect(page.get_by_role("button", name="Try it out")).to_be_visible(timeout=30_000)
