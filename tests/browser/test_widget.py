"""The chat bubble on a customer's page, which is another site: seen, asked, answered, and shown nowhere else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser, expect

from inference.models import ServedModel
from tests.services import Site
from webapp.accounts.models import User
from webapp.api import widget_services as services

pytestmark = pytest.mark.browser


class Shop(ThreadingHTTPServer):
    """A customer's site: one page with whatever is in `tag`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Page)
        self.tag = ""

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Shop)
        page = f"<!doctype html><title>Shop</title><h1>Shoes</h1>{self.server.tag}"
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(page.encode())

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def shops() -> Iterator[tuple[Shop, Shop]]:
    both = Shop(), Shop()
    for shop in both:
        threading.Thread(target=shop.serve_forever, daemon=True).start()
    yield both
    for shop in both:
        shop.shutdown()
        shop.server_close()


def test_a_visitor_of_a_customers_page_chats_and_another_site_cannot_show_it(
    browser: Browser, live_site: Site, shops: tuple[Shop, Shop]
) -> None:
    shop, thief = shops
    with live_site.rows():
        alice = User.objects.get(email="alice@example.org")
        workspace = alice.workspaces.get()
        look = services.Look(
            name="Shoe help", origins=(shop.origin,), model=None, instructions="", greeting="Which shoes?",
            theme="light", accent="#1f6feb", messages_per_hour=30, messages_per_day=100, is_active=True,
        )  # fmt: skip
        assert ServedModel.objects.filter(is_default=True).exists()
        widget = services.create_widget(user=alice, workspace=workspace, look=look)
    tag = f'<script src="{live_site.base_url}/widget.js" data-widget="{widget.pk}" async></script>'
    shop.tag = thief.tag = tag

    page = browser.new_page()
    page.goto(shop.origin)
    page.get_by_role("button", name="Chat").click()
    frame = page.frame_locator("iframe")
    expect(frame.get_by_text("Which shoes?")).to_be_visible()
    frame.get_by_label("Your message").fill("say=The_brown_ones")
    frame.get_by_role("button", name="Send").click()
    expect(frame.locator(".reply", has_text="The brown ones")).to_be_visible()
    expect(frame.get_by_role("button", name="Send")).to_be_visible()
    # A page later the conversation is still there.
    page.reload()
    page.get_by_role("button", name="Chat").click()
    expect(frame.locator(".reply", has_text="The brown ones")).to_be_visible()
    frame.get_by_role("button", name="Close the chat").click()
    expect(page.locator("iframe")).to_be_hidden()
    page.close()

    page = browser.new_page()
    page.goto(thief.origin)
    page.get_by_role("button", name="Chat").click()
    expect(page.locator("iframe")).to_be_visible()
    expect(page.frame_locator("iframe").get_by_label("Your message")).to_have_count(0)
    page.close()
