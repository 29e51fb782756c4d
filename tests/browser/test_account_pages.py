"""The account pages in a real Chromium, whose complaints (a broken CSP among them) fail the test."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import complaints_of
from webapp.accounts.models import User, Workspace

HOME = re.compile(r"//[^/]+/$")
pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def page(live_server: Any, workspace: Workspace, browser: Browser) -> Iterator[Page]:
    context = browser.new_context(
        # A name, not a number: passkeys belong to names.
        base_url=live_server.url.replace("127.0.0.1", "localhost"),
        permissions=["clipboard-read", "clipboard-write"],
    )
    page = context.new_page()
    complaints = complaints_of(page)
    yield page
    context.close()
    assert [said for said in complaints if "/ws/chat/" not in said] == []


@pytest.fixture
def authenticator(page: Page) -> str:
    """A fingerprint reader that always finds the right finger."""
    session = page.context.new_cdp_session(page)
    session.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
    }
    made: str = session.send("WebAuthn.addVirtualAuthenticator", {"options": options})["authenticatorId"]
    return made


def log_in(page: Page) -> None:
    page.goto("/accounts/login/")
    page.get_by_label("Email").fill("alice@example.org")
    page.get_by_label("Password").fill("correct horse 1")
    page.get_by_role("button", name="Log in", exact=True).click()
    page.wait_for_url(HOME)


def confirm(page: Page) -> None:
    page.get_by_label("Password").fill("correct horse 1")
    page.get_by_role("button", name="Continue").click()


def test_a_passkey_is_added_and_logs_in_without_a_password(
    page: Page, alice: User, authenticator: str
) -> None:
    log_in(page)
    page.goto("/accounts/2fa/webauthn/add/")
    confirm(page)
    page.get_by_role("textbox", name="Name").fill("Laptop")
    expect(page.get_by_label("Log in with it alone")).to_be_checked()
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_role("heading", name="Recovery codes")).to_be_visible()
    assert Authenticator.objects.filter(user=alice, type="webauthn").count() == 1

    page.goto("/accounts/logout/")
    page.get_by_role("main").get_by_role("button", name="Log out").click()
    page.wait_for_url("**/accounts/login/**")
    page.get_by_role("button", name="Log in with a passkey").click()
    page.wait_for_url(HOME)
    page.goto("/settings/")
    expect(page.get_by_role("heading", name="Your account", exact=True)).to_be_visible()


def test_a_passkey_that_does_not_work_is_a_sentence(page: Page) -> None:
    page.goto("/accounts/login/")
    expect(page.locator("#passkey-problem")).to_be_hidden()
    session = page.context.new_cdp_session(page)
    session.send("WebAuthn.enable")
    page.route("**/accounts/2fa/webauthn/login/", lambda route: route.fulfill(status=200, body="not json"))
    page.get_by_role("button", name="Log in with a passkey").click()
    expect(page.get_by_role("alert")).to_have_text("That did not work, or was cancelled. Try again.")


def test_an_invitations_link_is_copied_with_one_press(page: Page) -> None:
    log_in(page)
    page.goto("/settings/workspace/")
    page.get_by_role("button", name="Make an invitation").click()
    link = page.get_by_label("Send this link").input_value()
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == link
    assert "/invite/" in link


@pytest.mark.parametrize("width", [360, 1440])
def test_no_account_page_is_wider_than_the_screen(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    log_in(page)
    for path in (
        "/settings/",
        "/settings/workspace/",
        "/settings/workspace/audit/",
        "/settings/delete/",
        "/accounts/2fa/",
    ):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path


def test_a_key_is_made_copied_and_revoked(page: Page, alice: User, workspace: Workspace) -> None:
    log_in(page)
    page.goto("/settings/workspace/keys/")
    page.get_by_role("textbox", name="Name").fill("Shop assistant")
    page.get_by_label("Files:").check()
    page.get_by_label("Expires").select_option("In 30 days")
    page.get_by_role("button", name="Make the key").click()
    made = page.get_by_label("Copy it now").input_value()
    page.get_by_role("button", name="Copy key").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == made
    assert made in page.get_by_label("Try it in a terminal").input_value()
    page.goto("/settings/workspace/keys/")
    row = page.locator(".keys > li", has_text="Shop assistant")
    expect(row).to_contain_text(made[:11])
    # In two steps: what uses it stops at once.
    row.get_by_label("Revoke Shop assistant").click()
    row.get_by_role("button", name="Revoke key").click()
    expect(page.get_by_text("opens nothing any more")).to_be_visible()
    expect(page.get_by_text("1 that is revoked or has expired")).to_be_visible()
