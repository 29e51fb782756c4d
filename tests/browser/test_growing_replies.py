"""A reply that grows on the chat page, and a connection that is lost meanwhile, in a real Chromium."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.stage import Stage, State, replies

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


# --- Losing the connection ---------------------------------------------------------------------------------


def test_a_message_that_was_not_accepted_is_sent_again_as_the_same_one(stage: Stage) -> None:
    stage.open()
    stage.page.locator("#draft").fill("Is anybody there?")
    stage.page.keyboard.press("Enter")
    first = stage.next_send()
    stage.server.drop()
    again = stage.next_send(2)
    assert (again["client_id"], again["text"]) == (first["client_id"], "Is anybody there?")
    stage.page.reload()
    expect(stage.page.locator(".bubble")).to_have_text("Is anybody there?")
    assert stage.next_send(3)["client_id"] == first["client_id"]
    conversation, _reply = stage.accept(first)
    stage.page.wait_for_url(f"**/c/{conversation.id}/")
    expect(stage.page.locator(".bubble")).to_have_count(1)
    stage.server.drop()
    stage.until(lambda: stage.server.commands("open"), "the page opens its conversation again")
    assert len(stage.server.commands("send")) == 3


def test_a_lost_connection_is_a_slim_line_that_goes_by_itself(stage: Stage) -> None:
    stage.open()
    line = stage.page.locator("#connection")
    expect(line).to_be_hidden()
    stage.server.refuses = True
    stage.server.drop()
    expect(line).to_be_visible()
    expect(line).to_contain_text("Reconnecting")
    stage.server.refuses = False
    expect(line).to_be_hidden(timeout=20_000)


def test_a_reconnecting_page_says_what_it_has_and_gets_the_rest(stage: Stage) -> None:
    conversation = stage.conversation("hi", "", state=State.RUNNING)
    reply = conversation.messages.get(position=1)
    stage.open(conversation)
    stage.until(lambda: stage.server.commands("open"), "the conversation is opened")
    assert stage.server.commands("open")[0] == {
        "type": "open",
        "conversation": str(conversation.id),
        "have": [{"message": str(reply.id), "blocks": 0, "attempt": 0}],
        "after": 1,
    }
    about = {"type": "stream", "message": str(reply.id), "attempt": 1}
    stage.server.send(**about, base=0, blocks=["<p>one</p>", "<p>two</p>"], open="<p>thr</p>", text="ee")
    expect(replies(stage).locator(".open")).to_have_text("three")
    stage.page.evaluate("document.querySelectorAll('.block').forEach(b => (b.kept = true))")
    stage.server.drop()
    stage.until(lambda: len(stage.server.commands("open")) == 2, "the conversation is opened again")
    assert stage.server.commands("open")[1]["have"] == [{"message": str(reply.id), "blocks": 2, "attempt": 1}]
    stage.server.send(**about, base=2, blocks=["<p>three</p>"], open="<p>four</p>")
    expect(replies(stage).locator(".reply")).to_have_text("onetwothreefour", use_inner_text=False)
    assert stage.page.evaluate("[...document.querySelectorAll('.block')].map(b => b.kept ?? false)") == [
        True, True, False,
    ]  # fmt: skip


def test_when_the_login_ends_the_page_leads_to_the_form(stage: Stage) -> None:
    stage.open()
    stage.page.context.clear_cookies()
    stage.server.drop(4401)
    stage.page.wait_for_url("**/accounts/login/**")


# --- A reply that grows ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("open_html", "text", "place", "reads"),
    [
        ("<p>Hello</p> ", "world", ".open p", "Hello world"),
        ("<p>a <strong>b</strong></p>", " c", ".open p", "a b c"),
        ("<ul>\n<li>one</li>\n<li>two</li>\n</ul>", " and a half", ".open li:last-child", "two and a half"),
        ("<h3>Ti</h3>", "tle", ".open h3", "Title"),
        (
            '<figure class="code"><figcaption></figcaption><pre><code>a\nb</code></pre></figure>\n',
            "c",
            ".open code",
            "a\nb\nc",
        ),
        ("", "Begin", ".open", "Begin"),
        ("<hr>", "after", ".open", "after"),
        ("", "<b>&amp;</b>", ".open", "<b>&amp;</b>"),
    ],
)
def test_new_text_goes_on_where_the_open_block_ended(
    open_html: str, text: str, place: str, reads: str, stage: Stage
) -> None:
    conversation = stage.conversation("hi", "", state=State.RUNNING)
    reply = conversation.messages.get(position=1)
    stage.open(conversation)
    stage.server.send(
        type="stream", message=str(reply.id), attempt=1, base=0, blocks=[], open=open_html, text=""
    )
    for character in text:
        stage.server.send(type="stream", message=str(reply.id), attempt=1, text=character)
    expect(stage.page.locator(".open .tail")).to_have_text(text.strip(), use_inner_text=False)
    assert (stage.page.locator(place).text_content() or "").strip() == reads


def test_finished_blocks_are_never_touched_again_not_even_at_the_end(stage: Stage) -> None:
    conversation = stage.conversation("hi", "", state=State.RUNNING)
    reply = conversation.messages.get(position=1)
    stage.open(conversation)
    about = {"type": "stream", "message": str(reply.id), "attempt": 1}
    stage.server.send(**about, base=0, blocks=["<p>one</p>\n"], open="<p>tw</p>")
    expect(stage.page.locator(".block")).to_have_count(1)
    stage.page.evaluate("document.querySelector('.block').kept = true")
    stage.server.send(**about, text="o")
    stage.server.send(**about, blocks=["<p>two</p>\n"], open="<p>three</p>")
    expect(stage.page.locator(".reply")).to_have_text("one two three")
    stage.finish(reply, "one\n\ntwo\n\nthree and the end", attempt=1)
    expect(stage.page.locator(".block")).to_have_text(["one", "two", "three and the end"])
    expect(stage.page.locator(".open")).to_be_empty()
    assert stage.page.evaluate("document.querySelector('.block').kept") is True


def test_a_thousand_frames_change_the_page_once_for_each_frame_of_the_screen(stage: Stage) -> None:
    conversation = stage.conversation("hi", "", state=State.RUNNING)
    reply = conversation.messages.get(position=1)
    stage.open(conversation)
    about = {"type": "stream", "message": str(reply.id), "attempt": 1}
    stage.server.send(**about, base=0, blocks=[], open="<p>0</p>")
    stage.page.evaluate("""() => {
        window.frames_ = 0; window.writes = 0;
        const count = () => { window.frames_++; requestAnimationFrame(count); };
        requestAnimationFrame(count);
        new MutationObserver(() => window.writes++).observe(
            document.querySelector('.reply'), {childList: true, subtree: true, characterData: true});
    }""")
    for _ in range(1000):
        stage.server.send(**about, text="x")
    expect(stage.page.locator(".tail")).to_have_text("x" * 1000)
    writes, frames = stage.page.evaluate("[window.writes, window.frames_]")
    assert 0 < writes <= frames + 1


def test_a_finished_answer_is_announced_once_and_not_while_it_grows(stage: Stage) -> None:
    conversation = stage.conversation("hi", "", state=State.RUNNING)
    reply = conversation.messages.get(position=1)
    stage.open(conversation)
    stage.page.evaluate("""() => {
        window.spoken = [];
        const live = document.getElementById('live');
        new MutationObserver(() => live.textContent && window.spoken.push(live.textContent))
            .observe(live, {childList: true, characterData: true, subtree: true});
    }""")
    for word in ("High ", "water ", "is at noon."):
        stage.server.send(type="stream", message=str(reply.id), attempt=1, text=word)
    expect(stage.page.locator(".open")).to_have_text("High water is at noon.")
    assert stage.page.evaluate("window.spoken") == []
    assert stage.page.locator(".conversation [aria-live]").count() == 0
    stage.finish(reply, "High water is at noon.")
    expect(stage.page.locator("#live")).to_have_text("Answer finished. High water is at noon.")
    assert len(stage.page.evaluate("window.spoken")) == 1


def test_the_page_follows_only_a_reader_who_is_at_the_end(stage: Stage) -> None:
    conversation = stage.conversation(*(f"turn {n}\n" * 8 for n in range(11)), "", state=State.RUNNING)
    reply = conversation.messages.get(position=11)
    stage.open(conversation)
    at_end = (
        "(e => e.scrollHeight - e.scrollTop - e.clientHeight < 2)(document.getElementById('conversation'))"
    )
    stage.until(lambda: stage.page.evaluate(at_end), "the page opens at its end")
    grow = {"type": "stream", "message": str(reply.id), "attempt": 1, "text": "and more\n" * 30}
    stage.server.send(**grow)
    expect(stage.page.locator(".tail")).to_be_visible()
    stage.until(lambda: stage.page.evaluate(at_end), "the page follows")
    expect(stage.page.locator("#jump")).to_be_hidden()
    stage.page.locator("#conversation").evaluate("e => e.scrollTop -= 500")
    expect(stage.page.locator("#jump")).to_be_visible()
    before = stage.page.locator("#conversation").evaluate("e => e.scrollTop")
    stage.server.send(**grow)
    stage.until(lambda: len(stage.page.locator(".tail").text_content() or "") > 500, "text has grown")
    assert stage.page.locator("#conversation").evaluate("e => e.scrollTop") == before
    stage.page.locator("#jump").click()
    stage.until(lambda: stage.page.evaluate(at_end), "the page jumps to the latest")
    expect(stage.page.locator("#jump")).to_be_hidden()
