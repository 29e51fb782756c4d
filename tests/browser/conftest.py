"""A real Chromium for browser tests: the system's, since Playwright's own downloads are not for every machine.

Playwright's synchronous loop and asynchronous tests do not go together in one thread, so the browser lives only while
tests of this folder run, and those are synchronous.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright

from inference.models import ServedModel
from tests.browser.stage import Server, Stage
from webapp.accounts.models import User, Workspace
from webapp.ops.bootstrap import BROWSERS

# Milliseconds. What a page is to show in the end: that a machine is busy fails no test.
expect.set_options(timeout=120_000)

# Quiet: a test's browser calls nobody but the site.
ARGUMENTS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--no-first-run",
)


def launch(playwright: Playwright) -> Browser:
    """Chromium as it is on this machine. Fails with the package's name where it is not."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.fail("Chromium is not installed: install the package chromium, as `make test` does for root.")
    # Chromium's sandbox does not run as root.
    arguments = [*ARGUMENTS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    return playwright.chromium.launch(executable_path=executable, args=arguments)


def complaints_of(page: Page) -> list[str]:
    """What its browser complains about from now on, a broken CSP among it; the list grows."""
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    return complaints


@pytest.fixture(scope="package")
def browser(django_db_setup: None) -> Iterator[Browser]:
    """The database of tests is there before it: beside Playwright's loop Django would refuse to make one.

    Nor would it let anybody use one as long as the browser lives, whatever the scope of the fixture that does.
    """
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture
def stage(
    live_server: Any,
    alice: User,
    workspace: Workspace,
    browser: Browser,
    settings: Any,
) -> Iterator[Stage]:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    model = ServedModel.objects.create(
        name="demo", path="demo", digest="0", architecture="llama", context_length=2048, parameters=1, size_bytes=1,
        is_default=True,
    )  # fmt: skip
    client = Client()
    client.force_login(alice)
    context = browser.new_context(
        base_url=live_server.url,
        viewport={"width": 1200, "height": 800},
        permissions=["clipboard-read", "clipboard-write"],
    )
    cookie = client.cookies[settings.SESSION_COOKIE_NAME]
    context.add_cookies([{"name": cookie.key, "value": cookie.value, "url": live_server.url}])
    page = context.new_page()
    server = Server()
    page.route_web_socket("**/ws/chat/", server.connect)
    complaints = complaints_of(page)
    yield Stage(page, server, alice, workspace, model)
    context.close()
    assert [said for said in complaints if "WebSocket" not in said and "net::ERR" not in said] == []
