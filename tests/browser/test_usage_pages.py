"""The pages of usage and limits in a real Chromium: nothing is wider than the screen, everything has a name, and limits
are set by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from playwright.sync_api import Browser, Page, expect

from inference.models import NOBODY, UsageDay
from tests.browser.conftest import complaints_of
from tests.browser.test_job_pages import FAULTS, WIDE, cookies
from webapp.accounts.api_keys import create_key
from webapp.accounts.models import LimitRule, User, Workspace

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def page(
    live_server: Any, browser: Browser, alice: User, bob: User, workspace: Workspace, settings: Any
) -> Iterator[Page]:
    """Alice, whose workspace was used for a month; whatever her browser complains about fails the test."""
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    key, _token = create_key(user=bob, workspace=workspace, name="Help desk", scopes=["chat"])
    today = timezone.now().date()
    for n in range(40):
        for user, of in ((alice.pk, NOBODY), (bob.pk, key.pk), (NOBODY, NOBODY)):
            UsageDay.objects.create(
                workspace=workspace, day=today - timedelta(days=n), user_id=user, api_key_id=of, source="chat",
                model_name="smollm2-135m-instruct" if of == NOBODY else "ft:smollm2-135m-instruct:acme:support:41",
                requests=40 - n, prompt_tokens=(n * 37 % 11) * 4000 + 700, completion_tokens=(n * 17 % 7) * 2100 + 90,
            )  # fmt: skip
    LimitRule.objects.create(workspace=workspace, monthly_tokens=2_000_000, requests_per_minute=600)
    LimitRule.objects.create(workspace=workspace, user=bob, concurrent_streams=2, monthly_tokens=50_000)
    context = browser.new_context(base_url=live_server.url, viewport={"width": 1200, "height": 900})
    context.add_cookies(cookies(alice, live_server.url))
    page = context.new_page()
    page.route_web_socket("**/ws/chat/", lambda route: None)
    complaints = complaints_of(page)
    yield page
    context.close()
    assert complaints == []


@pytest.mark.parametrize("width", [320, 768, 1440])
def test_no_page_is_wider_than_the_screen_and_everything_has_a_name(
    width: int, page: Page, workspace: Workspace, bob: User
) -> None:
    UsageDay.objects.filter(api_key_id=NOBODY).update(model_name="w" * 160)
    User.objects.filter(pk=bob.pk).update(name="w" * 80)
    page.set_viewport_size({"width": width, "height": 800})
    for path in ("/usage/?range=90", "/usage/limits/", f"/usage/limits/members/{bob.pk}/"):
        page.goto(path)
        page.evaluate(
            "document.querySelectorAll('.page details').forEach((details) => (details.open = true))"
        )
        assert page.locator("html").evaluate(WIDE) <= 0, path
        assert page.locator(".page").evaluate(WIDE) <= 0, path
        assert page.evaluate(FAULTS) == [], path


def test_a_limit_is_set_by_keyboard(page: Page, workspace: Workspace, bob: User) -> None:
    page.goto("/usage/")
    page.get_by_role("link", name="Limits").press("Enter")
    page.get_by_role("link", name="Change the limits of Bob").press("Enter")
    page.get_by_label("Requests a minute").fill("20")
    page.get_by_label("Tokens a month").fill("")
    page.get_by_label("Tokens a month").press("Enter")
    expect(page.get_by_text("Saved. It holds within a few seconds.")).to_be_visible()
    rule = LimitRule.objects.get(user=bob)
    assert (rule.requests_per_minute, rule.concurrent_streams, rule.monthly_tokens) == (20, 2, None)
