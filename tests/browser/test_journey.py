"""A newcomer's way through a live site in a real browser: sign up, talk, and lose nothing on the way.

Everything is real but the words: a scripted engine makes them, so that the whole text is known beforehand.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from inference.models import Generation, ServedModel
from tests.conftest import new_site
from tests.scripted_engine import text_of
from tests.services import Site
from webapp.accounts.models import Workspace

pytestmark = pytest.mark.browser

PASSWORD = "a quiet harbour 7"
REPLY = "article.message-assistant"
DONE = f"{REPLY}[data-state=complete]"


@pytest.fixture(scope="module")
def empty_site() -> Iterator[Site]:
    site = new_site()
    try:
        yield site.start()
    finally:
        site.stop()


@pytest.fixture
def context(browser: Browser, empty_site: Site) -> Iterator[BrowserContext]:
    context = browser.new_context(base_url=empty_site.base_url, viewport={"width": 1280, "height": 800})
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, empty_site: Site) -> Page:
    """A person who is logged in: the owner, who signs up first, or somebody new."""
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto("/")
    if "/setup/" in page.url:
        page.get_by_label("Your name").fill("Olga")
        page.get_by_label("Name of your workspace").fill("Harbour")
    else:
        page.goto("/accounts/signup/")
    page.get_by_label(re.compile("^Email")).fill(f"person{len(empty_site.environment)}{id(page)}@example.org")
    page.locator("input[type=password]").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("/", wait_until="load")
    assert errors == []
    return page


def say(page: Page, text: str) -> None:
    page.get_by_role("textbox", name="Your message").fill(text)
    page.keyboard.press("Enter")


def shown(page: Page) -> str:
    """The last answer's text, as a person reads it."""
    return page.locator(f"{REPLY} .reply").last.inner_text()


def expected(site: Site, page: Page, tokens: int) -> str:
    """The text the last answer has to show, by the seed in its row."""
    message = page.locator(REPLY).last.get_attribute("data-message")
    with site.rows():
        row = Generation.objects.get(chat_message=message)
    assert row.text == text_of(row.seed, tokens)
    return row.text


def letters(text: str) -> str:
    """What of a text Markdown neither adds nor takes away."""
    return re.sub(r"[\s*`-]", "", text)


def test_a_newcomer_signs_up_talks_reloads_in_the_middle_and_reads_the_same_text(
    empty_site: Site, page: Page
) -> None:
    say(page, "Tell me something tokens=150")
    expect(page.locator(f"{REPLY} .block").first).to_be_visible()
    expect(page).to_have_url(re.compile(r"/c/[0-9a-f-]{36}/$"))
    page.reload()
    expect(page.locator(REPLY)).not_to_have_attribute("data-state", "complete")
    expect(page.locator(f"{REPLY} .block").first).to_be_visible()
    expect(page.locator(DONE)).to_have_count(1)
    streamed = shown(page)
    assert letters(streamed) == letters(expected(empty_site, page, 150))
    page.reload()
    assert shown(page) == streamed


def test_a_reply_goes_on_while_the_site_cannot_be_reached(empty_site: Site, page: Page) -> None:
    say(page, "Tell me more tokens=150")
    expect(page.locator(f"{REPLY} .block").first).to_be_visible()
    empty_site.web.kill()
    expect(page.get_by_text("Reconnecting")).to_be_visible()
    empty_site.web.start()
    expect(page.locator(DONE)).to_have_count(1)
    assert letters(shown(page)) == letters(expected(empty_site, page, 150))
    expect(page.get_by_text("Reconnecting")).to_be_hidden()


def test_every_tab_shows_the_same_reply(empty_site: Site, page: Page, context: BrowserContext) -> None:
    say(page, "Hello tokens=10")
    expect(page.locator(DONE)).to_have_count(1)
    second = context.new_page()
    second.goto(page.url)
    say(second, "And again tokens=100")
    for tab in (page, second):
        expect(tab.locator(DONE)).to_have_count(2)
    assert shown(page) == shown(second)


def test_stop_keeps_what_was_said(empty_site: Site, page: Page) -> None:
    say(page, "Go on and on tokens=5000")
    expect(page.locator(f"{REPLY} .block").first).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("You stopped this reply.")).to_be_visible()
    said = shown(page)
    page.reload()
    assert shown(page) == said


def test_a_fine_tuned_model_is_tried_at_once_and_the_conversation_stays_with_it(
    empty_site: Site, page: Page
) -> None:
    with empty_site.rows():
        workspace = Workspace.objects.latest("created_at")
        model = scripted_adapter(empty_site, workspace, says="Adapted_to_harbours")
    page.goto(f"/?model={model.pk}")
    expect(page.get_by_label("Model")).to_have_value(str(model.pk))
    say(page, "Who are you?")
    expect(page.locator(f"{DONE} .reply")).to_have_text("Adapted to harbours")
    expect(page.locator(f"{DONE} .model")).to_have_text("harbours")
    expect(page.locator(".composer-model")).to_have_text("Model harbours")
    page.reload()
    say(page, "And now?")
    expect(page.locator(f"{DONE} .reply")).to_have_text(["Adapted to harbours"] * 2)
    # By keyboard, back to everybody's model: the address follows, so that a reload keeps the choice.
    page.goto(f"/?model={model.pk}")
    page.get_by_role("textbox", name="Your message").focus()
    page.keyboard.press("Tab")
    while not page.get_by_label("Model").evaluate("element => element === document.activeElement"):
        page.keyboard.press("Tab")
    page.keyboard.press("Home")
    expect(page.get_by_label("Model")).to_have_value("")
    assert page.url == f"{empty_site.base_url}/"
    say(page, "say=Not_adapted")
    expect(page.locator(f"{DONE} .reply")).to_have_text("Not adapted")


def test_what_was_written_while_the_line_was_down_goes_out_behind_what_the_page_says_it_has(
    empty_site: Site, page: Page
) -> None:
    """The other way round a short answer is over before the page is told of what it opens, and is never shown."""
    say(page, "say=One")
    expect(page.locator(f"{DONE} .reply")).to_have_text("One")
    kept = "[{client_id: crypto.randomUUID(), conversation: id, text: 'say=Two', model: ''}]"
    conversation = page.url.rstrip("/").rsplit("/", 1)[1]
    page.evaluate(f"id => sessionStorage.setItem('flywheel.outbox', JSON.stringify({kept}))", conversation)
    sent: list[str] = []
    page.on(
        "websocket", lambda line: line.on("framesent", lambda frame: sent.append(json.loads(frame)["type"]))
    )
    page.reload()
    expect(page.locator(f"{DONE} .reply")).to_have_text(["One", "Two"])
    assert sent[:2] == ["open", "send"]


def scripted_adapter(site: Site, workspace: Workspace, *, says: str) -> ServedModel:
    """As a job that has succeeded would leave it, for the scripted engine."""
    config = json.dumps({"says": says})
    folder = site.home / "adapters" / "harbours"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(config)
    base = ServedModel.objects.get(is_default=True)
    return ServedModel.objects.create(
        name="ft:scripted:harbour:harbours:01234567",
        workspace=workspace,
        base=base,
        path="adapters/harbours",
        digest=hashlib.sha256(config.encode()).hexdigest(),
        architecture=base.architecture,
        context_length=base.context_length,
        parameters=1,
        size_bytes=1,
    )
