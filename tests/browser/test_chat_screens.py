"""The chat page with long conversations, on narrow screens and by keyboard, in a real Chromium."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.stage import Stage

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


# --- Long conversations, narrow screens, keyboards ---------------------------------------------------------


def test_a_thousand_messages_open_within_a_second_and_earlier_ones_come_on_scrolling_up(stage: Stage) -> None:
    text = "Some **text** with `code`.\n\n```python\nprint(1)\n```\n\n- one\n- two"
    conversation = stage.conversation(*(f"turn {n}" if n % 2 == 0 else f"{text} {n}" for n in range(1000)))
    stage.open(conversation)
    stage.page.reload()
    interactive = stage.page.evaluate(
        "new Promise(done => requestIdleCallback(() => done(performance.now()), {timeout: 5000}))"
    )
    assert interactive < 1000
    expect(stage.page.locator(".message")).to_have_count(50)
    scroller = stage.page.locator("#conversation")
    mark = stage.page.locator('[data-position="950"]')
    scroller.evaluate("e => (e.scrollTop = 300)")
    before = mark.bounding_box()
    stage.until(lambda: stage.page.locator(".message").count() == 100, "earlier messages are loaded")
    after = mark.bounding_box()
    assert before
    assert after
    assert abs(before["y"] - after["y"]) < 2
    assert stage.page.locator(".message").first.get_attribute("data-position") == "900"


@pytest.mark.parametrize("width", [320, 360, 768, 1440])
def test_nothing_is_wider_than_the_screen(width: int, stage: Stage) -> None:
    wide = " | ".join(["column"] * 20)
    table = f"| {wide} |\n{'|---' * 20}|"
    answer = f"{'y' * 500}\n\n`{'z' * 300}`\n\n{table}\n\n```\n{'code ' * 100}\n```\n\n$$ {'x+' * 200}x $$"
    conversation = stage.conversation("x" * 400, answer, title="w" * 120)
    stage.page.set_viewport_size({"width": width, "height": 700})
    stage.open(conversation)
    for scroller in ("document.documentElement", "document.getElementById('conversation')"):
        assert stage.page.evaluate(f"{scroller}.scrollWidth - {scroller}.clientWidth") <= 0


def test_on_a_phone_the_rail_is_a_drawer_that_holds_the_focus_until_it_is_closed(stage: Stage) -> None:
    stage.page.set_viewport_size({"width": 360, "height": 740})
    stage.conversation("hi", "hello")
    stage.open()
    opener = stage.page.get_by_role("button", name="Show conversations")
    rail = stage.page.locator("#rail")
    expect(rail).not_to_be_visible()
    assert opener.get_attribute("aria-expanded") == "false"
    opener.click()
    expect(rail).to_be_visible()
    assert opener.get_attribute("aria-expanded") == "true"
    for _ in range(12):
        stage.page.keyboard.press("Tab")
        assert stage.page.evaluate("!document.getElementById('main').contains(document.activeElement)")
    stage.page.keyboard.press("Escape")
    expect(rail).not_to_be_visible()
    expect(opener).to_be_focused()


def test_chosen_colours_stay_chosen(stage: Stage) -> None:
    stage.open()
    light = stage.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    stage.page.locator(".rail-foot summary").click()
    stage.page.get_by_role("button", name="Dark").click()
    expect(stage.page.locator("html")).to_have_attribute("data-theme", "dark")
    stage.page.reload()
    expect(stage.page.locator("html")).to_have_attribute("data-theme", "dark")
    assert stage.page.evaluate("getComputedStyle(document.documentElement).backgroundColor") != light


def test_code_and_answers_can_be_copied(stage: Stage) -> None:
    text = "Look:\n\n```python\nprint('**x**')\n```"
    stage.open(stage.conversation("hi", text))
    stage.page.get_by_role("button", name="Copy code").click()
    expect(stage.page.locator(".copy")).to_have_attribute("data-copied", "")
    assert stage.page.evaluate("navigator.clipboard.readText()") == "print('**x**')\n"
    stage.page.get_by_role("button", name="Copy", exact=True).click()
    expect(stage.page.locator("[data-copy-answer]")).to_have_attribute("data-copied", "")
    assert stage.page.evaluate("navigator.clipboard.readText()") == text
