"""The chat page in a real Chromium: saying something, being refused, several tabs."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import expect

from tests.browser.stage import Stage, State, replies

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


# --- Saying something --------------------------------------------------------------------------------------


def test_a_first_message_is_shown_at_once_and_becomes_a_conversation_without_a_new_page(stage: Stage) -> None:
    stage.open()
    stage.page.evaluate("window.samePage = true")
    stage.page.locator("#draft").fill("When is high water?")
    stage.page.keyboard.press("Enter")
    expect(stage.page.locator(".bubble")).to_have_text("When is high water?")
    expect(stage.page.locator("#draft")).to_have_value("")
    expect(stage.page.locator("#welcome")).to_be_hidden()
    frame = stage.next_send()
    assert frame["conversation"] is None
    conversation, reply = stage.accept(frame)
    stage.page.wait_for_url(f"**/c/{conversation.id}/")
    expect(stage.page.locator("#title")).to_have_text("When is high water?")
    expect(
        stage.page.locator(f'#conversations [data-conversation="{conversation.id}"] [aria-current]')
    ).to_be_visible()
    expect(stage.page.locator(".bubble")).to_have_count(1)
    expect(replies(stage).locator(".thinking")).to_be_visible()
    stage.server.send(
        type="stream", message=str(reply.id), attempt=1, base=0, blocks=[], open="", text="At noon."
    )
    expect(replies(stage).locator(".reply")).to_have_text("At noon.")
    expect(replies(stage).locator(".thinking")).to_be_hidden()
    stage.finish(reply, "At noon.")
    expect(replies(stage).locator("[data-copy-answer]")).to_be_visible()
    expect(replies(stage).locator(".block")).to_have_text("At noon.")
    assert stage.page.evaluate("window.samePage") is True
    # The next message goes to the conversation that has begun.
    stage.page.locator("#draft").fill("And low water?")
    stage.page.keyboard.press("Enter")
    assert stage.next_send(2)["conversation"] == str(conversation.id)


def test_an_example_is_put_into_the_composer(stage: Stage) -> None:
    stage.open()
    stage.page.locator(".example").first.click()
    expect(stage.page.locator("#draft")).to_be_focused()
    assert stage.page.locator("#draft").input_value() == stage.page.locator(".example").first.get_attribute(
        "data-example"
    )


def test_enter_sends_but_not_with_shift_nor_while_a_word_is_composed_nor_when_empty(stage: Stage) -> None:
    stage.open()
    draft = stage.page.locator("#draft")
    draft.fill("   ")
    stage.page.keyboard.press("Enter")
    draft.fill("one")
    stage.page.keyboard.press("Shift+Enter")
    stage.page.keyboard.type("two")
    expect(draft).to_have_value("one\ntwo")
    draft.evaluate(
        "e => e.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true}))"
    )
    assert stage.server.commands("send") == []
    stage.page.keyboard.press("Enter")
    assert stage.next_send()["text"] == "one\ntwo"
    assert len(stage.server.commands("send")) == 1


def test_send_becomes_stop_while_an_answer_grows_and_stop_names_it(stage: Stage) -> None:
    conversation = stage.conversation("hi", "", state=State.RUNNING)
    reply = conversation.messages.get(position=1)
    stage.open(conversation)
    send, stop = stage.page.locator(".composer .send"), stage.page.locator(".composer .stop")
    expect(stop).to_be_visible()
    expect(send).to_be_hidden()
    stage.page.locator("#draft").fill("not yet")
    stage.page.keyboard.press("Enter")
    expect(stage.page.locator("#draft")).to_have_value("not yet")
    stop.click()
    stage.until(lambda: stage.server.commands("stop"), "stop is sent")
    assert stage.server.commands("stop")[0]["message"] == str(reply.id)
    stage.finish(reply, "So fa", State.CANCELLED)
    expect(send).to_be_visible()
    expect(stage.page.get_by_text("You stopped this reply.")).to_be_visible()
    assert stage.server.commands("send") == []


def test_a_draft_outlives_the_page(stage: Stage) -> None:
    conversation = stage.conversation("hi", "hello")
    stage.open(conversation)
    stage.page.locator("#draft").fill("half a thou")
    stage.open()
    expect(stage.page.locator("#draft")).to_have_value("")
    stage.open(conversation)
    expect(stage.page.locator("#draft")).to_have_value("half a thou")


def test_a_paste_of_a_megabyte_freezes_nothing_and_is_refused_with_a_sentence(stage: Stage) -> None:
    stage.open()
    stage.page.evaluate("navigator.clipboard.writeText('word '.repeat(200_000))")
    stage.page.locator("#draft").focus()
    started = time.monotonic()
    stage.page.keyboard.press("Control+V")
    expect(stage.page.locator("#composer-note")).to_contain_text("1,000,000 characters")
    stage.page.keyboard.press("Enter")
    stage.page.keyboard.type("abc")
    assert time.monotonic() - started < 5
    assert stage.page.locator("#draft").input_value().endswith("abc")
    assert stage.server.commands("send") == []


# --- When something fails ----------------------------------------------------------------------------------


def test_a_refused_message_says_why_and_keeps_every_word(stage: Stage) -> None:
    stage.open()
    stage.page.locator("#draft").fill("precious words")
    stage.page.keyboard.press("Enter")
    frame = stage.next_send()
    stage.server.send(
        type="error",
        code="busy",
        client_id=frame["client_id"],
        message="Too many replies are waiting right now.",
    )
    expect(stage.page.get_by_text("Too many replies are waiting right now.")).to_be_visible()
    expect(stage.page.locator(".bubble")).to_have_text("precious words")
    stage.page.reload()
    expect(stage.page.get_by_text("Too many replies are waiting right now.")).to_be_visible()
    stage.page.get_by_role("button", name="Send again").click()
    assert stage.next_send(2)["client_id"] == frame["client_id"]
    stage.server.send(type="error", code="busy", client_id=frame["client_id"], message="Still too many.")
    stage.page.get_by_role("button", name="Edit").click()
    expect(stage.page.locator("#draft")).to_have_value("precious words")
    expect(stage.page.locator(".bubble")).to_have_count(0)


def test_a_failed_reply_can_be_tried_again_in_its_place(stage: Stage) -> None:
    conversation = stage.conversation("hi", "half", state=State.INTERRUPTED, attempt=3)
    reply = conversation.messages.get(position=1)
    stage.open(conversation)
    expect(stage.page.get_by_text("This reply broke off.")).to_be_visible()
    stage.page.get_by_role("button", name="Try again").click()
    stage.until(lambda: stage.server.commands("retry"), "retry is sent")
    assert stage.server.commands("retry")[0]["message"] == str(reply.id)
    stage.server.send(type="stream", message=str(reply.id), attempt=0, base=0, blocks=[], open="", text="")
    expect(stage.page.get_by_text("This reply broke off.")).to_have_count(0)
    expect(stage.page.locator(".thinking")).to_be_visible()
    expect(stage.page.locator(".composer .stop")).to_be_visible()
    stage.server.send(type="stream", message=str(reply.id), attempt=1, text="whole")
    stage.finish(reply, "whole", attempt=1)
    expect(stage.page.locator(".block")).to_have_text("whole")


# --- Several tabs ------------------------------------------------------------------------------------------


def test_what_another_tab_said_appears_here_once(stage: Stage) -> None:
    conversation, other = stage.conversation("hi", "hello"), stage.conversation("x", "y", title="Elsewhere")
    stage.open(conversation)
    new = stage.say(conversation, "from the other tab", "", state=State.QUEUED)
    for _ in range(2):
        stage.server.send(type="messages", **stage.news(conversation, new))
    foreign = stage.say(other, "not here", "", state=State.QUEUED)
    stage.server.send(type="messages", **stage.news(other, foreign))
    stage.server.send(type="title", conversation=str(conversation.id), title="<Named>")
    expect(stage.page.locator("#title")).to_have_text("<Named>")
    expect(stage.page).to_have_title("<Named> · Flywheel")
    expect(stage.page.locator(".bubble")).to_have_text(["hi", "from the other tab"])
    expect(stage.page.locator("#conversations a").first).to_have_text("Elsewhere")
    expect(stage.page.locator("#conversations a")).to_have_count(2)
    stage.server.send(type="deleted", conversation=str(conversation.id))
    stage.page.wait_for_url(lambda url: "/c/" not in url)


def test_renaming_and_deleting_go_through_a_small_dialog(stage: Stage) -> None:
    conversation = stage.conversation("hi", "hello", title="Old name")
    stage.open()
    item = stage.page.locator(f'[data-conversation="{conversation.id}"].rail-item')
    item.hover()
    item.get_by_role("button").click()
    name = stage.page.get_by_label("Name", exact=True)
    expect(name).to_have_value("Old name")
    name.fill("   ")
    stage.page.keyboard.press("Enter")
    expect(stage.page.get_by_role("alert").filter(has_text="needs a name")).to_be_visible()
    name.fill("New name")
    stage.page.keyboard.press("Enter")
    stage.until(lambda: stage.server.commands("rename"), "rename is sent")
    assert stage.server.commands("rename")[0]["title"] == "New name"
    stage.server.send(type="title", conversation=str(conversation.id), title="New name")
    expect(item.locator("a")).to_have_text("New name")
    item.hover()
    item.get_by_role("button").click()
    stage.page.get_by_role("button", name="Delete…").click()
    expect(stage.page.locator("dialog")).to_contain_text("New name")
    assert stage.server.commands("delete") == []
    stage.page.get_by_role("button", name="Delete", exact=True).click()
    stage.until(lambda: stage.server.commands("delete"), "delete is sent")
    stage.server.send(type="deleted", conversation=str(conversation.id))
    expect(item).to_have_count(0)


def test_search_finds_what_was_said(stage: Stage) -> None:
    stage.conversation("When is high water?", "At noon.", title="Tides")
    stage.conversation("hi", "hello", title="Greetings")
    stage.open()
    stage.page.get_by_label("Search conversations").fill("noon")
    expect(stage.page.locator("#conversations a")).to_have_text(["Tides"])
    stage.page.get_by_label("Search conversations").fill("")
    expect(stage.page.locator("#conversations a")).to_have_count(2)


def test_what_is_sent_before_the_scripts_are_there_stays_in_the_box(stage: Stage) -> None:
    stage.page.route("**/*.js", lambda route: route.abort())
    stage.page.goto("/")
    stage.page.get_by_label("Your message").fill("Hello there")
    stage.page.locator(".send").click(force=True)
    stage.page.wait_for_timeout(100)
    expect(stage.page.get_by_label("Your message")).to_have_value("Hello there")


def test_a_reply_that_stands_still_shows_that_it_is_waited_for(stage: Stage) -> None:
    conversation = stage.conversation("hi", "", state=State.RUNNING)
    reply = str(conversation.messages.get(position=1).id)
    stage.open(conversation)
    stage.server.send(type="stream", message=reply, attempt=1, base=0, blocks=[], open="", text="Once upon")
    dots = stage.page.locator(".thinking")
    expect(stage.page.locator(".reply")).to_contain_text("Once upon")
    expect(dots).not_to_be_visible()
    expect(dots).to_be_visible()
    stage.server.send(type="stream", message=reply, attempt=1, text=" a time")
    expect(dots).not_to_be_visible()


def test_a_message_refused_as_too_long_goes_back_into_the_box(stage: Stage) -> None:
    said = "This is 1840 tokens too long: it has 10031, and the model reads at most 8191."
    refused = {"state": State.REFUSED, "error_code": "prompt_too_long", "error_message": said}
    stage.open(stage.conversation("a long message", "", **refused))
    expect(stage.page.locator(".status-error")).to_contain_text("1,840 tokens too long: it has 10,031")
    stage.page.get_by_role("button", name="Edit your message").click()
    expect(stage.page.get_by_label("Your message")).to_have_value("a long message")
    expect(stage.page.get_by_label("Your message")).to_be_focused()
