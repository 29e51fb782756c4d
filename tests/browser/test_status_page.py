"""The operators' page in a real Chromium: it keeps itself current and the keyboard where it is, at every width."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from playwright.sync_api import Browser, Page, expect

from inference.models import ServedModel, Worker
from tests.browser.conftest import complaints_of
from tests.browser.test_job_pages import FAULTS, WIDE, cookies
from webapp.accounts.models import User, Workspace

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def page(
    live_server: Any, browser: Browser, alice: User, workspace: Workspace, settings: Any
) -> Iterator[Page]:
    """Alice, who runs the site; whatever her browser complains about fails the test."""
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    User.objects.filter(pk=alice.pk).update(is_staff=True)
    ServedModel.objects.create(
        name="smollm2-135m-instruct", path="m", digest="d", architecture="llama", context_length=8192,
        parameters=135_000_000, size_bytes=145_000_000, is_default=True,
    )  # fmt: skip
    for number in range(2):
        Worker.objects.create(
            hostname=f"gpu-{number}.example.org", pid=4000 + number, state="ready",
            lease_expires_at=timezone.now() + timedelta(hours=1),
        )  # fmt: skip
    context = browser.new_context(base_url=live_server.url, viewport={"width": 1200, "height": 900})
    context.add_cookies(cookies(alice, live_server.url))
    page = context.new_page()
    page.route_web_socket("**/ws/chat/", lambda route: None)
    complaints = complaints_of(page)
    yield page
    context.close()
    assert complaints == []


def test_it_is_not_wider_than_the_screen_and_everything_has_a_name(page: Page) -> None:
    Worker.objects.update(hostname="w" * 120)
    ServedModel.objects.update(name="m" * 150)
    for width in (320, 768, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        page.goto("/status/?still")
        assert page.locator("html").evaluate(WIDE) <= 0, width
        assert page.locator(".page").evaluate(WIDE) <= 0, width
        # Only what is in it scrolls: nothing blank comes after its end.
        assert page.locator("html").evaluate("e => e.scrollHeight - innerHeight") <= 0, width
        assert page.evaluate(FAULTS) == [], width


def test_it_keeps_itself_current_and_the_keyboard_where_it_is(page: Page) -> None:
    page.clock.install()
    page.goto("/usage/")
    page.get_by_role("link", name="Status").press("Enter")
    expect(page.get_by_role("heading", name="Status", exact=True)).to_be_visible()
    table = page.locator("#processes-table")
    table.focus()
    expect(table.get_by_text("ready")).to_have_count(2)
    Worker.objects.filter(pid=4000).update(state="broken", error="model.gguf: is truncated.")
    page.clock.fast_forward(5000)
    expect(table.get_by_text("cannot load its model")).to_be_visible()
    expect(page.get_by_text("model.gguf: is truncated.")).to_be_visible()
    expect(table).to_be_focused()


def test_held_still_it_asks_for_nothing(page: Page) -> None:
    page.clock.install()
    page.goto("/status/")
    page.get_by_role("link", name="Hold it still").press("Enter")
    expect(page.get_by_role("link", name="Keep it current")).to_be_visible()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.fast_forward(60_000)
    # The browser itself may ask for what a page looks like in its tab.
    assert [url for url in asked if "/static/" not in url] == []
